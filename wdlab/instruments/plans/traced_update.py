"""The update of an optimizer as a jaxpr."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def gradients_of(params: PyTree) -> PyTree:
    """The tree of an update's gradients: that of the parameters, or of Lookahead's fast copy.

    >>> gradients_of(optax.LookaheadParams(fast={"w": 1.0}, slow={"w": 2.0}))
    {'w': 1.0}
    """
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def trace_update(tx: Any, gradients: PyTree, state: PyTree, params: PyTree) -> Any:
    """The traced update; with a loss as ``value`` for those that do not go without.

    >>> trace_update(optax.scale(2.0), 1.0, optax.EmptyState(), 1.0).eqns[0].primitive.name
    'mul'
    """
    try:
        return jax.make_jaxpr(tx.update)(gradients, state, params)
    except Exception:
        loss = jax.ShapeDtypeStruct((), jnp.float32)
        with contextlib.suppress(Exception):
            with_loss = jax.make_jaxpr(lambda g, s, p, loss: tx.update(g, s, p, value=loss))
            return with_loss(gradients, state, params, loss)
        raise  # The first error says what is missing.
