"""The ``wdlab`` command."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from wdlab import conventions
from wdlab._core.checks import check_number, check_whole, read_whole
from wdlab._core.names import matching
from wdlab.conventions import add_transfer, compare, recipes
from wdlab.instruments import add_doctor, decay_profile
from wdlab.schedules import (
    COUPLINGS,
    ScalarOrSchedule,
    multiplier_of,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
)
from wdlab.sweep import add_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; a user's mistake gives one line and exit status 2.

    >>> main("profile --weight-decay 0.1 --learning-rate 6e-4 --steps 50000 --coupling lr".split())
    shrink per step at peak   6e-05
    ...
    verdict                   acts within the run
    0
    >>> main("convert 0.1 --learning-rate 6e-4 --from torch.AdamW --to tfa.AdamW".split())
    6e-05
    ...
    0
    """
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args([_as_written_here(word) for word in words])
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("wdlab: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # Whoever read the output has enough, as head has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TypeError, ValueError, OSError, MemoryError) as error:
        print(f"wdlab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return status


def _as_written_here(word: str) -> str:
    """A flag with hyphens: the example programs' have underscores, and both are understood.

    >>> _as_written_here("--weight_decay=0.1"), _as_written_here("a_name")
    ('--weight-decay=0.1', 'a_name')
    """
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


class _Parser(argparse.ArgumentParser):
    """Without abbreviations, and with errors of one line."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wdlab", description="Weight decay for JAX.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    profile = commands.add_parser(
        "profile", help="what a weight decay amounts to over a run: half-life, timescale, verdict"
    )
    profile.set_defaults(run=_profile)
    profile.add_argument("--weight-decay", type=float, required=True, help="lambda, >= 0")
    profile.add_argument("--learning-rate", type=float, required=True, help="at its peak, >= 0")
    profile.add_argument("--steps", type=read_whole, required=True, help="updates in the whole run")
    profile.add_argument(
        "--coupling", choices=COUPLINGS, required=True, help="what multiplies the weight decay"
    )
    profile.add_argument("--schedule", choices=("constant", "cosine", "linear"), default="constant")
    profile.add_argument("--warmup-steps", type=read_whole, default=0)
    profile.add_argument("--end-learning-rate", type=float, default=0.0)
    _add_conventions(commands)
    add_doctor(commands)
    add_transfer(commands)
    add_sweep(commands)
    return parser


def _version() -> str:
    try:
        return f"wdlab {importlib.metadata.version('wdlab')}"
    except importlib.metadata.PackageNotFoundError:
        return "wdlab, not installed"


def _add_conventions(commands: argparse._SubParsersAction) -> None:
    number = commands.add_parser("convert", help="a weight decay in another system's convention")
    number.set_defaults(run=_convert)
    number.add_argument("weight_decay", type=float, help="the source's number, >= 0")
    number.add_argument("--learning-rate", type=float, required=True, help="at its peak, > 0")
    number.add_argument("--from", dest="source", required=True, metavar="CONVENTION")
    number.add_argument("--to", dest="target", required=True, metavar="CONVENTION")
    table = commands.add_parser("conventions", help="what every system means, as a table, or one")
    table.set_defaults(run=_conventions)
    table.add_argument("name", nargs="?", default="", help="a convention, or a part of its name")
    published = commands.add_parser("recipes", help="published recipes, in their own convention")
    published.set_defaults(run=_recipes)
    published.add_argument("name", nargs="*", help="a recipe, or a part of its name")
    published.add_argument("--to", dest="target", metavar="CONVENTION")


def _convert(arguments: argparse.Namespace) -> int:
    result = compare(
        arguments.weight_decay,
        learning_rate=arguments.learning_rate,
        source=arguments.source,
        target=arguments.target,
    )
    print(result)
    return 0


def _conventions(arguments: argparse.Namespace) -> int:
    names = matching(arguments.name, conventions.names()) or [arguments.name]
    found = [conventions.get(name) for name in names]
    if len(found) == 1:
        print(found[0])
        return 0
    headings = ("convention", "version", "decay times", "order", "epsilon", "default decay")
    cells = [
        (c.name, c.version, c.coupling, c.order, c.epsilon.split(":")[0], c.default_decay)
        for c in found
    ]
    _print_table(headings, cells)
    return 0


def _recipes(arguments: argparse.Namespace) -> int:
    text = " ".join(arguments.name)
    names = matching(text, recipes.names()) or [text]
    found, target = [recipes.get(name) for name in names], arguments.target
    if target is not None:
        conventions.get(target)
    if len(found) == 1:
        [recipe] = found
        number = "" if target is None else f"\nin {target}  {recipe.weight_decay_in(target):.12g}"
        print(f"{recipe}{number}")
        return 0
    headings = ["recipe", "convention", "learning rate", "weight decay"]
    cells = [
        [r.name, *map(recipes.stated, (r.convention, r.learning_rate, r.weight_decay))]
        for r in found
    ]
    if target is not None:
        headings.append(f"in {target}")
        cells = [[*row, _number_in(r, target)] for row, r in zip(cells, found, strict=True)]
    _print_table(headings, cells)
    return 0


def _number_in(recipe: recipes.Recipe, target: str) -> str:
    try:
        return f"{recipe.weight_decay_in(target):.6g}"
    except ValueError:
        return "-"


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=160)
    table = Table(box=None, pad_edge=False)
    name, *others = headings
    table.add_column(name, min_width=max(len(row[0]) for row in rows))  # Names stay whole.
    for heading in others:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False, highlight=False)


def _profile(arguments: argparse.Namespace) -> int:
    if arguments.coupling == "l2":
        raise ValueError(
            "--coupling l2 adds the decay to the gradient: how much a weight shrinks depends on "
            f"the gradients. The others tell: {', '.join(COUPLINGS[:-1])}."
        )
    _check_profile(arguments)
    multiplier = multiplier_of(arguments.coupling, _learning_rate(arguments))
    print(decay_profile(arguments.weight_decay, multiplier, arguments.steps))
    return 0


def _check_profile(arguments: argparse.Namespace) -> None:
    """The numbers by their flags' names."""
    is_constant = arguments.schedule == "constant"
    warmup, end = arguments.warmup_steps, arguments.end_learning_rate
    peak = arguments.learning_rate
    check_number("--weight-decay", arguments.weight_decay)
    check_number("--learning-rate", peak, low_open=not is_constant or warmup > 0)
    check_whole("--warmup-steps", warmup, least=0)
    check_whole("--steps", arguments.steps, least=1 if is_constant else warmup + 1)
    if is_constant and end:
        raise ValueError(
            f"--end-learning-rate {end:g}: a constant schedule has no end. Add --schedule cosine "
            "or linear."
        )
    check_number("--end-learning-rate", end, high=peak)


def _learning_rate(arguments: argparse.Namespace) -> ScalarOrSchedule:
    peak, warmup = arguments.learning_rate, arguments.warmup_steps
    if arguments.schedule == "constant":
        return warmup_constant(peak, warmup_steps=warmup) if warmup else peak
    shape = warmup_cosine if arguments.schedule == "cosine" else warmup_linear
    end = arguments.end_learning_rate
    return shape(peak, warmup_steps=warmup, decay_steps=arguments.steps, end=end)


if __name__ == "__main__":
    sys.exit(main())
