"""Config files: presets, Python files of the user's own, and the config.json of a run.

Standard library only, so that an error in one is told at once.
"""

import json
import re
import runpy
import sys
import traceback
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pytc import commands
from pytc import config as config_module
from pytc.checks import suggest
from pytc.config import Config
from pytc.renames import config_from_plain

# beside train.py; not there where the package alone is installed
PRESETS = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class ConfigFile:
    """What a config file says."""

    config: Config
    # a preset's own word (has_cpu_variant = True): without a GPU a small variant is the default
    has_cpu_variant: bool = False


def load_config_file(name: Path) -> Config:
    """The config of a file; as `read_config_file`."""
    return read_config_file(name).config


def read_config_file(name: Path) -> ConfigFile:
    """Read a Python file that defines `config`, or the config.json or resolved.json of a run.

    A bare name is looked for among the presets too. A Python file may import others of its folder,
    and the presets. ValueError, in one line with file and line number, if something is wrong.
    """
    path = find_config_file(name)
    if path.suffix == ".json":
        return ConfigFile(_read_json(path))
    names = _run(path)
    config = names.get("config")
    if not isinstance(config, Config):
        found = type(config).__name__
        raise ValueError(f"expected {path} to define config = Config(...), got {found}")
    return ConfigFile(config, names.get("has_cpu_variant") is True)


def find_config_file(name: Path) -> Path:
    """The file of that name, with or without .py, here or among the presets."""
    if (name / "config.json").is_file():
        raise ValueError(
            f"expected a config file, got the run {name}: --config {name}/config.json trains anew "
            f"by its config, --resume {name} continues it"
        )
    for path in (name, Path(f"{name}.py"), PRESETS / name, PRESETS / f"{name}.py"):
        if path.is_file():
            return path
    others = {path.name for path in PRESETS.glob("*.py")}
    if name.parent != Path():
        others = {path.name for path in name.parent.glob("*.py")}
    raise ValueError(f"expected a config file, found no {name}{suggest(name.name, sorted(others))}")


def _read_json(path: Path) -> Config:
    try:
        plain = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if isinstance(plain, dict) and "changes" in plain:  # resolved.json
        plain = plain["config"]
    try:
        return config_from_plain(plain)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _run(path: Path) -> dict[str, Any]:
    """The names that a Python file defines; ValueError for any error in it."""
    before = list(sys.path)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.path.append(str(PRESETS))  # last: a module of the user's comes first
    try:
        return runpy.run_path(str(path))
    except Exception as error:
        raise ValueError(f"{_place(path, error)}: {_reason(error)}") from error
    finally:
        sys.path[:] = before


def _place(path: Path, error: Exception) -> str:
    """The file and line of the error, in the config file or a config that it imports."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    folders = {path.parent.resolve(), PRESETS.resolve()}
    lines = [
        f"{frame.filename}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and Path(frame.filename).resolve().parent in folders
    ]
    return lines[-1] if lines else str(path)


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
            known = [one.name for one in fields(cls)]
            return f"{owner} has no field {field!r}{suggest(field, known)}"
    return f"{type(error).__name__}: {error}"
