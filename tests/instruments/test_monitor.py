"""The monitor changes nothing, sees what float64 loops see, and costs next to nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.compilers import fuses_norms
from wdlab.instruments import monitor, readings
from wdlab.rules import Rule

RULES = (Rule("bias", 0.0), Rule("half", 0.5), Rule(".*"))
MOMENTUM = 0.9


def params():
    random = np.random.default_rng(0)
    sizes = {"kernel": (8, 4), "half": (5,), "bias": (4,)}
    return {name: jnp.asarray(random.standard_normal(s), "f4") for name, s in sizes.items()}


def expected(names, weights, updates, delta):
    """One group's numbers by plain loops in float64."""
    scales = {"kernel": 1.0, "half": 0.5, "bias": 0.0}
    square = moved = product = decayed = driven = wanted = 0.0
    for name in names:
        share = delta * scales[name]
        for w, u in zip(np.ravel(weights[name]), np.ravel(updates[name]), strict=True):
            w, u = float(w), float(u)
            square, moved, product = square + w * w, moved + u * u, product + w * u
            decayed += (share * w) ** 2
            if share:
                driven += (u + share * w) ** 2
                wanted += 2 * share * (1 - MOMENTUM) / (1 + MOMENTUM) * w * w
    length, after = square**0.5, (square + 2 * product + moved) ** 0.5
    rotation = np.arccos((square + product) / (length * after))
    balance = (driven / wanted) ** 0.5 if wanted else 0.0
    return length, rotation, (decayed / moved) ** 0.5, balance


GROUPS = {"decayed": ["kernel", "half"], "exempt": ["bias"]}


def test_readings_equal_plain_loops_at_every_third_step_and_updates_stay():
    shrink = optax.linear_schedule(0.1, 0.0, 20)
    inner = optax.chain(
        optax.sgd(0.1, momentum=MOMENTUM),
        wdlab.decay_weights(1.0, multiplier=shrink, rules=RULES),
    )
    tx = optax.chain(inner, monitor(shrink, every=3, rules=RULES, momentum=MOMENTUM))
    weights, update = params(), jax.jit(tx.update)
    state, plain = tx.init(weights), inner.init(weights)
    seen = {}
    for step in range(8):
        grads = jax.tree.map(lambda w, n=step: jnp.cos(w * (n + 1)), weights)
        updates, state = update(grads, state, weights)
        wanted, plain = inner.update(grads, plain, weights)
        for a, b in zip(*map(jax.tree.leaves, (updates, wanted)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        if step % 3 == 0:
            for group, names in GROUPS.items():
                numbers = expected(names, weights, updates, 0.1 * (1 - step / 20))
                fields = ("norm", "rotation", "decay_share", "balance")
                seen |= {f"{group}/{f}": x for f, x in zip(fields, numbers, strict=True)}
        found = readings(state)
        for name, value in seen.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        assert int(state[1].looked_at) == step - step % 3
        weights = optax.apply_updates(weights, updates)
    assert {x.dtype for x in found.values()} == {jnp.dtype("float32")}


def test_balance_goes_to_1_where_the_loss_does_not_know_the_norm():
    """Random gradients that are orthogonal to the weights, SGD without momentum."""
    tx = optax.chain(
        optax.sgd(0.1), wdlab.decay_weights(0.02, rules=1.0), monitor(0.02, every=1, rules=1.0)
    )
    weights = {"w": jnp.ones(64)}

    @jax.jit
    def run(weights, state):
        def step(carry, key):
            weights, state = carry
            w = weights["w"]
            g = jax.random.normal(key, w.shape)
            g = (g - w * (g @ w) / (w @ w)) / jnp.linalg.norm(w)
            updates, state = tx.update({"w": g}, state, weights)
            return (optax.apply_updates(weights, updates), state), readings(state)

        keys = jax.random.split(jax.random.key(0), 400)
        return jax.lax.scan(step, (weights, state), keys)[1]

    seen = run(weights, tx.init(weights))
    assert abs(float(seen["decayed/balance"][0]) - 1) > 0.3
    assert float(seen["decayed/balance"][-100:].mean()) == pytest.approx(1.0, rel=0.05)
    rotation = float(seen["decayed/rotation"][-100:].mean())
    assert rotation == pytest.approx((2 * 0.02) ** 0.5, rel=0.05)


@fuses_norms
def test_it_costs_less_than_a_hundredth_of_an_optimizer_step():
    """FLOPs and bytes as XLA counts them, of a look every hundredth step and of plain AdamW."""
    weights = {"w": jnp.zeros((256, 256))}

    def cost(tx):
        state = tx.init(weights)

        def step(g, s, p):
            updates, s = tx.update(g, s, p)
            return optax.apply_updates(p, updates), s

        found = jax.jit(step).lower(weights, state, weights).compile().cost_analysis()
        return np.asarray([found["flops"], found["bytes accessed"]])

    adamw = cost(optax.adamw(1e-3))
    look = cost(optax.chain(optax.identity(), monitor(0.1, every=100)))
    assert np.all(look > 0)
    # The step beside the look reads and writes weights and updates: it is in both.
    assert np.all((look - cost(optax.identity())) / 100 < 0.01 * adamw)


def test_groups_by_words_and_patterns_and_what_is_missing():
    found = readings(monitor(groups="kernel bias", rules=RULES).init(params()))
    assert {name.split("/")[0] for name in found} == {"kernel", "bias"}
    found = readings(monitor(groups={"all": ".*"}, rules=RULES).init(params()))
    assert {name.split("/")[0] for name in found} == {"all"}
    with pytest.raises(ValueError, match="the group 'mlp' has no leaf"):
        monitor(groups="mlp", rules=RULES).init(params())
    with pytest.raises(ValueError, match="found no monitor"):
        readings(optax.sgd(0.1).init(params()))
