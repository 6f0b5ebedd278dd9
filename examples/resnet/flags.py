"""The command line: ``python -m examples.resnet.train --model vgg16 --wd 0.008 ...``."""

from collections.abc import Sequence

from examples.runs.errors import UserError
from examples.runs.flags import nearest, parse_dataclass

from .config import CONFIGS, Config, check


def parse(argv: Sequence[str], prog: str = "examples.resnet.train") -> Config:
    """Reads the flags, and the name of a configuration before them if there is one.

    Nothing at all means ``tiny``; flags alone change the defaults of ``Config``. Flags are written
    with ``_`` or ``-``, values after ``=`` or a space; a switch is ``--batch_norm`` or
    ``--batch_norm=False``.

    Raises:
      UserError: Unknown configuration, unknown flag (with the nearest one), unreadable value.

    Example:
      >>> config = parse(["--model", "vgg16", "--wd", "0.008", "--momentum", "0.0"])
      >>> config.model, config.wd, config.momentum, config.width
      ('vgg16', 0.008, 0.0, 64)
      >>> parse(["tiny", "--epochs=3"]).dataset
      'digits'
    """
    name, flags = ("tiny" if not argv else "cifar10"), list(argv)
    if argv and not argv[0].startswith("-"):
        name, flags = argv[0], flags[1:]
    if name not in CONFIGS:
        hint = nearest(name, CONFIGS)
        raise UserError(f"unknown configuration {name!r}{hint}; there are {', '.join(CONFIGS)}")
    config = parse_dataclass(Config, CONFIGS[name](), flags, f"python -m {prog}")
    check(config)
    return config
