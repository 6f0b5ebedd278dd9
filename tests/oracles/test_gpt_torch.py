"""The GPT's training against the same equations in PyTorch: loss and gradient norm of 200 steps."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

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


def ours(config, params):
    """Losses and gradient norms by the example's own step and optimizer."""
    tx = optim.make_optimizer(config)
    train_step = step.make_train_step(model.make_graph(config, V), tx, config)
    train_step = jax.jit(train_step, compiler_options={"xla_backend_optimization_level": 0})
    carry = step.new_carry(params, tx, config)
    found = []
    for batch in BATCHES:
        carry, metrics = train_step(carry, batch)
        found.append((metrics["loss"], metrics["grad_norm"]))
    return np.array(jax.device_get(found))


@functools.cache
def theirs(config):
    """In float64 always: two runs in float32 may both be off, to opposite sides."""
    torch.set_num_threads(1)  # More of them wait for each other longer than they compute.
    gpt = torch_gpt.GPT(config, V).double()
    gpt.load(leaves_with_paths(initial_params(config)))
    return np.array(torch_gpt.train(config, gpt, BATCHES))


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_norm_follow_in_float64(case, x64):
    config = dataclasses.replace(BASE, **CASES[case])
    expected = theirs(config)
    assert expected[-20:, 0].mean() < expected[:20, 0].mean() - 0.5  # It learns,
    assert (expected[:, 1] > 1).any()  # and is clipped.
    double = dataclasses.replace(config, dtype="float64")
    found = ours(double, initial_params(double))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_follows_in_float32(case):
    config = dataclasses.replace(BASE, **CASES[case])
    found = ours(config, initial_params(config))[:, 0]
    np.testing.assert_allclose(found, theirs(config)[:, 0], rtol=0, atol=1e-5)
