"""Flags of a frozen dataclass, read by tyro; a mistake in a name, type or range is one line."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import tyro

from wdlab._core.names import nearest as nearest_name

from .errors import UserError
from .settings import Settings

_T = TypeVar("_T")
_S = TypeVar("_S", bound=Settings)


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


def parse_configured(
    configs: Mapping[str, Callable[[], _S]], argv: Sequence[str], prog: str, default: str = ""
) -> tuple[str, _S, set[str]]:
    """Reads the name of a configuration and the flags that change it.

    Flags are written with ``_`` or ``-``, values after ``=`` or a space; a switch is ``--bias``,
    ``--no_bias`` or ``--bias=False``. ``config/NAME.py`` means ``NAME``.

    Args:
      configs: The configurations; the first line of each docstring is shown by ``--help``.
      argv: What was written.
      prog: The command.
      default: The configuration where no name is written; empty: there must be one.

    Returns:
      The name, the settings, and which of them were written.

    Raises:
      UserError: Unknown configuration, unknown flag (with the nearest one), unreadable value, or
        one that is out of range.
    """
    named = bool(argv) and not argv[0].startswith("-")
    written, flags = (argv[0], argv[1:]) if named else (default, argv)
    name = PurePosixPath(written).name.removesuffix(".py")
    if {"-h", "--help"} & set(argv) or not (written or argv):
        name, flags = name if name in configs else next(iter(configs)), ["--help"]
        lines = [
            f"  {key:26} {(make.__doc__ or '').splitlines()[0]}" for key, make in configs.items()
        ]
        print("\n".join(["configurations:", *lines, "", f"settings of {name}:"]))
    if name not in configs:
        hint = nearest(name, configs)
        wrong = repr(written or argv[0])
        raise UserError(f"unknown configuration {wrong}{hint}; there are {', '.join(configs)}")
    config = configs[name]()
    config = parse_dataclass(type(config), config, flags, f"python -m {prog} {written or 'CONFIG'}")
    config.check()
    return name, config, {flag_name(flag) for flag in flags if flag.startswith("--")}


def nearest(name: str, known: Iterable[str]) -> str:
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
