"""Where runs are kept: $PYTC_RUNS, or runs/ below the current folder."""

from pathlib import Path

import pytest

from pytc.runs import create_run, find_run, newest_run, runs_folder


def test_runs_are_in_pytc_runs_or_in_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("PYTC_RUNS", value)
        assert runs_folder() == Path("runs")
    old = create_run("old")
    assert old == Path("runs/old") and old.is_dir()

    monkeypatch.setenv("PYTC_RUNS", str(tmp_path / "store"))
    assert runs_folder() == tmp_path / "store"
    new = create_run("new")
    (new / "config.json").touch()
    assert new == tmp_path / "store" / "new"
    assert newest_run("config.json") == new == find_run("new")
    assert find_run("runs/old") == old  # a path is a path
    with pytest.raises(ValueError, match="expected the folder or the name of a run"):
        find_run("old")

    (tmp_path / "out.safetensors").touch()
    assert find_run("out.safetensors") == tmp_path / "store" / "out"


def test_where_no_run_is_found_the_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTC_RUNS", str(tmp_path / "store"))
    with pytest.raises(ValueError, match=rf"below {tmp_path}/store \(train.py makes one\)"):
        newest_run("checkpoints/last.pt")
