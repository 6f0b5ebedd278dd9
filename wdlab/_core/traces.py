"""Functions as JAX traces them: their operations, simplified, told apart and done again."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

LARGE = 4096  # Entries: what is smaller costs more to compile twice than to keep.
_ELEMENTWISE = frozenset(
    """abs add add_any and bitcast_convert_type broadcast_in_dim ceil clamp convert_element_type
    copy copy_p cos div eq erf exp exp2 expm1 floor ge gt integer_pow iota is_finite le log log1p
    logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n
    shift_right_logical sign sin sqrt square sub tanh xor""".split()  # noqa: SIM905
)


def bind(eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """The results of one traced operation, for other inputs.

    >>> [eqn] = jax.make_jaxpr(jax.numpy.sin)(0.0).eqns
    >>> bind(eqn, [jax.numpy.zeros(2)])
    [Array([0., 0.], dtype=float32)]
    """
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def simplified(jaxpr: Jaxpr, keep_anew: bool) -> tuple[list[JaxprEqn], list[Any]]:
    """The operations and the results: equal ones once, and without what computes nothing.

    That is conversions to the same type and, unless it is kept, :func:`wdlab._core.anew.anew`.

    The new weights' norm is then read from the new weights, not from the old ones' place. And the
    barrier of ``anew``, for steps that are not made here, would keep what need not be kept here.

    >>> x = jax.ShapeDtypeStruct((LARGE,), "float32")
    >>> twice = lambda x: jax.numpy.sin(x) * jax.numpy.sin(x)
    >>> [eqn.primitive.name for eqn in simplified(jax.make_jaxpr(twice)(x).jaxpr, True)[0]]
    ['sin', 'mul']
    """
    same: dict[Var, Any] = {}
    known: dict[Any, JaxprEqn] = {}
    eqns = []

    def resolved(atoms: list[Any]) -> list[Any]:
        return [same.get(v, v) if isinstance(v, Var) else v for v in atoms]

    for eqn in jaxpr.eqns:
        eqn = eqn.replace(invars=resolved(eqn.invars))
        if (is_anew(eqn) and not keep_anew) or _changes_nothing(eqn):
            same |= zip(eqn.outvars, eqn.invars, strict=True)
        elif is_elementwise(eqn) and (first := known.setdefault(_key(eqn), eqn)) is not eqn:
            same |= zip(eqn.outvars, first.outvars, strict=True)
        else:
            eqns.append(eqn)
    return eqns, resolved(jaxpr.outvars)


def _key(eqn: JaxprEqn) -> Any:
    """Equal for operations of which one will do."""
    inputs = (
        (np.asarray(v.val).tobytes(), str(v.aval)) if isinstance(v, Literal) else v
        for v in eqn.invars
    )
    return eqn.primitive, *inputs, *sorted(eqn.params.items())


def is_anew(eqn: JaxprEqn) -> bool:
    """Whether it is :func:`wdlab._core.anew.anew`.

    >>> is_anew(jax.make_jaxpr(jax.numpy.sin)(0.0).eqns[0])
    False
    """
    return eqn.primitive.name == "jit" and eqn.params["name"] == "anew"


def _changes_nothing(eqn: JaxprEqn) -> bool:
    """Whether it converts to the dtype that is there, as Optax does with its moments."""
    if eqn.primitive.name != "convert_element_type" or not isinstance(eqn.invars[0], Var):
        return False
    before, after = (getattr(var.aval, "dtype", None) for var in (eqn.invars[0], eqn.outvars[0]))
    return before == after


def as_strong_as(aval: Any, value: Any) -> Any:
    """The value without the weak type that a dropped conversion would have taken from it.

    >>> weak = jax.numpy.asarray(1.0)
    >>> weak.weak_type, as_strong_as(jax.typeof(jax.numpy.ones(())), weak).weak_type
    (True, False)
    """
    if getattr(jax.typeof(value), "weak_type", False) and not aval.weak_type:
        return jax.lax.convert_element_type(value, aval.dtype)
    return value


def is_elementwise(eqn: JaxprEqn) -> bool:
    """Whether it makes a large array entry by entry.

    >>> large, small = jax.numpy.ones(LARGE), jax.numpy.ones(LARGE - 1)
    >>> [is_elementwise(jax.make_jaxpr(jax.numpy.sin)(x).eqns[0]) for x in (large, small)]
    [True, False]
    """
    if any(getattr(var.aval, "size", 0) < LARGE for var in eqn.outvars):
        return False
    if eqn.primitive.name == "jit":
        return all(e.primitive.name in _ELEMENTWISE for e in eqn.params["jaxpr"].jaxpr.eqns)
    return eqn.primitive.name in _ELEMENTWISE


def sums(eqn: JaxprEqn) -> bool:
    """Whether it makes fewer numbers of many, and need not have them in memory.

    >>> sums(jax.make_jaxpr(jax.numpy.max)(jax.numpy.ones(3)).eqns[0])
    True
    """
    return eqn.primitive.name.startswith("reduce_")


def made_in(atoms: list[Any], made_by: dict[Var, Any]) -> list[Var]:
    """Those of the inputs that are among the keys.

    >>> traced = jax.make_jaxpr(lambda x, y: x + y)(1.0, 2.0).jaxpr
    >>> made_in(traced.eqns[0].invars, {traced.invars[1]: "y"}) == [traced.invars[1]]
    True
    """
    return [v for v in atoms if isinstance(v, Var) and v in made_by]


def read_by(body: list[JaxprEqn]) -> list[Var]:
    """What a loop takes from memory.

    >>> traced = jax.make_jaxpr(lambda x: jax.numpy.cos(jax.numpy.sin(x)))(0.0).jaxpr
    >>> read_by(traced.eqns) == traced.invars
    True
    """
    inside = {var for eqn in body for var in eqn.outvars}
    read = {v: None for e in body for v in e.invars if isinstance(v, Var) and v not in inside}
    return list(read)


def needs(eqns: list[JaxprEqn], which: list[Var]) -> Callable[[Var, Var], bool]:
    """A function: whether the first of two variables depends on the second, one of ``which``.

    Each depends on itself.

    >>> eqns = jax.make_jaxpr(lambda x: jax.numpy.cos(jax.numpy.sin(x)))(0.0).eqns
    >>> sin, cos = (eqn.outvars[0] for eqn in eqns)
    >>> depends = needs(eqns, [sin, cos])
    >>> depends(cos, sin), depends(sin, cos)
    (True, False)
    """
    bits = {var: 1 << i for i, var in enumerate(dict.fromkeys(which))}
    behind: dict[Var, int] = {}  # As bits of one number: there can be thousands of thousands.
    for eqn in eqns:
        read = (behind.get(v, 0) for v in eqn.invars if isinstance(v, Var))
        everything = functools.reduce(operator.or_, read, 0)
        behind |= {v: everything | bits.get(v, 0) for v in eqn.outvars}
    return lambda var, other: bool(behind[var] & bits[other])
