"""What a wheel of pytc holds, and that it works where there is no clone."""

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest
from tiny_runs import ONE_STEP

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pytc")


def settings():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but what the wheel puts into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "clone").mkdir()
    for name in SOURCES:
        (folder / "clone" / name).symlink_to(ROOT / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=folder / "clone", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith("pytc_em-")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(installed):
    def files(folder):
        found = (path for path in (folder / "pytc").rglob("*") if path.is_file())
        kept = (path.relative_to(folder) for path in found if path.parent.name != "__pycache__")
        return set(map(str, kept))

    assert files(installed) == files(ROOT)
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"pytc", "pytc_em"}


def test_the_wheel_scores_and_reports_outside_the_clone(installed, tmp_path):
    code = """
import numpy as np, pytc
from pytc.commands import EvaluateConfig
from pytc.evaluate import evaluate
labels = np.arange(1, 9, dtype=np.uint16).repeat(64).reshape(8, 8, 8)
np.save("labels.npy", labels)
evaluate(EvaluateConfig(segmentation="labels.npy", labels="labels.npy", output="scores"))
print(pytc.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(installed / "pytc" / "__init__.py")
    assert "<html" in (tmp_path / "scores" / "report.html").read_text()


def test_the_command_of_the_wheel_runs_the_three_verbs_outside_the_clone(installed, tmp_path):
    """By the entry point that the wheel names, in a folder that knows nothing of the clone."""
    (described,) = installed.glob("*.dist-info/entry_points.txt")
    points = ConfigParser()
    points.read(described)
    module, function = points["console_scripts"]["pytc"].split(":")
    command = tmp_path / "bin" / "pytc"
    command.parent.mkdir()
    command.write_text(f"from {module} import {function}\n{function}()\n")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "small.py").write_text(ONE_STEP)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTC_")}
    environment = {
        **clean,
        "PYTHONPATH": str(installed),
        "PYTC_RUNS": str(tmp_path / "all runs"),
        "PYTC_DATA": str(tmp_path / "all data"),
    }

    def run(*words):
        done = subprocess.run(
            [sys.executable, str(command), *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    name = str(tmp_path / "all runs" / "small")
    said = run("train", "--config", "small.py")
    assert f"trained: {name}\n" in said and f"next: pytc infer --run '{name}'" in said
    said = run("infer")
    assert f"run: {name}\n" in said and f"next: pytc evaluate --run '{name}' --sweep" in said
    said = run("evaluate", "--sweep")
    assert "makes it by: pytc infer" in said
    assert len(list(Path(name).glob("evaluation/*/report.html"))) == 1
    assert "mednext" in run("models", "list").split()
    assert {path.name for path in folder.iterdir()} == {"small.py"}
    assert all(path.name.startswith("synthetic-") for path in (tmp_path / "all data").iterdir())


def test_console_scripts_are_functions_of_the_package():
    lines = settings()["options.entry_points"]["console_scripts"].split("\n")
    scripts = dict(line.split(" = ") for line in lines if line)
    assert set(scripts) == {"pytc"}
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


def test_install_hints_name_extras_that_exist():
    extras = set(settings()["options.extras_require"])
    named = set()
    files = [*ROOT.glob("pytc/**/*.py"), *ROOT.glob("benchmarks/*.*"), *ROOT.glob("docs/*.md")]
    for path in [*files, ROOT / "README.md"]:
        text = path.read_text()
        assert "pip install pytc" not in text and "pip install 'pytc" not in text, path
        hints = text.split("pip install -e '.[")[1:]
        named |= {extra for hint in hints for extra in hint.partition("]")[0].split(",")}
    assert named <= extras and {"data", "agglomeration", "benchmarks"} <= named
