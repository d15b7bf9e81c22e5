"""Being asked to stop: SIGTERM and SIGUSR1 end a run after the step it is in, with a checkpoint."""

from __future__ import annotations

import signal
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped before the end, to be continued by --resume


class StopRequest:
    """The signal that has come, or None."""

    received: signal.Signals | None = None


@contextmanager
def noticed_signals():
    """Within this block SIGNALS are noted in the StopRequest that it yields; a second one acts as if uncaught."""
    request, before = StopRequest(), {}

    def note(number, frame):
        request.received = signal.Signals(number)
        restore()

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    before.update({number: signal.signal(number, note) for number in SIGNALS})
    try:
        yield request
    finally:
        restore()


def ignore_signals(worker: int) -> None:
    """For loader processes: a scheduler signals the whole job, and the main process needs them to its last step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
