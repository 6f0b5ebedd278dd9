"""The GPT's training against the same equations in PyTorch: the loss of every one of 200 steps."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import wdlab  # noqa: E402
from examples.gpt import model, optim, step
from examples.gpt.config import Config
from tests.oracles import torch_gpt
from wdlab.rules import leaves_with_paths  # noqa: E402

pytestmark = pytest.mark.oracle

V, STEPS = 61, 200
BASE = Config(
    n_layer=2, n_head=4, n_embd=32, block_size=16, batch_size=4, ema_coef=0.0,
    gradient_accumulation_steps=2, max_iters=STEPS - 20, warmup_iters=20, learning_rate=3e-3,
)  # fmt: skip
CASES = {
    "adam, decay": {"weight_decay": 0.3, "bias": True},
    "adam, l2_reg": {"l2_reg": 1e-2, "wd_substrings_include": "wte wpe mlp attn lm_head ln"},
    "gdm, decay": {
        "opt_type": "gdm", "learning_rate": 0.1, "weight_decay": 1e-2, "dampening": 0.5,
    },
}  # fmt: skip
# A chain of words, each following from the one before or not: something to learn in 200 steps.
_RNG = np.random.default_rng(0)
_WORDS = _RNG.permutation(V)
_START = _RNG.integers(0, V, (STEPS, 2, 4, 1))
_JUMPS = np.where(_RNG.random((STEPS, 2, 4, 17)) < 0.2, _RNG.integers(0, V, (STEPS, 2, 4, 17)), 1)
BATCHES = _WORDS[(_START + np.cumsum(_JUMPS, -1)) % V].astype(np.int32)


def initial_params(config):
    """Away from the initial values, so that biases count; float32 numbers in the model's dtype."""
    rng, dtype = np.random.default_rng(1), np.promote_types(config.dtype, np.float32)

    def draw(leaf):
        return (0.1 * rng.normal(size=leaf.shape) + (leaf.ndim == 1)).astype("f4").astype(dtype)

    return jax.tree.map(draw, model.shapes(config, V))


def our_losses(config, params):
    """By the example's own step and optimizer."""
    tx = optim.make_optimizer(config)
    train_step = step.make_train_step(model.make_graph(config, V), tx, config)
    train_step = jax.jit(train_step, compiler_options={"xla_backend_optimization_level": 0})
    carry = step.Carry(params, wdlab.init_opt_state(tx, params), None, None)
    losses = []
    for t, batch in enumerate(BATCHES):
        carry, metrics = train_step(carry, batch, jax.random.key(0), t, False)
        losses.append(metrics["loss"])
    return np.array(jax.device_get(losses))


@functools.cache
def their_losses(config):
    """In float64 always: two runs in float32 may both be off, to opposite sides."""
    torch.set_num_threads(1)  # More of them wait for each other longer than they compute.
    gpt = torch_gpt.GPT(config, V).double()
    gpt.load(leaves_with_paths(initial_params(config)))
    return np.array(torch_gpt.train(config, gpt, BATCHES))


@pytest.mark.parametrize("case", CASES)
def test_the_loss_follows_in_float64(case, x64):
    config = dataclasses.replace(BASE, **CASES[case])
    expected = their_losses(config)
    assert expected[-20:].mean() < expected[:20].mean() - 0.5  # It learns.
    double = dataclasses.replace(config, dtype="float64")
    found = our_losses(double, initial_params(double))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_follows_in_float32(case):
    config = dataclasses.replace(BASE, **CASES[case])
    found = our_losses(config, initial_params(config))
    np.testing.assert_allclose(found, their_losses(config), rtol=0, atol=1e-5)
