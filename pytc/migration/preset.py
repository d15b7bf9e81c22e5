"""A config written as a preset: a Python file like those in configs/."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pytc.config import Config

INDENT = "    "
WIDTH = 100


def preset_source(
    config: Config,
    title: str,
    origins: Mapping[str, str],
    remarks: Mapping[str, list[str]],
) -> str:
    """Python source that defines `config`; only fields that differ from their defaults are written.

    Args:
        config: what the file is to define.
        title: the docstring of the file.
        origins: for a field by its dotted name, the comment behind it.
        remarks: headings, each with its lines, for the comment above the config.
    """
    classes: set[str] = set()
    body = _call(config, Config(), "", origins, "", classes)
    safe = title.replace("\\", "/").replace('"""', "'")
    lines = [f'"""{safe}"""', ""]
    for heading, notes in remarks.items():
        lines += [f"# {heading}", *(f"#   {line}" for note in notes for line in _wrap(note)), "#"]
    if lines[-1] == "#":
        lines[-1] = ""
    names = sorted(classes)
    imports = f"from pytc.config import {', '.join(names)}"
    if len(imports) > WIDTH:
        inside = "".join(f"{INDENT}{name},\n" for name in names)
        imports = f"from pytc.config import (\n{inside})"
    return "\n".join([*lines, imports, "", f"config = {body}", ""])


def _call(
    value: Any, default: Any, field: str, origins: Mapping[str, str], margin: str, classes: set[str]
) -> str:
    """A dataclass as a call with the arguments in which it differs from `default`."""
    name = type(value).__name__
    classes.add(name)
    inner = margin + INDENT
    lines = []
    for each in fields(value):
        new, old = getattr(value, each.name), getattr(default, each.name)
        if new == old:
            continue
        dotted = f"{field}.{each.name}" if field else each.name
        source = _value(new, old, dotted, origins, inner, classes)
        comment = f"  # {origins[dotted]}" if dotted in origins else ""
        first, newline, rest = source.partition("\n")
        lines.append(f"{inner}{each.name}={first}{comment if newline else ''}{newline}{rest},")
        if not newline:
            lines[-1] += comment
    if not lines:
        return f"{name}()"
    return "\n".join([f"{name}(", *lines, f"{margin})"])


def _value(
    value: Any, default: Any, field: str, origins: Mapping[str, str], margin: str, classes: set[str]
) -> str:
    if is_dataclass(value):
        return _call(value, default, field, origins, margin, classes)
    if isinstance(value, tuple) and any(map(is_dataclass, value)):
        inner = margin + INDENT
        items = [
            _call(item, type(item)(), f"{field}.{number}", origins, inner, classes)
            for number, item in enumerate(value)
        ]
        return "\n".join(["(", *(f"{inner}{item}," for item in items), f"{margin})"])
    return _literal(value)


def _literal(value: Any) -> str:
    """Plain types as ruff formats them: strings in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        inside = ", ".join(map(_literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    return repr(value)


def _wrap(text: str) -> list[str]:
    """Lines of a comment; those after the first are indented."""
    return textwrap.wrap(text, WIDTH - 4, subsequent_indent="    ", break_long_words=False)
