"""pytc launch: check every run, write the scripts, submit them; or show what has become of them."""

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pytc.checks import require
from pytc.commands import EvaluateConfig, InferConfig, LaunchConfig, ValidateConfig, parse
from pytc.config import Config
from pytc.help import ALL_FLAGS
from pytc.launch.grid import Grid, combinations, flags_of, joined, read_grid, read_sweeps
from pytc.launch.scripts import (
    Launch,
    Resources,
    Template,
    default_template,
    program,
    stage_scripts,
    training_scripts,
)
from pytc.launch.slurm import cancel, require_slurm, submit
from pytc.launch.status import Submitted, find_launch, show_status, write_launch
from pytc.runs import require_writable, runs_folder
from pytc.script import command_line

STAGES = {"infer": InferConfig, "evaluate": EvaluateConfig, "validate": ValidateConfig}
NO_GPU = ("evaluate",)  # stages that compute on the CPU
# flags that a launch gives itself, or that end a training before it begins
OURS = {"--config", "--name", "--resume", "--help", "-h", ALL_FLAGS}
# minutes, minutes:seconds, hours:minutes:seconds, days-hours, ...
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def launch(
    config: LaunchConfig, words: Sequence[str], check: Callable[[list[str]], Config]
) -> None:
    """Submit the runs of a sweep as an array, and what follows them; or print the status of one.

    Nothing is written and nothing submitted before every run has passed the checks of `pytc train`.

    Args:
        config: the flags.
        words: further flags of every training.
        check: makes the config of a training from the words of its command line; ValueError, or the
            end of the process with a message, if something is wrong with them.

    Raises:
        ValueError: a flag, a field or a template is wrong, or Slurm refuses the jobs.
    """
    root = Path(config.output_dir)
    if config.status is not None:
        show_status(find_launch(config.status, root))
        return

    # What is asked for.
    stages = read_stages(config.then)
    grids = [read_sweeps(config.sweep)]
    if config.grid is not None:
        grids.append(read_grid(Path(config.grid)))
    grid, resources = resources_of(config, joined(grids))
    is_shorter = config.notice < seconds_of(resources.time)
    require(is_shorter, f"--notice of fewer seconds than --time {resources.time}", config.notice)
    template = template_of(config, resources)
    only_in_template = fields_of_template_alone(grid, template)
    name = check_runs(config, grid, words, only_in_template, check)

    # What is submitted.
    folder = free_folder(root, name)
    prepared = Launch(
        folder.name,
        folder.absolute(),
        runs_folder().absolute(),
        combinations(grid, folder.name),
        config.notice,
        sbatch_options(config),
        config.max_jobs,
        program(),
    )
    for run in prepared.runs:
        path = prepared.runs_folder / run.name
        require(not path.exists(), f"no run {run.name} yet, or another --name", str(path))
    scripts = training_scripts(
        prepared, template, resources, config.config, words, only_in_template
    )
    for stage in stages:
        scripts |= stage_scripts(prepared, stage, resources_after(stage[0], resources))
    if config.dry_run:
        for path, text in scripts.items():
            print(f"# ---- {path}\n{text}")
    else:
        submit_all(prepared, scripts, [stage[0] for stage in stages])


def fields_of_template_alone(grid: Grid, template: Template) -> set[str]:
    """The swept fields that the template names and that are none of a config, e.g. batch_size."""
    own = Config.__annotations__
    return {f for f in grid if "." not in f and f in template.fields and f not in own}


def resources_after(stage: str, training: Resources) -> Resources:
    """What a stage after the training asks for: one task, on one GPU if it uses one."""
    gpus = 0 if stage in NO_GPU else min(1, training.gpus)
    return replace(training, nodes=1, gpus=gpus)


def seconds_of(time: str) -> int:
    """The seconds of a time limit in one of the forms that sbatch reads; ValueError for another."""
    match = TIME.fullmatch(time)
    expected = "--time as MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS"
    require(match is not None, expected, time)
    assert match is not None
    days, *parts = (None if part is None else int(part) for part in match.groups())
    numbers = [part for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours = 0
        minutes, seconds = [*numbers, 0][:2]
    return (((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def read_stages(then: Sequence[str]) -> list[list[str]]:
    """The verbs of --then, each with its flags; ValueError for an unknown one.

    Example:
        >>> read_stages(["infer,evaluate"])
        [['infer'], ['evaluate']]
        >>> read_stages(["infer", "evaluate --sweep"])
        [['infer'], ['evaluate', '--sweep']]
    """
    stages: list[list[str]] = []
    for item in then:
        parts = item.split(",") if set(item.split(",")) <= STAGES.keys() else [item]
        stages += [shlex.split(part) for part in parts]
    for verb, *flags in stages:
        require(verb in STAGES, f"--then of {', '.join(STAGES)}", verb)
        require("--run" not in flags, f"--then {verb} without --run, which the launch gives", flags)
        parse(STAGES[verb], verb, ["--run", "checked", *flags])
    verbs = [stage[0] for stage in stages]
    require(len(set(verbs)) == len(verbs), "each verb once in --then", verbs)
    return stages


def resources_of(config: LaunchConfig, grid: Grid) -> tuple[Grid, Resources]:
    """The swept fields without those that the documents' grids name for Slurm, and the resources.

    ValueError where the grid names several values of such a field: all jobs of an array have the
    same resources.
    """
    asked: dict[str, str] = {}
    for field in ("num_gpus", "num_cpus", "memory", "time_limit"):
        values = grid.get(field)
        if values is None:
            continue
        require(len(values) == 1, f"one value of {field}, as the jobs of an array share it", values)
        asked[field] = " ".join(values[0])
    numbers = {}
    for field, default in (
        ("num_gpus", config.gpus),
        ("num_cpus", config.cpus),
        ("memory", config.memory),
    ):
        text = asked.get(field)
        require(text is None or text.isdigit(), f"a whole number as {field}", text)
        numbers[field] = default if text is None else int(text)
    gpus, cpus = numbers["num_gpus"], numbers["num_cpus"]
    assert gpus is not None and cpus is not None
    time = asked.get("time_limit", config.time)
    resources = Resources(config.nodes, gpus, cpus, numbers["memory"], time)
    return {field: values for field, values in grid.items() if field not in asked}, resources


def template_of(config: LaunchConfig, resources: Resources) -> Template:
    """The template of --template, or the default one.

    ValueError where the template does not name what a flag gives it.
    """
    if config.template is None:
        return default_template(resources, "train_%4a.out")
    path = Path(config.template)
    require(path.is_file(), "a batch script for --template", config.template)
    template = Template(path.read_text(), config.template)
    default = LaunchConfig()
    for flag, field in (
        ("gpus", "num_gpus"),
        ("nodes", "num_nodes"),
        ("cpus", "num_cpus"),
        ("memory", "memory"),
        ("time", "time_limit"),
    ):
        is_given = getattr(config, flag) != getattr(default, flag)
        named = not is_given or field in template.fields
        require(named, f"{{{field}}} in {path} for --{flag}", getattr(config, flag))
    return template


def check_runs(
    config: LaunchConfig,
    grid: Grid,
    words: Sequence[str],
    only_in_template: set[str],
    check: Callable[[list[str]], Config],
) -> str:
    """Check the config of every run; returns the name of the launch.

    ValueError for a flag that the launch gives itself, or one that is swept as well.
    """
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    named = ["--config", config.config] if config.config is not None else []
    name = config.name
    for run in combinations(grid, "run"):
        own = flags_of(
            {field: run.values[field] for field in grid if field not in only_in_template}
        )
        swept = {word for word in own if word.startswith("--")}
        ours = sorted((flags | swept) & OURS)
        require(not ours, "flags of training without those that the launch gives", ours)
        twice = sorted(flags & swept)
        require(not twice, "each flag swept or after --, not both", twice)
        checked = check([*named, *words, *own])
        name = name or checked.name
    assert name is not None  # there is at least one combination
    return name


def free_folder(root: Path, name: str) -> Path:
    """root/name, or root/name-2, root/name-3, ... where that is taken; nothing is made."""
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def sbatch_options(config: LaunchConfig) -> list[str]:
    """The options of sbatch for the arrays of all stages."""
    options = [] if config.partition is None else [f"--partition={config.partition}"]
    return options + [f"--{option.removeprefix('--')}" for option in config.sbatch]


def submit_all(launch: Launch, scripts: dict[Path, str], stages: Sequence[str]) -> None:
    """Write the scripts and submit the arrays, each task after that of the stage before.

    All or nothing: if Slurm refuses one, those before it are cancelled and no folder is left.
    """
    require_slurm()
    require_writable(launch.folder)
    launch.folder.mkdir(parents=True)
    jobs: dict[str, int] = {}
    try:
        (launch.folder / "state").mkdir()
        for path, text in scripts.items():
            path.write_text(text)
        options: list[str] = []
        for stage in ("train", *stages):
            jobs[stage] = submit(launch.array_script(stage), options)
            options = [f"--dependency=aftercorr:{jobs[stage]}", "--kill-on-invalid-dep=yes"]
        submitted = Submitted(launch.folder, launch.runs_folder, jobs, tuple(launch.runs))
        write_launch(submitted)
    except BaseException:
        cancel(list(jobs.values()))
        shutil.rmtree(launch.folder)
        raise
    arrays = ", ".join(f"{stage} is job {job}" for stage, job in jobs.items())
    print(f"launched: {len(launch.runs)} runs, {arrays}")
    print(f"next: {command_line('launch', ['--status', launch.name])}")
