"""Python files of your own, which register networks when they are loaded (`--plugins FILE.py`).

Only files that a user names are loaded. A checkpoint says which files its network was registered
by, but nothing that stands in a checkpoint or a run is loaded by itself: it may be a stranger's.
"""

import sys
import traceback
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pytc.checks import require


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run each of these Python files once, in order; they may import others of their folder.

    ValueError with the file and its line if one is missing or fails.
    """
    for path in paths:
        load_plugin(Path(path))


def load_plugin(path: Path) -> None:
    require(path.suffix == ".py", "a Python file (.py) for plugins", str(path))
    require(path.is_file(), "a Python file for plugins", f"{path}, which does not exist")
    name = str(path.resolve())
    spec = spec_from_file_location(name, name)
    module = module_from_spec(spec)
    sys.modules[name] = module  # where torch and pickle look for classes of the file
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path}{_line_of(error, name)}: {_summary(error)}") from error
    finally:
        sys.path.pop(0)


def _line_of(error: Exception, file: str) -> str:
    """', line N' of the file in which it failed, or nothing where that is not known."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    return f", line {lines[-1]}" if lines else ""


def _summary(error: Exception) -> str:
    """An error of ours as it is, any other with its type."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error}"
