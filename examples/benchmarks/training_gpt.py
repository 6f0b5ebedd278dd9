"""Tokens per second of ``train_gpt2_micro``: the example's own step beside PyTorch's.

The model is ``train_gpt2_micro``: 4 layers, 4 heads, 192 wide, context 256, 50304
tokens, float32. One call is one update on 8 sequences: forward, backward, clipping, AdamW. All
programs start from the same weights; torch's own initial embeddings, 50 times as large, would give
probabilities so small that they slow it down threefold. Our two programs differ in the number of
devices that the cores are shown as.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from examples.gpt import model, optim, step
from examples.gpt.configs import CONFIGS
from examples.gpt.data import GPT2_VOCABULARY
from examples.runs.mesh import Layout, make_mesh
from wdlab.rules import leaves_with_paths

from .side_by_side import Timing, in_turns

BATCH = 8
UNIT = "tokens/s"
CONFIG = dataclasses.replace(
    CONFIGS["train_gpt2_micro"](), batch_size=BATCH, gradient_accumulation_steps=1,
    weight_decay=0.1, decay_lr=False, ema_coef=0.0, log_interval=10**9,
)  # fmt: skip
WORK = BATCH * CONFIG.block_size  # Of one call, in tokens.


def measure(rounds: int) -> dict[str, Timing]:
    """Seconds per update, by program; those of torch only where it is installed."""
    tokens = np.random.default_rng(0).integers(0, 50_257, (1, BATCH, CONFIG.block_size + 1))
    programs = {"wdlab": ours(tokens, min(2, len(jax.devices())))}
    if len(jax.devices()) > 1:
        programs["wdlab, one device"] = ours(tokens, 1)
    return in_turns({**programs, **torch_programs(tokens)}, rounds)


def ours(tokens_AxBxM: np.ndarray, devices: int) -> Callable[[], object]:
    """Updates by the example's step."""
    layout = Layout(make_mesh(devices, 1))
    graph, params = model.create(CONFIG, GPT2_VOCABULARY, 0, layout)
    tx = optim.make_optimizer(CONFIG)
    carry = step.new_carry(params, tx, CONFIG, copies=layout.copies)
    train_step = step.make_train_step(graph, tx, CONFIG, layout.of(carry))
    tokens = layout.batch(tokens_AxBxM.astype(np.int32), np.arange(BATCH), BATCH, axis=1)

    def update():
        nonlocal carry
        with layout.active():
            carry, metrics = train_step(carry, tokens)
        return jax.block_until_ready((carry, metrics))

    return update


def torch_programs(tokens_AxBxM: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same update by PyTorch: as it is, with its fused AdamW, and that one compiled."""
    try:
        import torch  # pyrefly: ignore[missing-import]

        from tests.oracles import torch_gpt
    except ImportError:
        return {}
    tokens = torch.tensor(tokens_AxBxM[0]).long()
    _, params = model.create(CONFIG, GPT2_VOCABULARY, 0)

    def program(compiled: bool, fused: bool) -> Callable[[], object]:
        gpt = torch_gpt.GPT(CONFIG, GPT2_VOCABULARY)
        gpt.load(leaves_with_paths(params))
        groups = [
            {"params": weights, "weight_decay": decay}
            for weights, decay in zip(torch_gpt.split(CONFIG, gpt), (0.1, 0.0), strict=True)
        ]
        betas = (CONFIG.beta1, CONFIG.beta2)
        adamw = torch.optim.AdamW(groups, CONFIG.learning_rate, betas, fused=fused or None)
        forward = torch.compile(gpt) if compiled else gpt

        def update() -> float:
            adamw.zero_grad()
            loss = forward(tokens)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(gpt.parameters(), CONFIG.grad_clip)
            adamw.step()
            return loss.item()

        return update

    return {
        "torch": program(compiled=False, fused=False),
        "torch, fused AdamW": program(compiled=False, fused=True),
        "torch.compile, fused AdamW": program(compiled=True, fused=True),
    }
