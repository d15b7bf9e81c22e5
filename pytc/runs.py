"""Where a run keeps its files, and which run is the newest. It loads no torch."""

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytc.checks import require, suggest
from pytc.config import Config
from pytc.renames import config_from_plain
from pytc.script import program_of

LOGGER = logging.getLogger(__name__)


def runs_folder() -> Path:
    """The folder of all runs: $PYTC_RUNS, or runs/ where it is not set."""
    return Path(os.environ.get("PYTC_RUNS") or "runs")


def create_run(name: str, root: Path | None = None) -> Path:
    """A new folder root/name, or root/name-2, root/name-3, ... where the name is taken.

    root: by default `runs_folder()`.
    """
    root = root or runs_folder()
    folder, number = root / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = root / f"{name}-{number}"


def require_writable(folder: Path) -> None:
    """Check that files can be written in a folder, which need not exist yet.

    It writes one, because access rights do not show a read-only file system. ValueError names the
    folder and what prevents writing.
    """
    existing = folder
    while not os.path.exists(existing) and existing != existing.parent:  # False where not allowed
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"expected a folder at {folder}, but {existing} is a file")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".pytc-", dir=existing))
    except OSError as error:
        reason = f"{existing}: {error.strerror}"
        raise ValueError(f"expected to be able to write in {folder}, but {reason}") from None


def newest_run(having: str, root: Path | None = None) -> Path:
    """The run below `root` (by default `runs_folder()`) whose files `having` changed last.

    having: a pattern of paths within a run. ValueError if no run has any.
    """
    root = root or runs_folder()
    found = [
        (path.stat().st_mtime_ns, path, folder)
        for folder in root.glob("*/")
        for path in folder.glob(having)
    ]
    where = f"{root.resolve()} ({program_of('train')} makes one)"
    require(bool(found), f"a run with {having} below {where}, or its name", None)
    return max(found)[2]


def find_run(name: str | Path, root: Path | None = None) -> Path:
    """The folder of a run, from its path, its name below `root`, or a file of its checkpoints.

    A file that lies in no run, such as an export, has its results in root/STEM, as a run of that
    name would. root: by default `runs_folder()`. ValueError if nothing has that name.
    """
    root = root or runs_folder()
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        run = path.resolve().parent.parent
        within = path.resolve().parent.name == "checkpoints" and (run / "config.json").is_file()
        return path.parent.parent if within else root / path.stem
    if (root / path).is_dir():
        return root / path
    names = sorted(folder.name for folder in root.glob("*/"))
    raise ValueError(
        f"expected the folder or the name of a run, or a file of weights, got {str(name)!r}"
        f"{suggest(path.name, names)}"
    )


def find_weights(name: str | Path, checkpoint: str = "best") -> Path:
    """The file of weights of a run, from its folder or name; a file is returned as it is.

    checkpoint: best or last, for best.pt or last.pt. A run that was never validated has no best.pt;
    last.pt is taken then, with a message. ValueError if nothing has that name.
    """
    if Path(name).is_file():
        return Path(name)
    folder = find_run(name) / "checkpoints"
    path = folder / f"{checkpoint}.pt"
    if checkpoint == "best" and not path.is_file() and (folder / "last.pt").is_file():
        path = folder / "last.pt"
        LOGGER.info(f"no best.pt in {folder}, as the run was never validated: taking last.pt")
    require(path.is_file(), f"a checkpoint {path}", "none")
    return path


def load_config(run: Path) -> Config:
    """The config that a run trains by, resolved; ValueError if `run` is no run."""
    resolved = run / "resolved.json"
    if resolved.is_file():
        return config_from_plain(json.loads(resolved.read_text())["config"])
    path = run / "config.json"
    require(path.is_file(), "a run with a config.json", str(run))
    return config_from_plain(json.loads(path.read_text()))


def export_config(path: Path) -> Config:
    """The config in the metadata of a .safetensors file that pytc wrote, read without torch.

    ValueError for any other file. Source: the format begins with the length of its JSON header in
    eight bytes, the lowest first.
    """
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        content = json.loads(header["__metadata__"]["config"])
    except (KeyError, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"expected an export of pytc with its config, got {path}") from error
    return config_from_plain(content)


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time into this block, of those that name the same folder.

    The folder is made. The lock goes with its process, also where that is killed.
    """
    path = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # the one who had the lock before may have removed the folder
            if path.is_file() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there, with all that is in it.

    It is renamed first: a process that is killed meanwhile leaves a hidden folder, and never half
    of one under the name.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.removed")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file or folder, when its new content is complete.

    Yields a path of the same name in a temporary folder beside `path`, where the block writes the
    new content. It replaces `path` when the block ends without an error, and is removed otherwise.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside / path.name
        if path.is_dir():
            path.rename(aside / "replaced")
        os.replace(aside / path.name, path)
    except OSError as error:
        if error.filename is None:  # such as a full disk
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(aside)
