"""The benchmarks start, and those that take a size print their tables for a small one."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *arguments], capture_output=True, text=True
    )
    if "is needed: pip install" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["layout", "models", "patches", "transfer"])
def test_a_benchmark_says_how_it_is_called(name):
    assert f"python benchmarks/{name}.py" in run(name, "--help")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decode", "scores", "sweep", "watershed"])
def test_a_benchmark_prints_a_table(name):
    """It also fails where two routes that must find the same score differ."""
    output = run(name, "--size", "64", "--repeats", "1")
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert len(rows) > 3


def test_the_tables_of_agglomeration_are_printed():
    small = ("--size", "40", "--graph", "12", "--repeats", "1")
    rows = [line for line in run("agglomeration", *small).splitlines() if line.startswith("|")]
    assert len(rows) == (2 + 8) + (2 + 3)


def test_the_table_of_inference_is_printed():
    small = ("--size", "40", "--window", "16", "--repeats", "1")
    rows = [line for line in run("inference", *small).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 * 4 + 1


def test_the_table_of_grey_ranges_is_printed():
    small = ("--steps", "2", "--edge", "32", "--limit", "100")
    rows = [line for line in run("intensity", *small).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 7


@pytest.mark.slow
def test_a_volume_beyond_memory_goes_through_every_step(tmp_path):
    small = ("--size", "80", "--folder", str(tmp_path))
    output = run("scale", "whole", *small)
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert len(rows) > 4
    output = run("scale", "decode", *small, "--repeats", "1")
    assert sum(line.startswith("|") for line in output.splitlines()) == 2 + 9
    pytest.importorskip("distributed")
    output = run("scale", "engines", *small, "--repeats", "1")
    assert sum(line.startswith("|") for line in output.splitlines()) == 2 + 3 + 2 + 4


def test_no_benchmark_is_left_out():
    named = {"layout", "models", "patches", "decode", "watershed", "scores", "sweep", "intensity"}
    named |= {"agglomeration", "transfer", "inference", "scale"}
    assert {path.stem for path in FOLDER.glob("*.py")} == named | {"common"}
