"""Progress of long steps: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import rich.progress
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pytc import messages

LOGGER = logging.getLogger(__name__)


class Progress:
    """Shows how far a long step is, within a `with` block.

    On a terminal it is a bar. Elsewhere it is a line, printed at most once in `seconds`. When a
    step runs inside another step, only the inner bar is drawn; the outer bar comes back after it.

    Args:
        description: what is done, e.g. "training".
        unit: what is counted, e.g. "steps".
        total: how many units the step has.
        first: how many of them were done before, e.g. by a run that is continued.
        seconds: the shortest time between two lines.
    """

    bars: ClassVar[list[rich.progress.Progress]] = []  # those of open blocks; the last is drawn

    def __init__(
        self, description: str, unit: str, total: int, first: int = 0, seconds: float = 15.0
    ):
        self.description = description
        self.unit = unit
        self.total = total
        self.first = first
        self.seconds = seconds
        self.started = time.monotonic()
        self.printed = self.started  # when the last line was printed
        self.bar = None
        if messages.are_shown() and sys.stdout.isatty():
            columns = (
                TextColumn(description),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = rich.progress.Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
            self.bar.add_task("", total=total, completed=first, note="")

    def __enter__(self) -> Progress:
        if self.bar:
            for outer in self.bars[-1:]:
                outer.stop()
            self.bars.append(self.bar)
            self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bar:
            self.bars.pop().stop()
            for outer in self.bars[-1:]:
                outer.start()

    def show(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done."""
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done, note=note)
        elif messages.are_shown() and (done == self.total or now - self.printed >= self.seconds):
            self.printed = now
            rate = (done - self.first) / max(now - self.started, 1e-9)
            hours, rest = divmod(int((self.total - done) / rate), 3600)
            note = f"{note}, " if note else ""
            print(
                f"{self.description} {done}/{self.total} {self.unit}, {note}{rate:.3g} "
                f"{self.unit}/s, {hours}:{rest // 60:02d}:{rest % 60:02d} left",
                flush=True,
            )


def track(items: Sequence, description: str, unit: str) -> Iterator:
    """The items one by one, with a `Progress` that counts them."""
    with Progress(description, unit, len(items)) as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress.show(done)


@functools.cache
def announce_compilation() -> None:
    """Say so when code is first compiled in this process, because numba's cache lacks it."""
    from numba.core import event  # training needs none

    class Notice(event.RecordingListener):
        def on_start(self, event):
            if not self.buffer:
                LOGGER.info(
                    "compiling, as this is the first use; later runs find the code in numba's cache"
                )
            super().on_start(event)

    event.register("numba:compile", Notice())
