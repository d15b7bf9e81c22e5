"""What a command prints: messages, and with --quiet only warnings and the result."""

import logging
from pathlib import Path

import pytest
from tiny_runs import ONE_STEP

from pytc import cli, messages
from pytc.main import VERBS, main
from pytc.messages import begin_verb, show_messages
from pytc.progress import Progress, track

LOGGER = logging.getLogger("pytc.some.module")


@pytest.fixture(autouse=True)
def messages_are_shown_again():
    yield
    show_messages()


def test_a_message_is_one_line_as_it_was_written(capsys):
    show_messages()
    long = "a [bold]volume[/bold] of (1, 2, 3) :smile: " + "x" * 200
    LOGGER.info(long)
    LOGGER.warning("its labels look like an image")
    LOGGER.debug("nobody reads this")
    said = capsys.readouterr()
    assert said.out == f"{long}\nwarning: its labels look like an image\n" and said.err == ""


def test_quiet_leaves_warnings_alone(capsys):
    show_messages(quiet=True)
    LOGGER.info("a volume")
    LOGGER.warning("its labels look like an image")
    with Progress("training", "steps", 2) as progress:
        progress.show(2)
    assert list(track([1, 2], "reading", "blocks")) == [1, 2]
    assert capsys.readouterr().out == "warning: its labels look like an image\n"
    assert not messages.are_shown()


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_only_the_first_rank_speaks(name, capsys, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv(name, rank)
        show_messages()
        LOGGER.info(f"rank {rank}")
        LOGGER.warning(f"of rank {rank}")
    said = capsys.readouterr()
    assert said.out == "rank 0\nwarning: of rank 0\n" and said.err == ""


def test_the_flag_is_taken_from_the_words_wherever_it_stands(monkeypatch):
    assert begin_verb(["list", "--quiet", "--run", "x"]) == ["list", "--run", "x"]
    assert not messages.are_shown()
    monkeypatch.setattr("sys.argv", ["pytc", "--run", "x"])
    assert begin_verb(None) == ["--run", "x"] and messages.are_shown()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_flag(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0 and "--quiet" in capsys.readouterr().out


def test_a_quiet_verb_prints_its_result(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(ONE_STEP)

    def said(verb, *words):
        verb([*words, "--quiet"])
        return capsys.readouterr().out.splitlines()

    assert said(cli.train, "--config", "small.py") == [
        "trained: runs/small",
        "next: python infer.py --run runs/small",
    ]
    assert said(cli.infer) == [
        "results: runs/small/predictions/synthetic-1",
        "next: python evaluate.py --run runs/small --sweep",
    ]
    scored = said(cli.evaluate, "--sweep")
    assert scored[-1] == "report: runs/small/evaluation/synthetic-1/report.html"
    assert not [line for line in scored if line.startswith(("prediction:", "segmenting"))]
    cli.infer([])
    assert "run: runs/small" in capsys.readouterr().out.splitlines()
