"""docs/extending.md: its changes are made in a copy of package and tests, and tried there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import text_of

ROOT = Path(__file__).parent.parent
PAGE = text_of("docs/extending.md")
SECTIONS = {
    section.partition("\n")[0]: section for section in re.split(r"^## ", PAGE, flags=re.M)[1:]
}
MOST_LINES = 30  # of code that a section adds to the package
# What must stay green after all changes of the page: the tests of the tables, and of what the page
# adds to the tests. Those that would compile the decoders afresh are left out.
TESTS = (
    "tests/test_tables.py",
    "tests/test_losses.py",
    "tests/test_augment.py",
    "tests/test_decode.py::test_the_config_names_every_method",
    "tests/test_decode.py::test_what_a_segmentation_depends_on",
    "tests/test_model_names.py",
    "tests/test_model_options.py",
    "tests/test_plugins.py::test_the_documentation_lists_the_options_of_every_architecture",
)


def blocks(section):
    """(language, code) of each block of a section."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, flags=re.M | re.S)


def changes(section):
    """(file, new lines) of each block that changes the package, not its tests or documentation."""
    for language, code in blocks(section):
        first, *lines = code.splitlines()
        path = first.removeprefix("+++ ").removeprefix("# ")
        if path.startswith("pytc/"):
            yield path, [line for line in lines if language != "diff" or line.startswith("+")]


def trials(section):
    return [code for language, code in blocks(section) if code.startswith("# try it\n")]


def apply(section, folder):
    """Make the changes of a section in the copy that `copy` made."""
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
    """The text with the lines of a hunk that begin with +, where its other lines are.

    A hunk of the page names one end of a list, not both: others may add to the list, too.
    """
    assert all(line[:1] in ("", " ", "+", "-") for line in hunk)
    before = "".join(f"{line[1:]}\n" for line in hunk if line[:1] != "+")
    after = "".join(f"{line[1:]}\n" for line in hunk if line[:1] != "-")
    assert before.strip(), "a hunk has a line of the file"
    assert text.count(before) == 1, f"found {text.count(before)} times:\n{before}"
    return text.replace(before, after)


def copy(folder):
    """Copy what the page changes, and what its tests need, to a folder."""
    for name in ("pytc", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("ruff.toml", "setup.cfg"):
        shutil.copy(ROOT / name, folder)


@pytest.fixture
def clone(tmp_path):
    copy(tmp_path)
    return tmp_path


def run(clone, *words):
    """Run Python on the copy; its error is the test's."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=clone,
        env={"PYTHONPATH": str(clone), "HOME": str(clone), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_works(name, clone):
    section = SECTIONS[name]
    before = trials(section)
    assert before, "a section without a trial"
    apply(section, clone)
    for trial in before:
        run(clone, "-c", trial)


def test_the_tests_stay_green_after_all_sections(clone):
    for section in SECTIONS.values():
        apply(section, clone)
    run(clone, "-m", "pytest", "-p", "no:cacheprovider", *TESTS)


def test_all_sections_together_keep_to_the_page(clone):
    for section in SECTIONS.values():
        apply(section, clone)
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
    count = sum(len(lines) for _, lines in changes(SECTIONS[name]))
    assert 0 < count <= MOST_LINES
