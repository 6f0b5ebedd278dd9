"""One loop for each array that a step writes and each number it sums up, on XLA:CPU.

An optimizer step is memory traffic, and XLA:CPU keeps a direction that a norm and the new weights
both need: it writes it to memory, as large as the parameters, into fresh pages. Computing it once
more from what is in memory already, gradients and moments, costs a fraction of that. So each large
array that is written, summed or otherwise read as a whole gets elementwise operations of its own.
They start behind a barrier, so that the compiler does not find them equal and merge them again.
And what reads an array comes before what takes its place.

Other compilers fuse several results into one loop themselves, and get the function as it is.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from wdlab._core.traces import (
    LARGE,
    as_strong_as,
    bind,
    is_anew,
    is_elementwise,
    made_in,
    needs,
    read_by,
    simplified,
    sums,
)

PyTree = Any


def in_own_loops(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function of pytrees of arrays, to be called under ``jax.jit``.

    Its first arguments are taken to give their places to the results, in order.

    >>> jax.jit(in_own_loops(lambda x: x / jnp.sqrt(jnp.sum(x * x))))(jnp.array([3.0])).tolist()
    [1.0]
    """
    traced = jax.jit(function)

    def call(*args: PyTree) -> PyTree:
        if all(jnp.size(leaf) < LARGE for leaf in jax.tree.leaves(args)):
            return function(*args)
        trace = traced.trace(*args)
        loops = _Loops(trace.jaxpr.jaxpr, keep_anew=True)
        if not loops.would_keep_copies:
            return traced(*args)
        if any(map(is_anew, loops.eqns)):
            loops = _Loops(trace.jaxpr.jaxpr)

        def apart(*args: PyTree) -> PyTree:
            results = loops.run(trace.jaxpr.consts, jax.tree.leaves(args))
            return jax.tree.unflatten(jax.tree.structure(trace.out_info), results)

        return jax.lax.platform_dependent(*args, cpu=apart, default=traced)

    return call


class _Loops:
    """Which operations each large array needs that is written or read as a whole."""

    def __init__(self, jaxpr: Jaxpr, *, keep_anew: bool = False):
        self.jaxpr = jaxpr
        self.eqns, self.results = simplified(jaxpr, keep_anew)
        self.made_by = {v: e for e in self.eqns if is_elementwise(e) for v in e.outvars}
        self.written = {v for v in self.results if isinstance(v, Var)}
        others = [e for e in self.eqns if e.outvars[0] not in self.made_by]
        kept = {v: None for e in others if not sums(e) for v in made_in(e.invars, self.made_by)}
        kept |= dict.fromkeys(made_in(self.results, self.made_by))
        self.sums = [e for e in others if sums(e)]
        self.summed = [v for e in self.sums for v in made_in(e.invars, self.made_by)]
        self.loops = [*kept, *(v for v in self.summed if v not in kept)]
        self.bodies = {v: list(self._body(v, set())) for v in dict.fromkeys(self.loops)}
        self.reads = {v: read_by(body) for v, body in self.bodies.items()}
        self.anew_of_made = any(made_in(e.invars, self.made_by) for e in others if is_anew(e))
        self.place = {
            result: place
            for place, result in zip(jaxpr.invars, self.results, strict=False)
            if isinstance(result, Var) and place in self.reads.get(result, ())
            if place.aval == result.aval and _is_floating(place)
        }
        readers = [(v, v) for v in dict.fromkeys(made_in(self.results, self.bodies))]
        readers += [(e.outvars[0], v) for e in self.sums for v in made_in(e.invars, self.made_by)]
        self.readers: dict[Var, list[Var]] = {}
        for made, loop in readers:
            for var in self.reads[loop]:
                self.readers.setdefault(var, []).append(made)
        self.needs = needs(self.eqns, [made for made, _ in readers])

    @property
    def would_keep_copies(self) -> bool:
        """Whether two loops need the same operation, or a sum is of what another one writes.

        Or one reads what another one overwrites. A loop that only reads what another one writes is
        left to XLA, whose order is the better, unless a sum has a factor that it would take out of
        it: (m + g) / 2 is then computed from m again where it is read.
        """
        needed = Counter(id(eqn) for v in self.loops for eqn in self.bodies[v])
        bodies = [self.bodies[v] for v in self.summed]
        shared = max(needed.values(), default=0) > 1
        read = any(made_in(eqn.invars, self.bodies) for body in bodies for eqn in body)
        summed = bool(self.written.intersection(self.summed))
        overwritten = any(map(self._earlier, self.place))
        factor = any(map(self._has_factor, self.made_by.values()))
        return shared or read or summed or overwritten or factor or self.anew_of_made

    def run(self, consts: list[Any], inputs: list[Any]) -> list[Any]:
        """The results, each loop behind a barrier of its own."""
        self.values = dict(zip(self.jaxpr.constvars, consts, strict=True))
        self.values |= zip(self.jaxpr.invars, inputs, strict=True)
        self.behind: dict[tuple[Var, ...], list[Any]] = {}
        self.started: set[Var] = set()
        for eqn in self.eqns:
            if eqn.outvars[0] not in self.made_by:
                # A sum and what it sums up are one loop; other operations need an array in memory.
                made = bind(eqn, [self._value(atom, keep=not sums(eqn)) for atom in eqn.invars])
                self.values |= zip(eqn.outvars, made, strict=True)
        results = zip(map(self._value, self.results), self.jaxpr.outvars, strict=True)
        return [as_strong_as(atom.aval, value) for value, atom in results]

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
        body, read = self.bodies[result], self.reads[result]
        self.started.add(result)
        first = [self._value(v) for v in self._earlier(result) if self._can_start(v)]
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
        for other in first:
            local[self.place[result]] = _after(other, local[self.place[result]])
        for eqn in body:
            made = bind(eqn, [local[id(v) if isinstance(v, Literal) else v] for v in eqn.invars])
            local |= zip(eqn.outvars, made, strict=True)
        return local[result]

    def _earlier(self, result: Var) -> list[Var]:
        """Other results, and sums, that read what this one overwrites and do not depend on it."""
        near = self.readers[self.place[result]] if result in self.place else []
        return [v for v in near if not self.needs(result, v) and not self.needs(v, result)]

    def _can_start(self, var: Var) -> bool:
        """Whether all that its loop reads is known, or can be."""
        if var in self.values:
            return True
        started = var not in self.reads or var in self.started
        return not started and all(map(self._can_start, self.reads[var]))

    def _has_factor(self, eqn: JaxprEqn) -> bool:
        """Whether it is a sum of two products with the same number."""
        products = [self.made_by.get(v) for v in eqn.invars if isinstance(v, Var)]
        factors = [
            {np.asarray(v.val).item() for v in product.invars if isinstance(v, Literal)}
            for product in products
            if product is not None and product.primitive.name == "mul"
        ]
        return eqn.primitive.name == "add" and len(factors) == 2 and bool(factors[0] & factors[1])

    def _body(self, var: Var, seen: set[int]) -> Iterator[JaxprEqn]:
        """The operations from what is in memory to ``var``, in order."""
        eqn = self.made_by[var]
        if id(eqn) in seen:
            return
        seen.add(id(eqn))
        for atom in made_in(eqn.invars, self.made_by):
            # A new moment is read from where it is written: its old place may be overwritten.
            if atom not in self.written:
                yield from self._body(atom, seen)
        yield eqn


def _is_floating(var: Var) -> bool:
    return jnp.issubdtype(getattr(var.aval, "dtype", bool), jnp.floating)


def _after(other: jax.Array, array: jax.Array) -> jax.Array:
    """The same array, as something that depends on the other one.

    XLA looks at data when it looks for copies: it has dropped all barriers by then. What is taken
    off is 0, as the upper half of a 16-bit number, which it does not see.
    """
    entry = jax.lax.slice(other, [0] * other.ndim, [1] * other.ndim).reshape(())
    if jnp.issubdtype(entry.dtype, jnp.floating):
        entry = jax.lax.bitcast_convert_type(entry, f"uint{8 * entry.dtype.itemsize}")
    zero = entry.astype(jnp.uint16).astype(jnp.uint32) >> 16
    return array - zero.astype(array.dtype)
