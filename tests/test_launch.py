"""pytc launch without Slurm: sweeps, grids, templates, scripts; what is refused, and when."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documents import blocks_to_run, commands
from pytc_command import PYTC
from tiny_runs import ONE_STEP

from pytc.commands import LaunchConfig
from pytc.launch.grid import combinations, flags_of, joined, read_grid, read_sweeps
from pytc.launch.launcher import read_stages, seconds_of
from pytc.launch.scripts import Template
from pytc.main import main

ROOT = Path(__file__).parent.parent
# that of the documents behind this library, with the flags of pytc
DOCUMENTED_TEMPLATE = """#!/bin/bash
#SBATCH --job-name={exp_name}
#SBATCH --output={output_dir}/slurm-%j.out
#SBATCH --error={output_dir}/slurm-%j.err
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={num_gpus}
#SBATCH --cpus-per-task={num_cpus}
#SBATCH --mem={memory}G
#SBATCH --time={time_limit}

source activate ${{ENVIRONMENT:-connectomics}}
pytc train \\
    --config {config_path} \\
    --loop.batch-size {batch_size} \\
    --optim.learning-rate {learning_rate} \\
    --name {exp_name}
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with the config small.py, and without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "small.py").write_text(ONE_STEP)
    return tmp_path


def launch(*words):
    main(["launch", "--config", "small.py", *words])


def refused(capsys, *words):
    """What is printed on standard error where a launch is refused."""
    with pytest.raises(SystemExit) as ended:
        launch(*words)
    assert ended.value.code
    code = ended.value.code
    said = capsys.readouterr().err + (code if isinstance(code, str) else "")
    assert not list(Path("slurm_jobs").glob("*"))
    return " ".join(said.replace("│", " ").split())


def printed_scripts(capsys, *words):
    """{name: text} of the scripts that a dry run prints."""
    launch("--dry-run", *words)
    parts = capsys.readouterr().out.split("# ---- ")[1:]
    assert not Path("slurm_jobs").exists()
    return {Path(part.partition("\n")[0]).name: part.partition("\n")[2] for part in parts}


def test_a_sweep_is_the_product_of_its_fields():
    grid = read_sweeps(["optim.learning-rate=1e-3,3e-4", "data.patch_size=16 16 32,32 32 32"])
    runs = combinations(grid, "x")
    assert [run.name for run in runs] == ["x_0000", "x_0001", "x_0002", "x_0003"]
    assert [run.values["optim.learning_rate"] for run in runs] == [("1e-3",)] * 2 + [("3e-4",)] * 2
    assert flags_of(runs[1].values) == (
        "--optim.learning-rate 1e-3 --data.patch-size 32 32 32".split()
    )
    assert [run.values for run in combinations({}, "x")] == [{}]


def test_true_and_false_are_switches():
    values = {"model.deep_supervision": ("true",), "system.cpu_variant": ("False",)}
    assert flags_of(values) == ["--model.deep-supervision", "--system.no-cpu-variant"]


@pytest.mark.parametrize("sweep", ["optim.learning-rate", "=1", "optim.learning-rate=1,,2", ""])
def test_a_sweep_of_another_form_is_refused(sweep):
    with pytest.raises(ValueError, match="expected --sweep FIELD=VALUE,VALUE, got"):
        read_sweeps([sweep])


def test_a_field_or_a_value_that_is_swept_twice_is_refused():
    with pytest.raises(ValueError, match="each field once"):
        read_sweeps(["loop.max-steps=1,2", "loop.max_steps=3"])
    with pytest.raises(ValueError, match="each field once"):
        joined([{"a": (("1",),)}, {"a": (("2",),)}])
    with pytest.raises(ValueError, match="different values for loop.max_steps"):
        read_sweeps(["loop.max-steps=1,1"])


def test_a_grid_is_read_as_the_documents_write_it(workplace):
    (workplace / "grid.yaml").write_text(
        "params:\n  learning_rate: [1e-3, 3.0e-4]\n  data.patch_size: [[16, 16, 32]]\n"
        "  max_epochs: 100\n  time_limit: 24:00:00\n  model.deep-supervision: [true, false]\n"
    )
    assert read_grid(workplace / "grid.yaml") == {
        "learning_rate": (("1e-3",), ("3.0e-4",)),
        "data.patch_size": (("16", "16", "32"),),
        "max_epochs": (("100",),),
        "time_limit": (("24:00:00",),),
        "model.deep_supervision": (("true",), ("false",)),
    }


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rate: [1]", "with `params:` alone"),
        ("params: [1, 2]", "with `params:` alone"),
        ("params: {a: {b: 1}}", "a value, or a list of its words, for a"),
        ("params: {a: []}", "values for a"),
        ("params: [", "grid.yaml: while parsing"),
    ],
)
def test_a_grid_of_another_form_is_refused(text, message, workplace):
    (workplace / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_grid(workplace / "grid.yaml")


def test_the_array_and_its_runs_are_printed_without_slurm(workplace, capsys):
    words = "--sweep optim.learning-rate=1e-3,3e-4 --sweep loop.batch-size=1,2"
    asked = "--gpus 4 --nodes 2 --cpus 6 --memory 64 --time 24:00:00 --partition P --max-jobs 3"
    more = "--sbatch account=lab --name big"
    extra = ["--", "--loop.max-steps", "7"]
    scripts = printed_scripts(capsys, *words.split(), *asked.split(), *more.split(), *extra)
    assert list(scripts) == ["train.sh", *(f"train_big_000{n}.sh" for n in range(4))]
    options = {line for line in scripts["train.sh"].splitlines() if line.startswith("#SBATCH")}
    assert options == {
        f"#SBATCH --{option}"
        for option in (
            "job-name=big",
            f"output={workplace}/slurm_jobs/big/train_%4a.out",
            "nodes=2",
            "ntasks-per-node=4",
            "gpus-per-node=4",
            "cpus-per-task=6",
            "mem=64G",
            "time=24:00:00",
            "array=0-3%3",
            "requeue",
            "open-mode=append",
            "partition=P",
            "account=lab",
            "signal=B:USR1@300",
        )
    }
    run = scripts["train_big_0002.sh"]
    flags = "--config small.py --loop.max-steps 7 --optim.learning-rate 3e-4 --loop.batch-size 1"
    assert f" train {flags} --name big_0002" in run
    assert f" train --resume {workplace}/runs/big_0002" in run
    assert not (workplace / "runs").exists()


def test_what_follows_the_training_has_scripts_of_its_own(workplace, capsys):
    words = ["--gpus", "2", "--then", "infer", "--then", "evaluate --sweep"]
    scripts = printed_scripts(capsys, *words)
    assert list(scripts) == [
        f"{stage}{run}.sh"
        for stage in ("train", "infer", "evaluate")
        for run in ("", "_small_0000")
    ]
    folder = workplace / "runs" / "small_0000"
    assert f" infer --run {folder}\n" in scripts["infer_small_0000.sh"]
    assert f" evaluate --run {folder} --sweep\n" in scripts["evaluate_small_0000.sh"]
    assert "--gpus-per-node=1" in scripts["infer.sh"]
    assert "gpus" not in scripts["evaluate.sh"]


@pytest.mark.parametrize("name", ["train.sh", "infer.sh", "evaluate.sh", "train_small_0000.sh"])
def test_the_scripts_are_bash(name, capsys):
    text = printed_scripts(capsys, "--then", "infer,evaluate")[name]
    done = subprocess.run(["/bin/bash", "-n"], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sweep", "optim.learning-rat=1e-3"], "optim.learning-rat"),
        (["--sweep", "optim.learning-rate=1e-3,fast"], "fast"),
        (["--sweep", "optim.learning-rate=1e-3,-1"], "expected optim.learning_rate above 0"),
        (["--sweep", "optimizer.lr=1e-3"], "expected --optim.learning-rate in place of"),
        (
            ["--sweep", "model.unetr.norm=instance"],
            "expected --model.unetr.norm with monai_unetr alone",
        ),
        (["--sweep", "name=a,b"], "without those that the launch gives, got ['--name']"),
        (["--sweep", "loop.max-steps=1", "--", "--loop.max-steps", "2"], "swept or after --"),
        (["--", "--resume", "x"], "without those that the launch gives"),
        (["--", "--help-all"], "without those that the launch gives, got ['--help-all']"),
        (["--", "--data.train.0.image", "no.tif"], "expected a volume at no.tif"),
        (["--then", "inferr"], "expected --then of infer, evaluate, validate, got 'inferr'"),
        (["--then", "evaluate --swepe"], "--swepe"),
        (["--then", "infer,infer"], "each verb once"),
        (["--time", "1 day"], "expected --time as MINUTES"),
        (["--time", "5"], "expected --notice of fewer seconds than --time 5, got 300"),
        (["--template", "none.sh"], "expected a batch script for --template, got 'none.sh'"),
        (["--grid", "none.yaml"], "expected a YAML file"),
        (["--gpus", "-1"], "gpus of 0 or more"),
        ([], "expected Slurm on this machine (--dry-run needs none), got 'no sbatch'"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(words, message, capsys):
    assert message in refused(capsys, *words)


def test_a_template_of_the_documents_is_filled_for_each_run(workplace, capsys):
    (workplace / "grid.yaml").write_text(
        "params:\n  optim.learning_rate: [1e-3, 3e-4]\n  batch_size: [1, 2]\n"
        "  num_gpus: 2\n  time_limit: 10:00:00\n"
    )
    (workplace / "job.sh").write_text(DOCUMENTED_TEMPLATE)
    words = ["--grid", "grid.yaml", "--template", "job.sh", "--memory", "32", "--cpus", "4"]
    scripts = printed_scripts(capsys, *words, "--output-dir", "jobs", "--name", "exp")
    assert list(scripts) == ["train.sh", *(f"train_exp_000{n}.sh" for n in range(4))]
    expected = DOCUMENTED_TEMPLATE.format(
        exp_name="exp_0002",
        output_dir=workplace / "jobs" / "exp",
        num_gpus=2,
        num_cpus=4,
        memory=32,
        time_limit="10:00:00",
        config_path="small.py",
        batch_size=1,
        learning_rate="3e-4",
    )
    assert scripts["train_exp_0002.sh"].strip() == expected.strip()
    assert "${ENVIRONMENT:-connectomics}" in expected
    header = [line for line in scripts["train.sh"].splitlines() if line.startswith("#SBATCH")]
    assert header[:2] == [
        "#SBATCH --job-name=exp",
        f"#SBATCH --output={workplace}/jobs/exp/slurm-%j.out",
    ]
    assert "#SBATCH --array=0-3" in header and "#SBATCH --requeue" in header


@pytest.mark.parametrize(
    "text, words, message",
    [
        ("{train}\n", ["--sweep", "batch_size=1"], "batch-size"),  # none of a config's
        ("{train} {memmory}\n", ["--memory", "1"], "{memory} in job.sh for --memory"),
        ("{train} {num_gpu}\n", [], "no value for {num_gpu}; did you mean 'num_gpus'?"),
        ("{train} ${HOME}\n", [], "no value for {HOME}"),
        ("{train} {\n", [], "job.sh: expected '}' before end of string"),
        ("echo\n", ["--sweep", "loop.max-steps=1,2"], "{train} or {max_steps} or {loop_max_steps}"),
        ("#SBATCH --mem={max_steps}G\n", ["--sweep", "loop.max-steps=1,2"], "the same #SBATCH"),
        (None, [], "expected a script of bash"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(text, words, message, workplace, capsys):
    script = "#!/bin/sh\n" if text is None else f"#!/bin/bash\n{text}"
    (workplace / "job.sh").write_text(script)
    assert message in refused(capsys, "--template", "job.sh", *words)


def test_a_field_that_two_names_end_with_has_its_full_name_alone():
    template = Template("#!/bin/bash\n{data_train_0_image} {max_steps}", "job.sh")
    assert template.fields == {"data_train_0_image", "max_steps"}


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("90", 5400),
        ("1:30", 90),
        ("24:00:00", 86_400),
        ("1-0", 86_400),
        ("1-2:30", 95_400),
        ("2-00:00:05", 172_805),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, seconds):
    assert seconds_of(text) == seconds


def test_a_run_or_a_launch_of_that_name_is_never_touched(workplace, capsys):
    (workplace / "slurm_jobs" / "small").mkdir(parents=True)
    launch("--dry-run")
    assert "slurm_jobs/small-2/train_small-2_0000.sh" in capsys.readouterr().out
    (workplace / "runs" / "small-2_0000").mkdir(parents=True)
    with pytest.raises(SystemExit, match="expected no run small-2_0000 yet, or another --name"):
        launch("--dry-run")


def test_a_refused_array_leaves_nothing_and_cancels_what_was_submitted(workplace, capsys):
    sbatch = (
        "#!/bin/bash\n"
        "echo $@ >> calls\n"
        'if [ "$1 $2" = "--parsable ${@: -1}" ]; then echo 12; exit; fi\n'
        "echo 'no such partition' >&2; exit 1\n"
    )
    for name, text in (("sbatch", sbatch), ("scancel", "#!/bin/bash\necho cancel $@ >> calls\n")):
        (workplace / name).write_text(text)
        (workplace / name).chmod(0o755)
    assert "sbatch refuses" in refused(capsys, "--then", "infer")
    calls = (workplace / "calls").read_text().splitlines()
    folder = workplace / "slurm_jobs" / "small"
    assert calls == [
        f"--parsable {folder}/train.sh",
        f"--parsable --dependency=aftercorr:12 --kill-on-invalid-dep=yes {folder}/infer.sh",
        "cancel 12",
    ]


def documented_commands():
    """The calls of pytc launch in docs/slurm.md."""
    return [line.removeprefix("pytc launch ") for line in commands("docs/slurm.md")]


def test_the_documented_calls_are_those_of_this_test():
    assert len(documented_commands()) == 3 and documented_commands()[1] == "--status"


@pytest.mark.parametrize("number", [0, 2])
def test_every_documented_call_prints_its_scripts(number, workplace, capsys):
    template, _ = blocks_to_run("docs/slurm.md", "sh")
    (workplace / "configs").symlink_to(ROOT / "configs")
    (workplace / "grid.yaml").write_text("params:\n  optim.learning_rate: [1e-3, 3e-4]\n")
    (workplace / "job.sh").write_text(template)
    main(["launch", *shlex.split(documented_commands()[number]), "--dry-run"])
    runs = {"_0000", "_0001", "_0002", "_0003"} if number == 0 else {"_0000", "_0001"}
    printed = capsys.readouterr().out
    assert set(re.findall(r"train_mednext(_\d+)\.sh", printed)) == runs


def test_a_dry_run_loads_no_torch(workplace):
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__'); sys.exit('torch' in sys.modules)"
    )
    words = ["launch", "--config", "small.py", "--sweep", "loop.max-steps=1,2", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(PYTC), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{PYTC.resolve()} train" in done.stdout


def test_stages_are_verbs_with_their_flags():
    assert read_stages(["infer,evaluate"]) == [["infer"], ["evaluate"]]
    words = ["infer --inference.overlap 0.25", "evaluate --thresholds 0.1 0.2"]
    assert read_stages(words)[0] == ["infer", "--inference.overlap", "0.25"]
    with pytest.raises(ValueError, match="without --run"):
        read_stages(["infer --run x"])


def test_defaults_are_those_of_the_help():
    assert (LaunchConfig().gpus, LaunchConfig().output_dir) == (1, "slurm_jobs")
