"""Runs a jaxpr in NumPy with its floats in float64, so that two programs can be compared exactly.

A float32 constant is the decimal that it stands for. Nothing is compiled.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from wdlab._core.equations import called_programs, counts_of_scan
from wdlab.instruments.plans import ELEMENTWISE, of_kind

Array = Any
_NUMPY = (np.ndarray, np.generic)
_MOST_ROUNDS = 1000  # Of a while loop.
_SAME = {
    "copy", "copy_p", "device_put", "mesh_cast", "optimization_barrier", "reduce_precision",
    "reshard", "sharding_constraint", "stop_gradient",
}  # fmt: skip
_COMPARISONS = {"ge", "gt", "le", "lt", "max", "min", "sign"}
_REDUCTIONS = {
    "reduce_and": np.all, "reduce_max": np.max, "reduce_min": np.min, "reduce_or": np.any,
    "reduce_prod": np.prod, "reduce_sum": np.sum,
}  # fmt: skip


def evaluate(
    closed: Any, operands: Sequence[Array], watched: list[Array] | None = None
) -> list[Array]:
    """The results of a jaxpr, given its arguments: NumPy arrays, floats in float64.

    Args:
      closed: The jaxpr with its constants.
      operands: Its arguments.
      watched: Gets what each comparison compares, as one float array: the program takes another
        branch where its sign changes.

    >>> program = jax.make_jaxpr(lambda x: 0.1 * x.sum())(np.ones(3, np.float32))
    >>> evaluate(program, [np.full(3, 1 / 3)])[0].item()
    0.1
    """
    jaxpr = getattr(closed, "jaxpr", closed)
    known: dict[Any, Array] = dict(zip(jaxpr.invars, operands, strict=True))
    constants = getattr(closed, "consts", ())
    known |= {v: _constant(c) for v, c in zip(jaxpr.constvars, constants, strict=True)}
    with np.errstate(all="ignore"):
        for eqn in jaxpr.eqns:
            given = [
                _constant(a.val) if isinstance(a, core.Literal) else known[a] for a in eqn.invars
            ]
            known.update(zip(eqn.outvars, _equation(eqn, given, watched), strict=True))
    return [_constant(a.val) if isinstance(a, core.Literal) else known[a] for a in jaxpr.outvars]


def in_float64(x: Any) -> Array:
    """An array with its floats in float64, integers and keys as they are.

    >>> in_float64(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float64')
    """
    if jax.dtypes.issubdtype(getattr(x, "dtype", float), jax.dtypes.extended):
        return x
    array = np.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(np.float64)
    return array.astype(np.complex128) if array.dtype.kind == "c" else array


def _constant(value: Any) -> Array:
    if getattr(value, "dtype", None) != np.float32:
        return in_float64(value)
    return of_kind(value) if np.ndim(value) else _decimal(float(value))


@functools.lru_cache(maxsize=1024)
def _decimal(value: float) -> Array:
    return of_kind(np.float32(value))


def _equation(eqn: Any, given: list[Array], watched: list[Array] | None) -> list[Array]:
    name = eqn.primitive.name
    if name in _SAME:
        return given
    rule = _RULES.get(name)
    if rule is None and name not in ELEMENTWISE:
        found = _called(eqn, given, watched)
        if found is not None:
            return found
    if rule is not None and all(isinstance(x, _NUMPY) for x in given):
        result = rule(eqn, *given)
        return list(result) if eqn.primitive.multiple_results else [np.asarray(result)]
    if watched is not None and name in _COMPARISONS and given[0].dtype.kind == "f":
        watched.append(np.ravel(given[0] - given[1] if len(given) == 2 else given[0]))
    if name in ELEMENTWISE and not _wraps(eqn, given):
        return [np.asarray(ELEMENTWISE[name](*given))]
    return _bound(eqn, given)


def _called(eqn: Any, given: list[Array], watched: list[Array] | None) -> list[Array] | None:
    """The results of the programs that an equation calls; None where it calls none."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        which = int(np.clip(given[0], 0, len(params["branches"]) - 1))
        return evaluate(params["branches"][which], given[1:], watched)
    if name == "scan":
        return _scan(eqn, given)
    if name == "while":
        return _while(params, given)
    inner = called_programs(params)
    if inner and name not in ("custom_root", "custom_linear_solve"):
        return evaluate(inner[0], given, watched)
    return None


def _wraps(eqn: Any, given: list[Array]) -> bool:
    """Whether the numbers of an integer's bits matter: JAX does that."""
    return eqn.primitive.name in ("not", "round", "sign", "rem", "clamp", "pow") and all(
        x.dtype.kind in "iu" for x in given
    )


def _bound(eqn: Any, given: list[Array]) -> list[Array]:
    """What has no rule is run by JAX."""
    with jax.enable_x64(True), contextlib.suppress(TypeError, ValueError):
        return _numpy(eqn.primitive.bind(*map(_jax, given), **eqn.params))
    dtypes = [v.aval.dtype for v in eqn.invars]
    narrow = [_jax(x).astype(d) for x, d in zip(given, dtypes, strict=True)]
    return _numpy(eqn.primitive.bind(*narrow, **eqn.params))


def _jax(x: Array) -> Array:
    return jnp.asarray(x) if isinstance(x, _NUMPY) else x


def _numpy(results: Any) -> list[Array]:
    return [in_float64(x) for x in (results if isinstance(results, list | tuple) else [results])]


def _scan(eqn: Any, given: list[Array]) -> list[Array]:
    params = eqn.params
    fixed, count = counts_of_scan(params)
    carry, columns = given[fixed : fixed + count], []
    steps = range(params["length"])
    for n in reversed(steps) if params["reverse"] else steps:
        rows = [x[n] for x in given[fixed + count :]]
        results = evaluate(params["jaxpr"], [*given[:fixed], *carry, *rows])
        carry = results[:count]
        columns.append(results[count:])
    if params["reverse"]:
        columns.reverse()
    return [*carry, *(np.stack(column) for column in zip(*columns, strict=True))]


def _while(params: dict[str, Any], given: list[Array]) -> list[Array]:
    first, begins = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    carry = given[begins:]
    for _ in range(_MOST_ROUNDS):
        if not evaluate(params["cond_jaxpr"], [*given[:first], *carry])[0]:
            return carry
        carry = evaluate(params["body_jaxpr"], [*given[first:begins], *carry])
    raise ValueError(f"a while loop takes more than {_MOST_ROUNDS} rounds")


def _convert(eqn: Any, x: Array) -> Array:
    dtype = eqn.params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.floating):
        return x.astype(np.float64)
    return x.astype(np.complex128 if np.dtype(dtype).kind == "c" else dtype)


def _broadcast(eqn: Any, x: Array, *_: Array) -> Array:
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    own = [1] * len(shape)
    for place, size in zip(places, x.shape, strict=True):
        own[place] = size
    return np.broadcast_to(x.reshape(own), shape)


def _dot(eqn: Any, a: Array, b: Array) -> Array:
    (left, right), (batch, other) = eqn.params["dimension_numbers"]
    names = list(range(a.ndim))
    second: list[int | None] = [None] * b.ndim
    for i, j in [*zip(left, right, strict=True), *zip(batch, other, strict=True)]:
        second[j] = i
    fresh = iter(range(a.ndim, a.ndim + b.ndim))
    seconds = [next(fresh) if n is None else n for n in second]
    kept = [n for n in names if n not in batch and n not in left]
    more = [n for n in seconds if n >= a.ndim]
    return np.einsum(a, names, b, seconds, [*batch, *kept, *more])


def _slice(eqn: Any, x: Array) -> Array:
    p = eqn.params
    steps = p["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], steps))]


def _split(eqn: Any, x: Array) -> list[Array]:
    return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"])


def _select(eqn: Any, which: Array, *cases: Array) -> Array:
    which = np.broadcast_to(which, np.shape(cases[0])).astype(np.int64)
    return np.choose(which, cases) if len(cases) > 2 else np.where(which, cases[-1], cases[0])


def _div(eqn: Any, a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return a / b
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.maximum(np.abs(b), 1))).astype(a.dtype)


def _reduce(eqn: Any, x: Array) -> Array:
    found = _REDUCTIONS[eqn.primitive.name](x, axis=tuple(eqn.params["axes"]))
    return found.astype(x.dtype)


_RULES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda eqn, *xs: np.concatenate(xs, eqn.params["dimension"]),
    "convert_element_type": _convert,
    "div": _div,
    "dot_general": _dot,
    "expand_dims": lambda eqn, x: np.expand_dims(x, eqn.params["dimensions"]),
    "integer_pow": lambda eqn, x: x ** x.dtype.type(eqn.params["y"]),
    "mul": lambda eqn, a, b: a * b,
    "reshape": lambda eqn, x, *_: x.reshape(eqn.params["new_sizes"]),
    "rev": lambda eqn, x: np.flip(x, eqn.params["dimensions"]),
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "squeeze": lambda eqn, x: np.squeeze(x, tuple(eqn.params["dimensions"])),
    "stack": lambda eqn, *xs: np.stack(xs, eqn.params.get("axis", 0)),
    "transpose": lambda eqn, x: np.transpose(x, eqn.params["permutation"]),
} | dict.fromkeys(_REDUCTIONS, _reduce)  # fmt: skip
