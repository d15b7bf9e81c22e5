"""Config files: presets, Python files of a user, and the config.json of a run.

An error in a config file is reported before torch is loaded.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pytc.checks import suggest
from pytc.config import Config
from pytc.python_files import PRESETS, run_file
from pytc.renames import config_from_plain


@dataclass(frozen=True)
class ConfigFile:
    """What a config file holds."""

    config: Config
    # The file states has_cpu_variant = True: without a GPU a small variant is the default.
    has_cpu_variant: bool = False
    # The file is the config.json of a run, perhaps of somebody else: its plugins are not loaded
    # unless the command line names them.
    is_of_a_run: bool = False


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
        return ConfigFile(_read_json(path), is_of_a_run=True)
    names = run_file(path)
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
