"""What is said of a word that a verb does not take: one line, with the flag that was meant."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from pytc.script import command_line, printed_by_one_rank, program_of

ALIKE = 0.75  # how alike two names are, at least, to take one for a misspelling of the other
MOST = 3  # suggestions


def refuse_unknown(verb: str, unknown: Sequence[str], settings: Any) -> NoReturn:
    """Print which word is not known, and end the process with exit code 2.

    Args:
        unknown: the words that tyro did not know what to do with, at least one.
        settings: a dataclass whose fields are flags, or an instance of one.
    """
    flags = [word for word in unknown if word.startswith("--")]
    if not flags:
        wrong = f"{program_of(verb)} does not take the word {unknown[0]!r}"
    else:
        flag = flags[0].partition("=")[0]
        wrong = f"{program_of(verb)} has no flag {flag}"
        meant = similar_flags(flag, list(flags_of(settings)))
        if meant:
            wrong += f"; did you mean {' or '.join(meant)}?"
    with printed_by_one_rank():
        sys.stderr.write(f"error: {wrong} ({command_line(verb)} --help-all lists all flags)\n")
        sys.exit(2)


def refuse_verb(word: str, verbs: Sequence[str]) -> NoReturn:
    """Print that a word is no verb, and end the process with exit code 2."""
    wrong = f"pytc has no verb {word!r}"
    meant = get_close_matches(word, verbs, 1)
    if meant:
        wrong += f"; did you mean {meant[0]}?"
    with printed_by_one_rank():
        sys.stderr.write(f"error: {wrong} (its verbs: {', '.join(verbs)})\n")
        sys.exit(2)


def similar_flags(flag: str, flags: Sequence[str]) -> list[str]:
    """The flags that a misspelled one may stand for, the most similar first.

    Sections may be missing: --treshold stands for --segmentation.threshold.
    """
    flag = flag.replace("_", "-")
    by_last_part: dict[str, list[str]] = {}
    for each in flags:
        by_last_part.setdefault(_last_part(each), []).append(each)
    alike = get_close_matches(flag, flags, MOST, ALIKE)
    for name in get_close_matches(_last_part(flag), list(by_last_part), MOST, ALIKE):
        alike += [each for each in by_last_part[name] if each not in alike]
    return alike[:MOST]


def flags_of(settings: Any, prefix: str = "--") -> Iterator[str]:
    """Every flag that the fields of a dataclass, or of an instance of one, make."""
    owner = settings if isinstance(settings, type) else type(settings)
    hints = get_type_hints(owner)
    for field in fields(owner):
        hint = hints[field.name]
        value = getattr(settings, field.name, hint if is_dataclass(hint) else None)
        name = field.name.replace("_", "-")
        inside = prefix if field.name == "settings" else f"{prefix}{name}."
        sections = [choice for choice in get_args(hint) if is_dataclass(choice)]
        if is_dataclass(value):
            yield from flags_of(value, inside)
        elif get_origin(hint) is tuple and sections:  # volumes
            for number, each in enumerate(value or sections):
                yield from flags_of(each, f"{inside}{number}.")
        elif sections:  # actions of a verb
            for action in sections:
                yield from flags_of(action, prefix)
        else:
            yield f"{prefix}{name}"
            if value is True:
                yield f"{prefix}no-{name}"


def _last_part(flag: str) -> str:
    return flag.removeprefix("--").rpartition(".")[2]
