"""The table and scores.csv of a launch, from files as runs and jobs write them."""

import csv
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pytc.config import Config, LoopConfig
from pytc.launch import status
from pytc.launch.grid import combinations
from pytc.launch.slurm import queue
from pytc.launch.status import Submitted, find_launch, read_launch, show_status, write_launch
from pytc.main import main
from pytc.runs import write_json

JOBS = {"train": 12, "infer": 13, "evaluate": 14}


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """A launch of four runs."""
    monkeypatch.chdir(tmp_path)
    runs = combinations({"loop.seed": (("1",), ("2",)), "data.patch_size": (("8", "8", "8"),)}, "x")
    runs += combinations(
        {"loop.seed": (("3",), ("4",)), "data.patch_size": (("9", "9", "9"),)}, "y"
    )
    folder = tmp_path / "slurm_jobs" / "x"
    (folder / "state").mkdir(parents=True)
    submitted = Submitted(folder, tmp_path / "runs", JOBS, tuple(runs))
    write_launch(submitted)
    return submitted


def note(launch, stage, number, *events):
    path = launch.folder / "state" / f"{stage}_{launch.runs[number].name}"
    with open(path, "a") as file:
        file.writelines(f"2026-12-01T05:34:02 {event}\n" for event in events)


def write_run(launch, number, steps, **scores):
    """A run of that many steps of 40, with the lines of its log."""
    folder = launch.runs_folder / launch.runs[number].name
    folder.mkdir(parents=True)
    write_json(folder / "config.json", asdict(Config(loop=LoopConfig(max_steps=40))))
    rows = [{"step": step, "train/loss_total": 1 / step} for step in range(10, steps + 1, 10)]
    rows.append({"step": steps, **scores})
    lines = [json.dumps(row) for row in rows]
    (folder / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 50, "train/lo')
    return folder


def stand_in(monkeypatch, tmp_path, lines):
    """A squeue that prints these lines of each job; of others it says that there are none."""
    text = ["#!/bin/bash", 'case "$*" in']
    for job, tasks in lines.items():
        printed = "\\n".join(tasks)
        text.append(f'*--jobs={job}*) printf "{printed}\\n";;')
    text += ["*) echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1;;", "esac"]
    (tmp_path / "squeue").write_text("\n".join(text))
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def rows_of(capsys):
    """The cells of each row that the table shows, by the name of the run."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_the_table_says_how_far_each_run_is(launch, capsys, monkeypatch, tmp_path):
    stand_in(
        monkeypatch,
        tmp_path,
        {12: ["1 RUNNING", "2 PENDING"], 13: ["0 COMPLETING", "[1-3] PENDING"]},
    )
    note(launch, "train", 0, "started: job 12_0 on a", "put back: its time was up")
    note(launch, "train", 0, "started: job 12_0 on b", "done")
    note(launch, "infer", 0, "started: job 13_0 on b")
    note(launch, "train", 1, "started: job 12_1 on a", "failed: exit code 1", "put back: x")
    note(launch, "train", 1, "started: job 12_1 on a")
    write_run(launch, 0, 40)
    write_run(launch, 1, 20)
    show_status(launch.folder)
    assert rows_of(capsys) == {
        "x_0000": ["1", "8 8 8", "infer completing", "40/40", "0.0250", "2", "0"],
        "x_0001": ["2", "8 8 8", "train running", "20/40", "0.0500", "2", "1"],
        "y_0000": ["3", "9 9 9", "train waits", "0", "", "0", "0"],
        "y_0001": ["4", "9 9 9", "train never started", "0", "", "0", "0"],
    }


def test_what_is_over_is_known_from_files_alone(launch, capsys, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, {})
    for stage in JOBS:
        note(launch, stage, 0, "started: job 1_0 on a", "done")
    failures = ["started: job 12_1 on a", "failed: exit code 1", "put back: after a failure"] * 2
    note(launch, "train", 1, *failures, "started: job 12_1 on a", "failed: x", "given up: x")
    note(launch, "train", 2, "started: job 12_2 on a", "ended by Slurm: preempted or cancelled")
    note(launch, "train", 3, "started: job 12_3 on a", "done")
    note(launch, "infer", 3, "started: job 13_3 on a", "stopped by hand: exit code 130")
    show_status(launch.folder)
    rows = rows_of(capsys)
    assert [row[2] for row in rows.values()] == [
        "finished",
        "train given up",
        "train ended by Slurm",
        "infer stopped by hand",
    ]
    assert rows["x_0001"][5:] == ["3", "3"]


def test_a_task_that_was_submitted_again_by_hand_is_found(launch, monkeypatch, tmp_path, capsys):
    stand_in(monkeypatch, tmp_path, {77: ["1 PENDING"]})
    note(launch, "train", 1, "started: job 12_1 on a", "given up: x")
    note(launch, "train", 1, "started: job 77_1 on a", "put back: its time was up")
    show_status(launch.folder)
    assert rows_of(capsys)["x_0001"][2] == "train waits to go on"


def test_without_slurm_what_is_not_over_is_unknown(launch, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    note(launch, "train", 0, "started: job 12_0 on a")
    note(launch, "train", 1, "started: job 12_1 on a", "given up: x")
    show_status(launch.folder)
    states = [row[2] for row in rows_of(capsys).values()]
    assert states[:2] == ["train unknown: no squeue", "train given up"]
    assert queue([1]) is None


def test_the_scores_of_all_runs_are_one_table(launch, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path, {})
    folder = write_run(launch, 0, 40, **{"val/loss": 0.5})
    (folder / "validation.jsonl").write_text('{"step": 40, "val/nerl": 0.75}\n')
    for volume, nerl in (("a", 0.5), ("b", 0.25)):
        scores = {"nerl": nerl, "threshold": 0.4, "task": "instance", "affinities": "x.zarr"}
        (folder / "evaluation" / volume).mkdir(parents=True)
        write_json(folder / "evaluation" / volume / "metrics.json", scores)
    write_run(launch, 1, 20, **{"val/loss": 0.625})
    show_status(launch.folder)
    with open(launch.folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        list(rows[0])
        == (
            "run loop.seed data.patch_size state step train/loss_total val/loss val/nerl volume "
            "threshold nerl"
        ).split()
    )
    assert [list(row.values()) for row in rows[:3]] == [
        ["x_0000", "1", "8 8 8", "train never started", "40", "0.025", "0.5", "0.75"]
        + [volume, "0.4", nerl]
        for volume, nerl in (("a", "0.5"), ("b", "0.25"))
    ] + [["x_0001", "2", "8 8 8", "train never started", "20", "0.05", "0.625", "", "", "", ""]]
    assert [row["run"] for row in rows] == ["x_0000", "x_0000", "x_0001", "y_0000", "y_0001"]


def test_a_launch_is_found_by_its_folder_its_name_or_as_the_newest(launch, monkeypatch):
    root = Path("slurm_jobs")
    later = Submitted(Path("slurm_jobs/later"), launch.runs_folder, JOBS, launch.runs)
    write_launch(later)
    os.utime(launch.folder / status.FILE, (time.time() - 60,) * 2)
    assert find_launch("", root) == root / "later"
    assert find_launch("x", root) == find_launch("slurm_jobs/x", root) == root / "x"
    assert read_launch(launch.folder) == launch
    with pytest.raises(ValueError, match="got 'latre'; did you mean 'later'"):
        find_launch("latre", root)
    with pytest.raises(ValueError, match="expected a launch below nowhere"):
        find_launch("", Path("nowhere"))


def test_the_verb_shows_the_newest_launch(launch, monkeypatch, tmp_path, capsys):
    stand_in(monkeypatch, tmp_path, {})
    main(["launch", "--status"])
    newest = capsys.readouterr().out
    main(["launch", "--status", "x"])
    assert capsys.readouterr().out == newest and "y_0001" in newest
