"""Python files that a user writes: config files, and plugins that register networks.

Only files that the user names are run. A checkpoint names the files that registered its network,
but they are never loaded because of that: the checkpoint may come from somebody else.
"""

import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from pytc import commands
from pytc import config as config_module
from pytc.checks import require, suggest

# beside train.py; missing where only the package is installed
PRESETS = Path(__file__).parent.parent / "configs"


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run each of these Python files, in order.

    ValueError with the file and its line if one is missing or fails.
    """
    for path in map(Path, paths):
        require(path.suffix == ".py", "a Python file (.py) for plugins", str(path))
        require(path.is_file(), "a Python file for plugins", f"{path}, which does not exist")
        run_file(path)


def run_file(path: Path) -> dict[str, Any]:
    """Run a Python file, which may import others of its folder, and the presets.

    Returns the names that it defines. ValueError for any error in it.
    """
    name = str(path.resolve())
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file (.py), got {path}")
    module = module_from_spec(spec)
    sys.modules[name] = module  # where pickle and torch look for classes of the file
    before = list(sys.path)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.path.append(str(PRESETS))  # last: a module of the user's comes first
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{_position(path, error)}: {_reason(error)}") from error
    finally:
        sys.path[:] = before
    return vars(module)


def _position(path: Path, error: Exception) -> str:
    """The file and line of the error, in this file or one that it imports from its folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_as_named(error.filename, path)}, line {error.lineno}"
    folders = {path.parent.resolve(), PRESETS.resolve()}
    lines = [
        f"{_as_named(frame.filename, path)}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and Path(frame.filename).resolve().parent in folders
    ]
    return lines[-1] if lines else str(path)


def _as_named(filename: str, path: Path) -> str:
    """The file as the user wrote it, if it is the one that was named."""
    return str(path) if Path(filename).resolve() == path.resolve() else filename


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, SyntaxError):
        return error.msg
    unknown = re.match(
        r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)
    )
    if unknown:
        owner, field = unknown.groups()
        cls = getattr(config_module, owner, None) or getattr(commands, owner, None)
        if cls is not None:
            names = [each.name for each in fields(cls)]
            return f"{owner} has no field {field!r}{suggest(field, names)}"
    return f"{type(error).__name__}: {error}"
