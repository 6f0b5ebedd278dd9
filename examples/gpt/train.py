"""Trains the GPT: ``python -m examples.gpt.train CONFIG --flag value``, CONFIG first of all tiny.

The way of data: text -> windows (data.py) -> logits (model.py) -> gradient (step.py) -> clipping,
Adam, decay (optim.py) -> weights; beside it checkpoints, records, and what the user sees.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from examples.runs.command import command, leave
from examples.runs.run import carry_out

from . import start_from
from .flags import parse
from .trainer import Trainer


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    name, config = parse(sys.argv[1:] if argv is None else argv)

    def run_in(folder: Path) -> Trainer:
        trainer = Trainer(start_from.find(config, folder))
        if not (config.resume and start_from.has_checkpoints(folder)):
            trainer.restore_source()
        return trainer

    several = bool(config.wandb_run_name)
    name = config.wandb_run_name or name
    return carry_out(run_in, config, Trainer.program, name, several=several)


if __name__ == "__main__":
    leave(main())
