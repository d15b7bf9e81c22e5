"""What a task of an array does around its run, with stand-ins for Slurm's programs.

tests/test_launch_slurm.py does the same on a real Slurm.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pytc.launch.grid import combinations
from pytc.launch.scripts import KEPT, Launch, Resources, Template, training_scripts

RESOURCES = Resources(nodes=1, gpus=1, cpus=1, memory=None, time="1:00:00")
# what runs in place of a training: what $DOES says
RUN = """#!/bin/bash
# {exp_name}
eval "$DOES" || exit $?
{train}
"""
PROGRAMS = {
    "squeue": '#!/bin/bash\necho "$QUEUE"\n',
    "scontrol": '#!/bin/bash\necho "$@" >> calls\n[ -z "$REFUSES" ]\n',
    "srun": "#!/bin/bash\nexit 0\n",
    "pytc": '#!/bin/bash\necho "pytc $@" >> calls\n',
}
# what the time limit's signal finds: a program that keeps a checkpoint and leaves with code 75
TRAINS = (
    'python3 -c "import signal, sys; stop = []; signal.signal(signal.{signal}, lambda *_: '
    "(open('runs/x_0001/checkpoints/last.pt', 'w'), sys.exit(75))); open('ready', 'w'); "
    'signal.pause()"'
)


@pytest.fixture
def array(tmp_path, monkeypatch):
    """The script of an array, in the folder in which its tasks run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "runs" / "x_0001" / "checkpoints").mkdir(parents=True)
    runs = combinations({"loop.max_steps": (("1",), ("2",))}, "x")
    folder = tmp_path / "slurm_jobs" / "x"
    (folder / "state").mkdir(parents=True)
    launch = Launch("x", folder, tmp_path / "runs", runs, notice=60, options=())
    template = Template(RUN, "the template")
    for path, text in training_scripts(launch, template, RESOURCES, None, [], set()).items():
        path.write_text(text)
    return launch.array_script("train")


def start(array, does, **more):
    environment = {
        **os.environ,
        "PATH": f"{array.parents[2] / 'bin'}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_JOB_ID": "14",
        "DOES": does,
        **more,
    }
    # a group of its own, as the test must not get what is sent to it
    return subprocess.Popen(
        ["bash", str(array)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process):
    _, errors = process.communicate(timeout=30)
    assert errors == ""
    return process.returncode


def history(array):
    lines = (array.parent / "state" / "train_x_0001").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines]


def calls():
    return Path("calls").read_text().splitlines() if Path("calls").exists() else []


def test_a_run_that_ends_well_is_done(array):
    assert end(start(array, "true")) == 0
    host = os.uname().nodename
    assert history(array) == [f"started: job 12_1 on {host}", "done"]
    assert calls() == [f"pytc launch --status {array.parent} --quiet"]


def test_a_run_that_fails_three_times_is_given_up(array):
    for _ in range(3):
        assert end(start(array, "exit 3")) == 3
    events = [line for line in history(array) if not line.startswith("started")]
    assert events == [
        "failed: exit code 3",
        "put back: after a failure",
        "failed: exit code 3",
        "put back: after a failure",
        "failed: exit code 3",
        "given up: 3 failures",
    ]
    assert [line for line in calls() if "requeue" in line] == ["requeue 12_1"] * 2


def test_code_75_is_no_failure_where_something_was_kept(array):
    kept = Path("runs/x_0001") / KEPT["train"] / "last.pt"
    for _ in range(4):
        does = f"sleep 0.02; touch {kept}; exit 75"
        assert end(start(array, does)) == 75
        assert history(array)[-1] == "put back: asked to end, exit code 75"
    for _ in range(3):
        assert end(start(array, "exit 75")) == 75
    assert history(array)[-1] == "given up: 3 failures"
    reason = "failed: asked to end, exit code 75, and nothing was kept since the start"
    assert history(array).count(reason) == 3


def test_ctrl_c_ends_a_run_for_good(array):
    assert end(start(array, "exit 130")) == 130
    assert history(array)[-1] == "stopped by hand: exit code 130"
    assert not any("requeue" in line for line in calls())


def wait_until_ready(process):
    deadline = time.monotonic() + 30
    while not Path("ready").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_the_signal_before_the_time_is_up_is_passed_on(array):
    process = start(array, TRAINS.format(signal="SIGUSR1"))
    wait_until_ready(process)
    process.send_signal(signal.SIGUSR1)  # Slurm sends it to the script alone
    assert end(process) == 75
    assert history(array)[-1] == "put back: asked to end, exit code 75"


@pytest.mark.parametrize(
    "queue, expected",
    [
        ("COMPLETING TimeLimit", ["put back: its time was up"]),
        ("COMPLETING None", ["ended by Slurm: preempted or cancelled"]),
        ("RUNNING None", ["put back: asked to end, exit code 75"]),  # preempted soon
    ],
)
def test_a_job_that_slurm_ends_goes_on_unless_it_was_cancelled(queue, expected, array):
    """Slurm itself puts a preempted job back."""
    checkpoint = Path("runs/x_0001/checkpoints/step-1.pt")
    does = f"sleep 0.02; touch {checkpoint}; {TRAINS.format(signal='SIGTERM')}"
    process = start(array, does, QUEUE=queue)
    wait_until_ready(process)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    if process.poll() is None:  # the run has a group of its own
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.killpg(int(child), signal.SIGTERM)
    assert end(process) == 75
    assert history(array)[1:] == expected
    requeued = ["requeue 12_1"] if "put back" in expected[0] else []
    assert [line for line in calls() if "requeue" in line] == requeued


def test_where_slurm_refuses_to_put_a_job_back_it_is_said(array):
    assert end(start(array, "exit 1", REFUSES="yes")) == 1
    assert history(array)[-1] == "not put back: Slurm refuses it"


def test_a_start_without_a_checkpoint_makes_room_and_one_with_it_is_continued(array):
    assert end(start(array, "true")) == 0  # the template's {train} follows $DOES
    assert not Path("runs/x_0001").exists()
    (moved,) = (array.parent / "state").glob("x_0001.*")
    assert (moved / "checkpoints").is_dir()

    Path("runs/x_0001/checkpoints").mkdir(parents=True)
    Path("runs/x_0001/checkpoints/last.pt").touch()
    assert end(start(array, "true")) == 0
    assert Path("runs/x_0001/checkpoints/last.pt").exists()
