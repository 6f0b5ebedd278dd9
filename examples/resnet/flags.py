"""The command line: ``python -m examples.resnet.train --model vgg16 --wd 0.008 ...``."""

from collections.abc import Sequence

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
    return parse_configured(CONFIGS, argv, prog, "cifar10" if argv else "tiny")[1]
