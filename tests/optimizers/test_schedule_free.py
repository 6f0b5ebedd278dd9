"""Schedule-free training against its twin, which keeps all three sequences; evaluation; 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.oracles.trajectories import SHAPES, gradients, initial_params, learning_rates
from tests.twins.schedule_free import schedule_free as twin
from wdlab import conventions
from wdlab.optimizers import (
    adamw,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
)
from wdlab.rules import ALL, Rule
from wdlab.schedules import warmed_up

RATES = learning_rates()
CASES = {
    "adamw at y": (schedule_free_adamw, {"weight_decay": 0.3}, {"b2": 0.999}),
    "adamw at z": (
        *(schedule_free_adamw, {"weight_decay": 0.3, "decay_at": "z", "b1": 0.5, "r": 1.5}),
        {"b2": 0.999},
    ),
    "adamw at x": (
        schedule_free_adamw,
        {"weight_decay": 0.3, "decay_at": "x", "b2": 0.9, "weight_lr_power": 0.0},
        {},
    ),
    "sgd at y": (schedule_free_sgd, {"weight_decay": 0.01, "b1": 0.98, "r": 2.0}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin_in_float64(case, x64):
    make, arguments, more = CASES[case]
    rates = jnp.asarray(RATES)
    tx = make(lambda count: rates[count], coupling="lr", rules=ALL, **arguments)
    start = jax.tree.map(jnp.asarray, initial_params())
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *gradients())

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, schedule_free_eval_params(state, params))

    _, found = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), stacked))()
    for name in SHAPES:
        given = [tree[name] for tree in gradients()]
        expected = twin(initial_params()[name], given, RATES, **{**arguments, **more})
        for i in range(2):
            theirs = np.stack([pair[i] for pair in expected])
            size = np.abs(theirs).max(axis=tuple(range(1, theirs.ndim)), keepdims=True)
            assert (np.abs(np.asarray(found[i][name]) - theirs) / size).max() <= 1e-10


def run(tx, params, grads, steps):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_without_averaging_it_trains_the_optimizer_inside():
    params, grads = {"w": jnp.arange(4.0)}, {"w": jnp.ones(4)}
    inner = optax.chain(optax.sgd(0.1), wdlab.decay_weights(0.5, multiplier=0.1))
    ours, _ = run(schedule_free(inner, 0.1, b1=0.0, decay_at="z"), params, grads, 5)
    np.testing.assert_allclose(ours["w"], run(inner, params, grads, 5)[0]["w"], rtol=1e-6)


def test_x_is_the_mean_of_z_at_a_constant_rate():
    params, state = run(schedule_free_sgd(0.25), {"w": jnp.array(4.0)}, {"w": jnp.array(1.0)}, 4)
    z = [4 - 0.25 * k for k in range(1, 5)]
    x = schedule_free_eval_params(state, params)["w"]
    np.testing.assert_allclose(x, np.mean(z), rtol=1e-6)
    np.testing.assert_allclose(params["w"], 0.9 * np.mean(z) + 0.1 * z[-1], rtol=1e-6)


def test_evaluation_finds_every_part_and_leaves_the_rest():
    params = {"a": jnp.array(4.0), "b": jnp.array(4.0), "c": jnp.array(4.0), "n": jnp.array(3)}
    tx = optax.partition(
        {
            "sgd": schedule_free_sgd(0.5, b1=0.5),
            "adam": schedule_free_adamw(0.5),
            "other": adamw(1.0),
        },
        {"a": "sgd", "b": "adam", "c": "other", "n": "sgd"},
    )
    grads = {**dict.fromkeys("abc", jnp.array(1.0)), "n": np.zeros((), jax.dtypes.float0)}
    after, state = run(tx, params, grads, 3)
    x = schedule_free_eval_params(state, after)
    assert x["c"] == after["c"] != 4.0
    assert x["n"] == 3
    np.testing.assert_allclose(x["a"], 3.0, rtol=1e-6)  # The mean of 3.5, 3 and 2.5.
    np.testing.assert_allclose(x["b"], 3.0, rtol=1e-5)
    with pytest.raises(ValueError, match="no ScheduleFreeState"):
        schedule_free_eval_params(adamw(0.1).init(params["a"]), params["a"])


def test_gpa_is_evaluated_at_its_average():
    """With mu_x = 0 the average is z itself; y is between, so all three are one."""
    tx = conventions.build("gpa.GPAAdamW", 0.1, eval_interp_coeff=0.0)
    params, state = run(tx, {"w": jnp.array(4.0)}, {"w": jnp.array(1.0)}, 3)
    x = schedule_free_eval_params(state, params)["w"]
    np.testing.assert_allclose([x, params["w"]], state.z["w"], rtol=1e-6)
    np.testing.assert_allclose(x, 4 - 0.3, rtol=1e-6)


def test_in_bfloat16_the_average_goes_on_where_optax_s_stops():
    """256 + 1 is 256 there."""
    params, grads = {"w": jnp.zeros(1, jnp.bfloat16)}, {"w": jnp.zeros(1, jnp.bfloat16)}
    ours = schedule_free_sgd(1.0)
    theirs = optax.contrib.schedule_free_sgd(1.0)

    def sums(tx):
        step = lambda state, _: (tx.update(grads, state, params)[1], None)  # noqa: E731
        return float(jax.lax.scan(step, tx.init(params), None, length=300)[0].weight_sum)

    assert sums(theirs) == 256
    assert sums(ours) == 300


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_warm_up_of_optax_starts_at_zero_and_its_weights_a_step_later(name):
    given = {"w": jnp.arange(4.0)}, {"w": jnp.ones(4)}, 6
    arguments = {"warmup_steps": 4, "weight_decay": 0.5}
    theirs, _ = run(getattr(optax.contrib, f"schedule_free_{name}")(0.1, **arguments), *given)
    ours = conventions.build(f"optax.contrib.schedule_free_{name}", 0.1, **arguments)
    np.testing.assert_allclose(run(ours, *given)[0]["w"], theirs["w"], rtol=2e-5)
    reference = conventions.build("schedulefree.SGDScheduleFree", 0.1, **arguments)
    assert abs(run(reference, *given)[0]["w"] - theirs["w"]).max() > 0.01


def test_the_warm_up_is_that_of_the_reference():
    lr = warmed_up(0.5, 4)
    assert [float(lr(t)) for t in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert warmed_up(0.5, 0) == 0.5
    assert not hasattr(warmed_up(lambda count: 0.5, 2), "peak")
    plain, warm = schedule_free_sgd(lr), schedule_free_sgd(0.5, warmup_steps=4)
    given = {"w": jnp.array(4.0)}, {"w": jnp.array(1.0)}, 5
    assert run(plain, *given)[0] == run(warm, *given)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay_at": "x", "b1": 0.0}, "b1 must be a number in"),
        ({"decay_at": "w"}, "decay_at must be 'y', 'z' or 'x'"),
        ({"weight_decay": 0.1}, "coupling is missing"),
        ({"warmup_steps": -1}, "warmup_steps must be a whole number"),
        ({"r": -1.0}, "r must be"),
        ({"momentum": 0.9}, "no argument 'momentum'"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        schedule_free_sgd(0.1, **arguments)


def test_exempt_leaves_are_trained_and_do_not_decay():
    rules = (Rule("b", 0.0), Rule(".*"))
    tx = schedule_free_sgd(0.5, weight_decay=0.5, coupling="lr", rules=rules)
    params = {"w": jnp.array(4.0), "b": jnp.array(4.0)}
    after, _ = run(tx, params, jax.tree.map(jnp.zeros_like, params), 1)
    assert (float(after["w"]), float(after["b"])) == (3.0, 4.0)
