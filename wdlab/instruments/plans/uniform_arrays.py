"""What JAX's operations do to arrays whose entries are all equal: one number stands for an array.

Such a number may be unknown, where entries differ (random numbers, an identity matrix). Numbers are
NumPy arrays over the cases that are looked at together, in float64, int64 or bool.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

Array = Any


class Operation(NamedTuple):
    """One operation on uniform arrays."""

    key: tuple[Any, ...]  # Operations of one key are the same.
    function: Callable[..., Array]  # Of the operands' numbers.
    # Of the operands' numbers and of where they are unknown: where the result is.
    unknown: Callable[[Sequence[Array], Sequence[Array]], Array] | None = None  # None: of any.


def _any(flags: Sequence[Array]) -> Array:
    found = flags[0]
    for flag in flags[1:]:
        found = found | flag
    return found


def _unless_zero(values: Sequence[Array], flags: Sequence[Array]) -> Array:
    """A product with 0 is 0, whatever the other operand is."""
    zero = _any(
        [(value == 0) & ~np.asarray(flag) for value, flag in zip(values, flags, strict=True)]
    )
    return _any(flags) & ~zero


def _unless_numerator_zero(values: Sequence[Array], flags: Sequence[Array]) -> Array:
    return _any(flags) & ~((values[0] == 0) & ~np.asarray(flags[0]))


def _of_the_chosen(values: Sequence[Array], flags: Sequence[Array]) -> Array:
    which, *cases = flags
    same = np.logical_and.reduce([value == values[1] for value in values[2:]] or [True])
    return select(values[0], *cases) | (which & ~(same & ~_any(cases)))


def select(which: Array, *cases: Array) -> Array:
    """The case that ``which`` counts, from 0.

    >>> select(np.asarray([0, 1, 1]), np.asarray(5), np.asarray([1, 2, 3])).tolist()
    [5, 2, 3]
    """
    found = np.asarray(cases[0])
    for n, case in enumerate(cases[1:], 1):
        found = np.where(which == n, case, found)
    return found


SELECT = Operation(("select_n",), select, _of_the_chosen)


def _special(name: str) -> Callable[[Array], Array]:
    """A function of scipy.special, which takes a tenth of a second to load: at its first use."""
    return lambda x: getattr(scipy.special, name)(x)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return a / b
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.maximum(np.abs(b), 1))


ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "abs": np.abs, "acos": np.arccos, "acosh": np.arccosh, "add": np.add, "add_any": np.add,
    "and": np.bitwise_and, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan,
    "atan2": np.arctan2, "atanh": np.arctanh, "cbrt": np.cbrt, "ceil": np.ceil,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high), "conj": np.conj,
    "cos": np.cos, "cosh": np.cosh, "digamma": _special("digamma"), "eq": np.equal,
    "erf": _special("erf"), "erf_inv": _special("erfinv"), "erfc": _special("erfc"),
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "floor": np.floor, "ge": np.greater_equal,
    "gt": np.greater, "imag": np.imag, "is_finite": np.isfinite, "le": np.less_equal,
    "lgamma": _special("gammaln"), "log": np.log, "log1p": np.log1p,
    "logistic": _special("expit"), "lt": np.less, "max": np.maximum, "min": np.minimum,
    "ne": np.not_equal, "neg": np.negative, "not": np.invert, "or": np.bitwise_or,
    "pow": lambda x, y: np.power(x.astype(np.result_type(x, 1.0)), y), "real": np.real,
    "rem": np.fmod, "round": np.round, "rsqrt": lambda x: 1 / np.sqrt(x), "sign": np.sign,
    "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "square": np.square, "sub": np.subtract,
    "tan": np.tan, "tanh": np.tanh, "xor": np.bitwise_xor,
}  # fmt: skip
# Operations on each entry by itself.
POINTWISE = {*ELEMENTWISE, "mul", "div", "select_n", "integer_pow", "convert_element_type"}
# Entries change their places.
MOVED = {
    "broadcast_in_dim", "concatenate", "copy", "expand_dims", "reshape", "rev", "slice", "split",
    "squeeze", "stack", "transpose",
}  # fmt: skip
# Entries are joined by an operation on two.
REDUCED = {
    f"reduce_{name}": Operation((name,), ELEMENTWISE[entry])
    for name, entry in {"max": "max", "min": "min", "and": "and", "or": "or", "sum": "add"}.items()
}
# The result is the first operand, if its entries are equal.
UNCHANGED = {
    *(MOVED - {"concatenate", "split", "stack"}), *(REDUCED.keys() - {"reduce_sum"}), "copy_p",
    "cummax", "cummin", "device_put", "dynamic_slice", "gather", "mesh_cast",
    "reduce_precision", "reshard", "sharding_constraint", "stop_gradient",
}  # fmt: skip
# The result is the first operand, if as many as this have the same entries.
JOINED = {"pad": 2, "dynamic_update_slice": 2}


def of_kind(value: Any) -> Array:
    """An array as float64, int64, bool or complex; a float of 32 bits is the decimal it stands for.

    >>> of_kind(np.float32(0.1)).item(), of_kind(np.int32(3)).dtype
    (0.1, dtype('int64'))
    """
    array = np.asarray(value)
    if array.dtype == np.float32 and array.size <= 99:
        return np.reshape([float(str(entry)) for entry in array.flat], array.shape)
    kinds = {"b": np.bool_, "i": np.int64, "u": np.int64, "c": np.complex128}
    return array.astype(kinds.get(array.dtype.kind, np.float64))


def operation(eqn: Any) -> Operation | None:
    """The operation of an equation with one result; None where the result is unknown.

    >>> import jax
    >>> eqn = jax.make_jaxpr(lambda x: x.sum())(np.ones((2, 3), np.float32)).eqns[0]
    >>> operation(eqn).function(np.asarray(0.5)).item()
    3.0
    """
    name, params = eqn.primitive.name, eqn.params
    if name == "mul":
        return Operation((name,), np.multiply, _unless_zero)
    if name == "div":
        return Operation((name,), _divide, _unless_numerator_zero)
    if name == "select_n":
        return SELECT
    if name in ELEMENTWISE:
        return Operation((name,), ELEMENTWISE[name])
    if name == "integer_pow":
        y = params["y"]
        return Operation((name, y), lambda x: x.astype(np.result_type(x, 1.0)) ** y)
    if name == "convert_element_type":
        return _conversion(np.dtype(params["new_dtype"]))
    if name in ("reduce_sum", "reduce_prod"):
        size = math.prod(eqn.invars[0].aval.shape) / max(math.prod(eqn.outvars[0].aval.shape), 1)
        power = np.multiply if name == "reduce_sum" else np.power
        return Operation((name, size), lambda x: power(x, x.dtype.type(size)))
    if name == "dot_general":
        shape, contracted = eqn.invars[0].aval.shape, params["dimension_numbers"][0][0]
        size = math.prod(shape[axis] for axis in contracted)
        return Operation((name, size), lambda a, b: a * b * a.dtype.type(size), _unless_zero)
    if name in ("argmax", "argmin", "platform_index") or (
        name == "iota" and math.prod(eqn.outvars[0].aval.shape) == 1
    ):
        return Operation(("zero",), lambda *_: np.asarray(0))
    return None


def _conversion(dtype: np.dtype) -> Operation | None:
    """Between kinds of numbers; that a float is rounded is not of interest."""
    if dtype.kind == "b":
        return Operation(("to bool",), lambda x: x != 0)
    if dtype.kind in "iu":
        return Operation(("to int",), lambda x: np.trunc(x).astype(np.int64))
    if dtype.kind == "c":
        return Operation(("to complex",), lambda x: x.astype(np.complex128))
    return Operation(("to float",), lambda x: x.astype(np.float64))
