"""The edge of every command: one line for an error, an end by Ctrl-C, silence for a closed pipe.

Standard library only: a wrong flag or path is reported before torch is loaded.
"""

import errno
import io
import json
import os
import select
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

EXIT_INTERRUPTED = 128 + signal.SIGINT  # as a shell reports a program that Ctrl-C ended
SCRIPTS = ("train", "infer", "evaluate")  # the verbs that are scripts in a clone, too
# what the system says where nothing can be written any more, whichever library reports it
DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
CLONE = Path(__file__).parent.parent  # where they lie; elsewhere where only a wheel is installed


class RunError(RuntimeError):
    """A run cannot go on; the message is all that a user needs."""


class RankError(ValueError):
    """An error inside a run of several ranks; `is_reported`: another rank prints it."""

    def __init__(self, message: str, *, is_reported: bool) -> None:
        super().__init__(message)
        self.is_reported = is_reported


@contextmanager
def script(interrupted: str = "interrupted") -> Iterator[None]:
    """Run a script within this block; `interrupted` is printed when Ctrl-C ends it.

    An error that the user can mend (see `user_message`) ends it with one line on stderr and exit
    code 1. Under torchrun or srun each node prints it once, and torchrun's summary names it as the
    root cause. Any other error keeps its traceback. A closed pipe (`| head`) ends it silently, as
    it does with other programs.
    """
    # Read when torch is loaded: threads that spin while they wait for one another stall where cores
    # are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, not at exit, a closed pipe can still be caught
    except KeyboardInterrupt:
        if is_first_of_node():
            print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as error:
        if error.code == 2:  # argparse and tyro have printed what is wrong
            _note_root_cause("error: the command line was refused")
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _drop_closed_streams():
            sys.exit(1)
        line = user_message(error)
        if line is None:
            _note_root_cause(traceback.format_exc())
            raise
        line = _with_way_out(line, interrupted)
        if isinstance(error, RankError):
            is_reported = error.is_reported
        else:
            is_reported = not _reports()
        if is_reported:
            sys.exit(1)
        _note_root_cause(f"error: {line}")
        sys.exit(f"error: {line}")


def _with_way_out(line: str, interrupted: str) -> str:
    """The line, and what to do where the disk is full: `interrupted` says how a script goes on."""
    if not any(reason in line for reason in DISK_FULL):
        return line
    how_to_go_on = interrupted.partition("; ")[2] or "call it again"
    return f"{line}; free some space: {how_to_go_on}"


def user_message(error: BaseException) -> str | None:
    """What is wrong, in one line, or None where an error is a fault of the program.

    The user can mend a ValueError, an OSError (permissions, a full disk, a file where a folder
    should be), a missing extra and a RunError.
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, (ValueError, OSError, RunError)):
        text = str(error)
    elif isinstance(error, ImportError) and error.name is None:  # raised by us: names the extra
        text = str(error)
    else:
        return None
    return " ".join(text.splitlines())


def program_of(verb: str) -> str:
    """The program of a verb, as this process was started: infer.py, or `pytc infer`."""
    return " ".join(_call_of(verb)).removeprefix("python ")


def command_line(verb: str, words: Sequence[str] = ()) -> str:
    """The line by which a user calls a verb with these words, quoted where the shell needs it.

    Example: "python infer.py --run runs/mine" in a clone, "pytc infer --run runs/mine" for one who
    typed `pytc` or has no clone.
    """
    return shlex.join([*_call_of(verb), *words])


def _call_of(verb: str) -> list[str]:
    started = Path(sys.argv[0])
    if verb not in SCRIPTS or started.stem == "pytc":
        return ["pytc", verb]
    if started.suffix == ".py" and started.stem in SCRIPTS:
        return ["python", str(started.with_name(f"{verb}.py"))]
    if (CLONE / f"{verb}.py").is_file():
        return ["python", f"{verb}.py"]
    return ["pytc", verb]


def is_first_of_node(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first rank of its node, or the only process of a run.

    Files may be missing on one node only, so each node reports its errors.
    """
    return int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", 0))) == 0


def _reports() -> bool:
    """Whether this rank prints an error that every rank of its node meets.

    Under torchrun the first rank that fails prints it, because torchrun then ends the others. That
    rank makes a file in the folder that the ranks of a node share.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return is_first_of_node()
    reported = os.path.join(os.path.dirname(os.path.dirname(path)), "reported")
    try:
        os.close(os.open(reported, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@contextmanager
def printed_by_one_rank() -> Iterator[None]:
    """Print what the block prints before it ends the process, on one rank of a node.

    The first rank prints help. The first rank that fails prints why flags are refused (`_reports`).
    The only process of a run prints as it would without this block.
    """
    if not {"LOCAL_RANK", "SLURM_LOCALID"} & os.environ.keys():
        yield
        return
    output, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            yield
    except SystemExit as error:
        prints = _reports() if error.code else is_first_of_node()
        if prints:
            sys.stdout.write(output.getvalue())
            sys.stderr.write(errors.getvalue())
        raise


def _note_root_cause(message: str) -> None:
    """Write why this rank ends to the file that torchrun's summary reads.

    The format is that of `record` in torch.distributed.elastic. `record` itself would load torch
    before a wrong flag is reported, and would put a traceback into the summary.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with open(path, "w") as file:
            json.dump({"message": {"message": message, "extraInfo": details}}, file)


def _drop_closed_streams() -> bool:
    """Whether stdout or stderr is a closed pipe; one that is becomes /dev/null."""
    dropped = False
    for stream in (sys.stdout, sys.stderr):
        pipe = select.poll()
        pipe.register(stream.fileno(), 0)
        if any(state & select.POLLERR for _, state in pipe.poll(0)):  # nobody reads it
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            dropped = True
    return dropped
