"""The batch scripts of a launch: one for the array, and one for each of its runs.

The script of a run is a template with its values. Its #SBATCH lines stand in the script of the
array, too, where they count, followed by `array.sh`.
"""

import shlex
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from pytc.checks import require, suggest
from pytc.launch.grid import Run, Words, flags_of

MAX_FAILURES = 3  # of other kinds than the end of the time and preemption; then a run is given up
# what a stage keeps in the folder of its run while it goes on; a stage that is not here begins anew
KEPT = {"train": "checkpoints", "infer": "predictions", "validate": "validation.jsonl"}
# A task that fails ends the others a minute later. Not at once: where all leave with code 75, the
# first one would have the others killed, and srun give another code.
SRUN = ("srun", "--kill-on-bad-exit=0", "--wait=60")
TRAIN = "train"  # the field of a template for the lines that start or continue a training


@dataclass(frozen=True)
class Resources:
    """What one job of an array asks Slurm for."""

    nodes: int
    gpus: int  # on each node
    cpus: int  # of each task
    memory: int | None  # GB on each node; None leaves it to Slurm
    time: str  # as sbatch writes it

    @property
    def tasks(self) -> int:
        """Tasks on each node: one for each GPU."""
        return max(1, self.gpus)

    @property
    def options(self) -> list[str]:
        """The options of sbatch that ask for it."""
        options = [
            f"--nodes={self.nodes}",
            f"--ntasks-per-node={self.tasks}",
            f"--cpus-per-task={self.cpus}",
            f"--time={self.time}",
        ]
        if self.gpus:
            options.append(f"--gpus-per-node={self.gpus}")
        if self.memory is not None:
            options.append(f"--mem={self.memory}G")
        return options

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a template, by the names of the documents."""
        fields = {
            "num_nodes": str(self.nodes),
            "num_gpus": str(self.gpus),
            "num_cpus": str(self.cpus),
            "time_limit": self.time,
        }
        if self.memory is not None:
            fields["memory"] = str(self.memory)
        return fields


@dataclass(frozen=True)
class Template:
    """A batch script with fields in braces, as `str.format` reads it."""

    text: str
    source: str  # its name in errors

    def __post_init__(self) -> None:
        is_bash = self.text.startswith("#!") and "bash" in self.text.partition("\n")[0]
        require(is_bash, f"a script of bash in {self.source}", self.text.partition("\n")[0])

    @cached_property
    def fields(self) -> set[str]:
        """The names in braces; ValueError where the braces are none of a template."""
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}; {BRACES}") from error
        return {name for _, name, _, _ in parts if name is not None}

    def rendered(self, values: Mapping[str, str]) -> str:
        """The script with these values; ValueError for a field that is none of them."""
        for name in sorted(self.fields):
            if name not in values:
                raise ValueError(
                    f"{self.source} has no value for {{{name}}}{suggest(name, values)}; {BRACES}"
                )
        return self.text.format_map(values)


BRACES = "a brace of the shell is written twice, e.g. ${{HOME}}"


def default_template(resources: Resources, log: str) -> Template:
    """The template of a launch without --template; log: the file of the output."""
    options = ["--job-name={exp_name}", f"--output={{output_dir}}/{log}", *resources.options]
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "", f"{{{TRAIN}}}", ""]
    return Template("\n".join(lines), "the template")


@dataclass(frozen=True)
class Launch:
    """What the scripts of all stages have in common."""

    name: str
    folder: Path  # of the scripts, absolute
    runs_folder: Path  # absolute
    runs: Sequence[Run]
    notice: int  # seconds before the end of the time at which a run is asked to end
    options: Sequence[str]  # further options of sbatch, e.g. --partition=gpu
    max_jobs: int | None = None  # jobs of an array at once
    program: Sequence[str] = ("pytc",)

    def script(self, stage: str, run: Run) -> Path:
        """The script of a run."""
        return self.folder / f"{stage}_{run.name}.sh"

    def array_script(self, stage: str) -> Path:
        return self.folder / f"{stage}.sh"


def training_scripts(
    launch: Launch,
    template: Template,
    resources: Resources,
    config: str | None,
    words: Sequence[str],
    only_in_template: set[str],
) -> dict[Path, str]:
    """The scripts of the stage `train`: of the array, then of each run.

    Args:
        launch: the runs and their folders.
        template: of the script of a run.
        resources: what the template may name.
        config: the file of --config.
        words: further flags of every training.
        only_in_template: swept fields that are none of a config.

    Raises:
        ValueError: a field of the template has no value, a swept field would have no effect, or the
            #SBATCH lines are not the same for all runs.
    """
    scripts, headers = {}, set()
    for run in launch.runs:
        own = {field: run.values[field] for field in run.values if field not in only_in_template}
        named = template_fields(run.values)
        train = training_lines(launch, run, resources, config, [*words, *flags_of(own)])
        common = {
            "output_dir": str(launch.folder),
            "config_path": config or "",
            **resources.fields,
            **named,
        }
        script = template.rendered({**common, "exp_name": run.name, TRAIN: train})
        header = template.rendered({**common, "exp_name": launch.name, TRAIN: ""})
        scripts[launch.script("train", run)] = script
        headers.add(tuple(_sbatch_lines(header)))
    require_effect(template, launch.runs[0].values)
    require(
        len(headers) == 1,
        f"the same #SBATCH lines for every run of an array in {template.source}",
        sorted(headers)[:2],
    )
    shebang = template.text.partition("\n")[0]
    array = array_script(launch, "train", shebang, headers.pop())
    return {launch.array_script("train"): array} | scripts


def template_fields(values: Mapping[str, Words]) -> dict[str, str]:
    """Swept values by the names that a template has for them.

    optim.learning_rate is {optim_learning_rate}, and {learning_rate} where no other field ends so.
    """
    short = [field.rpartition(".")[2] for field in values]
    named = {}
    for field, words in values.items():
        last = field.rpartition(".")[2]
        if short.count(last) == 1:
            named[last] = " ".join(words)
        named[field.replace(".", "_")] = " ".join(words)
    return named


def require_effect(template: Template, values: Mapping[str, Words]) -> None:
    """ValueError for a swept field that a template without {train} does not name."""
    if TRAIN in template.fields:
        return
    for field in values:
        names = template_fields({field: values[field]})
        expected = " or ".join(f"{{{name}}}" for name in [TRAIN, *names])
        is_named = bool(names.keys() & template.fields)
        require(is_named, f"{expected} in {template.source}, as {field} is swept", None)


def training_lines(
    launch: Launch, run: Run, resources: Resources, config: str | None, words: Sequence[str]
) -> str:
    """The lines of a script that continue a run from its last checkpoint, or start it."""
    folder = shlex.quote(str(launch.runs_folder / run.name))
    named = ["--config", config] if config is not None else []
    srun = [*SRUN, f"--cpus-per-task={resources.cpus}", *launch.program, "train"]
    aside = shlex.quote(str(launch.folder / "state" / run.name))
    return "\n".join(
        [
            f"if [ -f {folder}/checkpoints/last.pt ]; then",
            f"    {shlex.join(srun)} --resume {folder}",
            "else",
            "    # what an earlier start left, without a checkpoint, makes room",
            f"    if [ -d {folder} ]; then mv {folder} {aside}.$(date +%s); fi",
            f"    {shlex.join([*srun, *named, *words, '--name', run.name])}",
            "fi",
        ]
    )


def stage_scripts(launch: Launch, words: Sequence[str], resources: Resources) -> dict[Path, str]:
    """The scripts of a stage after the training: of the array, then of each run.

    words: the verb and its flags, e.g. ["evaluate", "--sweep"].
    """
    stage = words[0]
    options = [f"--output={launch.folder}/{stage}_%4a.out", *resources.options]
    scripts = {}
    for run in launch.runs:
        folder = str(launch.runs_folder / run.name)
        srun = [*SRUN, f"--cpus-per-task={resources.cpus}", *launch.program]
        line = shlex.join([*srun, stage, "--run", folder, *words[1:]])
        scripts[launch.script(stage, run)] = f"#!/bin/bash\n{line}\n"
    header = [f"#SBATCH {option}" for option in (f"--job-name={launch.name}_{stage}", *options)]
    array = array_script(launch, stage, "#!/bin/bash", header)
    return {launch.array_script(stage): array} | scripts


def array_script(launch: Launch, stage: str, shebang: str, header: Sequence[str]) -> str:
    """The script of an array.

    header: the #SBATCH lines of its jobs; what makes an array of them is added.
    """
    throttle = "" if launch.max_jobs is None else f"%{launch.max_jobs}"
    options = [
        f"--array=0-{len(launch.runs) - 1}{throttle}",
        "--requeue",
        "--open-mode=append",
        *launch.options,
    ]
    if stage == "train":
        options.append(f"--signal=B:USR1@{launch.notice}")
    values = {
        "launch": launch.folder,
        "runs": launch.runs_folder,
        "name": launch.name,
        "stage": stage,
        "kept": KEPT.get(stage, ""),
        "max_failures": MAX_FAILURES,
    }
    assigned = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
    lines = [
        shebang,
        *header,
        *(f"#SBATCH {option}" for option in options),
        "",
        *assigned,
        f"pytc=({shlex.join(launch.program)})",
        "",
        (files("pytc.launch") / "array.sh").read_text(),
    ]
    return "\n".join(lines)


def program() -> list[str]:
    """The command `pytc` for a job: by its path, so that no environment has to be activated."""
    started = Path(sys.argv[0])
    if started.stem == "pytc" and started.is_file():
        return [sys.executable, str(started.resolve())]
    beside = Path(sys.executable).with_name("pytc")
    if beside.is_file():
        return [sys.executable, str(beside)]
    return ["pytc"]


def _sbatch_lines(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("#SBATCH")]
