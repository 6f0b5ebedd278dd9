"""Tables of the results page."""

from collections.abc import Sequence


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table in Markdown.

    >>> print(table(("a", "b"), [("|x|", "y")]))
    | a | b |
    |---|---|
    | \|x\| | y |
    """
    lines = [heading, *rows]
    cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([cells[0], "|" + "---|" * len(heading), *cells[1:]])
