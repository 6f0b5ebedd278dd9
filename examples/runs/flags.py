"""Flags of a frozen dataclass, read by tyro; mistakes told in one line: names, types, ranges."""

import contextlib
import dataclasses
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import tyro

from wdlab._core.names import nearest as nearest_name

from .errors import UserError

_T = TypeVar("_T")


def parse_dataclass(kind: Callable[..., _T], default: _T, argv: Sequence[str], prog: str) -> _T:
    """Reads the flags of a dataclass with tyro, and turns its errors into one line."""
    known = [field.name for field in dataclasses.fields(default)]  # pyrefly: ignore
    args = [_normalize(arg, known) for arg in argv]
    if {"-h", "--help"} & set(args):
        return tyro.cli(kind, default=default, args=["--help"], prog=prog, use_underscores=True)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, default=default, args=args, prog=prog, use_underscores=True)
    except SystemExit:
        raise UserError(_one_line(errors.getvalue())) from None


class Range(NamedTuple):
    """Which values make sense, and how to say it."""

    accepts: Callable[[Any], bool]
    wanted: str


POSITIVE = Range(lambda value: 0 < value < math.inf, "positive and finite")
NOT_NEGATIVE = Range(lambda value: 0 <= value < math.inf, "at least 0 and finite")
BELOW_ONE = Range(lambda value: 0 <= value < 1, "in [0, 1)")


def require(config: Any, names: str, values: Range) -> None:
    """Refuses values out of range; None, for a default, is in it.

    Args:
      config: The flags as attributes.
      names: Which of them, with spaces between.
      values: What each must be.

    Raises:
      UserError: With the flag, what it must be, and what it is.

    Example:
      >>> import types
      >>> require(types.SimpleNamespace(lr=0.1, top_k=None), "lr top_k", POSITIVE)
    """
    for name in names.split():
        value = getattr(config, name)
        if value is not None and not values.accepts(value):
            raise UserError(f"--{name} must be {values.wanted}, got {value}")


def nearest(name: str, known: Sequence[str] | dict) -> str:
    """The hint that names the entry of ``known`` nearest to ``name``, if one is near."""
    close = nearest_name(name, known, cutoff=0.6)
    return f" (did you mean {close!r}?)" if close else ""


def flag_name(arg: str) -> str:
    """The field that an argument such as --max-iters=3 names."""
    return arg[2:].split("=")[0].replace("-", "_")


def _normalize(arg: str, known: Sequence[str]) -> str:
    """Writes a flag as tyro reads it, and refuses an unknown one."""
    if not arg.startswith("--") or arg == "--help":
        return arg
    name = flag_name(arg)
    value = arg.split("=", 1)[1] if "=" in arg else None
    if name not in known and name.removeprefix("no_") not in known:
        near = nearest_name(name, known, cutoff=0.6)
        hint = f": did you mean --{near}?" if near else "; --help lists them"
        raise UserError(f"unknown flag --{name}{hint}")
    if value in ("True", "true", "False", "false"):
        return f"--{name}" if value.lower() == "true" else f"--no_{name}"
    return f"--{name}" if value is None else f"--{name}={value}"


def _one_line(box: str) -> str:
    """The sentences of tyro's framed message."""
    lines = [re.sub(r"[│╭╮╰╯─]", " ", line).strip() for line in box.splitlines()]
    words = " ".join(line for line in lines[1:] if line)
    return words.split(" Argument helptext:")[0].split(" For full helptext")[0]
