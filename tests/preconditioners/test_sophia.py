"""Sophia's curvature: by sampled gradients beside the twin, by Hutchinson where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.twins import second_order as twins
from wdlab import conventions
from wdlab.preconditioners import scale_by_sophia

H = {"betas": (0.9, 0.95), "rho": 0.04, "weight_decay": 0.1, "maximize": False, "bs": 40}
RATE, STEPS, INTERVAL = 0.01, 40, 5


def test_sampled_gradients_equal_the_twin(x64):
    """The original's order: every INTERVAL steps, after the step, ``update_hessian``."""
    rng = np.random.default_rng(0)
    p = rng.normal(size=(5, 3))
    ours, own = {"w": jnp.asarray(p)}, {}
    tx = conventions.build("sophia.SophiaG", RATE, **H)
    update, state = jax.jit(tx.update), tx.init(ours)
    for t in range(STEPS):
        g, sampled = rng.normal(size=(2, 5, 3)) * 0.3
        more = {}
        if t % INTERVAL == INTERVAL - 1:
            own["sampled"], more = sampled, {"sampled_gradient": {"w": jnp.asarray(sampled)}}
        p = twins.sophia_g(p, g, own, t + 1, RATE, H)
        updates, state = update({"w": jnp.asarray(g)}, state, ours, **more)
        ours = optax.apply_updates(ours, updates)
        np.testing.assert_allclose(ours["w"], p, rtol=0, atol=1e-13)
    ratio = np.abs(own["m"]) / (H["rho"] * H["bs"] * own["h"])
    assert 0.1 < np.mean(ratio < 1) < 1.0  # Some entries are clipped, some are not.


CURVATURE = jnp.array([1.0, 4.0, 0.25])


def loss(params):
    """Its Hessian is diagonal: Hutchinson's estimate is exact."""
    return 0.5 * jnp.sum(CURVATURE * params["w"] ** 2)


@pytest.mark.parametrize("by", ["value_fn", "hvp", "sampled_gradient"])
def test_functions_are_called_when_it_is_time(by):
    estimator = "gauss_newton_bartlett" if by == "sampled_gradient" else "hutchinson"
    tx = scale_by_sophia(b2=0.5, estimator=estimator, every=2)
    params, calls = {"w": jnp.ones(3)}, []

    def product(params, v):
        jax.debug.callback(lambda _: calls.append(1), v["w"])
        return {"w": CURVATURE * v["w"]}

    def sampled(params, key):
        jax.debug.callback(lambda _: calls.append(1), params["w"])
        return {"w": jnp.sqrt(CURVATURE) * jax.random.rademacher(key, (3,), jnp.float32)}

    given = {"value_fn": loss, "hvp": product, "sampled_gradient": sampled}[by]
    update = jax.jit(lambda grads, state: tx.update(grads, state, params, **{by: given}))
    state, curvatures = tx.init(params), []
    for _ in range(3):
        _, state = update(params, state)
        curvatures.append(np.asarray(state.nu["w"] / CURVATURE))
    jax.effects_barrier()
    np.testing.assert_allclose(curvatures, np.outer([0.5, 0.5, 0.75], np.ones(3)), rtol=1e-6)
    assert by == "value_fn" or len(calls) == 2
    with pytest.raises(ValueError, match="needs the current params"):
        tx.update(params, state, **{by: given})


def test_it_trains_in_a_train_step_and_newton_steps_are_reached():
    """Once the curvature is known, a direction that is not clipped is m / (gamma h)."""
    sophia = scale_by_sophia(
        b1=0.0, b2=0.0, gamma=1.0, eps=0.0, estimator="hutchinson", every=1, epsilon="floor"
    )
    tx = optax.chain(sophia, optax.scale(-1.0))
    step = wdlab.make_train_step(loss, tx)
    params, state = {"w": jnp.array([0.5, -0.5, 0.5])}, None
    state = tx.init(params)
    params, state, _ = step(params, state)  # No curvature yet: steps of 1.
    np.testing.assert_allclose(params["w"], [-0.5, 0.5, -0.5])
    params, state, _ = step(params, state)
    np.testing.assert_allclose(params["w"], 0.0, atol=1e-7)


def test_the_hutchinson_of_optax_is_what_its_convention_uses():
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.full(3, 0.1)}
    ours, theirs = (
        make(0.1, weight_decay=0.2)
        for make in (
            lambda *a, **k: conventions.build("optax.contrib.sophia", *a, **k),
            optax.contrib.sophia,
        )
    )
    states = [ours.init(params), theirs.init(params)]
    for _ in range(2):
        (mine, states[0]), (other, states[1]) = (
            tx.update(grads, state, params, obj_fn=loss)
            for tx, state in zip((ours, theirs), states, strict=True)
        )
        np.testing.assert_allclose(mine["w"], other["w"], rtol=1e-6)
    with pytest.raises(ValueError, match="obj_fn must be provided"):
        ours.update(grads, states[0], params)
