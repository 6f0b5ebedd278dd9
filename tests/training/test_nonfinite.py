"""A gradient or loss that is not finite makes no step, moves no counter, stops nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from wdlab.training import (
    NonfiniteError,
    check_skipped_steps,
    skip_nonfinite,
    skipped_steps,
)

LR = wdlab.schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=20)
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: wdlab.optimizers.adamw(LR, weight_decay=0.1, coupling="schedule"),
    "clipped": lambda: optax.chain(
        wdlab.clip_by_global_norm(1.0), wdlab.optimizers.adamw(LR, weight_decay=0.1, coupling="lr")
    ),
    "lionw": lambda: wdlab.optimizers.lionw(LR, weight_decay=0.1, coupling="lr"),
    "adafactor": lambda: wdlab.optimizers.adafactor(0.1, weight_decay=0.1, coupling="lr"),
    "accumulated": lambda: optax.MultiSteps(
        wdlab.optimizers.adamw(0.1, weight_decay=0.1, coupling="lr"), 2
    ).gradient_transformation(),
    "rounded": lambda: wdlab.training.stochastic_rounding(
        wdlab.optimizers.adamw(0.1, weight_decay=0.1, coupling="lr")
    ),
}


def make_params(dtype=jnp.float32):
    return {"w": jnp.linspace(-1, 1, 12, dtype=dtype).reshape(3, 4), "b": jnp.ones(4, dtype)}


def gradients(step, bad=None, dtype=jnp.float32):
    rng = np.random.default_rng(step)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), dtype), make_params())
    return grads if bad is None else grads | {"b": grads["b"].at[2].set(bad)}


def run(tx, steps):
    """``steps``: (number that seeds the gradient, bad entry or None)."""
    update, params = wdlab.make_update(tx), make_params()
    state = wdlab.init_opt_state(tx, params)
    for seed, bad in steps:
        params, state = update(params, state, gradients(seed, bad))
    return params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bad_steps_leave_no_trace_but_the_count(name):
    """Once and k times in a row, NaN and both infinities: the run equals one without those steps.

    In "accumulated" they fall inside MultiSteps' window and at its end.
    """
    tx = skip_nonfinite(OPTIMIZERS[name]())
    steps = [(0, None), (1, jnp.nan), (2, None), (3, None), (4, jnp.inf), (5, -jnp.inf)]
    steps += [(6, jnp.nan), (7, None)]
    params, state = run(tx, steps)
    wanted, wanted_state = run(tx, [step for step in steps if step[1] is None])
    chex.assert_trees_all_equal(params, wanted)
    chex.assert_trees_all_equal(state.inner, wanted_state.inner)
    assert [int(count) for count in skipped_steps(state)] == [4, 0]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_good_steps_equal_those_of_the_optimizer_alone(name):
    steps = [(seed, None) for seed in range(4)]
    params, state = run(skip_nonfinite(OPTIMIZERS[name]()), steps)
    alone, alone_state = run(OPTIMIZERS[name](), steps)
    chex.assert_trees_all_close(params, alone, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_close(state.inner, alone_state, rtol=1e-6, atol=1e-7)


def test_forever_keeps_the_weights_where_apply_if_finite_loses_them():
    steps = [(0, None), *((seed, jnp.nan) for seed in range(1, 6))]
    params, state = run(skip_nonfinite(OPTIMIZERS["adamw"]()), steps)
    chex.assert_trees_all_equal(params, run(skip_nonfinite(OPTIMIZERS["adamw"]()), steps[:1])[0])
    assert check_skipped_steps(state, most_in_a_row=5) == (5, 5)
    with pytest.raises(NonfiniteError, match=r"last 5 steps .* \(5 since the start, at most 4 in"):
        check_skipped_steps(state, most_in_a_row=4)
    lost, _ = run(optax.apply_if_finite(OPTIMIZERS["adamw"](), 4), steps)
    assert bool(jnp.isnan(lost["b"]).any())


@pytest.mark.parametrize("name", ["value", "loss"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_loss_that_is_not_finite_skips_too(name, bad):
    tx, params = skip_nonfinite(optax.sgd(0.1)), make_params()
    update = jax.jit(tx.update)
    updates, state = update(gradients(0), tx.init(params), params, **{name: jnp.float32(bad)})
    assert not any(bool(leaf.any()) for leaf in jax.tree.leaves(updates))
    updates, state = update(gradients(0), state, params, **{name: jnp.float32(1.0)})
    assert bool(updates["w"].any())
    assert [int(count) for count in skipped_steps(state)] == [1, 0]


def test_extra_arguments_reach_the_optimizer():
    tx = skip_nonfinite(optax.contrib.reduce_on_plateau(patience=1))
    state = tx.init(make_params())
    _, state = tx.update(gradients(0), state, make_params(), value=3.0)
    assert float(state.inner.best_value) == 3.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_largest_number_is_finite_and_its_dtype_stays(dtype):
    tx, params = skip_nonfinite(optax.sgd(0.0)), make_params(dtype)
    update = jax.jit(tx.update)
    grads = jax.tree.map(lambda p: jnp.full_like(p, jnp.finfo(dtype).max), params)
    updates, state = update(grads, tx.init(params), params)
    assert updates["w"].dtype == dtype
    assert int(skipped_steps(state).skipped) == 0
    bad = grads | {"w": grads["w"].at[0, 0].set(jnp.inf)}
    assert int(skipped_steps(update(bad, state, params)[1]).skipped) == 1


def test_a_state_without_counters_says_what_to_write():
    with pytest.raises(ValueError, match=r"wdlab.skip_nonfinite\(tx\)"):
        skipped_steps(optax.adam(0.1).init(make_params()))


def test_counts_of_several_wrappers_are_the_worst_of_them():
    tx = optax.partition(
        {"a": skip_nonfinite(optax.sgd(0.1)), "b": skip_nonfinite(optax.adam(0.1))},
        {"w": "a", "b": "b"},
    )
    _, state = tx.update(gradients(0, jnp.nan), tx.init(make_params()), make_params())
    assert [int(count) for count in jax.jit(skipped_steps)(state)] == [1, 1]


def test_it_maps_and_nests():
    """Under vmap each member skips its own steps; inside MultiSteps and masked it works as well."""
    tx = skip_nonfinite(OPTIMIZERS["adamw"]())
    params = jax.tree.map(lambda p: jnp.stack([p, p]), make_params())
    grads = jax.tree.map(lambda g, b: jnp.stack([g, b]), gradients(0), gradients(0, jnp.nan))
    updates, state = jax.jit(jax.vmap(tx.update))(grads, jax.vmap(tx.init)(params), params)
    assert state.skipped.tolist() == [0, 1]
    assert bool(jnp.isfinite(updates["b"]).all())
    nested = optax.MultiSteps(optax.masked(tx, {"w": True, "b": False}), 2)
    jax.eval_shape(nested.update, gradients(0), nested.init(make_params()), make_params())


def in_multi_steps(tx, **arguments):
    return optax.MultiSteps(optax.chain(optax.clip(1.0), skip_nonfinite(tx)), 2, **arguments)


@pytest.mark.parametrize("nested", [lambda tx: tx, lambda tx: optax.masked(tx, True)])
def test_inside_multi_steps_it_is_refused(nested):
    """The mean stays NaN: the last lines show the fault."""
    wrong = in_multi_steps(nested(optax.sgd(0.1)))
    state = wrong.init(make_params())
    for start in (
        lambda: wdlab.init_opt_state(wrong, make_params()),
        lambda: wdlab.make_update(wrong)(make_params(), state, gradients(0)),
        lambda: wdlab.make_train_step(lambda p: p["b"].sum(), wrong)(make_params(), state),
    ):
        with pytest.raises(ValueError, match=r"skip_nonfinite\(optax.MultiSteps\(tx, k\)\)"):
            start()
    for seed in range(6):
        updates, state = wrong.update(gradients(seed, None if seed else jnp.nan), state)
    assert bool(jnp.isnan(state.acc_grads["b"]).any())
    assert not any(bool(leaf.any()) for leaf in jax.tree.leaves(updates))
    with pytest.raises(NonfiniteError, match="opt_state/acc_grads/b holds a NaN.* the whole"):
        check_skipped_steps(state, most_in_a_row=100)


def test_multi_steps_that_leaves_out_bad_micro_batches_may_hold_it():
    tx = in_multi_steps(optax.sgd(0.1), should_skip_update_fn=optax.skip_not_finite)
    bad = [(0, jnp.nan), (1, None), (2, jnp.inf), (3, None)]
    params, state = run(tx, bad)
    chex.assert_trees_all_equal(params, run(tx, [(1, None), (3, None)])[0])
    assert check_skipped_steps(state, most_in_a_row=0) == (0, 0)


@pytest.mark.parametrize("average", [lambda: optax.trace(0.9), lambda: optax.apply_every(2)])
def test_averages_before_it_are_named(average):
    params, state = run(optax.chain(average(), skip_nonfinite(optax.sgd(0.1))), [(0, jnp.nan)])
    with pytest.raises(NonfiniteError, match="opt_state/0/.* holds a NaN"):
        check_skipped_steps(state, most_in_a_row=100)
