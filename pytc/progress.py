"""Progress of long steps: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


def track(items: Sequence, description: str, unit: str) -> Iterator:
    """The items one by one; says how many are done, how fast, and how long the rest will take."""
    if sys.stdout.isatty():
        with bar(description) as shown:
            yield from shown.track(items, description=description)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == len(items) or now - said > SECONDS_BETWEEN_LINES:
            said = now
            rate = rate_and_rest(now - started, done, len(items), unit)
            print(f"{description} {done}/{len(items)} {unit}, {rate}", flush=True)


def bar(description: str, *more: TextColumn) -> Progress:
    """A rich progress bar with count, elapsed time and time left."""
    counts = (TextColumn(description), BarColumn(), MofNCompleteColumn())
    return Progress(*counts, *more, TimeElapsedColumn(), TimeRemainingColumn(), console=Console())


def rate_and_rest(seconds: float, done: int, total: int, unit: str) -> str:
    """'3.2 windows/s, 0:01:40 left'."""
    rate = done / max(seconds, 1e-9)
    hours, rest = divmod(int((total - done) / rate), 3600)
    return f"{rate:.3g} {unit}/s, {hours}:{rest // 60:02d}:{rest % 60:02d} left"


@functools.cache
def announce_compilation() -> None:
    """Print a line when code is first compiled in this process, because numba's cache lacks it."""
    from numba.core import event  # training needs none

    class Notice(event.RecordingListener):
        def on_start(self, event):
            if not self.buffer:
                print("compiling, as this is the first use; later runs find the code in numba's cache", flush=True)
            super().on_start(event)

    event.register("numba:compile", Notice())
