"""Flags of a frozen dataclass, read by tyro; mistakes told in one line with the nearest name."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

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


def nearest(name: str, known: Sequence[str] | dict) -> str:
    """The hint that names the entry of ``known`` nearest to ``name``, if one is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


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
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": did you mean --{near[0]}?" if near else "; --help lists them"
        raise UserError(f"unknown flag --{name}{hint}")
    if value in ("True", "true", "False", "false"):
        return f"--{name}" if value.lower() == "true" else f"--no_{name}"
    return f"--{name}" if value is None else f"--{name}={value}"


def _one_line(box: str) -> str:
    """The sentences of tyro's framed message."""
    lines = [re.sub(r"[│╭╮╰╯─]", " ", line).strip() for line in box.splitlines()]
    words = " ".join(line for line in lines[1:] if line)
    return words.split(" Argument helptext:")[0].split(" For full helptext")[0]
