"""Schedules are looked at before training: their values, their peaks, the shrink they lead to."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from wdlab import conventions, decay, groups, optimizers, schedules
from wdlab.groups import Group
from wdlab.rules import ALL, Rule
from wdlab.schedules import ScheduleWarning

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
# Where a schedule goes in: name of the argument in the message -> takes a schedule.
PLACES = {
    "adamw: learning_rate": lambda s: optimizers.adamw(s, weight_decay=0.1, coupling="lr"),
    "adamw: weight_decay": lambda s: optimizers.adamw(1e-3, weight_decay=s, coupling="lr"),
    "sgdw: learning_rate": lambda s: optimizers.sgdw(s),
    "lionw: learning_rate": lambda s: optimizers.lionw(s),
    "adafactor: learning_rate": lambda s: optimizers.adafactor(s),
    "adams: learning_rate": lambda s: optimizers.adams(s, weight_decay=0.1),
    "torch.AdamW: learning_rate": lambda s: conventions.build("torch.AdamW", s),
    "keras.SGD: weight_decay": lambda s: conventions.build("keras.SGD", 0.1, weight_decay=s),
    "weight_decay": wdlab.decay_weights,
    "multiplier": lambda s: wdlab.decay_weights(0.1, multiplier=s),
    "strength": wdlab.add_l2_gradient,
    "ema_rate": lambda s: decay.decay_toward_ema(0.1, ema_rate=s),
    "learning_rate of Group": lambda s: Group(".*", learning_rate=s),
    "learning_rate": lambda s: groups.scale_by_groups(s, (Group(".*"),)),
    "maximum": schedules.relative_step,
    "schedule": lambda s: schedules.with_peak(s, 1.0),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("schedule", "found"),
    [
        (lambda count: -1e-3, "-0.001 at step 0"),
        (lambda count: jnp.nan, "nan at step 0"),
        (lambda count: jnp.inf * (count + 1), "inf at step 0"),
        (lambda count: 0.1 - 0.2 * count, "-0.1 at step 1"),
        (lambda count: 0.1 / jnp.sqrt(count), "inf at step 0"),
        (optax.constant_schedule(-0.5), "-0.5 at step 0"),
    ],
    ids=["negative", "nan", "inf", "falling", "inverse_root", "optax"],
)
def test_values_that_are_wrong_from_the_start_are_refused_by_name(place, schedule, found):
    with pytest.raises(ValueError, match=f"{place}.* is {found}; a schedule must give a finite"):
        PLACES[place](schedule)


@hypothesis.given(st.integers(2, 10**6), st.sampled_from([-1.0, np.nan, np.inf, -np.inf]))
@hypothesis.settings(max_examples=20, deadline=None)
def test_values_that_are_wrong_later_are_warned_of(start, value):
    """As of a line that goes below 0: nobody knows how long the run is."""
    with pytest.warns(ScheduleWarning, match="adamw: learning_rate|learning_rate is"):
        optimizers.adamw(lambda count: jnp.where(count >= start, value, 1e-3))


@pytest.mark.filterwarnings("error")
def test_no_schedule_of_optax_or_of_ours_is_warned_of():
    for schedule in (
        optax.linear_schedule(1e-3, 0.0, 100),
        optax.cosine_decay_schedule(1e-3, 1000),
        optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 7_777),
        optax.exponential_decay(1e-3, 10, 0.9),
        optax.sgdr_schedule([{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 3,
                              "decay_steps": 9, "end_value": 0.0}]),
        schedules.warmup_cosine(1e-3, warmup_steps=10, decay_steps=777),
        schedules.warmup_inverse_sqrt(1e-3, warmup_steps=10),
        schedules.cosine_restarts(1e-3, first_steps=7, factor=2),
        schedules.relative_step(),
    ):  # fmt: skip
        optimizers.adamw(schedule, weight_decay=0.1, coupling="lr")


def unlucky(count):
    if isinstance(count, jax.core.Tracer):
        return 1e-3
    raise RuntimeError("no numbers here")


@pytest.mark.parametrize(
    "schedule",
    [
        unlucky,
        lambda count: jax.lax.fori_loop(0, count % 7, lambda i, x: x * 0.9, 1e-3),
        lambda count: jax.pure_callback(lambda c: np.float32(1e-3), jnp.float32(0), count),
        lambda count: jax.lax.cond(count < 5, lambda: 1e-3, lambda: 1e-4),
        schedules.Schedule(lambda count: np.float32(1e-3), 1e-3),
    ],
    ids=["numbers", "loop", "callback", "cond", "numpy"],
)
def test_no_schedule_that_jax_can_trace_is_refused(schedule):
    tx = optimizers.adamw(schedule, weight_decay=0.1, coupling="lr")
    jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)


def test_schedules_of_traced_numbers_are_taken_as_they_are():
    """In a sweep the rate is traced, and so is what its schedule closes over."""

    @jax.jit
    def step(rate):
        tx = optimizers.adamw(lambda count: rate / (count + 1), weight_decay=0.1, coupling="lr")
        peaked = schedules.Schedule(lambda count: rate / (count + 1), rate)
        optimizers.adamw(peaked, weight_decay=0.1, coupling="schedule").init(PARAMS)
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]

    assert jnp.isfinite(step(1e-3)["kernel"]).all()
    assert jnp.isfinite(jax.vmap(step)(jnp.array([1e-3, 1e-2]))["kernel"]).all()


def test_a_schedule_is_probed_once():
    calls = []
    schedule = lambda count: calls.append(1) or 1e-3  # noqa: E731
    for _ in range(3):
        optimizers.adamw(schedule, weight_decay=0.1, coupling="lr")
    assert len(calls) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.with_peak(lambda count: 1e-3, 1e-6),
        lambda: schedules.with_peak(optax.warmup_cosine_decay_schedule(0, 1e-3, 500, 900), 9e-4),
        lambda: optimizers.adamw(schedules.Schedule(lambda count: 1e-3, 1e-6)),
    ],
    ids=["constant", "warmup", "class"],
)
def test_a_peak_below_the_values_is_refused(make):
    with pytest.raises(ValueError, match="carries the peak"):
        make()


@pytest.mark.parametrize("rate", [1e-3, lambda count: 1e-3, optax.cosine_decay_schedule(1e-3, 9)])
def test_a_peak_argument_below_the_values_is_refused(rate):
    more = {"weight_decay": 1e-4, "coupling": "schedule", "peak_learning_rate": 1e-6}
    with pytest.raises(ValueError, match="eta_t = lr_t / peak would be 1000"):
        optimizers.adamw(rate, **more)
    # Composer divides by the rate that its optimizer was constructed with, the peak or not.
    conventions.build("composer.DecoupledAdamW", rate, weight_decay=1e-4, peak_learning_rate=1e-4)


SHRINKS = {
    "rule": lambda s: wdlab.decay_weights(0.1, multiplier=0.01, rules=(Rule(".*", s),)),
    "one_of_two": lambda s: wdlab.decay_weights(
        0.1, multiplier=0.01, rules=(Rule("bias", 0.5), Rule("kernel", s))
    ),
    "pytree": lambda s: wdlab.decay_weights(
        0.1, multiplier=0.01, rules={"kernel": s, "bias": 0.0}
    ),
    "adamw": lambda s: optimizers.adamw(
        0.01, weight_decay=0.1, coupling="lr", rules=(Rule(".*", s),)
    ),
    "schedules": lambda s: wdlab.decay_weights(
        lambda count: 0.1, multiplier=lambda count: 0.01, rules=(Rule(".*", s),)
    ),
    "group": lambda s: groups.grouped(
        optax.identity(), 0.01, (Group("kernel", decay_scale=s), Group(".*")),
        weight_decay=0.1, coupling="lr", rules=ALL,
    ),
    "group_rate": lambda s: groups.grouped(
        optax.identity(), 1e-4, (Group("bias"), Group("kernel", learning_rate=1e-3 * s)),
        weight_decay=1.0, coupling="lr", decay_follows="group", rules=ALL,
    ),
    "l2": lambda s: optimizers.sgd(
        0.01, weight_decay=0.1, coupling="l2", rules=(Rule(".*", s),)
    ),
    "torch.SGD": lambda s: conventions.build(
        "torch.SGD", 0.01, weight_decay=0.1, rules=(Rule(".*", s),)
    ),
    "huber": lambda s: decay.decay_huber(
        0.1, delta=1.0, multiplier=0.01, rules=(Rule(".*", s),)
    ),
    "corrected": lambda s: decay.decay_corrected(
        0.1, learning_rate=0.01, normalized=0.0, rules=(Rule(".*", s),)
    ),
    "toward_ema": lambda s: decay.decay_toward_ema(
        0.1, multiplier=0.01, ema_rate=0.9, rules=(Rule(".*", s),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHRINKS)
def test_a_shrink_above_1_through_scales_is_refused_at_init(name):
    SHRINKS[name](999.0).init(PARAMS)
    with pytest.raises(ValueError, match="more than 1 flips their sign"):
        SHRINKS[name](1001.0).init(PARAMS)


def test_l2_under_momentum_or_adam_has_no_such_limit():
    for make in (optimizers.adam, lambda *a, **k: optimizers.sgd(*a, momentum=0.9, **k)):
        make(1.0, weight_decay=2.0, coupling="l2").init(PARAMS)


@pytest.mark.parametrize("bad", [jnp.nan, -1e-3, jnp.inf])
@pytest.mark.parametrize("argument", ["weight_decay", "multiplier"])
def test_a_forecast_refuses_values_anywhere_in_the_run(bad, argument):
    arguments = {"weight_decay": 0.1, "multiplier": 1e-3}
    arguments[argument] = lambda count: jnp.where(count == 77, bad, 1e-3)
    with pytest.raises(ValueError, match=f"{argument} is .* at step 77"):
        wdlab.decay_profile(arguments["weight_decay"], multiplier=arguments["multiplier"],
                            total_steps=100)  # fmt: skip
