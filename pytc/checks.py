"""Checks of what a user says: each field of a config against its type, and plain ranges.

A class that extends `Section` checks all its fields when it is built, those that are added later
too. Standard library only.
"""

import difflib
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, Literal

LONGEST_VALUE = 160  # characters of a wrong value that an error shows


def require(condition: bool, expected: str, got: Any) -> None:
    """ValueError with what was expected and what was got, unless the condition holds."""
    if not condition:
        raise ValueError(f"expected {expected}, got {got!r}")


def suggest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest known name, or else the list of the known ones."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    if known:
        return f"; it has {', '.join(map(repr, known))}"
    return ""


class Section:
    """Base of the config dataclasses: every field has the type that it is declared with.

    Lists become tuples, and whole numbers in a float field become floats. ValueError names the
    section and the field otherwise. A subclass checks ranges in its own `__post_init__`, after
    `super().__post_init__()`, by `require` and the functions below.
    """

    def __post_init__(self):
        hints = _hints(type(self))
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
        self._require_numbers(names, "above 0", lambda number: number > 0)

    def require_not_negative(self, *names: str) -> None:
        self._require_numbers(names, "of 0 or more", lambda number: number >= 0)

    def require_fraction(self, *names: str) -> None:
        self._require_numbers(names, "in [0, 1]", lambda number: 0 <= number <= 1)

    def require_below_one(self, *names: str) -> None:
        self._require_numbers(names, "in [0, 1)", lambda number: 0 <= number < 1)

    def _require_numbers(
        self, names: tuple[str, ...], expected: str, fits: Callable[[float], bool]
    ) -> None:
        """Each number of a field counts, of nested tuples too; None always fits."""
        for name in names:
            value = getattr(self, name)
            finite = all(math.isfinite(number) and fits(number) for number in _numbers(value))
            require(finite, f"{self.title(name)} {expected}", value)


def check_type(value: Any, hint: Any, title: str) -> Any:
    """The value, converted as `Section` says; ValueError if it is not of the type `hint`."""
    try:
        return _convert(value, hint)
    except TypeError:
        raise ValueError(
            f"expected {title} {_expected(hint)}, got {_shown(value)}{_advice(value, hint)}"
        ) from None


def from_plain(cls: Any, value: Any, where: str = "config") -> Any:
    """The inverse of `asdict`, also by way of JSON.

    ValueError names an unknown field and the nearest known one, or a field with another type.
    """
    if is_dataclass(cls):
        if is_dataclass(value):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected {where} as a table of its fields, got {_shown(value)}")
        hints = _hints(cls)
        for key in value:
            if key not in hints:
                raise ValueError(f"{where} has no field {key!r}{suggest(str(key), hints)}")
        given = {key: from_plain(hints[key], item, f"{where}.{key}") for key, item in value.items()}
        return cls(**given)
    inner = typing.get_args(cls)
    if typing.get_origin(cls) is tuple and isinstance(value, list | tuple):
        items = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(items) == len(value):
            return tuple(from_plain(item, part, where) for item, part in zip(items, value))
    if _is_union(cls) and isinstance(value, dict):
        return from_plain(next(kind for kind in inner if is_dataclass(kind)), value, where)
    return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
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


def _convert_tuple(value: Any, inner: tuple[Any, ...]) -> tuple:
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
    """As it is written in the source: tuple[VolumeConfig, ...] or float | None."""
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
    """A value in an error: a config's class, anything else as Python writes it, cut where long."""
    if is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple) and any(map(is_dataclass, value)):
        return f"({', '.join(map(_shown, value))})"
    text = repr(value)
    if len(text) > LONGEST_VALUE:
        return f"{text[:LONGEST_VALUE]}..."
    return text


def _advice(value: Any, hint: Any) -> str:
    """How to mend a common slip, if it is one."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        near = difflib.get_close_matches(
            value, [item for item in inner if isinstance(item, str)], 1
        )
        if near:
            return f"; did you mean {near[0]!r}?"
    if typing.get_origin(hint) is tuple and inner[-1] is Ellipsis:
        with suppress(TypeError):
            _convert(value, inner[0])
            return "; a tuple of one is written (..., ), with a comma"
    return ""
