"""One contract for every transformation, optimizer, convention and wrapper of the package."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests import contract
from tests.contract import ALL_LEAVES, DECAY, MEMBERS, expected, gradients, weights

pytestmark = pytest.mark.filterwarnings("ignore::wdlab.rules.RuleWarning")
every_member = pytest.mark.parametrize("name", MEMBERS)
INSIDE = ("kernel", "scale")
STEPS = 3


def scanned(tx, given, at):
    """The updates of given gradients at given weights, in one compiled scan."""
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731

    @jax.jit
    def run(state):
        step = lambda state, both: tx.update(both[0], state, both[1])[::-1]  # noqa: E731
        return jax.lax.scan(step, state, (stack(given), stack(at)))[1]

    together = run(tx.init(at[0]))
    return [jax.tree.map(lambda leaf, t=t: leaf[t], together) for t in range(len(given))]


def with_idle_steps(tx, idle):
    """Between any two steps one with other gradients, in which nothing moves."""
    given = [grads for t in range(STEPS) for grads in (gradients(t), idle(gradients(t)))]
    updates = scanned(tx, given, [weights(t) for t in range(STEPS) for _ in range(2)])
    for still in updates[1::2]:
        assert not any(leaf.any() for leaf in jax.tree.leaves(still))
    return updates[::2]


def in_scan(make):
    return scanned(
        make(DECAY), *zip(*((gradients(t), weights(t)) for t in range(STEPS)), strict=True)
    )


def in_cond(make):
    tx = optax.with_extra_args_support(make(DECAY))

    def update(grads, state, params):
        idle = (jax.tree.map(jnp.zeros_like, grads), state)
        step = lambda: tx.update(grads, state, params)  # noqa: E731
        return jax.lax.cond(jnp.any(grads["layer"]["bias"] != 0), step, lambda: idle)

    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return with_idle_steps(optax.GradientTransformation(tx.init, update), zeros)


def in_apply_if_finite(make):
    nan = functools.partial(jax.tree.map, lambda g: jnp.full_like(g, jnp.nan))
    return with_idle_steps(optax.apply_if_finite(make(DECAY), 2), nan)


def in_multi_steps(make):
    """Once for each accumulated step, the mean of two gradients."""
    tx = optax.MultiSteps(make(DECAY), 2)
    halves = [
        jax.tree.map(lambda g, f=f: f * g, gradients(t)) for t in range(STEPS) for f in (0.5, 1.5)
    ]
    updates = scanned(tx, halves, [weights(t) for t in range(STEPS) for _ in range(2)])
    for still in updates[::2]:
        assert not any(leaf.any() for leaf in jax.tree.leaves(still))
    return updates[1::2]


def in_vmap(make):
    given = [gradients(t) for t in range(STEPS)]
    decays = jnp.array([0.03, DECAY])
    both = jax.vmap(lambda decay: contract.updates_of(make(decay), given))(decays)
    return jax.tree.map(lambda leaf: leaf[1], both)


def in_injection(inject, make):
    tx = inject(lambda weight_decay: make(weight_decay))(DECAY)
    return contract.updates_of(tx, [gradients(t) for t in range(STEPS)])


def of_a_part(wrap, make):
    """A leaf that the wrapper keeps from the member: returns what happens to it as well."""
    part = {"layer": {leaf: leaf in INSIDE for leaf in ALL_LEAVES}}
    return contract.updates_of(wrap(make(DECAY), part), [gradients(t) for t in range(STEPS)])


def in_masked(make):
    updates = of_a_part(optax.masked, make)
    for t, step in enumerate(updates):
        chex.assert_trees_all_equal(step["layer"].pop("bias"), gradients(t)["layer"]["bias"])
    return updates


def in_partition(make):
    of = lambda tx, part: optax.partition({True: tx, False: optax.set_to_zero()}, part)  # noqa: E731
    updates = of_a_part(of, make)
    assert not any(step["layer"].pop("bias").any() for step in updates)
    return updates


CONTEXTS = {
    "scan": in_scan,
    "cond": in_cond,
    "MultiSteps": in_multi_steps,
    "apply_if_finite": in_apply_if_finite,
    "vmap": in_vmap,
    "masked": in_masked,
    "partition": in_partition,
    "optax.inject_hyperparams": functools.partial(in_injection, optax.inject_hyperparams),
    "wdlab.inject_hyperparams": functools.partial(in_injection, wdlab.inject_hyperparams),
}


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("context", CONTEXTS)
@every_member
def test_decays_by_its_own_number_in(context, name):
    got = CONTEXTS[context](MEMBERS[name].make)
    names = INSIDE if context in ("masked", "partition") else ALL_LEAVES
    for ours, step in zip(got, expected(name, names), strict=True):
        for leaf in names:
            want = np.asarray(step["layer"][leaf])
            close = {"rtol": 1e-5, "atol": 3e-6 * np.abs(want).max()}
            np.testing.assert_allclose(ours["layer"][leaf], want, err_msg=leaf, **close)
