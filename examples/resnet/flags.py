"""The command line: ``python -m examples.resnet.train --model vgg16 --wd 0.008 ...``."""

import dataclasses
from collections.abc import Sequence

from examples.runs import conventions
from examples.runs.errors import UserError
from examples.runs.flags import parse_configured

from .config import CONFIGS, Config


def parse(argv: Sequence[str], prog: str = "examples.resnet.train") -> Config:
    """Reads the flags, and the name of a configuration before them if there is one.

    Nothing at all means ``tiny``; flags alone change ``cifar10``, the paper's settings.

    Raises:
      UserError: As :func:`parse_configured` does.

    Example:
      >>> config = parse(["--model", "vgg16", "--wd", "0.008", "--momentum", "0.0"])
      >>> config.model, config.wd, config.momentum, config.width
      ('vgg16', 0.008, 0.0, 64)
      >>> parse(["tiny", "--epochs=3"]).dataset
      'digits'
    """
    _, config, given = parse_configured(CONFIGS, argv, prog, "cifar10" if argv else "tiny")
    for flag in sorted({"momentum", "opt_type", "coupling"} & given if config.convention else ()):
        raise UserError(
            f"--{flag} and --convention exclude each other: {config.convention} has its own; "
            "its arguments go into --convention_args"
        )
    if "momentum" in given and config.opt_type != "sgd":
        raise UserError(f"--momentum is of --opt_type sgd; leave it out with {config.opt_type}")
    if config.convention and "rules" not in given:
        config = dataclasses.replace(config, rules=conventions.OWN_RULES)
    return config
