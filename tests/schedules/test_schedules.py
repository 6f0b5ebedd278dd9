"""Schedules against the formulas, and the multiplier eta_t."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wdlab import schedules


def nanogpt_lr(t, peak, warmup, decay_steps, end):
    """Linear rise, half cosine to ``end``, then ``end``."""
    if t < warmup:
        return peak * t / warmup
    if t > decay_steps:
        return end
    share = (t - warmup) / (decay_steps - warmup)
    return end + 0.5 * (1 + math.cos(math.pi * share)) * (peak - end)


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_warmup_cosine_is_nanogpts(warmup, x64):
    lr = schedules.warmup_cosine(6e-4, warmup_steps=warmup, decay_steps=50, end=6e-5)
    got = [float(jax.jit(lr)(jnp.int32(t))) for t in range(60)]
    expected = [nanogpt_lr(t, 6e-4, warmup, 50, 6e-5) for t in range(60)]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-18)
    assert max(got) <= lr.peak * (1 + 1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.constant(0.3),
        lambda: schedules.cosine(0.3, decay_steps=20),
        lambda: schedules.warmup_cosine(0.3, warmup_steps=4, decay_steps=20, end=0.1),
        lambda: schedules.warmup_linear(0.3, warmup_steps=4, decay_steps=20),
        lambda: schedules.warmup_linear(0.3, warmup_steps=0, decay_steps=20),
        lambda: schedules.warmup_constant(0.3, warmup_steps=4),
        lambda: schedules.warmup_inverse_sqrt(0.3, warmup_steps=4),
    ],
)
def test_the_peak_is_reached_and_never_exceeded(make):
    lr = make()
    values = [float(lr(t)) for t in range(40)]
    assert lr.peak == 0.3
    np.testing.assert_allclose(max(values), 0.3, rtol=1e-6)
    eta = schedules.schedule_multiplier(lr)
    np.testing.assert_allclose(
        [float(eta(t)) for t in range(40)], np.array(values) / 0.3, rtol=1e-6
    )


def test_schedule_multiplier_needs_a_peak_unless_a_float_or_carried():
    plain = optax.linear_schedule(0.2, 0.0, 10)
    with pytest.raises(ValueError, match="with_peak"):
        schedules.schedule_multiplier(plain)
    assert schedules.schedule_multiplier(0.2) == 1.0
    assert schedules.schedule_multiplier(0.1, peak=0.2) == 0.5
    for eta in (
        schedules.schedule_multiplier(plain, peak=0.2),
        schedules.schedule_multiplier(schedules.with_peak(plain, 0.2)),
    ):
        np.testing.assert_allclose(float(eta(5)), 0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.constant(0.0),
        lambda: schedules.constant(float("nan")),
        lambda: schedules.cosine(-0.1, decay_steps=10),
        lambda: schedules.cosine(0.1, decay_steps=0),
        lambda: schedules.warmup_cosine(0.1, warmup_steps=10, decay_steps=10),
        lambda: schedules.warmup_cosine(0.1, warmup_steps=1.5, decay_steps=10),
        lambda: schedules.warmup_cosine(0.1, warmup_steps=1, decay_steps=10, end=0.2),
        lambda: schedules.warmup_linear(0.1, warmup_steps=-1, decay_steps=10),
        lambda: schedules.warmup_constant(0.1, warmup_steps=0),
        lambda: schedules.with_peak(lambda t: 0.1, peak=math.inf),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_adafactors_schedules_carry_their_peaks():
    assert schedules.relative_step().peak == 1e-2
    warmup = schedules.relative_step(warmup_slope=1e-6)
    top = max(float(warmup(count)) for count in (9_990, 9_998, 9_999, 10_000, 10_050))
    assert warmup.peak == pytest.approx(top, rel=1e-6)
    assert float(schedules.beta2_power(0.8, offset=100)(10)) == 0.0
    assert float(schedules.beta2_power(0.8, cap=0.999)(10**6)) == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda n: schedules.cosine(1.0, decay_steps=n), 1),
        (lambda n: schedules.warmup_cosine(1.0, warmup_steps=3, decay_steps=n), 4),
        (lambda n: schedules.warmup_linear(1.0, warmup_steps=3, decay_steps=n), 4),
        (lambda n: schedules.warmup_cosine(1.0, warmup_steps=n, decay_steps=9), 0),
        (lambda n: schedules.warmup_constant(1.0, warmup_steps=n), 1),
        (lambda n: schedules.warmup_inverse_sqrt(1.0, warmup_steps=n), 1),
    ],
)
def test_the_least_number_of_steps_is_taken_and_one_less_refused(make, least):
    assert make(least)(10_000) >= 0
    with pytest.raises(ValueError, match="steps must be a whole number"):
        make(least - 1)
