"""The texts of fields, and the short help of a verb: an example, and the flags that are used most.

`--help-all` prints every flag; tyro makes that list from the same comments of the fields.
"""

import ast
import inspect
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import tyro
from typing_extensions import Doc

from pytc.config import VolumeConfig
from pytc.messages import QUIET, QUIET_HELP
from pytc.script import command_line, printed_by_one_rank, program_of

ALL_FLAGS = "--help-all"
WIDTH = 100  # characters of a line at most
COLUMN = 28  # where the texts of flags begin


def field_texts(settings: type) -> dict[str, str]:
    """What the comment of each field of a dataclass says: above it, or behind it."""
    lines = textwrap.dedent(inspect.getsource(settings)).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    hints = get_type_hints(settings, include_extras=True)
    texts = {}
    for node in getattr(definition, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            texts[name] = _text_of(hints[name]) or _comment(lines, node)
    return texts


def _text_of(hint: Any) -> str:
    """The text that an annotation carries, where it is made from a table."""
    for mark in get_args(hint)[1:]:
        if isinstance(mark, Doc):
            return mark.documentation
        text = getattr(mark, "help", None)
        if text:
            return str(text)
    return ""


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    behind = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :].strip()
    if behind.startswith("#"):
        return behind.removeprefix("#").strip()
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().removeprefix("#").strip())
    return " ".join(above)


@dataclass(frozen=True)
class ShortHelp:
    """What the short help of a verb shows.

    Args:
        example: words of a typical call, without the verb.
        fields: names of the fields that are used most, e.g. data.train.0.image.
    """

    example: str
    fields: tuple[str, ...]


SHORT = {
    "train": ShortHelp(
        "--config configs/mednext.py --name mine"
        " --data.train.0.image cube.h5:raw --data.train.0.labels cube.h5:labels",
        (
            "config",
            "resume",
            "name",
            "data.train.0.image",
            "data.train.0.labels",
            "data.train.0.voxel_size",
            "data.val.0.image",
            "data.val.0.labels",
            "data.patch_size",
            "model.architecture",
            "model.pretrained",
            "optim.learning_rate",
            "loop.max_steps",
            "loop.batch_size",
            "loop.volumes_every",
            "loop.monitor",
            "system.cpu_variant",
        ),
    ),
    "infer": ShortHelp(
        "--run runs/mine --input other.zarr/raw --output results",
        (
            "run",
            "input",
            "output",
            "axes",
            "voxel_size",
            "roi",
            "mask",
            "inference.flips",
            "inference.batch_size",
            "inference.checkpoint",
            "segmentation.method",
            "segmentation.threshold",
            "segmentation.min_size",
            "system.device",
        ),
    ),
    "evaluate": ShortHelp(
        "--run runs/mine --sweep",
        (
            "run",
            "volume",
            "affinities",
            "segmentation",
            "labels",
            "skeleton",
            "output",
            "sweep",
            "thresholds",
            "metric",
            "min_size",
        ),
    ),
    "launch": ShortHelp(
        "--config configs/mednext.py --sweep optim.learning-rate=1e-3,3e-4 --then infer,evaluate",
        ("config", "sweep", "name", "gpus", "time", "partition", "then", "dry_run", "status"),
    ),
    "convert": ShortHelp(
        "runs/mine segmentation.ome.zarr",
        ("result", "target", "volume", "what", "axes", "voxel_size", "overwrite"),
    ),
    "skeletonize": ShortHelp(
        "labels.zarr skeleton.npz",
        ("labels", "output", "voxel_size", "min_size", "scale", "const", "block", "overwrite"),
    ),
    "mesh": ShortHelp(
        "labels.zarr precomputed://labels",
        ("labels", "target", "voxel_size", "min_size", "max_error", "block", "overwrite"),
    ),
    "view": ShortHelp(
        "runs/mine --volume val",
        ("what", "volume", "image", "labels", "segmentation", "voxel_size", "threshold", "port"),
    ),
}


def answer_help(verb: str, words: list[str], settings: Any) -> list[str]:
    """Print the short help and end the process, if the words ask for it.

    Args:
        verb: the verb of the command line.
        words: the words that follow it.
        settings: a dataclass, or an instance of one, which then says the defaults.

    Returns:
        The words for tyro: --help-all asks it for help.
    """
    asks_for_help = bool({"-h", "--help"} & set(words))
    if ALL_FLAGS in words:
        return ["--help" if word == ALL_FLAGS else word for word in words]
    if not asks_for_help or verb not in SHORT:
        return words
    with printed_by_one_rank():
        print(short_help(verb, settings))
        sys.exit(0)


def short_help(verb: str, settings: Any) -> str:
    """What the verb does, an example, the flags that are used most, and where the others are."""
    short = SHORT[verb]
    width = min(shutil.get_terminal_size((80, 24)).columns, WIDTH)
    example = f"{command_line(verb)} {short.example}"
    named = [_find(settings, name) for name in short.fields]
    words = [
        f"[{field.upper()} ...]" if default == () else field.upper()
        for _, field, default, is_word in named
        if is_word
    ]
    lines = [
        " ".join(["usage:", program_of(verb), *words, "[flags]"]),
        "",
        *_wrapped(inspect.cleandoc(_class_of(settings).__doc__ or ""), width),
        "",
        "example:",
        "    " + " \\\n        ".join(textwrap.wrap(example, width - 10, break_on_hyphens=False)),
        "",
        "used most:",
    ]
    for name, (owner, field, default, is_word) in zip(short.fields, named):
        flag = field.upper() if is_word else _flag(name, default)
        text = field_texts(owner)[field]
        shown = _default_shown(default)
        lines += _described(flag, f"{text} (default: {shown})" if shown else text, width)
    lines += _described(QUIET, QUIET_HELP, width)
    return "\n".join([*lines, "", f"all flags: {command_line(verb)} {ALL_FLAGS}"])


def _class_of(settings: Any) -> type:
    return settings if isinstance(settings, type) else type(settings)


def _find(settings: Any, name: str) -> tuple[type, str, Any, bool]:
    """(dataclass, field, its default, whether it is a word without a flag) of a dotted name."""
    *path, field = name.split(".")
    owner = settings
    if (path or [field])[0] not in _class_of(settings).__annotations__:
        owner = settings.settings  # of TrainCommand, whose flags have no prefix
    is_there = True
    for part in path:
        if not part.isdigit():
            owner = getattr(owner, part)
        elif int(part) < len(owner):
            owner = owner[int(part)]
        else:  # a volume that no config has yet
            owner, is_there = VolumeConfig(), False
    default = getattr(owner, field, None) if is_there else None
    hint = get_type_hints(_class_of(owner), include_extras=True)[field]
    marks = get_args(hint)[1:]
    is_word = all(mark in marks for mark in get_args(tyro.conf.Positional[str])[1:])
    return _class_of(owner), field, default, is_word


def _flag(name: str, default: Any) -> str:
    section, dot, field = name.rpartition(".")
    off = "no-" if default is True else ""
    return f"--{section}{dot}{off}{field}".replace("_", "-")


def _default_shown(value: Any) -> str:
    """A default as the command line takes it; empty where there is none to speak of."""
    if value is None or isinstance(value, bool) or value in ((), ""):
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _described(flag: str, text: str, width: int) -> list[str]:
    indent = " " * COLUMN
    lines = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    if len(flag) + 4 > COLUMN:
        return [f"  {flag}", *lines]
    return [f"  {flag}".ljust(COLUMN) + lines[0].strip(), *lines[1:]]


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a docstring; its paragraphs stay apart."""
    paragraphs = [
        textwrap.wrap(paragraph, width, break_on_hyphens=False) for paragraph in text.split("\n\n")
    ]
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += ["", *paragraph] if lines else paragraph
    return lines
