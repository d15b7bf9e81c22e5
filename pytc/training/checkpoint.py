"""Checkpoints being written: plain tensors and plain types, whole or not at all."""

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pytc.config import LoopConfig
from pytc.metrics.table import metric
from pytc.models.checkpoint import load_checkpoint
from pytc.runs import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` so that a kill at any moment leaves the old file or the new one."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # What torch raises while it tidies up after a failed write hides the reason.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


@dataclass
class Keeper:
    """Writes last.pt of a run, some step-N.pt, and best.pt where the run knows the best.

    It does where it knows its monitored figure. With loop.picks_best the keep_checkpoints best are
    kept, ranked by loop.monitor, and best.pt is the first of them. Without, the figure is found by
    `pytc.validate`, which writes best.pt; for it the newest checkpoints are kept. A run that has
    nothing to validate on keeps the newest ones, too, and best.pt is the last.
    """

    folder: Path
    loop: LoopConfig
    # step -> figure or NaN, of those kept, best first
    scores: dict[int, float] = field(default_factory=dict)
    validates: bool = True

    def save(self, state: dict[str, Any], figures: dict[str, float]) -> None:
        """Write a checkpoint; `figures`: what is known of it, with or without the monitored one."""
        self.folder.mkdir(exist_ok=True)
        step, monitor = state["step"], self.loop.monitor
        picks = self.loop.picks_best and self.validates
        scores = {**self.scores, step: figures.get(monitor, math.nan)}
        known = [step for step, score in scores.items() if not (picks and math.isnan(score))]
        ranked = sorted(known, key=lambda step: loss_of(monitor, scores[step]) if picks else -step)
        self.scores = {step: scores[step] for step in ranked[: self.loop.keep_checkpoints]}
        state = {**state, "scores": dict(self.scores)}
        if step in self.scores:
            save_checkpoint(self.folder / f"step-{step:08d}.pt", state)
            is_best = picks and next(iter(self.scores)) == step
            if is_best or not self.validates:
                save_checkpoint(self.folder / "best.pt", state)
        save_checkpoint(self.folder / "last.pt", state)
        for path in self.folder.glob("step-*.pt"):
            if int(path.stem.removeprefix("step-")) not in self.scores:
                path.unlink()


def loss_of(monitor: str, figure: float) -> float:
    """A number that is the smaller, the better the figure of that name, e.g. val/nerl, is.

    ValueError for a name that is neither loss nor in the table of metrics.
    """
    name = monitor.rpartition("/")[2]
    lower_is_better = name == "loss" or metric(name).lower_is_better
    return figure if lower_is_better else -figure


def good_checkpoints(
    folder: Path, seen: set, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Any]]:
    """The states in last.pt, then in the newest step-N.pt and so on.

    Warns of each that cannot be read.

    seen: notes of the files that were looked at, which are not read again unless they change.
    """
    for path in (
        *folder.glob("last.pt"),
        *sorted(folder.glob("step-*.pt"), reverse=True),
        *folder.glob("best.pt"),
    ):
        try:
            looked_at = path.name, path.stat().st_mtime_ns
            if looked_at in seen:
                continue
            seen.add(looked_at)
            state = load_checkpoint(path, device)
        except (ValueError, OSError) as error:
            warnings.warn(f"{error}: passed over", stacklevel=2)
            continue
        yield state
