"""Being asked to stop: SIGTERM and SIGUSR1 end a run after the step it is in, with a checkpoint."""

from __future__ import annotations

import signal
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped before the end, to be continued by --resume


@contextmanager
def noticed_signals():
    """Within this block the first of SIGNALS that comes goes into the list that it yields; a second acts uncaught."""
    received, before = [], {number: signal.getsignal(number) for number in SIGNALS}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, frame):
        received.append(signal.Signals(number))
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield received
    finally:
        restore()


def ignore_signals(worker: int) -> None:
    """For loader processes: a scheduler signals the whole job, and the main process needs them to its last step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
