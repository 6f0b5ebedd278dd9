"""Tables for people: as wide as the terminal, or wide lines where there is none."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def shape_text(shape: Sequence[int]) -> str:
    """A shape as in tables.

    >>> shape_text((2, 3)), shape_text(())
    ('2x3', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    below: Iterable[str] = (),
    *,
    warnings: Iterable[str] = (),
    console: Console | None = None,
) -> None:
    """Prints rows under their headings, lines below them, and warnings.

    Args:
      headings: Of the columns; one that ends in a space is set flush right.
      rows: One string per column.
      below: Lines of text.
      warnings: Lines of text, in yellow.
      console: Where to; standard output if None.

    >>> print_table(["path", "scale "], [["kernel", "1"]], ["one leaf"])
    path   ...
    one leaf
    """
    if console is None:  # A pipe or a log file gets wide lines instead of folded columns.
        terminal = Console()
        console = terminal if terminal.is_terminal else Console(width=140)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        flush = "right" if heading.endswith(" ") else "left"
        table.add_column(heading.strip(), overflow="fold", justify=flush)
    for row in rows:
        table.add_row(*map(Text, row))  # Names are not markup.
    console.print(table)
    for line in below:
        console.print(line, highlight=False, markup=False)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
