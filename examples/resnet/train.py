"""Trains an image model: ``python -m examples.resnet.train``, or with flags (see ``config.py``).

The way of data: images on the device -> batch (augment.py) -> logits (model.py) -> gradient, SGD
with L2 (step.py, optim.py) -> weights; after every epoch the sphere, the evaluation, the records.
"""

import sys
from collections.abc import Sequence

from examples.runs.command import command, leave
from examples.runs.run import carry_out

from .config import Config
from .flags import parse
from .trainer import Probe, Trainer


def run(config: Config, probe: Probe | None = None) -> int:
    """Runs or resumes one training; the exit code."""
    program = "flow" if probe else "resnet"
    return carry_out(lambda _: Trainer(config, probe), config, program, config.exp_name)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    return run(parse(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    leave(main())
