"""Shampoo: stacked layers are leaves of their own, blocks have the grafted length, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wdlab.preconditioners import Grafting, scale_by_shampoo

ADAM = Grafting("adam", b2=0.9)


def test_stacked_layers_are_leaves_of_their_own_and_blocks_have_the_grafted_length(x64):
    """In one program: the leaf, its layers, and Adam on it, without a first moment."""
    make = lambda **more: scale_by_shampoo(  # noqa: E731
        b1=0.0, b2=0.9, eps=1e-6, grafting=ADAM, block_size=3, merge_to=None, **more
    )
    together, alone = make(batch_axes=1), make()
    adam = ADAM.formulas

    @jax.jit
    def run(gradients):
        state, v = together.init(gradients[0]), jnp.zeros(gradients.shape[1:])
        states = [alone.init(layer) for layer in gradients[0]]
        for g in gradients:
            direction, state = together.update(g, state)
            pairs = [alone.update(layer, s) for layer, s in zip(g, states, strict=True)]
            layers, states = zip(*pairs, strict=True)
            v = adam.next_second(g, v)
        grafted = adam.direction(g, g, v, adam.scalars(jnp.float64(len(gradients)), None)[0])
        return direction, jnp.stack(layers), grafted

    given = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 5, 4)))
    direction, layers, grafted = run(given)
    np.testing.assert_allclose(direction, layers, rtol=1e-9)
    for rows in (slice(0, 3), slice(3, 5)):
        for columns in (slice(0, 3), slice(3, 4)):
            of_block = lambda x, r=rows, c=columns: np.linalg.norm(x[0, r, c])  # noqa: E731
            np.testing.assert_allclose(of_block(direction), of_block(grafted), rtol=1e-9)


def test_arguments_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="start must be at least refresh_every=10, got 3"):
        scale_by_shampoo(refresh_every=10, start=3)
    with pytest.raises(ValueError, match="method must be 'sgd', 'adagrad'"):
        Grafting("adamw")
    with pytest.raises(ValueError, match="eps must be a number in"):
        scale_by_shampoo(eps=0.0)
