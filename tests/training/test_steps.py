"""Donation in matching order, and steps that equal those by hand."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.compilers import after_norms
from wdlab import optimizers

LR = wdlab.schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=20)
OPTIMIZERS = {
    "sgd": lambda: optimizers.sgd(LR, weight_decay=0.1, coupling="l2", momentum=0.9),
    "sgdw": lambda: optimizers.sgdw(LR, weight_decay=0.1, coupling="lr", momentum=0.9),
    "adam": lambda: optimizers.adam(LR, weight_decay=0.1, coupling="l2"),
    "adamw": lambda: optimizers.adamw(LR, weight_decay=0.1, coupling="schedule"),
    "radamw": lambda: optimizers.radamw(LR, weight_decay=0.1, coupling="lr"),
    "lionw": lambda: optimizers.lionw(LR, weight_decay=0.1, coupling="lr"),
    "clipped": lambda: optax.chain(
        wdlab.clip_by_global_norm(1.0), optimizers.adamw(LR, weight_decay=0.1, coupling="lr")
    ),
    "toward_init": lambda: optax.chain(
        optax.adam(LR), wdlab.decay_weights(0.1, toward="init", multiplier=LR)
    ),
}


def square(n=6, size=64):
    """Leaves that all share a shape: the case in which buffers can be mis-paired."""
    return {f"layer{i}": {"kernel": jnp.full((size, size), float(i))} for i in range(n)}


def copies_of_params(compiled, size):
    return len(re.findall(rf"f32\[{size},{size}\]\S* copy\(", compiled.as_text()))


@pytest.mark.parametrize("name", after_norms(OPTIMIZERS, "clipped"))
def test_no_copies_and_no_temporaries(name):
    params, tx = square(), OPTIMIZERS[name]()
    state = wdlab.init_opt_state(tx, params)
    compiled = wdlab.make_update(tx).lower(params, state, params).compile()
    param_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert copies_of_params(compiled, 64) == 0
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.01 * param_bytes
    aliases = compiled.as_text().count("may-alias") + compiled.as_text().count("must-alias")
    big = [leaf for leaf in jax.tree.leaves((params, state)) if leaf.ndim == 2]
    assert aliases >= len(big)


def test_the_other_order_is_what_this_guards_against():
    """The check above can fail: results in another order copy every buffer."""
    params, tx = square(), OPTIMIZERS["adamw"]()
    state = tx.init(params)

    def update(opt_state, params, grads):
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    jitted = jax.jit(update, donate_argnums=(0, 1))
    compiled = jitted.lower(state, params, params).compile()
    assert copies_of_params(compiled, 64) >= len(params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_make_update_equals_update_by_hand(name):
    tx = OPTIMIZERS[name]()
    grads = jax.tree.map(jnp.ones_like, square())
    params = square()
    update = wdlab.make_update(tx)
    donated, state = update(square(), wdlab.init_opt_state(tx, params), grads)
    donated, state = update(donated, state, grads)
    by_hand_state = tx.init(params)
    for _ in range(2):
        updates, by_hand_state = tx.update(grads, by_hand_state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close((donated, state), (params, by_hand_state), rtol=1e-5, atol=1e-6)


def test_make_update_consumes_its_arguments():
    params = square()
    tx = OPTIMIZERS["adamw"]()
    update, state = wdlab.make_update(tx), wdlab.init_opt_state(tx, params)
    grads = jax.tree.map(jnp.ones_like, params)
    update(params, state, grads)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    with pytest.raises(ValueError, match="is no more: an earlier step wrote its results over it"):
        update(params, state, grads)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: wdlab.make_update(optax.adam), "got a function. Call it"),
        (lambda: wdlab.skip_nonfinite("adam"), "got a str. Give the chain"),
        (lambda: wdlab.training.kahan(None), "got a NoneType. Give the chain"),
        (lambda: wdlab.make_train_step(lambda w: w, optax.sgd), "got a function. Call it"),
        (
            lambda: wdlab.make_train_step(optax.sgd(0.1), lambda w: w),
            "make_train_step(loss_fn, tx)",
        ),
        (lambda: wdlab.decay_plan(optax.adam, {"w": jnp.ones(2)}), "got a function. Call it"),
    ],
)
def test_what_is_no_transformation_is_told_with_what_to_write(make, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        make()


def test_train_step_returns_loss_and_aux():
    def loss_fn(params, x):
        return jnp.sum((params["kernel"] @ x) ** 2), {"norm": jnp.sum(params["kernel"] ** 2)}

    tx = optimizers.sgd(0.1)
    params = {"kernel": jnp.eye(2)}
    step = wdlab.make_train_step(loss_fn, tx, has_aux=True)
    params, state, (loss, aux) = step(params, tx.init(params), jnp.ones(2))
    assert (float(loss), float(aux["norm"])) == (2.0, 2.0)


def test_two_runs_are_bit_identical():
    def run():
        tx = OPTIMIZERS["adamw"]()
        params = jax.tree.map(lambda x: jnp.sin(x + jnp.arange(64.0)), square())
        step = wdlab.make_train_step(
            lambda p: sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(p)), tx
        )
        state = wdlab.init_opt_state(tx, params)
        for _ in range(5):
            params, state, loss = step(params, state)
        return np.asarray(loss).tobytes(), jax.tree.map(lambda x: np.asarray(x).tobytes(), params)

    assert run() == run()
