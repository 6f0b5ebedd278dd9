"""What a preconditioner keeps for each leaf, in float32 or wider whatever the leaf's dtype."""

from typing import Any

import jax
import jax.numpy as jnp

from wdlab._core.dtypes import working_dtype

PyTree = Any


def zeros_for(params: PyTree) -> PyTree:
    """Returns zeros like the parameters, float32 or wider.

    >>> zeros_for(jnp.ones(2, jnp.bfloat16))
    Array([0., 0.], dtype=float32)
    """
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=working_dtype(p)), params)


def widened(updates: PyTree, kept: PyTree) -> PyTree:
    """Returns the updates in the dtype to compute in: float32, or wider where they or ``kept`` are.

    >>> widened(jnp.ones(1, jnp.float16), jnp.zeros(1)).dtype
    dtype('float32')
    """
    return jax.tree.map(
        lambda g, x: g.astype(jnp.promote_types(working_dtype(g), x.dtype)), updates, kept
    )


def as_before(new: PyTree, old: PyTree) -> PyTree:
    """Returns each leaf in the dtype that it had: of updates the gradient's, of a state its own.

    >>> as_before(jnp.ones(1), jnp.zeros(1, jnp.float16)).dtype
    dtype('float16')
    """
    return jax.tree.map(lambda x, before: x.astype(before.dtype), new, old)
