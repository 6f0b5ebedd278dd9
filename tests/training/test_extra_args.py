"""The loss reaches what asks for it, through every wrapper, as in a loop written by hand."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import wdlab
from wdlab.training import float32_masters, kahan, skip_nonfinite, stochastic_rounding

TXS = {
    "plateau": lambda: optax.chain(
        wdlab.optimizers.adamw(0.1, weight_decay=0.1, coupling="lr", rules=wdlab.rules.ALL),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=0.9),
    ),
    "lbfgs": lambda: optax.lbfgs(
        memory_size=2, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=3)
    ),
    "polyak": lambda: optax.polyak_sgd(0.5),
    "momo": lambda: optax.contrib.momo(0.1),
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=9),
        wdlab.decay_weights(0.01, rules=wdlab.rules.ALL),
    ),
}
WRAPPERS = {
    "skip_nonfinite": skip_nonfinite,
    "stochastic_rounding": stochastic_rounding,
    "kahan": kahan,
    "float32_masters": float32_masters,
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "its transformation": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "skip MultiSteps": lambda tx: skip_nonfinite(optax.MultiSteps(tx, 2)),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "partition": lambda tx: optax.partition({"all": tx}, {"a": "all", "b": "all"}),
}
CASES = [(name, "") for name in TXS] + [("plateau", wrapper) for wrapper in WRAPPERS]
CASES += [
    ("backtracking", wrapper) for wrapper in ("skip_nonfinite", "float32_masters", "MultiSteps")
]
X = jnp.linspace(1.0, 2.0, 4)


def loss_fn(params, x):
    return jnp.sum((params["a"] * x - 2.0) ** 2) + jnp.sum(params["b"] ** 4)


def make_params():
    return {"a": jnp.linspace(0.5, 1.0, 4), "b": jnp.ones(3)}


def by_hand(tx, steps=5):
    """The loop of Optax's documentation."""
    value_fn = lambda params: loss_fn(params, X)  # noqa: E731

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(value_fn)(params)
        more = {"value": value, "grad": grad, "value_fn": value_fn}
        updates, state = tx.update(grad, state, params, **more)
        return optax.apply_updates(params, updates), state

    params, state = make_params(), tx.init(make_params())
    for _ in range(steps):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize(("name", "wrapper"), CASES)
def test_train_step_equals_the_loop_by_hand(name, wrapper):
    tx = WRAPPERS.get(wrapper, lambda tx: tx)(TXS[name]())
    step = wdlab.make_train_step(lambda p, x: (loss_fn(p, x), x), tx, has_aux=True)
    params = make_params()
    state = wdlab.init_opt_state(tx, params)
    for _ in range(5):
        params, state, _ = step(params, state, X)
    wanted = by_hand(tx)
    assert float(jnp.abs(wanted["a"] - make_params()["a"]).max()) > 1e-3
    chex.assert_trees_all_close(params, wanted, rtol=1e-4)


def test_update_hands_on_what_it_is_given():
    tx = TXS["lbfgs"]()
    update, params = wdlab.make_update(tx), make_params()
    state = wdlab.init_opt_state(tx, params)
    for _ in range(5):
        value, grad = jax.value_and_grad(loss_fn)(params, X)
        more = {"value": value, "grad": grad, "value_fn": loss_fn, "x": X}
        params, state = update(params, state, grad, **more)
    assert update._cache_size() <= 2  # The state of Optax's line search begins with weak types.
    chex.assert_trees_all_close(params, by_hand(tx), rtol=1e-4)


@pytest.mark.parametrize("sam", [False, True])
def test_who_takes_none_is_given_none(sam):
    """``optax.contrib.sam`` has the type of those that take any, but takes ``grad_fn`` alone."""
    plain = optax.GradientTransformation(optax.sgd(0.1).init, lambda g, s, p=None: (g, s))
    tx = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)) if sam else plain
    state = wdlab.init_opt_state(tx, make_params())
    params, _, loss = wdlab.make_train_step(loss_fn, tx)(make_params(), state, X)
    assert float(loss) > 0
    assert not jnp.array_equal(params["a"], make_params()["a"])


def test_a_loss_that_is_not_finite_makes_no_step():
    tx = skip_nonfinite(optax.sgd(0.1))
    step = wdlab.make_train_step(lambda p, x: jnp.sum(p["a"]) + jax.lax.stop_gradient(x), tx)
    params, state, _ = step(make_params(), tx.init(make_params()), jnp.nan)
    chex.assert_trees_all_equal(params, make_params())
    assert int(wdlab.training.skipped_steps(state).skipped) == 1
