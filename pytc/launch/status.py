"""What has become of the runs of a launch: a table, and scores.csv.

It reads the files that the runs and their jobs have written, and the queue. No accounting database
is needed.
"""

import csv
import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytc.checks import require, suggest
from pytc.console import print_table
from pytc.launch.grid import Run
from pytc.launch.slurm import queue
from pytc.metrics.table import is_metric
from pytc.run_table import LOSS, newest_loss, read_log, read_scores
from pytc.runs import load_config, replacing, write_json

FILE = "launch.json"
SCORES = "scores.csv"
Queue = dict[tuple[int, int], str]


@dataclass(frozen=True)
class Submitted:
    """A launch as launch.json holds it."""

    folder: Path
    runs_folder: Path
    stages: dict[str, int]  # train, and what follows it: the job of its array
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    state: str
    step: int
    max_steps: int | None  # None before the run has begun
    loss: float | None
    starts: int  # of its training
    failures: int  # of all stages


def write_launch(launch: Submitted) -> None:
    """Write launch.json into the folder of the launch."""
    content = {
        "runs_folder": str(launch.runs_folder),
        "stages": launch.stages,
        "runs": [asdict(run) for run in launch.runs],
    }
    write_json(launch.folder / FILE, content)


def read_launch(folder: Path) -> Submitted:
    """The launch in a folder; ValueError if there is none."""
    path = folder / FILE
    require(path.is_file(), f"a launch with a {FILE}", str(folder))
    content = json.loads(path.read_text())
    runs = tuple(
        Run(run["name"], {field: tuple(words) for field, words in run["values"].items()})
        for run in content["runs"]
    )
    return Submitted(folder, Path(content["runs_folder"]), content["stages"], runs)


def find_launch(name: str, root: Path) -> Path:
    """The folder of a launch, from its path or its name below `root`; the newest if it is empty.

    ValueError if there is none.
    """
    if name:
        for folder in (Path(name), root / name):
            if folder.is_dir():
                return folder
        names = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
        raise ValueError(
            f"expected the folder or the name of a launch, got {name!r}{suggest(name, names)}"
        )
    found = sorted(root.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime)
    require(bool(found), f"a launch below {root}, or its folder", None)
    return found[-1].parent


def show_status(folder: Path) -> None:
    """Print the table of a launch, and write its scores.csv."""
    launch = read_launch(folder)
    jobs = {*launch.stages.values()}
    for stage in launch.stages:
        for run in launch.runs:
            jobs |= {*_jobs_of(launch, stage, run)}  # also those that were submitted by hand
    states = queue(sorted(jobs))
    with _locked(folder):  # jobs that end together write one after the other
        progress = [progress_of(launch, number, states) for number in range(len(launch.runs))]
        write_scores(launch, progress)

    fields = list(launch.runs[0].values)
    headers = ["run", *fields, "state", "step", "loss", "starts", "failures"]
    rows = [
        [run.name, *_shown_values(run), *_shown(state)] for run, state in zip(launch.runs, progress)
    ]
    print_table(headers, rows, title=str(folder))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "state" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def progress_of(launch: Submitted, number: int, states: Queue | None) -> Progress:
    """How far a run has come.

    Args:
        number: of the run, which is that of its task in each array.
        states: what is in the queue, as `slurm.queue` says; None where no Slurm could be asked.
    """
    run = launch.runs[number]
    folder = launch.runs_folder / run.name
    histories = {stage: read_history(launch.folder, stage, run) for stage in launch.stages}
    max_steps, step, loss = None, 0, None
    if (folder / "config.json").is_file():
        max_steps = load_config(folder).loop.max_steps
        step, loss = newest_loss(read_log(folder))
    events = [event for history in histories.values() for event in history]
    return Progress(
        _state(launch, number, histories, states),
        step,
        max_steps,
        loss,
        starts=histories["train"].count("started"),
        failures=events.count("failed"),
    )


def read_history(folder: Path, stage: str, run: Run) -> list[str]:
    """What has happened to a run in a stage, oldest first: started, failed, put back, done, ..."""
    path = folder / "state" / f"{stage}_{run.name}"
    if not path.is_file():
        return []
    return [line.partition(" ")[2].partition(":")[0] for line in path.read_text().splitlines()]


def _state(
    launch: Submitted, number: int, histories: dict[str, list[str]], states: Queue | None
) -> str:
    """The state of the first stage that is not done, in words, with its name."""
    for stage, history in histories.items():
        last = history[-1] if history else ""
        if last == "done":
            continue
        if last in ("given up", "stopped by hand"):
            return f"{stage} {last}"
        if states is None:
            return f"{stage} unknown: no squeue"
        jobs = {launch.stages[stage], *_jobs_of(launch, stage, launch.runs[number])}
        queued = next((states[job, number] for job in jobs if (job, number) in states), None)
        if queued == "PENDING":
            return f"{stage} waits to go on" if history else f"{stage} waits"
        if queued is not None:
            return f"{stage} {queued.lower()}"
        return f"{stage} {last or 'never started'}"
    return "finished"


def _jobs_of(launch: Submitted, stage: str, run: Run) -> list[int]:
    """The arrays of which a task has started this run, oldest first."""
    path = launch.folder / "state" / f"{stage}_{run.name}"
    text = path.read_text() if path.is_file() else ""
    return [int(job) for job in re.findall(r" started: job (\d+)_", text)]


def write_scores(launch: Submitted, progress: Sequence[Progress]) -> None:
    """Write scores.csv: a row for each run and each of its evaluated volumes.

    A run that was not evaluated has one row. The scores of validation are the newest ones.
    """
    rows: list[dict[str, Any]] = []
    for run, state in zip(launch.runs, progress):
        about = {
            "run": run.name,
            **dict(zip(run.values, _shown_values(run))),
            "state": state.state,
            "step": state.step,
            LOSS: state.loss,
            **_validation(launch.runs_folder / run.name),
        }
        evaluated = sorted((launch.runs_folder / run.name).glob("evaluation/*/metrics.json"))
        rows += [about | _scores(path) for path in evaluated] or [about]
    # every column of any row, in the order in which they first come
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(launch.folder / SCORES) as temporary, open(temporary, "w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def _validation(folder: Path) -> dict[str, Any]:
    """The newest scores of validation: of patches and of whole volumes."""
    scores: dict[str, Any] = {}
    for row in [*read_log(folder), *read_scores(folder)]:
        scores |= {name: value for name, value in row.items() if name.startswith("val/")}
    return scores


def _scores(path: Path) -> dict[str, Any]:
    """The volume, the threshold and the metrics of a metrics.json."""
    metrics = json.loads(path.read_text())
    named = {name: value for name, value in metrics.items() if is_metric(name)}
    return {"volume": path.parent.name, "threshold": metrics.get("threshold"), **named}


def _shown_values(run: Run) -> list[str]:
    return [" ".join(words) for words in run.values.values()]


def _shown(progress: Progress) -> list[str]:
    step = str(progress.step)
    if progress.max_steps is not None:
        step = f"{step}/{progress.max_steps}"
    loss = "" if progress.loss is None else f"{progress.loss:.4f}"
    return [progress.state, step, loss, str(progress.starts), str(progress.failures)]
