"""pytc launch on a real Slurm of one node, which this test starts and stops itself.

An array of four: one is preempted, one is timed out, one keeps failing, and all others finish.
"""

import csv
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import slurm_cluster
from tiny_runs import ONE_STEP

from pytc.launch.status import read_history, read_launch
from pytc.main import main

ROOT = Path(__file__).parent.parent
# What runs in place of pytc: a training that answers signals as ours does, without torch.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

sys.path.insert(0, {root!r})
verb, words = sys.argv[1], sys.argv[2:]
if verb == "launch":
    from pytc.main import main
    main()
    sys.exit()
asked = []
for number in (signal.SIGTERM, signal.SIGUSR1):  # Slurm and srun both send SIGTERM
    signal.signal(number, lambda number, frame: asked.append(number))
name = Path(words[-1]).name
run = Path("runs") / name
if verb == "infer":
    (run / "predictions").mkdir()
    sys.exit()
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
while True:
    time.sleep(0.1)
    if asked:
        with open(run / "signals", "a") as file:
            file.write(signal.Signals(asked[0]).name + chr(10))
        time.sleep(1)  # the step it is in
        (run / "checkpoints" / "last.pt").touch()
        sys.exit(75)
    if not Path("go").exists():
        continue
    if name == "x_0000":
        sys.exit(3)
    has_been_asked = (run / "signals").exists() and "USR1" in (run / "signals").read_text()
    if name != "x_0002" or has_been_asked:
        sys.exit()
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm, in whose jobs the stand-in is pytc; skipped where none can be started."""
    if slurm_cluster.missing():
        pytest.skip(slurm_cluster.missing())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "small.py").write_text(ONE_STEP)
    (tmp_path / "pytc").write_text(STAND_IN.format(root=str(ROOT)))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "pytc")])
    with ExitStack() as stack:
        try:
            stack.enter_context(slurm_cluster.cluster(tmp_path / "slurm"))
        except RuntimeError as error:
            pytest.skip(str(error))
        yield


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: {queue()} {printed()}"
        time.sleep(0.2)


def queue():
    words = ["squeue", "--noheader", "--array", "--format=%i %j %T %r"]
    return subprocess.run(words, capture_output=True, text=True).stdout


def printed():
    return [path.read_text()[-500:] for path in sorted(Path("slurm_jobs/x").glob("*.out"))]


@pytest.mark.slow
def test_one_is_preempted_one_timed_out_one_given_up_and_all_others_finish(slurm, capsys):
    words = "--cpus 1 --time 1 --notice 50 --name x --then infer".split()
    main(["launch", "--config", "small.py", "--sweep", "loop.seed=1,2,3,4", *words])
    assert re.search(
        r"launched: 4 runs, train is job \d+, infer is job \d+\n", capsys.readouterr().out
    )
    folder = Path("slurm_jobs") / "x"
    launch = read_launch(folder)

    def histories(stage):
        return [read_history(folder, stage, run) for run in launch.runs]

    def preempted():
        return [history for history in histories("train") if "ended by Slurm" in history]

    kept = [launch.runs_folder / run.name / "checkpoints" for run in launch.runs]
    wait_for(lambda: all(path.is_dir() for path in kept), 60, "all four run")
    urgent = ["--partition=urgent", "--ntasks=1", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(["sbatch", *urgent], check=True, capture_output=True)
    wait_for(preempted, 30, "one is preempted")
    Path("go").touch()
    wait_for(lambda: not queue(), 120, "the queue is empty")

    train, infer = histories("train"), histories("infer")
    assert len(preempted()) == 1  # Slurm chooses which
    assert train[0].count("failed") == 3 and train[0][-1] == "given up"
    assert train[2][-3:] == ["put back", "started", "done"]
    for number in (1, 2, 3):
        assert train[number].count("failed") == 0 and train[number][-1] == "done"
    assert infer == [[], *[["started", "done"]] * 3]  # what was given up is not predicted

    signals = [path.read_text().split() for path in sorted(Path("runs").glob("*/signals"))]
    assert sum(received.count("SIGTERM") for received in signals) == 1
    assert Path("runs/x_0002/signals").read_text().split()[-1] == "SIGUSR1"

    main(["launch", "--status", "x"])
    table = capsys.readouterr().out
    assert "train given up" in table and table.count("finished") == 3
    with open(folder / "scores.csv", newline="") as file:
        states = {row["run"]: row["state"] for row in csv.DictReader(file)}
    assert list(states.values()) == ["train given up", *["finished"] * 3]
