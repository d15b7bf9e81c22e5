"""`pytc runs`: the state of each run, from the files that it has left."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from pytc_command import PYTC
from tiny_runs import start, tiny, wait_for_steps

from pytc.config import Config, LoopConfig
from pytc.run_table import lock_log, read_log, shown_age, state_of
from pytc.runs import write_json


def make(root, name, rows, max_steps=40, age=0.0):
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    write_json(folder / "config.json", asdict(Config(loop=LoopConfig(max_steps=max_steps))))
    if rows is not None:
        lines = [json.dumps(row) for row in rows]
        (folder / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 39, "half')
        at = time.time() - age
        os.utime(folder / "log.jsonl", (at, at))
    return folder


def test_a_table_of_all_runs_without_torch(tmp_path):
    loss = [{"step": step, "train/loss_total": 1.0, "val/loss": 9 / step} for step in (10, 40)]
    ready = make(tmp_path, "done", loss, age=3 * 86_400)
    full = make(tmp_path, "full", [*loss, {"step": 40, "time": time.time()}])  # a full disk
    for folder, age in ((ready, 3 * 86_400), (full, 60)):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.pt").touch()
        os.utime(folder / "checkpoints" / "last.pt", (time.time() - age,) * 2)
    make(tmp_path, "killed", loss[:1], age=7_300)
    make(tmp_path, "asked", [*loss[:1], {"step": 10, "stopped": "SIGTERM"}], age=130)
    make(tmp_path, "new", None)
    scored = make(tmp_path, "scored", loss)
    for volume, nerl in (("a", 0.7), ("b", 0.9)):
        path = scored / "evaluation" / volume
        path.mkdir(parents=True)
        write_json(path / "metrics.json", {"metric": "nerl", "nerl": nerl})
    broken = make(tmp_path, "broken", loss)
    (broken / "config.json").write_text('{"loop": {"max_stepps": 3}}')
    with open(make(tmp_path, "alive", loss[:1]) / "log.jsonl", "a") as log:
        lock_log(log)
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(PYTC), "runs"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert " torch\n" not in done.stderr  # was not imported
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    assert rows["done"] == ["40/40", "0.2250", "val/loss at step 40", "3 d", "finished"]
    assert rows["killed"] == ["10/40", "0.9000", "val/loss at step 10", "2 h", "failed"]
    assert rows["full"][4] == "failed"
    assert rows["asked"][3:] == ["2 min", "stopped"]
    assert rows["scored"][1:3] == ["0.9000", "nerl of b"]
    assert rows["new"][:3] == ["0/40", "", ""] and rows["new"][4] == "not begun"
    assert rows["alive"][4] == "running"
    assert [*rows][:3] == ["done", "killed", "asked"]  # the newest last
    said = done.stdout + done.stderr
    assert "runs/broken: " in said and "did you mean 'max_steps'?" in said


def test_a_run_says_itself_that_it_runs_and_that_it_was_stopped(tmp_path):
    process = start(tiny(max_steps=100_000), tmp_path, cwd=tmp_path)
    run = tmp_path / "runs" / "tiny"
    try:
        wait_for_steps(process, run, 2)
        assert state_of(run).state == "running"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.wait()
    assert read_log(run)[-1]["stopped"] == "SIGTERM"
    assert state_of(run).state == "stopped"


def test_without_locks_a_run_that_has_not_ended_is_not_called_failed(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pytc.run_table.fcntl.flock", no_locks)
    begun = [{"step": 10, "train/loss_total": 1.0}]
    assert state_of(make(tmp_path, "begun", begun)).state == "unknown"
    asked = make(tmp_path, "asked", [*begun, {"step": 10, "stopped": "SIGTERM"}])
    assert state_of(asked).state == "stopped"


def test_ages_are_whole():
    shown = [shown_age(seconds) for seconds in (0.2, 59, 60, 7_199, 86_400 * 2.5)]
    assert shown == ["0 s", "59 s", "1 min", "1 h", "2 d"]
