"""Tokens per second of ``train_gpt2_micro``: the example's own step beside PyTorch's.

The model is ``train_gpt2_micro``: 4 layers, 4 heads, 192 wide, context 256, 50304
tokens, float32. One call is one update on 8 sequences: forward, backward, clipping, AdamW. All
programs start from the same weights; torch's own initial embeddings, 50 times as large, would give
probabilities so small that they slow it down threefold. Our two programs differ in the number of
devices that the cores are shown as. ``training_characters`` has a model without the large head.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from examples.gpt import model, optim, step
from examples.gpt.config import Config
from examples.gpt.configs import CONFIGS
from examples.gpt.data import GPT2_VOCABULARY
from examples.runs.layout import Layout
from examples.runs.mesh import make_mesh
from wdlab.rules import leaves_with_paths

from .side_by_side import Timing, in_turns

UNIT = "tokens/s"
CONFIG = dataclasses.replace(
    CONFIGS["train_gpt2_micro"](), batch_size=8, gradient_accumulation_steps=1,
    weight_decay=0.1, decay_lr=False, ema_coef=0.0, log_interval=10**9,
)  # fmt: skip
WORK = CONFIG.tokens_per_step  # Of one call, in tokens.


def tokens_of(config: Config, vocabulary: int, updates: int) -> np.ndarray:
    """Random tokens for some updates."""
    shape = (updates, 1, config.batch_size, config.block_size + 1)
    return np.random.default_rng(0).integers(0, min(vocabulary, 50_257), shape)


def measure(
    rounds: int, config: Config = CONFIG, vocabulary: int = GPT2_VOCABULARY, updates: int = 1
) -> dict[str, Timing]:
    """Seconds per call of some updates, by program; of torch only where it is installed."""
    tokens = tokens_of(config, vocabulary, updates)
    programs = {"wdlab": ours(config, vocabulary, tokens, min(2, len(jax.devices())))}
    if len(jax.devices()) > 1:
        programs["wdlab, one device"] = ours(config, vocabulary, tokens, 1)
    theirs = torch_programs(config, vocabulary, tokens, "cpu")
    return in_turns({**programs, **theirs}, rounds)


def ours(
    config: Config, vocabulary: int, tokens_SxAxBxM: np.ndarray, devices: int
) -> Callable[[], object]:
    """Updates by the example's loop of steps."""
    layout, batch = Layout(make_mesh(devices, 1)), config.batch_size
    graph, params = model.create(config, vocabulary, 0, layout)
    tx = optim.make_optimizer(config)
    carry = layout.settle(step.new_carry(params, tx, config, copies=layout.copies))
    where = layout.of(carry)
    train_steps = step.make_train_steps(
        step.make_train_step(graph, tx, config, where), config, where
    )
    tokens = layout.batch(tokens_SxAxBxM.astype(np.int32), np.arange(batch), batch, axis=2)
    goes_on = layout.copy(np.bool_(True))

    def update():
        nonlocal carry
        with layout.active():
            carry, metrics = train_steps(carry, tokens, len(tokens_SxAxBxM), goes_on)
        return jax.block_until_ready((carry, metrics))

    return update


def torch_programs(
    config: Config, vocabulary: int, tokens_SxAxBxM: np.ndarray, device: str
) -> dict[str, Callable[[], object]]:
    """The same updates by PyTorch: as it is, with its fused AdamW, and that one compiled.

    Under autocast where the computation's type is bfloat16.
    """
    try:
        import torch  # pyrefly: ignore[missing-import]

        from tests.oracles import torch_gpt
    except ImportError:
        return {}
    tokens_SxBxM = torch.tensor(tokens_SxAxBxM[:, 0], device=device).long()
    half = torch.autocast(device, torch.bfloat16, enabled=config.dtype == "bfloat16")
    _, params = model.create(config, vocabulary, 0)

    def program(compiled: bool, fused: bool) -> Callable[[], object]:
        gpt = torch_gpt.GPT(config, vocabulary)
        gpt.load(leaves_with_paths(params))
        gpt.to(device)
        groups = [
            {"params": weights, "weight_decay": decay}
            for weights, decay in zip(torch_gpt.split(config, gpt), (0.1, 0.0), strict=True)
        ]
        betas = (config.beta1, config.beta2)
        adamw = torch.optim.AdamW(groups, config.learning_rate, betas, fused=fused or None)
        forward = torch.compile(gpt) if compiled else gpt

        def update() -> list[float]:
            found = []
            for tokens in tokens_SxBxM:
                adamw.zero_grad()
                with half:
                    loss = forward(tokens)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(gpt.parameters(), config.grad_clip)
                adamw.step()
                found.append(loss.item())
            return found

        return update

    return {
        "torch": program(compiled=False, fused=False),
        "torch, fused AdamW": program(compiled=False, fused=True),
        "torch.compile, fused AdamW": program(compiled=True, fused=True),
    }
