"""The code blocks of the README and of the other pages: what a test runs, and what says why not.

A block of commands or of Python is run by the test that test_docs.py names for its page. One that
no test runs has a comment before it: <!-- not run: the reason -->. A block of `text` is no code.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n\n?)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block. `reason` says why no test runs it; it is None for a block that is run."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None


def pages() -> list[str]:
    """Every page, as a path from the top of the repository."""
    return [
        "README.md",
        "CONTRIBUTING.md",
        "benchmarks/README.md",
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    ]


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    text = text_of(page)
    return [
        Block(
            page, text.count("\n", 0, found.start()) + 1, *found.group("language", "code", "reason")
        )
        for found in BLOCK.finditer(text)
    ]


def blocks_to_run(page: str, language: str) -> list[str]:
    """The code of each block in a language that has no reason against it."""
    return [
        block.code for block in blocks(page) if block.language == language and block.reason is None
    ]


def command_lines(code: str) -> list[str]:
    """The commands of a block, without comments, continued lines joined."""
    lines = code.replace("\\\n", " ").splitlines()
    commands = [" ".join(line.partition(" #")[0].split()) for line in lines]
    return [command for command in commands if command and not command.startswith("#")]


def commands(page: str) -> list[str]:
    """Every command of a page that a test has to run, in order."""
    return [line for code in blocks_to_run(page, "bash") for line in command_lines(code)]


def examples(page: str) -> list[str]:
    """Every Python example of a page that a test has to run, in order."""
    return blocks_to_run(page, "python")
