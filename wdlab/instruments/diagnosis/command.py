"""``wdlab doctor``: the report on an optimizer that a function of the user's makes."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wdlab._core.checks import read_whole
from wdlab._core.user_code import load, placed
from wdlab.instruments.diagnosis.visit import doctor


def add_doctor(commands: argparse._SubParsersAction) -> None:
    """Adds the command to a parser.

    >>> parser = argparse.ArgumentParser()
    >>> add_doctor(parser.add_subparsers())
    >>> parser.parse_args("doctor train:make_optimizer --steps 1000".split()).steps
    1000
    """
    command = commands.add_parser(
        "doctor", help="what decays in a run, how strongly, and what is wrong with it"
    )
    command.set_defaults(run=_run_doctor)
    command.add_argument(
        "function",
        metavar="MODULE:FUNCTION",
        help="gives (optimizer, params), or a dict of wdlab.doctor's arguments",
    )
    command.add_argument("--steps", type=read_whole, help="updates in the whole run")
    command.add_argument("--tokens-per-step", type=read_whole, help="for timescales in tokens")
    command.add_argument("--html", metavar="FILE", type=Path, help="write the report as a page")


def _run_doctor(arguments: argparse.Namespace) -> int:
    """Prints the report; 1 if it has an error or a warning, so that scripts can stop."""
    given = _given(arguments.function)
    for name in ("steps", "tokens_per_step"):
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    if "steps" not in given:
        raise ValueError("say how long the run is: --steps N, or steps= from the function")
    report = doctor(given.pop("tx"), given.pop("params"), **given)
    report.print()
    if arguments.html is not None:
        arguments.html.write_text(report.html(), encoding="utf-8")
        sys.stdout.write(f"page: {arguments.html}\n")
    return int(any(f.severity != "note" for f in report.findings))


def _given(name: str) -> dict[str, Any]:
    """The arguments of the doctor that ``MODULE:FUNCTION`` gives."""
    function = load(name, name)
    with placed(name):
        made = function()
    if isinstance(made, Mapping) and {"tx", "params"} <= made.keys():
        return dict(made)
    if isinstance(made, tuple) and len(made) == 2 and not hasattr(made, "update"):
        return {"tx": made[0], "params": made[1]}
    raise ValueError(
        f"{name} must give (optimizer, params) or a dict with tx, params and more arguments of "
        f"wdlab.doctor, got {type(made).__name__}."
    )
