"""Tokens per second of ``train_gpt2_micro``: the example's own step beside PyTorch's.

The model is EXPERIMENTS' smallest on OpenWebText: 4 layers, 4 heads, 192 wide, context 256, 50304
tokens, float32. One call is one update on 4 sequences: forward, backward, clipping, AdamW.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

import wdlab
from examples.gpt import model, optim, step
from examples.gpt.configs import CONFIGS
from examples.gpt.data import GPT2_VOCABULARY

from .side_by_side import Timing, in_turns

BATCH = 4
UNIT = "tokens/s"
CONFIG = dataclasses.replace(
    CONFIGS["train_gpt2_micro"](), batch_size=BATCH, gradient_accumulation_steps=1,
    weight_decay=0.1, ema_coef=0.0,
)  # fmt: skip
WORK = BATCH * CONFIG.block_size  # Of one call, in tokens.


def measure(rounds: int) -> dict[str, Timing]:
    """Seconds per update, by program; those of torch only where it is installed."""
    tokens = np.random.default_rng(0).integers(0, 50_257, (1, BATCH, CONFIG.block_size + 1))
    return in_turns({"wdlab": ours(tokens), **torch_programs(tokens)}, rounds)


def ours(tokens_AxBxM: np.ndarray) -> Callable[[], object]:
    """Updates by the example's step."""
    graph, params = model.create(CONFIG, GPT2_VOCABULARY, seed=0)
    tx = optim.make_optimizer(CONFIG)
    train_step = step.make_train_step(graph, tx, CONFIG)
    carry = step.Carry(params, wdlab.init_opt_state(tx, params), None, None)
    tokens, key = tokens_AxBxM.astype(np.int32), jax.random.key(0)

    def update():
        nonlocal carry
        carry, metrics = train_step(carry, tokens, key, 0, False)
        return jax.block_until_ready((carry, metrics))

    return update


def torch_programs(tokens_AxBxM: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same update by PyTorch, as it is and compiled."""
    try:
        import torch  # pyrefly: ignore[missing-import]

        from tests.oracles import torch_gpt
    except ImportError:
        return {}
    tokens = torch.tensor(tokens_AxBxM).long()

    def program(compiled: bool) -> Callable[[], object]:
        gpt = torch_gpt.GPT(CONFIG, GPT2_VOCABULARY)
        optimizer = torch_gpt.make_optimizer(CONFIG, gpt)
        forward = torch.compile(gpt) if compiled else gpt
        return lambda: torch_gpt.step(CONFIG, forward, optimizer, tokens, 0)

    return {"torch": program(compiled=False), "torch.compile": program(compiled=True)}
