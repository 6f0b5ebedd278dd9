"""The command line: ``python -m examples.gpt.train CONFIG --flag value``."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePosixPath

from examples.runs.errors import UserError
from examples.runs.flags import flag_name, nearest, parse_dataclass

from .config import SUBSTRINGS, Config, check, check_warmup
from .configs import CONFIGS


def parse(argv: Sequence[str]) -> tuple[str, Config]:
    """Reads a configuration's name and the flags that change it.

    Flags are written with ``_`` or ``-``, values after ``=`` or a space; a switch is ``--bias``,
    ``--no_bias`` or ``--bias=False``. ``config/NAME.py`` means ``NAME``.

    Raises:
      UserError: Unknown configuration, unknown flag (with the nearest one), unreadable value.

    Example:
      >>> name, config = parse(["config/tiny.py", "--learning-rate=0.01", "--max_iters", "700"])
      >>> name, config.learning_rate, config.max_iters
      ('tiny', 0.01, 700)
    """
    if not argv or argv[0] in ("-h", "--help"):
        parse_dataclass(Config, Config(), ["--help"], prog="python -m examples.gpt.train CONFIG")
    name = PurePosixPath(argv[0]).name.removesuffix(".py")
    if name not in CONFIGS:
        hint = nearest(name, CONFIGS)
        raise UserError(f"unknown configuration {argv[0]!r}{hint}; there are {', '.join(CONFIGS)}")
    flags = list(argv[1:])
    config = parse_dataclass(Config, CONFIGS[name](), flags, f"python -m examples.gpt.train {name}")
    given = {flag_name(a) for a in flags if a.startswith("--")}
    if "wd_substrings_include" in given and "rules" not in given:
        config = dataclasses.replace(config, rules=SUBSTRINGS)
    if config.init_from == "resume" and not config.ckpt_path:  # nanoGPT's way to say --resume.
        config = dataclasses.replace(config, init_from="scratch", resume=True)
    check(config)
    if config.decay_lr and {"warmup_iters", "lr_decay_iters"} & given:
        check_warmup(config)
    return name, config
