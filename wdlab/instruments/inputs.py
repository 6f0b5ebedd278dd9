"""What an instrument is given: an Optax transformation, and arrays that it can train."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.rules import leaves_with_paths

PyTree = Any


def check_transformation(name: str, tx: Any) -> None:
    """Refuses what is no Optax transformation, with what to write.

    >>> import optax
    >>> check_transformation("doctor", optax.adamw)
    Traceback (most recent call last):
    TypeError: doctor: expected an Optax transformation, got a function. Call it: ...
    """
    if all(callable(getattr(tx, part, None)) for part in ("init", "update")):
        return
    kind, hint = type(tx).__name__, "Give the chain that trains, such as optax.adamw(1e-3)."
    if hasattr(tx, "tx"):
        hint = f"Give its .tx, which {kind} holds."
    elif callable(tx):
        kind, hint = "function", "Call it: optax.adamw(1e-3) makes one."
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    raise TypeError(f"{name}: expected an Optax transformation, got {article} {kind}. {hint}")


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
