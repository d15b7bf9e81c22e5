"""How far runs have come, as their own files and locks say: `pytc runs`. It loads no torch.

A training holds a lock on its log.jsonl, which goes with its process, however that ends:

    running     the lock is held
    finished    the last step is logged, and its checkpoint is written
    stopped     a signal asked the run to end, and it has noted so
    failed      nothing of these: an error ended the run, or it was killed
    unknown     nothing of these, on a file system without locks: it may be running
    not begun   there is no log
"""

import fcntl
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pytc.checks import require
from pytc.console import print_table
from pytc.metrics.table import metric
from pytc.runs import load_config

LOGGER = logging.getLogger(__name__)

LOG = "log.jsonl"
STOPPED = "stopped"  # key of the line that a run which is asked to end writes last
LOSS = "train/loss_total"
CLOCKS = 5  # seconds by which the clocks of a run and of its file system may differ
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@dataclass(frozen=True)
class RunState:
    """How far a run has come."""

    name: str
    state: str
    step: int
    max_steps: int
    best: float | None  # None where nothing was scored
    best_of: str  # the metric, and the volume or the step
    changed: float  # when its log changed last, seconds since 1970


def show_runs(root: Path) -> None:
    """Print a table of all runs below `root`, the newest last. ValueError if there is none."""
    folders = [path.parent for path in root.glob("*/config.json")]
    require(bool(folders), f"runs below {root.resolve()}", "none")
    states, unreadable = [], []
    for folder in folders:
        try:
            states.append(state_of(folder))
        except (KeyError, TypeError, ValueError) as error:
            unreadable.append(f"{folder}: {error}")
    states.sort(key=lambda state: state.changed)
    headers = ["run", "step", "best", "of", "age", "state"]
    print_table(headers, [_cells(state) for state in states])
    for line in unreadable:
        LOGGER.warning(line)


def state_of(folder: Path) -> RunState:
    """How far the run in a folder has come; ValueError if its config cannot be read."""
    loop = load_config(folder).loop
    rows = read_log(folder)
    step = max((row["step"] for row in rows), default=0)
    path = folder / LOG
    begun = path.is_file()
    best, best_of = _best(folder, loop.monitor, rows)
    return RunState(
        folder.name,
        _state(path, rows, is_complete=step >= loop.max_steps and _is_saved(folder, rows)),
        step,
        loop.max_steps,
        best,
        best_of,
        (path if begun else folder / "config.json").stat().st_mtime,
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl; a line that is half written is left out."""
    return _read_lines(folder / LOG)


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """The lines that `pytc validate` has written for a run."""
    return _read_lines(folder / "validation.jsonl")


def newest_loss(rows: Sequence[dict[str, Any]]) -> tuple[int, float | None]:
    """(step, loss) of the newest line of a log that has them; (0, None) if none has."""
    for row in reversed(rows):
        if LOSS in row:
            return row["step"], row[LOSS]
    return 0, None


def lock_log(file: TextIO) -> None:
    """Hold the lock that says that a run is running, as long as its log is open.

    Where the file system has no locks, nothing is held.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_SH)  # readers hold the other lock for a moment
    except OSError:
        return


def is_running(log: Path) -> bool | None:
    """Whether a training holds the lock on its log; None where the file system has no locks."""
    with open(log) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


def _state(log: Path, rows: Sequence[dict[str, Any]], *, is_complete: bool) -> str:
    if not log.is_file():
        return "not begun"
    running = is_running(log)
    if running:
        return "running"
    if is_complete:
        return "finished"
    if rows and STOPPED in rows[-1]:
        return "stopped"
    return "unknown" if running is None else "failed"


def _is_saved(folder: Path, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the newest checkpoint is as new as the log: a full disk may have prevented it."""
    last = folder / "checkpoints" / "last.pt"
    return last.is_file() and last.stat().st_mtime > rows[-1].get("time", 0) - CLOCKS


def _best(folder: Path, monitor: str, rows: Sequence[dict[str, Any]]) -> tuple[float | None, str]:
    """The best score of the volumes that were evaluated, or else of validation, and of what."""
    found: list[tuple[str, float, str]] = []
    for path in sorted(folder.glob("evaluation/*/metrics.json")):
        scores = json.loads(path.read_text())
        name = scores.get("metric")
        if isinstance(scores.get(name), int | float):
            found.append((name, scores[name], f"{name} of {path.parent.name}"))
    if not found:
        for row in [*rows, *read_scores(folder)]:
            if isinstance(row.get(monitor), int | float):
                found.append((monitor, row[monitor], f"{monitor} at step {row['step']}"))
    if not found:
        return None, ""
    first = found[0][0]
    comparable = [item for item in found if item[0] == first]
    pick = min if _lower_is_better(first) else max
    _, value, of_what = pick(comparable, key=lambda item: item[1])
    return value, of_what


def _lower_is_better(name: str) -> bool:
    short = name.rpartition("/")[2]
    return short == "loss" or metric(short).lower_is_better


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _cells(state: RunState) -> list[str]:
    best = "" if state.best is None else f"{state.best:.4f}"
    age = shown_age(time.time() - state.changed)
    return [state.name, f"{state.step}/{state.max_steps}", best, state.best_of, age, state.state]


def shown_age(seconds: float) -> str:
    """An age in its largest whole unit: 3 d, 5 h, 12 min, 40 s."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"
