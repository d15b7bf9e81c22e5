"""What contributors read, and what runs on their changes, agrees with the tree."""

import os
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from documents import blocks, command_lines

import pytc

ROOT = Path(__file__).parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
JOBS = WORKFLOW["jobs"]
SETTINGS = ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")


def pins(path):
    """{package: release} of a file of constraints."""
    lines = (ROOT / path).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def targets_of_the_makefile():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("job", JOBS)
def test_the_workflow_runs_only_commands_that_can_be_run_by_hand(job):
    commands = [step["run"] for step in JOBS[job]["steps"] if "run" in step]
    assert len(commands) == 1
    (command,) = commands
    if command.startswith("make "):
        assert command.removeprefix("make ") in targets_of_the_makefile()
    else:
        assert command == ".ci/run"


def test_what_runs_before_a_change_lands_calls_targets_of_the_makefile():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    called = {line.removeprefix("make ") for line in lines if line.startswith("make ")}
    assert called == {"demo", "test"} and called <= targets_of_the_makefile()
    (extras,) = (line.partition("=")[2] for line in lines if line.startswith("export EXTRAS="))
    assert set(extras.split(",")) == set(SETTINGS["options.extras_require"])


def test_the_workflow_covers_every_python_and_the_oldest_and_newest_torch():
    matrix = JOBS["test"]["strategy"]["matrix"]
    (oldest_python,) = re.findall(r">=(\S+)", SETTINGS["options"]["python_requires"])
    assert matrix["python"] == ["3.11", "3.12", "3.13"] and matrix["python"][0] == oldest_python
    files = [*matrix["constraints"], *(entry["constraints"] for entry in matrix["include"])]
    assert files == ["constraints.txt", ".github/oldest.txt", ".github/newest.txt"]
    assert JOBS["test"]["env"] == {"CONSTRAINTS": "${{ matrix.constraints }}"}

    usual, oldest, newest = (pins(path) for path in files)
    (allowed,) = re.findall(r"^torch>=(\S+)", SETTINGS["options"]["install_requires"], re.MULTILINE)
    assert oldest.pop("torch") == f"{allowed}.0"
    assert usual.pop("torch") and "torch" not in newest
    assert usual == oldest == newest


def test_only_merged_code_reaches_a_runner_of_our_own():
    job = JOBS["gpu"]
    assert "self-hosted" in job["runs-on"]
    assert job["if"] == "vars.GPU_RUNNER == 'true' && github.event_name == 'push'"
    assert WORKFLOW[True]["push"] == {"branches": ["main"]}  # YAML reads the word "on" as true


@pytest.mark.parametrize("path", ["constraints.txt", ".github/oldest.txt", ".github/newest.txt"])
def test_the_makefile_installs_by_any_file_of_constraints(path, tmp_path):
    done = subprocess.run(
        ["make", "-n", f"VENV={tmp_path}/venv", f"CONSTRAINTS={path}", "EXTRAS=test", "test"],
        cwd=ROOT,
        # the tests themselves may run below make, with other settings
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"--constraint {path} --editable '.[test]'" in done.stdout
    assert f"{tmp_path}/venv/bin/python -m pytest" in done.stdout


def test_pre_commit_formats_with_the_release_that_make_test_installs():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["rev"] == f"v{pins('constraints.txt')['ruff']}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]


def test_the_citation_names_this_release_and_whom_to_cite():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == pytc.__version__
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)


def test_the_change_log_has_this_release():
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert pytc.__version__ in heads


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md")))
def test_a_template_of_an_issue_has_a_head_that_can_be_read(path):
    _, head, body = path.read_text().split("---\n", 2)
    assert set(yaml.safe_load(head)) == {"name", "about"}
    assert body.strip()


def test_contributing_names_files_and_commands_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`([\w./-]+(?:\.\w+|/run|/))`", text):
        assert (ROOT / name).exists(), name
    commands = [line for block in blocks("CONTRIBUTING.md") for line in command_lines(block.code)]
    assert len(commands) > 5
    for command in commands:
        words = command.split()
        if words[0] == "make":
            assert words[-1] in targets_of_the_makefile(), command
        for word in words:
            if word.startswith("tests/"):
                assert (ROOT / word).is_file(), command


def test_markers_are_registered_and_a_wrong_one_is_an_error():
    settings = SETTINGS["tool:pytest"]
    named = {line.partition(":")[0] for line in settings["markers"].split("\n") if line}
    assert named == {"slow", "gpu"}
    assert "--strict-markers" in settings["addopts"]
