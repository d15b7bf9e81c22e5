"""docs/cli.md and docs/config.md are what the dataclasses say, in the words of the help."""

import importlib.util
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import tyro
from documents import examples

from pytc import cli
from pytc.config import Config
from pytc.help import SHORT, field_texts
from pytc.main import VERBS, main
from pytc.typos import flags_of

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "reference.py"
SPECIFICATION = importlib.util.spec_from_file_location("reference", FILE)
reference = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(reference)


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert not ended.value.code
    return capsys.readouterr().out


def in_one_line(text):
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_pages_are_current(name):
    written = (ROOT / "docs" / name).read_text()
    assert written == reference.PAGES[name](), "python docs/reference.py writes it anew"


@pytest.mark.parametrize("name", [name for name in reference.COMMANDS if name != "check"])
def test_every_flag_that_a_typo_is_compared_with_is_one(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = set(re.findall(r"--[\w.-]+", help_of(capsys, *name.split(), "--help-all")))
    settings = reference.COMMANDS[name]
    shown |= {flag.replace("data.train.0", "data.val.0") for flag in shown}  # once one is named
    ours = {flag for flag in flags_of(settings) if not is_a_word(settings, flag)}
    assert ours - shown == set()


def is_a_word(settings, flag):
    hints = get_type_hints(settings, include_extras=True)
    name = flag.removeprefix("--").replace("-", "_")
    return name in hints and reference.is_positional(hints[name])


def test_the_config_of_the_page_is_one():
    made = {}
    (example,) = examples("docs/config.md")
    exec(example, made)
    assert made["config"].loop.max_steps == 20_000


def test_every_verb_has_a_section():
    assert {name.split()[0] for name in reference.COMMANDS} == set(VERBS)


def test_every_field_of_the_config_has_a_row():
    page = (ROOT / "docs" / "config.md").read_text()
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    for name, section in [("Config", Config), *reference.sections(Config())]:
        for field in fields(section):
            if not is_dataclass(field.default):
                assert f"\n| `{field.name}` | " in sections[name], f"{name}.{field.name}"


@pytest.mark.parametrize("name", [name for name in reference.COMMANDS if name != "check"])
def test_the_texts_are_those_of_the_full_help(name, capsys, monkeypatch):
    """Which tyro reads from the comments of the fields by itself."""
    monkeypatch.setenv("COLUMNS", "100")
    shown = in_one_line(help_of(capsys, *name.split(), "--help-all"))
    for field, text in field_texts(reference.COMMANDS[name]).items():
        if field not in ("quiet", "settings", "inference", "segmentation", "system"):
            assert text and in_one_line(text) in shown, field


def test_the_texts_of_the_config_are_those_of_the_full_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = in_one_line(help_of(capsys, "train", "--help-all"))
    for name, section in reference.sections(Config()):
        for field, text in field_texts(section).items():
            if not name.endswith("val.0") and field not in ("train", "val"):
                is_section = is_dataclass(getattr(section, field))
                assert is_section or in_one_line(text) in shown, f"{name}.{field}"


@pytest.mark.parametrize("verb", VERBS)
def test_short_help_is_short_and_leads_to_all_flags(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    short, full = help_of(capsys, verb, "--help"), help_of(capsys, verb, "--help-all")
    assert short.count("\n") <= 65 and help_of(capsys, verb, "-h") == short
    if verb not in SHORT:
        assert short == full and full.count("\n") <= 30
        return
    assert short.count("\n") < full.count("\n") and f"{verb}" in short.splitlines()[0]
    assert f"\nexample:\n    {'python ' if verb in ('train', 'infer') else ''}" in short
    assert re.search(rf"all flags: .*{verb}(\.py)? --help-all\n", short)
    named = re.findall(r"^  (--[\w.-]+)", short, re.MULTILINE)
    flags = set(re.findall(r"--[\w.-]+", full))
    assert len(named) >= 4
    assert set(named) <= flags | {"--data.val.0.image", "--data.val.0.labels", "--status"}


def test_short_help_of_a_preset_shows_its_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.train(["--config", str(ROOT / "configs" / "fib25.py"), "--help"])
    shown = in_one_line(capsys.readouterr().out)
    assert "--name Folder of the run below runs/." in shown and "(default: fib25)" in shown
    assert "Optimizer steps of the run. (default: 5000)" in shown


def test_the_example_of_every_short_help_is_a_command_line():
    for verb, short in SHORT.items():
        if verb != "train":  # whose files would be opened
            tyro.cli(reference.COMMANDS[verb], args=short.example.split())


def test_the_index_names_every_page():
    text = (ROOT / "docs" / "README.md").read_text()
    named = set(re.findall(r"\(([\w-]+\.md)\)", text))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
