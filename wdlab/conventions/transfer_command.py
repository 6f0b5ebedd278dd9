"""``wdlab transfer``: a run's numbers in another run, under every published rule."""

import argparse
from typing import Any

from wdlab._core.checks import read_whole
from wdlab.conventions.run_transfer import transfer

_SIZES = {
    "batch_size": "tokens or examples in a step",
    "steps": "updates in the whole run",
    "tokens": "tokens or examples in the whole run",
    "dataset_size": "tokens or examples in an epoch; without it there is a single pass",
    "parameters": "of the model",
    "width": "of the model",
    "depth": "layers",
}


def add_transfer(commands: argparse._SubParsersAction) -> None:
    """Adds the command to a parser.

    >>> parser = argparse.ArgumentParser()
    >>> add_transfer(parser.add_subparsers())
    >>> line = "transfer --learning-rate 1e-3 --weight-decay 0.1 --width 64 --to width=128"
    >>> parser.parse_args(line.split()).to
    ['width=128']
    """
    command = commands.add_parser(
        "transfer", help="learning rate and decay of another run, under every published rule"
    )
    command.set_defaults(run=_run_transfer)
    command.add_argument("--learning-rate", type=float, required=True, help="at its peak, > 0")
    command.add_argument("--weight-decay", type=float, required=True, help="lambda, > 0")
    command.add_argument("--coupling", default="lr", help="what multiplies the decay; default lr")
    command.add_argument("--optimizer", default="adamw", help="adamw (default), muon or muon_rms")
    for name, text in _SIZES.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=read_whole, help=text)
    command.add_argument(
        "--to",
        nargs="+",
        required=True,
        metavar="NAME=VALUE",
        help="what changes: batch_size=1024 width=1536",
    )


def _run_transfer(arguments: argparse.Namespace) -> int:
    names = ("learning_rate", "weight_decay", "coupling", "optimizer", *_SIZES)
    run = {name: getattr(arguments, name) for name in names}
    to: dict[str, Any] = {}
    for text in arguments.to:
        name, _, value = text.partition("=")
        name = name.replace("-", "_")
        if name in to:
            raise ValueError(f"--to gives {name} twice: write it once.")
        try:
            to[name] = read_whole(value) if name in _SIZES else value
            if name in ("learning_rate", "weight_decay"):
                to[name] = float(value)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise ValueError(f"--to {text}: write NAME=VALUE, batch_size=1024 ({error}).") from None
    print(transfer({name: value for name, value in run.items() if value is not None}, to=to))
    return 0
