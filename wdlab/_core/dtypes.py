"""Arithmetic on 16-bit parameters: which dtype to compute in, and which leaves to refuse."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from wdlab._core.transformation import with_extra_args

PyTree = Any


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation on 16-bit leaves in float32 and rounds its updates once, at the end.

    In float16 Adam's epsilon 1e-8 is 0, and a zero gradient gives 0/0; in bfloat16 second moments
    stop moving. Optax keeps both in the gradients' dtype. Leaves of 32 and 64 bits pass unchanged.

    Args:
      inner: Any transformation; its state is then in float32, whatever the parameters' dtype.

    >>> tx = in_float32(optax.adam(0.5))
    >>> params = {"kernel": jnp.ones(2, jnp.float16)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["kernel"].tolist(), updates["kernel"].dtype
    ([-0.5, -0.5], dtype('float16'))
    """
    inner = with_extra_args(inner)

    def init_fn(params: PyTree) -> PyTree:
        return inner.init(widen(params))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        wide = None if params is None else widen(params)
        new_updates, state = inner.update(widen(updates), state, wide, **extra_args)
        return jax.tree.map(
            lambda new, old: new.astype(jnp.result_type(old)), new_updates, updates
        ), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def is_16_bit(x: Any) -> bool:
    """Whether a leaf is float16 or bfloat16.

    >>> is_16_bit(jnp.ones(2, jnp.bfloat16)), is_16_bit(jnp.ones(2, jnp.float32))
    (True, False)
    """
    dtype = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits == 16


def widen(tree: PyTree) -> PyTree:
    """Casts 16-bit leaves to float32; the others stay as they are.

    >>> widen({"w": jnp.ones(2, jnp.float16)})["w"].dtype
    dtype('float32')
    """
    return jax.tree.map(lambda x: cast(x, working_dtype(x)), tree)


def cast(x: Any, dtype: Any, *, copy: bool | None = None) -> Any:
    """Returns the array in another dtype; of a ``jax.ShapeDtypeStruct`` another one.

    >>> cast(jax.ShapeDtypeStruct((2,), jnp.bfloat16), jnp.float32).dtype
    dtype('float32')
    """
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.update(dtype=dtype)
    return jnp.asarray(x, dtype, copy=copy)


def on_values(function: Callable[[Any], Any], x: Any) -> Any:
    """Returns ``function(x)``; of a ``jax.ShapeDtypeStruct`` the shapes of the result.

    >>> on_values(jnp.sum, jax.ShapeDtypeStruct((2,), jnp.float32)).shape
    ()
    """
    return jax.eval_shape(function, x) if isinstance(x, jax.ShapeDtypeStruct) else function(x)


def working_dtype(x: Any) -> Any:
    """Returns the dtype to compute a leaf in: float32 for 16-bit floats, else the leaf's own.

    >>> working_dtype(jnp.zeros(2, jnp.bfloat16))
    dtype('float32')
    """
    dtype = jnp.result_type(x)
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


def in_each_dtype(scalar: Any) -> Callable[[Any], jax.Array]:
    """Returns the function dtype -> the scalar in it, made once for all leaves of that dtype.

    >>> in_each_dtype(0.5)(jnp.bfloat16)
    Array(0.5, dtype=bfloat16)
    """
    return functools.cache(lambda dtype: jnp.asarray(scalar, dtype))


def lost_to_rounding(shrink: float, dtype: Any) -> str:
    """Says if a shrink per step is below what the parameters' dtype can store; else ''.

    With n bits of mantissa, rounding to nearest, no weight moves when the shrink is at most
    2^-(n+2), all do from 2^-(n+1) on: 2^-9 and 2^-8 for bfloat16.

    Args:
      shrink: Share of a weight that one step takes, >= 0.
      dtype: Of the stored parameters.

    >>> lost_to_rounding(6e-5, "bfloat16")
    'lost to rounding: no bfloat16 weight moves at a shrink of 0.00195 or less; ...'
    >>> lost_to_rounding(6e-5, "float32")
    ''
    """
    info = jnp.finfo(jnp.dtype(dtype))
    none_moves, all_move = 2.0 ** -(info.nmant + 2), 2.0 ** -(info.nmant + 1)
    remedy = "use wider parameters, or a wrapper such as wdlab.training.kahan"
    if 0 < shrink <= none_moves:
        return (
            f"lost to rounding: no {info.dtype} weight moves at a shrink of {none_moves:.3g} or "
            f"less; {remedy}"
        )
    if none_moves < shrink < all_move:
        return (
            f"partly lost to rounding: some {info.dtype} weights do not move at a shrink below "
            f"{all_move:.3g}; {remedy}"
        )
    return ""


def check_float_leaf(path: str, leaf: Any) -> None:
    """Raises unless the leaf is an array of real floats.

    >>> check_float_leaf("steps", jnp.zeros(2, jnp.int32))
    Traceback (most recent call last):
    TypeError: parameter 'steps' is int32; weight decay needs real floats. ...
    """
    dtype = jnp.result_type(leaf) if isinstance(leaf, float) else getattr(leaf, "dtype", None)
    if dtype is None:
        found = f"is {leaf!r}, a {type(leaf).__name__}"
    elif jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16:
        return
    else:
        found = f"is {dtype}"
    raise TypeError(
        f"parameter {path!r} {found}; weight decay needs real floats of 16 bits or more. "
        f"Exempt it with Rule({path!r}, 0.0), or keep it out of the params that are trained."
    )


def moment_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype of statistics: float32 for bfloat16 and float16, else ``dtype`` itself.

    >>> str(moment_dtype(jnp.bfloat16)), str(moment_dtype(jnp.float32))
    ('float32', 'float32')
    """
    return jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, jnp.float32))


def step_number(count: ArrayLike) -> jax.Array:
    """Returns t = count + 1 as a float: float64 where ``jax_enable_x64`` is set, else float32.

    >>> step_number(jnp.int32(0)).item()
    1.0
    """
    return jnp.asarray(count, jnp.result_type(float)) + 1.0
