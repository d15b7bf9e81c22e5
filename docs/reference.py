"""python docs/reference.py: writes docs/cli.md and docs/config.md from the dataclasses."""

from dataclasses import MISSING, fields, is_dataclass
from inspect import cleandoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from pytc import commands, config
from pytc.help import SHORT, field_texts
from pytc.main import VERBS
from pytc.shapes.command import MeshConfig, SkeletonizeConfig
from pytc.view.command import ViewConfig

FOLDER = Path(__file__).parent
WRITTEN = "<!-- Written by `python docs/reference.py`: change the dataclasses, not this page. -->"
COMMANDS = {
    "train": commands.TrainCommand,
    "infer": commands.InferConfig,
    "evaluate": commands.EvaluateConfig,
    "validate": commands.ValidateConfig,
    "launch": commands.LaunchConfig,
    "check": commands.CheckCommand,
    "replay": commands.ReplayConfig,
    "hardware": config.SystemConfig,
    "models list": commands.ListModels,
    "models show": commands.ShowModel,
    "models export": commands.ExportModel,
    "data list": commands.ListData,
    "data show": commands.ShowData,
    "data fetch": commands.FetchData,
    "convert": commands.ConvertConfig,
    "skeletonize": SkeletonizeConfig,
    "mesh": MeshConfig,
    "migrate": commands.MigrateCommand,
    "view": ViewConfig,
    "runs": commands.RunsCommand,
    "compare": commands.CompareConfig,
}
CLI = f"""# The command line

{WRITTEN}

`pytc VERB` is one command for everything. In a clone `python train.py`, `python infer.py` and
`python evaluate.py` are the same as `pytc train`, `pytc infer` and `pytc evaluate`.

- `pytc VERB --help` says what a verb does, with an example and the flags that are used most;
  `--help-all` lists every flag.
- `--quiet`, which every verb takes, leaves out messages and progress; warnings, errors and the
  result stay.
- `--no-...` switches off what is on by default: `--system.no-cpu-variant`.
- Several values follow a flag with blanks between them: `--data.patch-size 32 160 160`.
- Runs are in `$PYTC_RUNS`, or `runs/` where it is not set; public data in `$PYTC_DATA`, or `data/`.
- Ctrl-C ends a verb with exit code 130. A mistake in the call is one line, and exit code 1 or 2.
"""
CONFIG = f"""# The config

{WRITTEN}

Every choice of a training is a field of a dataclass in `pytc/config/`. A preset is a Python file
that defines `config`:

```python
from pytc.config import Config, DataConfig, LoopConfig, VolumeConfig

config = Config(
    name="mine",
    data=DataConfig(
        train=(VolumeConfig(image="cube.h5:raw", labels="cube.h5:labels"),),
        patch_size=(32, 160, 160),
    ),
    loop=LoopConfig(max_steps=20_000),
)
```

`python train.py --config FILE.py` takes it. Every field is a flag, too, with its section in front
and dashes for underscores: `data.patch_size` is `--data.patch-size 32 160 160`, the image of the
first training volume is `--data.train.0.image`. A flag wins over the file.

A value of a wrong type or out of range is refused when the config is made. What a run really used,
after the choices that depend on the machine and on the data, is in `runs/NAME/resolved.json`.
"""

EXAMPLE = """<!-- not run: tests/test_reference.py reads its flags -->

```bash
pytc {name} {example}
```"""


def type_text(hint: Any) -> str:
    """A type in words, such as `int`, 3 `int`, any number of `str`, or `a`, `b` or `c`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(inner[0])
    if origin is Literal:
        return either([f"`{choice}`" for choice in inner])
    if origin in (Union, UnionType):
        return either([type_text(option) for option in inner if option is not NoneType])
    if origin is tuple and inner[1:] == (...,):
        return f"any number of {type_text(inner[0])}"
    if origin is tuple:
        return f"{len(inner)} {type_text(inner[0])}"
    return f"`{hint.__name__}`"


def either(options: list[str]) -> str:
    *first, last = options
    return f"{', '.join(first)} or {last}" if first else last


def default_text(default: Any) -> str:
    if default is MISSING:
        return "required"
    if isinstance(default, tuple) and default and is_dataclass(default[0]):
        return f"`({type(default[0]).__name__}(),)`"
    if isinstance(default, (str, Path)):
        return f"`{str(default) or chr(34) * 2}`"
    return f"`{default!r}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def is_positional(hint: Any) -> bool:
    marks = get_args(tyro.conf.Positional[str])[1:]
    return get_origin(hint) is Annotated and all(mark in get_args(hint)[1:] for mark in marks)


def flag_text(name: str, hint: Any, default: Any) -> str:
    if is_positional(hint):
        return f"`{name.upper()} ...`" if "tuple" in str(hint) else f"`{name.upper()}`"
    flag = "--" + name.replace("_", "-")
    if default is True:
        flag = "--no-" + name.replace("_", "-")
    return f"`{flag}`"


def table(settings: type, *, as_flags: bool) -> list[str]:
    """Rows for the fields that are no sections of their own."""
    hints, texts = get_type_hints(settings, include_extras=True), field_texts(settings)
    first = "flag" if as_flags else "field"
    lines = [f"| {first} | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(settings):
        if is_dataclass(field.default) or field.name in ("quiet", "action"):
            continue
        name = f"`{field.name}`"
        if as_flags:
            name = flag_text(field.name, hints[field.name], field.default)
        row = (name, type_text(hints[field.name]), default_text(field.default), texts[field.name])
        lines.append("| " + " | ".join(map(cell, row)) + " |")
    return lines if len(lines) > 2 else []


def cli_page() -> str:
    lines = [CLI, "| verb | what it does |", "| --- | --- |"]
    for name, verb in VERBS.items():
        anchor = next(command for command in COMMANDS if command.split()[0] == name)
        lines.append(
            f"| [`{name}`](#pytc-{anchor.replace(' ', '-')}) | {(verb.__doc__ or '').strip()} |"
        )
    for name, settings in COMMANDS.items():
        lines += ["", f"## pytc {name}", "", cleandoc(about(name, settings))]
        if name in SHORT:
            lines += ["", EXAMPLE.format(name=name, example=SHORT[name].example)]
        rows = table(settings, as_flags=True)
        lines += ["", *rows] if rows else []
        sections = [field.name for field in fields(settings) if is_dataclass(field.default)]
        if name in ("train", "check"):
            lines += ["", "Further flags: every field of [the config](config.md)."]
        elif sections:
            links = ", ".join(
                f"`--{section}.FIELD` ([fields](config.md#{section}))" for section in sections
            )
            lines += ["", f"Further flags: {links}."]
    return "\n".join(lines) + "\n"


def about(name: str, settings: type) -> str:
    if name == "hardware":
        return "Print what this process may use, and what would be chosen for it."
    return settings.__doc__ or ""


def config_page() -> str:
    lines = [CONFIG, "## Config", "", cleandoc(config.Config.__doc__ or ""), ""]
    lines += table(config.Config, as_flags=False)
    for name, section in sections(config.Config()):
        lines += ["", f"## {name}", "", f"`{section.__name__}`: {cleandoc(section.__doc__ or '')}"]
        rows = table(section, as_flags=False)
        lines += ["", *rows] if rows else []
    return "\n".join(lines) + "\n"


def sections(owner: Any, prefix: str = "") -> list[tuple[str, type]]:
    """(name, dataclass) of every section below, in the order of the fields."""
    found: list[tuple[str, type]] = []
    for field in fields(owner):
        value = getattr(owner, field.name)
        if field.name == "train":
            found.append((f"{prefix}train.0, {prefix}val.0", type(value[0])))
        if is_dataclass(value):
            found.append((prefix + field.name, type(value)))
            found += sections(value, f"{prefix}{field.name}.")
    return found


PAGES = {"cli.md": cli_page, "config.md": config_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
