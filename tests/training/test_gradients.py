"""Gradients that are not those of the parameters, and losses that are not one number."""

import jax
import jax.numpy as jnp
import optax
import pytest

import wdlab

PARAMS = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
A, B = PARAMS["a"], PARAMS["b"]


def update(grads, params=PARAMS, tx=None):
    tx = tx or wdlab.optimizers.adamw(1e-3, weight_decay=0.1, coupling="lr")
    return wdlab.make_update(tx)(jax.tree.map(jnp.copy, params), tx.init(params), grads)[0]


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ({"a": A}, "grads has no b. It must be a tree like params"),
        ({"a": A, "b": None}, "grads has no b"),
        ({"a": A, "b": B, "c": B}, "grads has more than params: c"),
        ([A, B], "grads has no a, b and more than params: 0, 1"),
        ({"a": A.T, "b": B}, r"grads/a has shape \(3, 2\), params/a \(2, 3\)"),
        ({"a": B, "b": B}, "the update would be broadcast"),
        ({"a": A, "b": jnp.ones(())}, r"grads/b has shape \(\), params/b \(3,\)"),
    ],
)
def test_gradients_of_other_parameters_are_refused(grads, message):
    with pytest.raises(ValueError, match=message):
        update(grads)


def test_gradients_of_each_example_and_of_lookahead_are_taken():
    private = optax.contrib.differentially_private_aggregate(1.0, 0.0, 0)
    each = jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS)
    assert update(each, tx=optax.chain(private, optax.sgd(0.1)))["a"].shape == (2, 3)
    both = optax.LookaheadParams.init_synced(PARAMS)
    looked = update(PARAMS, both, optax.lookahead(optax.sgd(0.1), 5, 0.5))
    assert float(looked.fast["b"][0]) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("loss", "has_aux", "message"),
    [
        (lambda w: (w.sum(), {}), False, "returns a tuple of 2: .* write has_aux=True"),
        (lambda w: w.sum(), True, "with has_aux=True it must be"),
        (lambda w: (w.sum(), {}, {}), True, "returns a tuple of 3"),
        (lambda w: w, False, r"has shape \(4,\): it must be one number, as loss.mean"),
        (lambda w: (w, {}), True, r"has shape \(4,\)"),
    ],
)
def test_a_loss_that_is_not_one_number_is_told(loss, has_aux, message):
    step = wdlab.make_train_step(loss, optax.sgd(0.1), has_aux=has_aux)
    with pytest.raises(ValueError, match=message):
        step(jnp.ones(4), optax.sgd(0.1).init(jnp.ones(4)))
