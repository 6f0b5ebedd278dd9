"""Names in messages: the one that was meant, the first few of many, and an error's own line."""

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: object, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """Returns the known name most like ``name``, in any case; None if all are less like it.

    Args:
      name: What the user wrote.
      known: The names there are.
      cutoff: Least likeness, in [0, 1]; 0 always finds one.

    >>> nearest("torch.adamw", ["torch.Adam", "torch.AdamW"]), nearest("z", ["adam"], 0.6)
    ('torch.AdamW', None)
    """
    lowered = {key.lower(): key for key in known}
    found = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=cutoff)
    return lowered[found[0]] if found else None


def printable(name: str) -> str:
    r"""A name for messages and tables: line breaks and control characters escaped.

    >>> printable("dense\n/kernel")
    'dense\\n/kernel'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def matching(text: str, known: Iterable[str]) -> list[str]:
    """Returns the known name that ``text`` is, in any case, or else all that it is a part of.

    >>> names = ["torch.Adam", "torch.AdamW"]
    >>> matching("TORCH.ADAM", names), matching("adam", names), matching("lion", names)
    (['torch.Adam'], ['torch.Adam', 'torch.AdamW'], [])
    """
    found = [name for name in known if text.lower() in name.lower()]
    return [name for name in found if text.lower() == name.lower()] or found


def first_few(items: Sequence[str], most: int = 5) -> str:
    """Joins the first few, each :func:`printable`, and counts the others.

    >>> first_few("abcdefg"), first_few(["a"])
    ('a, b, c, d, e and 2 more', 'a')
    """
    more = len(items) - most
    return ", ".join(map(printable, items[:most])) + (f" and {more} more" if more > 0 else "")


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its text, at most 200 characters of it.

    >>> first_line(ValueError("no such leaf"))
    'ValueError: no such leaf'
    """
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
