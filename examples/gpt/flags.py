"""The command line: ``python -m examples.gpt.train CONFIG --flag value``."""

import dataclasses
from collections.abc import Sequence

from examples.runs import conventions
from examples.runs.errors import UserError
from examples.runs.flags import parse_configured

from .config import SUBSTRINGS, Config, check_warmup
from .configs import CONFIGS


def parse(argv: Sequence[str]) -> tuple[str, Config]:
    """Reads a configuration's name and the flags that change it: :func:`parse_configured`.

    Raises:
      UserError: As there.

    Example:
      >>> name, config = parse(["config/tiny.py", "--learning-rate=0.01", "--max_iters", "700"])
      >>> name, config.learning_rate, config.max_iters
      ('tiny', 0.01, 700)
    """
    name, config, given = parse_configured(CONFIGS, argv, "examples.gpt.train")
    if "wd_substrings_include" in given and "rules" not in given:
        config = dataclasses.replace(config, rules=SUBSTRINGS)
    if config.convention:
        for flag in ("opt_type", "coupling", "beta1", "beta2"):
            if flag in given:
                raise UserError(
                    f"--{flag} and --convention exclude each other: {config.convention} has its "
                    "own; its arguments go into --convention_args"
                )
        if not {"rules", "wd_substrings_include"} & given:
            config = dataclasses.replace(config, rules=conventions.OWN_RULES)
    if config.init_from == "resume" and not config.ckpt_path:  # nanoGPT's way to say --resume.
        config = dataclasses.replace(config, init_from="scratch", resume=True)
    if config.decay_lr and {"warmup_iters", "lr_decay_iters"} & given:
        check_warmup(config)
    return name, config
