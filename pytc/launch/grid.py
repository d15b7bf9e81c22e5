"""The combinations of a sweep: fields and their values, from flags and from a YAML file."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytc.checks import require

# one value as the command line has it: a tuple such as a patch size has several words
Words = tuple[str, ...]
Grid = dict[str, tuple[Words, ...]]  # field, e.g. optim.learning_rate: its values


@dataclass(frozen=True)
class Run:
    """One combination: a training of its own."""

    name: str  # of its folder, e.g. mednext_0003
    values: dict[str, Words]  # the value of each swept field


def read_sweeps(sweeps: Sequence[str]) -> Grid:
    """The fields and values of --sweep.

    Args:
        sweeps: each is FIELD=VALUE,VALUE,... A value of several words has blanks between them.

    Returns:
        {field with underscores: its values}.

    Raises:
        ValueError: one of another form, or a field that is named twice.

    Example:
        >>> read_sweeps(["optim.learning-rate=1e-3,3e-4", "data.patch-size=64 64 64,96 96 96"])
        {'optim.learning_rate': (('1e-3',), ('3e-4',)), \
'data.patch_size': (('64', '64', '64'), ('96', '96', '96'))}
    """
    grid: Grid = {}
    for sweep in sweeps:
        field, equals, values = sweep.partition("=")
        words = tuple(tuple(value.split()) for value in values.split(","))
        require(bool(equals and field and all(words)), "--sweep FIELD=VALUE,VALUE", sweep)
        _add(grid, field, words)
    return grid


def read_grid(path: Path) -> Grid:
    """The fields and values of a YAML file: a table `params:` with a list for each field.

    A single value stands for a list of one. A value that is a list itself, such as a patch size,
    has several words.

    Returns:
        {field with underscores: its values}.

    Raises:
        ValueError: the file is missing, or is none of this form.

    Source: the launcher of the documents behind this library.
    """
    import yaml  # help needs none

    require(path.is_file(), "a YAML file with `params:` for --grid", str(path))
    try:
        # every value stays the text that it is, as on a command line: 1e-3, 24:00:00, true
        content = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    expected = f"{path} with `params:` alone, a list of values for each field"
    if not (isinstance(content, dict) and list(content) == ["params"]):
        raise ValueError(f"expected {expected}, got {content!r}")
    require(isinstance(content["params"], dict), expected, content)
    grid: Grid = {}
    for field, values in content["params"].items():
        listed = values if isinstance(values, list) else [values]
        require(bool(listed), f"values for {field} in {path}", values)
        _add(grid, str(field), tuple(_words(value, field) for value in listed))
    return grid


def joined(grids: Iterable[Grid]) -> Grid:
    """The fields of all of these; ValueError for one that is named twice."""
    grid: Grid = {}
    for part in grids:
        for field, values in part.items():
            _add(grid, field, values)
    return grid


def combinations(grid: Mapping[str, Sequence[Words]], name: str) -> list[Run]:
    """One run for each combination of values; the last field changes first.

    name: the runs are NAME_0000, NAME_0001, ...; without a swept field there is one.
    """
    products = itertools.product(*grid.values())
    return [
        Run(f"{name}_{number:04d}", dict(zip(grid, values)))
        for number, values in enumerate(products)
    ]


def flags_of(values: Mapping[str, Words]) -> list[str]:
    """The words by which a command line gives these values, e.g. --optim.learning-rate 1e-3.

    true and false give a switch, such as --model.deep-supervision or --model.no-deep-supervision.
    """
    flags: list[str] = []
    for field, words in values.items():
        section, dot, name = field.replace("_", "-").rpartition(".")
        if words[0].lower() in ("true", "false"):
            negation = "" if words[0].lower() == "true" else "no-"
            flags.append(f"--{section}{dot}{negation}{name}")
        else:
            flags += [f"--{section}{dot}{name}", *words]
    return flags


def _add(grid: Grid, field: str, values: tuple[Words, ...]) -> None:
    field = field.replace("-", "_")
    require(field not in grid, "each field once in --sweep and --grid", field)
    require(len(set(values)) == len(values), f"different values for {field}", values)
    grid[field] = values


def _words(value: Any, field: str) -> Words:
    """One value of a YAML file as the words of a command line."""
    parts = value if isinstance(value, list) else value.split() if isinstance(value, str) else []
    is_plain = bool(parts) and all(isinstance(part, str) for part in parts)
    require(is_plain, f"a value, or a list of its words, for {field}", value)
    return tuple(parts)
