"""One loop for each array that a step writes and each number it sums up, on XLA:CPU.

An optimizer step is memory traffic, and XLA:CPU keeps a direction that a norm and the new weights
both need: it writes it to memory, as large as the parameters, into fresh pages. Computing it once
more from what is in memory already, gradients and moments, costs a fraction of that. So each large
array that is written, summed or otherwise read as a whole gets elementwise operations of its own.
They start behind a barrier, so that the compiler does not find them equal and merge them again.

Other compilers fuse several results into one loop themselves, and get the function as it is.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

PyTree = Any
LARGE = 4096  # Entries: what is smaller costs more to compile twice than to keep.
_ELEMENTWISE = frozenset(
    """abs add add_any and bitcast_convert_type broadcast_in_dim ceil clamp convert_element_type
    copy copy_p cos div eq erf exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p
    logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n
    sign sin sqrt square sub tanh xor""".split()  # noqa: SIM905
)


def in_own_loops(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function of pytrees of arrays, to be called under ``jax.jit``.

    >>> jax.jit(in_own_loops(lambda x: x / jnp.sqrt(jnp.sum(x * x))))(jnp.array([3.0])).tolist()
    [1.0]
    """
    traced = jax.jit(function)

    def call(*args: PyTree) -> PyTree:
        if all(jnp.size(leaf) < LARGE for leaf in jax.tree.leaves(args)):
            return function(*args)
        trace = traced.trace(*args)
        if not _Loops(trace.jaxpr.jaxpr, keep_anew=True).would_keep_copies:
            return traced(*args)
        loops = _Loops(trace.jaxpr.jaxpr)

        def apart(*args: PyTree) -> PyTree:
            results = loops.run(trace.jaxpr.consts, jax.tree.leaves(args))
            return jax.tree.unflatten(jax.tree.structure(trace.out_info), results)

        return jax.lax.platform_dependent(*args, cpu=apart, default=traced)

    return call


def bind(eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """The results of one traced operation, for other inputs.

    >>> [eqn] = jax.make_jaxpr(jnp.sin)(0.0).eqns
    >>> bind(eqn, [jnp.zeros(2)])
    [Array([0., 0.], dtype=float32)]
    """
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


class _Loops:
    """Which operations each large array needs that is written or read as a whole."""

    def __init__(self, jaxpr: Jaxpr, *, keep_anew: bool = False):
        self.jaxpr = jaxpr
        self.eqns, self.results = _simplified(jaxpr, keep_anew)
        self.made_by = {v: e for e in self.eqns if _is_elementwise(e) for v in e.outvars}
        self.written = {v for v in self.results if isinstance(v, Var)}
        others = [e for e in self.eqns if e.outvars[0] not in self.made_by]
        kept = {v: None for e in others if not _sums(e) for v in _made(e.invars, self.made_by)}
        kept |= dict.fromkeys(_made(self.results, self.made_by))
        self.summed = [v for e in others if _sums(e) for v in _made(e.invars, self.made_by)]
        self.loops = [*kept, *(v for v in self.summed if v not in kept)]
        self.bodies = {v: list(self._body(v, set())) for v in dict.fromkeys(self.loops)}
        self.anew_of_made = any(_made(e.invars, self.made_by) for e in others if _is_anew(e))

    @property
    def would_keep_copies(self) -> bool:
        """Whether two loops need the same operation, or a sum is of what another one writes.

        A loop that only reads what another one writes is left to XLA, whose order is the better.
        """
        needed = Counter(id(eqn) for v in self.loops for eqn in self.bodies[v])
        bodies = [self.bodies[v] for v in self.summed]
        shared = max(needed.values(), default=0) > 1
        read = any(_made(eqn.invars, self.bodies) for body in bodies for eqn in body)
        return shared or read or bool(self.written.intersection(self.summed)) or self.anew_of_made

    def run(self, consts: list[Any], inputs: list[Any]) -> list[Any]:
        """The results, each loop behind a barrier of its own."""
        self.values = dict(zip(self.jaxpr.constvars, consts, strict=True))
        self.values |= zip(self.jaxpr.invars, inputs, strict=True)
        self.behind: dict[tuple[Var, ...], list[Any]] = {}
        for eqn in self.eqns:
            if eqn.outvars[0] not in self.made_by:
                # A sum and what it sums up are one loop; other operations need an array in memory.
                made = bind(eqn, [self._value(atom, keep=not _sums(eqn)) for atom in eqn.invars])
                self.values |= zip(eqn.outvars, made, strict=True)
        results = zip(map(self._value, self.results), self.jaxpr.outvars, strict=True)
        return [_as_strong_as(atom.aval, value) for value, atom in results]

    def _value(self, atom: Any, *, keep: bool = True) -> Any:
        if isinstance(atom, Literal):
            return atom.val
        if atom in self.values:
            return self.values[atom]
        value = self._loop(atom)
        if keep or atom in self.written:
            self.values[atom] = value
        return value

    def _loop(self, result: Var) -> Any:
        body = self.bodies[result]
        inside = {var for eqn in body for var in eqn.outvars}
        read = {v: None for e in body for v in e.invars if isinstance(v, Var) and v not in inside}
        # Numbers too: one that is written out in two loops would be made an array for both.
        numbers: dict[int, Any] = {
            id(v): v for e in body for v in e.invars if isinstance(v, Literal)
        }
        scalars = [jnp.asarray(v.val, v.aval.dtype) for v in numbers.values()]
        # Barriers around the same arrays would be merged, but not one around the other.
        key = tuple(read)
        arrays = self.behind.get(key) or [self._value(var) for var in read]
        barrier = jax.lax.optimization_barrier([*arrays, *scalars])
        self.behind[key] = barrier[: len(key)]
        local = dict(zip([*read, *numbers], barrier, strict=True))
        for eqn in body:
            made = bind(eqn, [local[id(v) if isinstance(v, Literal) else v] for v in eqn.invars])
            local |= zip(eqn.outvars, made, strict=True)
        return local[result]

    def _body(self, var: Var, seen: set[int]) -> Iterator[JaxprEqn]:
        """The operations from what is in memory to ``var``, in order."""
        eqn = self.made_by[var]
        if id(eqn) in seen:
            return
        seen.add(id(eqn))
        for atom in _made(eqn.invars, self.made_by):
            # A new moment is read from where it is written: its old place may be overwritten.
            if atom not in self.written:
                yield from self._body(atom, seen)
        yield eqn


def _simplified(jaxpr: Jaxpr, keep_anew: bool) -> tuple[list[JaxprEqn], list[Any]]:
    """The operations and the results: equal ones once, and without what computes nothing.

    That is conversions to the same type and, unless it is kept, :func:`wdlab.anew.anew`.

    The new weights' norm is then read from the new weights, not from the old ones' place. And the
    barrier of ``anew``, for steps that are not made here, would keep what need not be kept here.
    """
    same: dict[Var, Any] = {}
    known: dict[Any, JaxprEqn] = {}
    eqns = []

    def resolved(atoms: list[Any]) -> list[Any]:
        return [same.get(v, v) if isinstance(v, Var) else v for v in atoms]

    for eqn in jaxpr.eqns:
        eqn = eqn.replace(invars=resolved(eqn.invars))
        if (_is_anew(eqn) and not keep_anew) or _changes_nothing(eqn):
            same |= zip(eqn.outvars, eqn.invars, strict=True)
        elif _is_elementwise(eqn) and (first := known.setdefault(_key(eqn), eqn)) is not eqn:
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


def _is_anew(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name == "jit" and eqn.params["name"] == "anew"


def _changes_nothing(eqn: JaxprEqn) -> bool:
    """Whether it converts to the dtype that is there, as Optax does with its moments."""
    if eqn.primitive.name != "convert_element_type" or not isinstance(eqn.invars[0], Var):
        return False
    before, after = (getattr(var.aval, "dtype", None) for var in (eqn.invars[0], eqn.outvars[0]))
    return before == after


def _as_strong_as(aval: Any, value: Any) -> Any:
    """The value without the weak type that a dropped conversion would have taken from it."""
    if getattr(jax.typeof(value), "weak_type", False) and not aval.weak_type:
        return jax.lax.convert_element_type(value, aval.dtype)
    return value


def _is_elementwise(eqn: JaxprEqn) -> bool:
    """Whether it makes a large array entry by entry."""
    if any(getattr(var.aval, "size", 0) < LARGE for var in eqn.outvars):
        return False
    if eqn.primitive.name == "jit":
        return all(e.primitive.name in _ELEMENTWISE for e in eqn.params["jaxpr"].jaxpr.eqns)
    return eqn.primitive.name in _ELEMENTWISE


def _sums(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name.startswith("reduce_")


def _made(atoms: list[Any], made_by: dict[Var, Any]) -> list[Var]:
    return [v for v in atoms if isinstance(v, Var) and v in made_by]
