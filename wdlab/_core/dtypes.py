"""Arithmetic on 16-bit parameters: which dtype to compute in, and which leaves to refuse."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.transformation import with_extra_args

PyTree = Any


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation on 16-bit leaves in float32; its updates are rounded once, at the end.

    In float16 Adam's epsilon 1e-8 is 0, and a zero gradient gives 0/0; in bfloat16 second moments
    stop moving. Optax keeps both in the gradients' dtype. An update comes back in the wider dtype
    of its gradient and its parameter: rounded to a 16-bit gradient's, the decay of a float32 weight
    would be lost.

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
        leaves, treedef = jax.tree.flatten(updates)
        others = leaves if params is None else jax.tree.leaves(params)
        if len(others) != len(leaves):  # ``inner`` says what is wrong.
            return inner.update(updates, state, params, **extra_args)
        dtypes = [wider(u, p) for u, p in zip(leaves, others, strict=True)]
        pairs = zip(leaves, dtypes, strict=True)
        wide = [u if is_fixed(u) else cast(u, _in_32_bits(d)) for u, d in pairs]
        seen = None if params is None else widen(params)
        steps, state = inner.update(treedef.unflatten(wide), state, seen, **extra_args)
        steps = zip(jax.tree.leaves(steps), dtypes, strict=True)
        rounded = [step if is_fixed(step) else step.astype(d) for step, d in steps]
        return treedef.unflatten(rounded), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def wider(update: Any, param: Any) -> jnp.dtype:
    """Returns the dtype in which an update comes back: the wider of the update's and the weight's.

    Args:
      update: An array; its own dtype comes back where it or the parameter is not a float.
      param: An array like it.

    >>> wider(jnp.ones(1, jnp.bfloat16), jnp.ones(1)), wider(jnp.ones(1, jnp.bfloat16), 1)
    (dtype('float32'), dtype(bfloat16))
    """
    own = jnp.result_type(update)
    if is_fixed(update) or is_fixed(param):
        return own
    return jnp.promote_types(own, jnp.result_type(param))


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
    return jax.tree.map(lambda x: cast(x, _in_32_bits(jnp.result_type(x))), tree)


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


def _in_32_bits(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype


def working_dtype(x: Any) -> jnp.dtype:
    """Returns the dtype to compute a leaf in and to keep its statistics: float32 or wider.

    >>> working_dtype(jnp.zeros(2, jnp.bfloat16)), working_dtype(jnp.zeros(2, jnp.complex64))
    (dtype('float32'), dtype('complex64'))
    """
    return jnp.promote_types(jnp.result_type(x), jnp.float32)


def squares(x: jax.Array) -> jax.Array:
    """Returns :math:`|x|^2` of every entry, real for complex ones, in float32 or wider.

    >>> squares(jnp.array([3 + 4j, 1])).tolist()
    [25.0, 1.0]
    """
    x = x.astype(working_dtype(x))
    return x * x if not jnp.iscomplexobj(x) else jnp.real(x * jnp.conj(x))


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


def is_fixed(leaf: Any) -> bool:
    """Whether no step can train the leaf: integers, booleans, random keys.

    >>> is_fixed(jnp.zeros(2, jnp.int32)), is_fixed(1.0), is_fixed(jnp.zeros(2, jnp.complex64))
    (True, False, False)
    """
    if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
        return False
    return not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def untouched(update: Any, param: Any) -> Any:
    """An update as it is; zeros in place of JAX's float0, with which nothing can be computed.

    >>> import numpy as np
    >>> untouched(np.zeros(2, jax.dtypes.float0), jnp.ones(2, jnp.int32)).tolist()
    [0, 0]
    """
    return jnp.zeros_like(param) if update.dtype == jax.dtypes.float0 else update


def check_leaf(path: str, leaf: Any, *, needs: str, complex_ok: bool = False) -> None:
    """Raises unless the leaf is an array of floats of 16 bits or more, or of complex numbers.

    Args:
      path: Of the leaf, for the message.
      leaf: An array, or anything with a dtype.
      needs: Who needs it, for the message.
      complex_ok: Whether it is right for complex numbers too.

    >>> check_leaf("steps", jnp.zeros(2, jnp.int32), needs="weight decay")
    Traceback (most recent call last):
    TypeError: parameter 'steps' is int32; weight decay needs floats of 16 bits or more. ...
    """
    known = hasattr(leaf, "dtype") or isinstance(leaf, float)
    dtype = jnp.result_type(leaf) if known else None
    if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16:
        return
    found = f"is {leaf!r}, a {type(leaf).__name__}" if dtype is None else f"is {dtype}"
    wanted, advice = "floats of 16 bits or more", "Keep it out of the params that are trained."
    if is_fixed(leaf):
        advice = f"Exempt it with Rule({path!r}, 0.0), and it stays as it is."
    elif dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        if complex_ok:
            return
        wanted = "real numbers"
        advice = "Train it with sgd, sgdw, adam or adamw, next to the others in optax.partition."
    raise TypeError(f"parameter {path!r} {found}; {needs} needs {wanted}. {advice}")


def check_real(needs: str, params: PyTree) -> None:
    """Raises where a parameter is complex.

    >>> check_real("scale_by_lion", {"w": jnp.zeros(2, jnp.complex64)})
    Traceback (most recent call last):
    TypeError: parameter 'w' is complex64; scale_by_lion needs real numbers. ...
    """
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            path = jax.tree_util.keystr(key_path, simple=True, separator="/")
            check_leaf(path, leaf, needs=needs)


def step_number(count: ArrayLike) -> jax.Array:
    """Returns t = count + 1 as a float: float64 where ``jax_enable_x64`` is set, else float32.

    >>> step_number(jnp.int32(0)).item()
    1.0
    """
    return jnp.asarray(count, jnp.result_type(float)) + 1.0
