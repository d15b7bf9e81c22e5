"""Checks of what a user asks for: the type of each field of a config, and plain ranges.

A dataclass that extends `Section` checks the types of all its fields when it is made. Standard
library only.
"""

import difflib
import functools
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal

LONGEST_VALUE = 160  # characters of a wrong value that an error shows


def require(condition: bool, expected: str, got: Any) -> None:
    """ValueError with what was expected and what was got, unless the condition holds."""
    if not condition:
        raise ValueError(f"expected {expected}, got {got!r}")


# Where blocks are computed, see `pytc.blocks.open_executor`.
ENGINE = re.compile(r"serial|threads|dask:(local|slurm):[1-9][0-9]*|dask:[a-z]+://.+")


def require_engine(engine: str) -> None:
    """ValueError unless this is the name of an engine that computes blocks."""
    require(
        ENGINE.fullmatch(engine) is not None,
        "an --engine threads, serial, dask:tcp://HOST:PORT, dask:local:N or dask:slurm:N",
        engine,
    )


def suggest(name: str, names: Iterable[str]) -> str:
    """'; did you mean X?' with the most similar of `names`; if none is similar, all of them."""
    names = list(names)
    similar = difflib.get_close_matches(name, names, 1)
    if similar:
        return f"; did you mean {similar[0]!r}?"
    if names:
        return f"; it has {', '.join(map(repr, names))}"
    return ""


@dataclass(frozen=True)
class Section:
    """Base class of the config dataclasses. It checks that each field has its declared type.

    Its repr names the fields that differ from their defaults. A list becomes a tuple, and a whole
    number in a float field becomes a float. For any other type a ValueError names the section and
    the field. A subclass checks ranges in its own `__post_init__`, after
    `super().__post_init__()`, by `require` and the methods below.
    """

    def __init_subclass__(cls) -> None:
        cls.__repr__ = _differences  # type: ignore[method-assign]  # `dataclass` then keeps it

    def __post_init__(self) -> None:
        section_class: Any = type(self)
        hints = _hints(section_class)
        for field in fields(self):
            value = getattr(self, field.name)
            converted = check_type(value, hints[field.name], self.title(field.name))
            object.__setattr__(self, field.name, converted)

    @classmethod
    def title(cls, name: str) -> str:
        """The field's name with that of its section, e.g. data.patch_size for DataConfig."""
        section = cls.__name__.removesuffix("Config").lower()
        return f"{section}.{name}" if section else name

    def require_positive(self, *names: str) -> None:
        """ValueError unless all numbers of these fields are above 0; a field may be None."""
        self._require_numbers(names, "above 0", lambda number: number > 0)

    def require_not_negative(self, *names: str) -> None:
        """ValueError unless all numbers of these fields are 0 or more; a field may be None."""
        self._require_numbers(names, "of 0 or more", lambda number: number >= 0)

    def require_fraction(self, *names: str) -> None:
        """ValueError unless all numbers of these fields are in [0, 1]; a field may be None."""
        self._require_numbers(names, "in [0, 1]", lambda number: 0 <= number <= 1)

    def require_below_one(self, *names: str) -> None:
        """ValueError unless all numbers of these fields are in [0, 1); a field may be None."""
        self._require_numbers(names, "in [0, 1)", lambda number: 0 <= number < 1)

    def _require_numbers(
        self, names: tuple[str, ...], expected: str, is_in_range: Callable[[float], bool]
    ) -> None:
        """ValueError for a number that is not finite or not in range, in nested tuples too."""
        for name in names:
            value = getattr(self, name)
            for number in _numbers(value):
                is_valid = math.isfinite(number) and is_in_range(number)
                require(is_valid, f"{self.title(name)} {expected}", value)


def _differences(section: Any) -> str:
    """The call that makes a section, with the fields that differ from their defaults alone."""
    shown = []
    for field in fields(section):
        value = getattr(section, field.name)
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        if value != default:
            shown.append(f"{field.name}={value!r}")
    return f"{type(section).__name__}({', '.join(shown)})"


def check_type(value: Any, hint: Any, title: str) -> Any:
    """The value, converted as `Section` says; ValueError if it is not of the type `hint`."""
    try:
        return _convert(value, hint)
    except TypeError:
        raise ValueError(
            f"expected {title} {_expected(hint)}, got {_shown(value)}{_advice(value, hint)}"
        ) from None


def from_plain(cls: Any, value: Any, where: str = "config") -> Any:
    """Make a dataclass from nested dictionaries: the inverse of `asdict`, also after JSON.

    ValueError for an unknown field, with the most similar name, or a value of another type.

    Args:
        cls: the dataclass, or the type of a field.
        value: plain types.
        where: name of the value in errors.
    """
    wants_section = is_dataclass(cls)
    if wants_section:
        if is_dataclass(value):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected {where} as a table of its fields, got {_shown(value)}")
        hints = _hints(cls)
        for key in value:
            if key not in hints:
                raise ValueError(f"{where} has no field {key!r}{suggest(str(key), hints)}")
        arguments = {
            key: from_plain(hints[key], item, f"{where}.{key}") for key, item in value.items()
        }
        return cls(**arguments)
    inner = typing.get_args(cls)
    if typing.get_origin(cls) is tuple and isinstance(value, list | tuple):
        items = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(items) == len(value):
            return tuple(from_plain(item, part, where) for item, part in zip(items, value))
    if _is_union(cls) and isinstance(value, dict):
        return from_plain(next(kind for kind in inner if is_dataclass(kind)), value, where)
    return value


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """The type of each field."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _convert(value: Any, hint: Any) -> Any:
    """The value as its type hint says; TypeError if it is of another type."""
    inner = typing.get_args(hint)
    if hint is Any:
        return value
    if typing.get_origin(hint) is Literal:
        if any(type(value) is type(choice) and value == choice for choice in inner):
            return value
        raise TypeError
    if _is_union(hint):
        for kind in inner:
            with suppress(TypeError):
                return _convert(value, kind)
        raise TypeError
    if typing.get_origin(hint) is tuple:
        return _convert_tuple(value, inner)
    return _convert_single(value, hint)


def _convert_tuple(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    kinds = inner
    if inner[-1] is Ellipsis:
        kinds = inner[:1] * len(value)
    if len(kinds) != len(value):
        raise TypeError
    return tuple(_convert(item, kind) for item, kind in zip(value, kinds))


def _convert_single(value: Any, kind: type) -> Any:
    is_bool = isinstance(value, bool)
    if kind is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not is_bool:
        return float(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind not in (int, float) and isinstance(value, kind):
        return value
    raise TypeError


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _numbers(value: Any) -> list[float]:
    if value is None:
        return []
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value]


def _expected(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"as one of {', '.join(map(repr, typing.get_args(hint)))}"
    return f"of type {_type_name(hint)}"


def _type_name(hint: Any) -> str:
    """The type as the source writes it, e.g. tuple[VolumeConfig, ...] or float | None."""
    inner = typing.get_args(hint)
    if hint is Ellipsis:
        return "..."
    if hint in (None, type(None)):
        return "None"
    if _is_union(hint):
        return " | ".join(map(_type_name, inner))
    if typing.get_origin(hint) is tuple:
        return f"tuple[{', '.join(map(_type_name, inner))}]"
    if inner:
        return str(hint).removeprefix("typing.")
    return getattr(hint, "__name__", str(hint))


def _shown(value: Any) -> str:
    """A value as an error shows it: the class of a config, else its repr, cut if it is long."""
    if is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple) and any(map(is_dataclass, value)):
        return f"({', '.join(map(_shown, value))})"
    text = repr(value)
    if len(text) > LONGEST_VALUE:
        return f"{text[:LONGEST_VALUE]}..."
    return text


def _advice(value: Any, hint: Any) -> str:
    """How to correct a common mistake, or an empty string."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        names = [item for item in inner if isinstance(item, str)]
        similar = difflib.get_close_matches(value, names, 1)
        if similar:
            return f"; did you mean {similar[0]!r}?"
    if typing.get_origin(hint) is tuple and inner[-1] is Ellipsis:
        with suppress(TypeError):
            _convert(value, inner[0])
            return "; a tuple of one is written (..., ), with a comma"
    return ""


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """{"data.train.0.image": ...} of nested dictionaries, and tuples of them."""
    if isinstance(content, dict):
        items: dict[str, Any] = content
    elif isinstance(content, tuple | list) and any(isinstance(each, dict) for each in content):
        items = {str(number): each for number, each in enumerate(content)}
    else:
        return {prefix: content}
    found: dict[str, Any] = {}
    for name, value in items.items():
        found |= flat(value, f"{prefix}.{name}" if prefix else name)
    return found
