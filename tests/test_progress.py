"""Progress of long steps, on a terminal and elsewhere."""

import sys

import pytest

from pytc.progress import Progress, track


def test_a_step_within_a_step_has_the_terminal_to_itself(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    def drawn(progress):
        return progress.bar.live.is_started

    with Progress("training", "steps", 9) as outer:
        outer.show(3, "loss 0.5")
        assert drawn(outer)
        for _ in track(range(2), "predicting", "windows"):
            _, inner = Progress.bars
            assert not drawn(outer) and inner.live.is_started and inner.tasks[0].total == 2
        assert drawn(outer) and outer.bar.tasks[0].completed == 3
        with pytest.raises(ValueError), Progress("scoring", "volumes", 1):
            raise ValueError
        assert drawn(outer)
    assert not drawn(outer) and Progress.bars == []


def test_elsewhere_a_line_is_printed_now_and_then(monkeypatch, capsys):
    now = iter(range(0, 1000, 2))
    monkeypatch.setattr("pytc.progress.time.monotonic", lambda: next(now))
    assert list(track("abcdef", "predicting", "windows")) == list("abcdef")
    assert capsys.readouterr().out == "predicting 6/6 windows, 0.5 windows/s, 0:00:00 left\n"
    progress = Progress("training", "steps", 100, first=10, seconds=0)
    progress.show(12, "loss 0.5")
    assert capsys.readouterr().out == "training 12/100 steps, loss 0.5, 1 steps/s, 0:01:28 left\n"
