"""Tokens per second of a GPT of characters, where no large head hides the body.

4 layers, 4 heads, 128 wide, context 64, 84 symbols, float32; one call is ten updates on 12
sequences, which the example makes with one call as well. Otherwise as in ``training_gpt``.
"""

import dataclasses

from . import training_gpt
from .side_by_side import Timing

UNIT = training_gpt.UNIT
CONFIG = dataclasses.replace(training_gpt.CONFIG, n_embd=128, block_size=64, batch_size=12)
UPDATES = 10
WORK = UPDATES * CONFIG.tokens_per_step  # Of one call, in tokens.


def measure(rounds: int) -> dict[str, Timing]:
    """Seconds per call, by program; those of torch only where it is installed."""
    return training_gpt.measure(rounds, CONFIG, vocabulary=84, updates=UPDATES)
