"""The ``wdlab`` command."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from wdlab import conventions
from wdlab.conventions import REQUIRED, Convention, compare, recipes
from wdlab.instruments import decay_profile
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
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (TypeError, ValueError) as error:
        print(f"wdlab: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wdlab", description="Weight decay for JAX.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    profile = commands.add_parser(
        "profile", help="what a weight decay amounts to over a run: half-life, timescale, verdict"
    )
    profile.set_defaults(run=_profile)
    profile.add_argument("--weight-decay", type=float, required=True, help="lambda, >= 0")
    profile.add_argument("--learning-rate", type=float, required=True, help="at its peak, >= 0")
    profile.add_argument("--steps", type=int, required=True, help="updates in the whole run")
    profile.add_argument(
        "--coupling", choices=COUPLINGS, required=True, help="what multiplies the weight decay"
    )
    profile.add_argument("--schedule", choices=("constant", "cosine", "linear"), default="constant")
    profile.add_argument("--warmup-steps", type=int, default=0)
    profile.add_argument("--end-learning-rate", type=float, default=0.0)
    _add_conventions(commands)
    add_sweep(commands)
    return parser


def _add_conventions(commands: argparse._SubParsersAction) -> None:
    number = commands.add_parser("convert", help="a weight decay in another system's convention")
    number.set_defaults(run=_convert)
    number.add_argument("weight_decay", type=float, help="the source's number, >= 0")
    number.add_argument("--learning-rate", type=float, required=True, help="at its peak, > 0")
    number.add_argument("--from", dest="source", required=True, metavar="CONVENTION")
    number.add_argument("--to", dest="target", required=True, metavar="CONVENTION")
    table = commands.add_parser("conventions", help="what every system means, as a table, or one")
    table.set_defaults(run=_conventions)
    table.add_argument("name", nargs="?", metavar="CONVENTION")
    published = commands.add_parser("recipes", help="published recipes, in their own convention")
    published.set_defaults(run=_recipes)
    published.add_argument("name", nargs="?", metavar="NAME")
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
    if arguments.name is not None:
        print(_described(conventions.get(arguments.name)))
        return 0
    rows = [conventions.get(name) for name in conventions.names()]
    headings = ("convention", "version", "decay times", "order", "epsilon", "default decay")
    cells = [
        (c.name, c.version, c.coupling, c.order, c.epsilon.split(":")[0], _default_decay(c))
        for c in rows
    ]
    _print_table(headings, cells)
    return 0


def _described(convention: Convention) -> str:
    """One convention in lines of text."""
    defaults = ", ".join(f"{name}={value!r}" for name, value in convention.defaults.items())
    exclusions = ", ".join(f"{rule.pattern} x {rule.scale:g}" for rule in convention.rules)
    lines = [
        f"{convention.name} ({convention.version})",
        f"step             {convention.equation}",
        f"decay times      {convention.coupling}",
        f"order            {convention.order}",
        f"epsilon          {convention.epsilon}",
        f"bias correction  {convention.bias_correction}",
        f"learning rate    {convention.learning_rate}",
        f"defaults         {defaults}",
        f"rules            {exclusions}",
        f"source           {convention.source}",
        *(f"trap             {trap}" for trap in convention.traps),
    ]
    return "\n".join(lines)


def _default_decay(convention: Convention) -> str:
    if convention.decay_argument is None:
        return "none"
    value = convention.defaults[convention.decay_argument]
    number = "required" if value is REQUIRED else "0" if value is None else f"{value:g}"
    return f"{convention.decay_argument}={number}"


def _recipes(arguments: argparse.Namespace) -> int:
    if arguments.name is not None:
        print(_recipe_text(recipes.get(arguments.name), arguments.target))
        return 0
    if arguments.target is not None:
        conventions.get(arguments.target)
    headings = ["recipe", "convention", "learning rate", "weight decay"]
    headings += [f"in {arguments.target}"] if arguments.target else []
    cells = []
    for recipe in (recipes.get(name) for name in recipes.names()):
        row = [recipe.name, recipe.convention, recipe.learning_rate, recipe.weight_decay]
        texts = ["not stated" if value is None else str(value) for value in row]
        cells.append(
            (*texts, *([_number_in(recipe, arguments.target)] if arguments.target else []))
        )
    _print_table(headings, cells)
    return 0


def _number_in(recipe: recipes.Recipe, target: str) -> str:
    try:
        return f"{recipe.weight_decay_in(target):.6g}"
    except ValueError:
        return "-"


def _recipe_text(recipe: recipes.Recipe, target: str | None) -> str:
    """One recipe in lines of text."""

    def stated(value: object) -> str:
        return "not stated" if value is None else str(value)

    rows = {
        "convention": stated(recipe.convention),
        "assumed": recipe.assumed,
        "learning rate": f"{stated(recipe.learning_rate)}; {recipe.schedule}",
        **{name: stated(value) for name, value in recipe.hyperparameters.items()},
        "weight decay": stated(recipe.weight_decay),
        "clip norm": stated(recipe.clip_norm),
        "source": recipe.source,
        "notes": recipe.notes,
    }
    if target is not None:
        rows[f"in {target}"] = f"{recipe.weight_decay_in(target):.12g}"
    width = max(len(label) for label in rows)
    body = [f"{label:{width}}  {text}" for label, text in rows.items() if text]
    return "\n".join([recipe.name, *body])


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=160)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
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
    multiplier = multiplier_of(arguments.coupling, _learning_rate(arguments))
    print(decay_profile(arguments.weight_decay, multiplier, arguments.steps))
    return 0


def _learning_rate(arguments: argparse.Namespace) -> ScalarOrSchedule:
    peak, warmup = arguments.learning_rate, arguments.warmup_steps
    if arguments.schedule == "constant":
        return warmup_constant(peak, warmup_steps=warmup) if warmup else peak
    shape = warmup_cosine if arguments.schedule == "cosine" else warmup_linear
    end = arguments.end_learning_rate
    return shape(peak, warmup_steps=warmup, decay_steps=arguments.steps, end=end)


if __name__ == "__main__":
    sys.exit(main())
