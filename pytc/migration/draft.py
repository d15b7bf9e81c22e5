"""From the settings of another program to a config of ours.

`Settings` holds what the other program was asked for, and remembers what was read. A `Draft` holds
what it becomes: fields of `Config`, and notes on what has no counterpart. A dialect (`yacs`,
`connectomics`, `banis`, `nnunet`) is a function from the first to the second.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pytc.checks import from_plain
from pytc.config import Config, ModelConfig, TargetConfig

# A direct translation: the field of ours, and what makes its value of theirs.
Rename = tuple[str, Callable[[Any], Any]]
UNSET: tuple[Any, ...] = (None, "", False, [], {}, ())  # values by which nothing was asked for


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted names; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


class Settings:
    """What another program was asked for, by dotted names, above its own defaults.

    Args:
        stated: nested tables of what the user wrote.
        defaults: what that program takes where the user wrote nothing, by dotted names.
    """

    def __init__(self, stated: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.stated = flatten(stated)
        self.defaults = defaults
        self._read: set[str] = set()

    def states(self, name: str) -> bool:
        """Whether the user wrote this setting, or one below it, and not as null."""
        below = f"{name}."
        return any(
            value is not None and (key == name or key.startswith(below))
            for key, value in self.stated.items()
        )

    def get(self, *names: str) -> Any:
        """The first of these settings that is stated, else the first that has a default.

        All of them count as read. None if there is neither.
        """
        self._read |= set(names)
        for source in (self.stated, self.defaults):
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return None

    def origin(self, *names: str) -> str:
        """The first of these names that is stated, else the first one, said to be a default."""
        for name in names:
            if self.stated.get(name) is not None:
                return name
        return f"{names[0]}, its default"

    def leave(self, *names: str) -> None:
        """Count these settings, and all below them, as read."""
        for key in self.stated:
            if any(key == name or key.startswith(f"{name}.") for name in names):
                self._read.add(key)

    def unread(self) -> dict[str, Any]:
        """What the user wrote, asks for something, and was not read."""
        return {
            name: value
            for name, value in self.stated.items()
            if name not in self._read and value not in UNSET
        }


@dataclass(frozen=True)
class Note:
    """A setting of another program that is not carried over as it is."""

    name: str  # as that program calls it
    value: Any
    text: str  # what there is instead, or what to do

    def line(self) -> str:
        shown = str(self.value)
        if len(shown) > 60:
            shown = f"{shown[:57]}..."
        return f"{self.name} = {shown}: {self.text}" if shown else f"{self.name}: {self.text}"


class Draft:
    """A config of ours in the making.

    missing: what has no counterpart. changed: what means something else here, or needs a look.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}  # by dotted name
        self.origins: dict[str, str] = {}  # field: the setting that it comes from
        self.missing: list[Note] = []
        self.changed: list[Note] = []

    def set(self, field: str, value: Any, origin: str = "") -> None:
        """Give a field of ours its value; origin: the setting that it comes from."""
        self.fields[field] = value
        if origin:
            self.origins[field] = origin

    def lack(self, name: str, value: Any, text: str) -> None:
        """Note a setting that has no counterpart, with what there is instead."""
        self.missing.append(Note(name, value, text))

    def change(self, name: str, value: Any, text: str) -> None:
        """Note a setting that is carried over with another meaning, or that needs a look."""
        self.changed.append(Note(name, value, text))

    def carry(self, settings: Settings, renames: Mapping[str, Rename]) -> None:
        """Translate the settings of a table one by one; what cannot be read is noted."""
        for name, (field, convert) in renames.items():
            value = settings.get(name)
            if value is None:
                continue
            try:
                self.set(field, convert(value), settings.origin(name))
            except (TypeError, ValueError, KeyError, IndexError):
                self.lack(name, value, f"no value of {field}")

    def note_rest(self, settings: Settings, reasons: Mapping[str, str]) -> None:
        """Note every setting that was not read.

        reasons: what to say of a setting and of all below it; the longest name that fits counts.
        An empty reason means that pytc needs no such setting, and nothing is said. Settings with
        one reason share a note.
        """
        groups: dict[str, dict[str, Any]] = {}
        for name, value in settings.unread().items():
            known = [start for start in reasons if name == start or name.startswith(f"{start}.")]
            group = max(known, key=len) if known else name.rpartition(".")[0]
            groups.setdefault(group, {})[name] = value
        for group, unread in groups.items():
            reason = reasons.get(group, "no counterpart")
            if not reason:
                continue
            if len(unread) == 1:
                ((name, value),) = unread.items()
                self.lack(name, value, reason)
            else:
                names = [name.removeprefix(f"{group}.") for name in unread]
                self.lack(group, _some(names), reason)

    def config(self) -> Config:
        """The config; a value that its checks refuse is left out, and noted.

        ValueError if what is left is no config of ours.
        """
        top: dict[str, Any] = {}
        tables: dict[str, dict[str, Any]] = {}
        for field, value in self.fields.items():
            section, dot, name = field.partition(".")
            if dot:
                tables.setdefault(section, {})[name] = value
            else:
                top[field] = value
        sections = {name: self._section(name, values) for name, values in tables.items()}
        target = sections.get("target", TargetConfig())
        model = sections.get("model", ModelConfig())
        sections["model"] = replace(model, out_channels=target.channels)
        return Config(**top, **sections)

    def _section(self, section: str, values: dict[str, Any]) -> Any:
        """A section of the config without the first field that its checks refuse, if one is."""
        kind = type(getattr(Config(), section))
        try:
            return from_plain(kind, _nested(values))
        except ValueError as error:
            for name in values:
                rest = {other: value for other, value in values.items() if other != name}
                with suppress(ValueError):
                    made = from_plain(kind, _nested(rest))
                    field = f"{section}.{name}"
                    self.lack(self.origins.pop(field, field), values[name], f"refused: {error}")
                    del self.fields[field]
                    return made
            raise


def _some(names: list[str]) -> str:
    """The first of many names."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested tables."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *tables, last = name.split(".")
        inner = nested
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[last] = value
    return nested
