"""Weight decay given by another quantity: restarts, timescales, schedules of the strength."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.twins import variants as twins
from wdlab import schedules
from wdlab.schedules import strengths

REFUSED = {
    "batch": (
        lambda: strengths.normalized_weight_decay(0.1, batch_size=9, dataset_size=8, epochs=1),
        "dataset_size must be a whole number >= 9, got 8",
    ),
    "timescale": (
        lambda: strengths.weight_decay_from_timescale(0.0, learning_rate=0.1),
        r"timescale must be .*\(0, inf\), got 0",
    ),
    "hold": (
        lambda: strengths.weight_decay_from_timescale(9.0, learning_rate=0.1, hold="end"),
        "hold must be 'peak' or 'step'",
    ),
    "factor": (
        lambda: strengths.cosine_restarts(1.0, first_steps=5, factor=1.2),
        "factor must be a whole number >= 1, got 1.2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_arguments_are_refused(case):
    make, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def undriven(tx, steps):
    """What is left of 1 after ``steps`` steps without any gradient."""
    params = jnp.ones(())
    step = lambda carry, _: (left(tx, *carry), None)  # noqa: E731
    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0]


def left(tx, params, state):
    updates, state = tx.update(jnp.zeros(()), state, params)
    return optax.apply_updates(params, updates), state


def test_restarts_equal_a_walk_through_them(x64):
    for first, factor in ((7, 1), (3, 2), (2, 3)):
        lr = strengths.cosine_restarts(0.5, first_steps=first, factor=factor, end=0.1)
        decay = strengths.restarts_weight_decay(0.05, first_steps=first, factor=factor)
        values, lengths = zip(
            *(twins.sgdr(t, 0.5, 0.1, first, factor) for t in range(100)), strict=True
        )
        np.testing.assert_allclose(jax.vmap(lr)(jnp.arange(100)), values, rtol=1e-13)
        expected = 0.05 / np.sqrt(lengths)
        np.testing.assert_allclose(jax.vmap(decay)(jnp.arange(100)), expected, rtol=1e-13)
    late = 3 * (2**29 - 1)  # The start of the 30th restart, where a float32 log would be lost.
    assert float(strengths.cosine_restarts(1.0, first_steps=3, factor=2)(late)) == 1.0
    assert float(strengths.cosine_restarts(1.0, first_steps=3, factor=2)(late - 1)) < 1e-6
    jitted = jax.jit(strengths.cosine_restarts(1.0, first_steps=3, factor=2))
    assert float(jitted(jnp.int32(3))) == 1.0


def test_normalized_decay_of_a_restart_is_that_of_a_run_of_its_length():
    decay = strengths.restarts_weight_decay(0.05, first_steps=40, factor=2)
    for t, epochs in ((0, 4), (40, 8), (120, 16)):  # Ten batches an epoch.
        alone = strengths.normalized_weight_decay(
            0.05, batch_size=20, dataset_size=200, epochs=epochs
        )
        np.testing.assert_allclose(decay(t), alone, rtol=1e-6)


def test_timescale_is_the_shrink_of_adamw(x64):
    """After tau steps at a constant learning rate an undriven weight has shrunk to about 1/e."""
    decay = strengths.weight_decay_from_timescale(5.0, learning_rate=1e-2, steps_per_epoch=200)
    tx = wdlab.optimizers.adamw(1e-2, weight_decay=decay, coupling="lr", rules=1.0)
    got = undriven(tx, 1000)
    np.testing.assert_allclose(got, (1 - 1 / 1000) ** 1000, rtol=1e-12)
    back = strengths.timescale_of(decay, learning_rate=1e-2, steps_per_epoch=200)
    assert back == pytest.approx(5.0, rel=1e-15)


def test_timescale_held_at_every_step(x64):
    """The product lr_t lambda_t is 1/tau wherever the learning rate is not 0."""
    lr = wdlab.schedules.warmup_cosine(0.1, warmup_steps=5, decay_steps=20)
    held = strengths.weight_decay_from_timescale(50.0, learning_rate=lr, hold="step")
    products = [float(lr(t) * held(t)) for t in range(22)]
    np.testing.assert_allclose(products[1:20], 1 / 50, rtol=1e-12)
    assert products[0] == 0.0
    assert products[21] == 0.0
    constant = strengths.weight_decay_from_timescale(50.0, learning_rate=lr)
    assert constant == pytest.approx(0.2)


def test_own_schedules_of_the_strength_work_in_the_optimizers(x64):
    rising = strengths.cosine_between(0.04, 0.4, steps=10)
    tx = wdlab.optimizers.adamw(0.5, weight_decay=rising, coupling="lr", rules=1.0)
    got = undriven(tx, 12)
    t = np.minimum(np.arange(12), 10)
    values = 0.4 + (0.04 - 0.4) * (1 + np.cos(np.pi * t / 10)) / 2
    np.testing.assert_allclose(got, np.prod(1 - 0.5 * values), rtol=1e-12)


def test_where_the_rate_is_zero_nothing_decays():
    rate = schedules.warmup_linear(1e-3, warmup_steps=2, decay_steps=4)
    decay = strengths.weight_decay_from_timescale(50.0, learning_rate=rate, hold="step")
    np.testing.assert_allclose([decay(t) for t in (0, 1, 2, 4)], [0, 40, 20, 0], rtol=1e-6)


def test_a_decay_that_follows_the_rate_is_the_coupling_over_the_peak(x64):
    lr = wdlab.schedules.warmup_cosine(0.2, warmup_steps=3, decay_steps=9, end=0.02)
    tied = wdlab.schedules.decay_with_rate(0.5, lr)
    corrected = wdlab.schedules.multiplier_of("lr2_over_peak", lr)
    for t in range(12):
        np.testing.assert_allclose(tied(t) * lr(t), 0.5 * lr(t) ** 2 / 0.2, rtol=1e-12)
        np.testing.assert_allclose(corrected(t), lr(t) ** 2 / 0.2, rtol=1e-12)
    assert corrected.peak == 0.2
    assert wdlab.schedules.decay_with_rate(0.5, 0.1) == 0.5
    with pytest.raises(ValueError, match="peak"):
        wdlab.schedules.decay_with_rate(0.5, lambda count: 0.1)


def test_nanochats_decay_is_its_scripts_formula(x64):
    sizes = dict(batch_size=2**20, reference_batch_size=2**19, tokens=8e9, reference_tokens=2e9)
    decay = wdlab.schedules.nanochat_weight_decay(0.28, steps=50, **sizes)
    scaled = 0.28 * math.sqrt(2**20 / 2**19) * (2e9 / 8e9)
    for t in range(51):
        expected = scaled * 0.5 * (1 + math.cos(math.pi * t / 50))
        np.testing.assert_allclose(decay(t), expected, rtol=1e-12, atol=1e-16)
