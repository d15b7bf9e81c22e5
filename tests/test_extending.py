"""docs/extending.md: its changes are made in a copy of the package, and its trials run there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = {
    section.partition("\n")[0]: section for section in re.split(r"^## ", PAGE, flags=re.M)[1:]
}
MOST_LINES = 30  # of code that a section adds


def blocks(section):
    """(language, code) of each block of a section."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, flags=re.M | re.S)


def changes(section):
    """(file, lines) of each block that changes the package; a new file has no hunk."""
    for language, code in blocks(section):
        first, *lines = code.splitlines()
        if language == "diff":
            yield first.removeprefix("+++ "), lines
        elif first != "# try it":
            yield first.removeprefix("# "), None


def trials(section):
    return [code for language, code in blocks(section) if code.startswith("# try it\n")]


def apply(section, folder):
    """Make the changes of a section in the copy of the package below a folder."""
    for language, code in blocks(section):
        first, *lines = code.splitlines()
        if language == "diff":
            path = folder / first.removeprefix("+++ ")
            for hunk in "\n".join(lines).split("\n@@\n"):
                path.write_text(change(path.read_text(), hunk.splitlines()))
        elif first != "# try it":
            path = folder / first.removeprefix("# ")
            assert not path.exists()
            path.write_text("\n".join(lines) + "\n")


def change(text, hunk):
    """The text with the lines of a hunk that begin with +, where its other lines are."""
    assert all(line[:1] in ("", " ", "+", "-") for line in hunk)
    before = "".join(f"{line[1:]}\n" for line in hunk if line[:1] != "+")
    after = "".join(f"{line[1:]}\n" for line in hunk if line[:1] != "-")
    assert before.strip(), "a hunk has a line of the file"
    assert text.count(before) == 1, f"found {text.count(before)} times:\n{before}"
    return text.replace(before, after)


@pytest.fixture
def clone(tmp_path):
    shutil.copytree(ROOT / "pytc", tmp_path / "pytc", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_works(name, clone):
    section = SECTIONS[name]
    before = trials(section)
    assert before, "a section without a trial"
    apply(section, clone)
    for trial in before:
        done = subprocess.run(
            [sys.executable, "-c", trial],
            cwd=clone,
            env={"PYTHONPATH": str(clone), "HOME": str(clone), "PATH": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_all_sections_together_keep_to_the_page(clone):
    for section in SECTIONS.values():
        apply(section, clone)
    shutil.copy(ROOT / "ruff.toml", clone)
    for words in (["check", "."], ["format", "--check", "--diff", "."]):
        done = subprocess.run(
            [Path(sys.executable).with_name("ruff"), *words],
            cwd=clone,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_says_how_many_files_change():
    rows = re.findall(r"^\| \[an? ([\w ]+)\]\(#([\w-]+)\) \| (\d)", PAGE, flags=re.M)
    titles = {name.lower().replace(" ", "-"): name for name in SECTIONS}
    assert [anchor for _, anchor, _ in rows] == list(titles)
    for thing, anchor, count in rows:
        section = SECTIONS[titles[anchor]]
        assert anchor.endswith(thing.replace(" ", "-"))
        assert len({path for path, _ in changes(section)}) == int(count), thing


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_is_short(name):
    count = 0
    for language, code in blocks(SECTIONS[name]):
        lines = code.splitlines()
        if language == "diff":
            count += sum(line.startswith("+") for line in lines[1:])
        elif lines[0] != "# try it":
            count += len(lines) - 1
    assert 0 < count <= MOST_LINES
