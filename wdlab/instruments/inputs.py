"""What an instrument is given: arrays that a transformation can train."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.rules import leaves_with_paths

PyTree = Any


def check_arrays(name: str, params: PyTree) -> None:
    """Refuses parameters that are no arrays of numbers, or none at all.

    >>> check_arrays("doctor", {"kernel": jnp.ones(2), "name": "gpt"})
    Traceback (most recent call last):
    TypeError: doctor: params: 'name' is a str and no array of numbers. Give what is trained alone.
    """
    pairs = leaves_with_paths(params)
    for path, leaf in pairs:
        if not _is_numbers(leaf):
            raise TypeError(
                f"{name}: params: {path!r} is a {type(leaf).__name__} and no array of numbers. "
                "Give what is trained alone."
            )
    if not pairs:
        raise ValueError(
            f"{name}: params has no array, got {type(params).__name__}. Give the parameters as in "
            "training, or their shapes: jax.eval_shape(model.init, ...)."
        )


def float32_shapes(params: PyTree) -> PyTree:
    """Shapes of the parameters, floats as float32: how weights are rounded decides nothing.

    >>> float32_shapes({"w": jnp.ones(2, jnp.bfloat16)})
    {'w': ShapeDtypeStruct(shape=(2,), dtype=float32)}
    """

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = jnp.result_type(leaf)
        is_float = jnp.issubdtype(dtype, jnp.floating)
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.float32 if is_float else dtype)

    return jax.tree.map(shape, params)


def _is_numbers(leaf: Any) -> bool:
    if isinstance(leaf, int | float | complex):
        return True
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not hasattr(leaf, "shape"):
        return False
    return bool(jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_))
