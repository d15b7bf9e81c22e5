"""Tables on the terminal and in a pipe; no name and no number is ever cut."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

PIPED = 110  # columns of a table in a pipe or a file
PROSE = 24  # fewest columns of a cell of prose


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    best: int | None = None,
    prose: Collection[int] = (),
) -> None:
    """Print rows of text below their headers.

    A table that is wider than the terminal is printed at its full width.

    Args:
        headers: one for each column.
        rows: cells of text, one for each column.
        title: a line above the table.
        best: the number of the row that is shown in green.
        prose: the numbers of the columns whose text may wrap; all others are never wrapped.
    """
    columns = [
        Column(header, min_width=PROSE if number in prose else None, no_wrap=number not in prose)
        for number, header in enumerate(headers)
    ]
    table = Table(*columns)
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold green" if number == best else "")
    terminal = Console()
    width = terminal.width if terminal.is_terminal else PIPED
    unlimited = terminal.options.update(width=10_000)
    needed = Measurement.get(terminal, unlimited, table).minimum
    if title:
        print(title)
    Console(width=max(width, needed)).print(table, highlight=False, soft_wrap=False)
