"""What --help says of metrics, methods and a run to resume; and that the name of a run resumes."""

from pathlib import Path

import pytest

from pytc import cli
from pytc.metrics.table import ROWS
from pytc.segmentation.decode import METHODS


def help_of(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        verb(["--help-all"])
    assert not ended.value.code
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_every_metric_stands_in_the_help_with_what_it_needs(capsys):
    text = help_of(cli.evaluate, capsys).partition("--metric")[2]
    by_skeletons, _, rest = text.partition("With skeletons: ")[2].partition("With labels: ")
    by_labels, _, of_masks = rest.partition("Of a mask: ")
    of_masks = of_masks.partition(".")[0]
    parts = {
        ("instance", "skeleton"): by_skeletons,
        ("instance", "labels"): by_labels,
        ("semantic", "labels"): of_masks,
    }
    for key, part in parts.items():
        named = part.strip().strip(".").split(", ")
        assert named == [row.name for row in ROWS if (row.task, row.needs) == key]


def test_every_method_stands_in_the_help(capsys):
    for verb in (cli.train, cli.infer, cli.evaluate):
        text = help_of(verb, capsys).replace("None,", "").replace(" ", "")  # a long list is wrapped
        assert f"{{{','.join(METHODS)}}}" in text


def test_the_help_says_how_to_resume(capsys):
    text = help_of(cli.train, capsys)
    assert "--resume" in text and "a run to continue from its last checkpoint" in text


def test_a_run_is_resumed_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (Path("runs") / name / "checkpoints").mkdir(parents=True)
        (Path("runs") / name / "checkpoints" / "last.pt").touch()
    assert cli._run_to_resume("first") == Path("runs") / "first"
    assert cli._run_to_resume("runs/second") == Path("runs") / "second"
    with pytest.raises(ValueError, match="got 'frist'; did you mean 'first'"):
        cli._run_to_resume("frist")
