"""Messages of the library, on the loggers `pytc.*`, and how a command shows them.

A module says what it does by `logging.getLogger(__name__)`. Only a command calls `show_messages`:
who uses the library from Python sets logging up as usual. What a verb prints as its result is no
message, and is printed in any case.
"""

import logging
import os
import sys

LOGGER = logging.getLogger("pytc")
QUIET = "--quiet"
QUIET_HELP = "Print no messages and no progress, but warnings, errors and the result."


class Lines(logging.Handler):
    """Prints each message on standard output as it is, without wrapping it.

    By the console of the progress bars, so that a bar is drawn again below the message.
    """

    def emit(self, record: logging.LogRecord) -> None:
        import rich  # help needs none

        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        rich.get_console().print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def show_messages(*, quiet: bool = False) -> None:
    """Show the messages of this process from now on, on the first rank of a run alone.

    quiet: warnings alone, and no progress.
    """
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
    first = is_first_rank()
    LOGGER.addHandler(Lines() if first else logging.NullHandler())
    LOGGER.setLevel(logging.INFO if first and not quiet else logging.WARNING)


def begin_verb(arguments: list[str] | None) -> list[str]:
    """Show messages as the command line asks; returns its words, without --quiet.

    arguments: the words; None stands for those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    show_messages(quiet=QUIET in words)
    return [word for word in words if word != QUIET]


def are_shown() -> bool:
    """Whether messages and progress are wanted: always, unless a command was asked to be quiet."""
    return LOGGER.level <= logging.INFO


def is_first_rank() -> bool:
    """Whether this process is the first rank of a run, or the only process."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0
