"""A jaxpr as a program on uniform arrays: shapes are gone, control flow is written out."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from wdlab._core.equations import called_programs, counts_of_scan
from wdlab.instruments.plans.uniform_arrays import (
    JOINED,
    MOVED,
    POINTWISE,
    REDUCED,
    SELECT,
    UNCHANGED,
    Operation,
    operation,
)
from wdlab.instruments.plans.uniform_programs import MOST_ENTRIES, Number, Program, folded

Array = Any
_MOST_MOVED = 2**14  # Entries that are followed one by one where arrays are put together.
_MOST_UNROLLED = 20_000  # Equations of a scan, written one after the other.
_MOST_ROUNDS = 1000  # Of a loop that ends by a condition.


def trace(program: Program, closed: Any, operands: Sequence[Number]) -> list[Number]:
    """Adds a jaxpr to a program: the numbers of its results, given those of its arguments.

    >>> program = Program()
    >>> x = program.input("x")
    >>> jaxpr = jax.make_jaxpr(lambda x: (x * 2).sum())(np.ones((2, 3), np.float32))
    >>> total = trace(program, jaxpr, [x])
    >>> program.run({x: np.asarray([1.0, 10.0])}, total)[0][0].tolist()
    [12.0, 120.0]
    """
    return _Tracing(program).trace(closed, operands)


class _Tracing:
    def __init__(self, program: Program):
        self._program = program

    def trace(self, closed: Any, operands: Sequence[Number]) -> list[Number]:
        """The numbers of a jaxpr's results, given those of its arguments."""
        jaxpr = getattr(closed, "jaxpr", closed)
        values = map(self._program.constant, getattr(closed, "consts", ()))
        known = dict(zip(jaxpr.constvars, values, strict=True))
        known |= dict(zip(jaxpr.invars, operands, strict=True))

        def number(atom: Any) -> Number:
            return (
                self._program.constant(atom.val) if isinstance(atom, core.Literal) else known[atom]
            )

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [number(atom) for atom in eqn.invars])
            known |= dict(zip(eqn.outvars, results, strict=True))
        return [number(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, operands: list[Number]) -> list[Number]:
        name, params = eqn.primitive.name, eqn.params
        if name == "cond":
            return self._cond(params["branches"], operands)
        if name == "scan":
            return self._scan(eqn, operands)
        inner = called_programs(params)
        if inner and name != "shard_map":  # Its shapes are those of one device.
            return self.trace(inner[0], operands)
        if name == "iota" and np.prod(eqn.outvars[0].aval.shape) <= MOST_ENTRIES:
            return [self._program.constant(eqn.primitive.bind(**params))]
        plain = all(isinstance(operand, int) for operand in operands)
        if name in ("concatenate", "stack") and plain and len(set(operands)) == 1:
            return operands[:1]
        if name in ("concatenate", "stack") or not plain:
            return self._entries(eqn, operands)
        if name in UNCHANGED:
            return operands[:1]
        if name in ("optimization_barrier", "sort", "split"):  # Equal entries are in order.
            return (operands * len(eqn.outvars))[: len(eqn.outvars)]
        if name in JOINED:
            joined = set(operands[: JOINED[name]])
            return [joined.pop() if len(joined) == 1 else self._program.unknown(operands)]
        if name == "while":
            return self._while(params, operands)
        if len(eqn.outvars) != 1:
            return [self._program.unknown(operands, n) for n in range(len(eqn.outvars))]
        return [self._program.apply(operation(eqn), operands)]

    def _entries(self, eqn: Any, operands: list[Number]) -> list[Number]:
        """An equation on a small array whose entries are known one by one."""
        name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
        if name == "optimization_barrier":
            return operands
        if name in MOVED and np.prod(shape) <= _MOST_MOVED:
            pairs = zip(operands, eqn.invars, strict=True)
            arrays = [np.broadcast_to(n, atom.aval.shape).astype(np.int32) for n, atom in pairs]
            results = eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **eqn.params)
            return [folded(x) for x in jax.tree.leaves(results)]
        if name in REDUCED:
            axes, binary = eqn.params["axes"], REDUCED[name]
            rows = np.moveaxis(operands[0], axes, range(len(axes))).reshape(-1, *shape)
            return [functools.reduce(lambda a, b: self._pointwise(binary, (a, b)), rows)]
        if name in POINTWISE:
            return [self._pointwise(operation(eqn), operands)]
        return [self._program.unknown(operands, n) for n in range(len(eqn.outvars))]

    def _pointwise(self, what: Operation | None, operands: Sequence[Number]) -> Number:
        arrays = np.broadcast_arrays(*operands)
        entries = zip(*(array.flat for array in arrays), strict=True)
        found = [self._program.apply(what, [int(n) for n in entry]) for entry in entries]
        return folded(np.reshape(found, arrays[0].shape))

    def _cond(self, branches: Sequence[Any], operands: list[Number]) -> list[Number]:
        which, *rest = operands
        cases = zip(*(self.trace(branch, rest) for branch in branches), strict=True)
        return [self._pointwise(SELECT, (which, *case)) for case in cases]

    def _scan(self, eqn: Any, operands: list[Number]) -> list[Number]:
        params, body = eqn.params, eqn.params["jaxpr"]
        length = params["length"]
        fixed, carried = counts_of_scan(params)
        if length * len(body.jaxpr.eqns) > _MOST_UNROLLED:
            return [self._program.unknown(operands, n) for n in range(len(eqn.outvars))]
        carry, rows = operands[fixed : fixed + carried], []
        for n in range(length)[:: -1 if params["reverse"] else 1]:
            given = [x if isinstance(x, int) else folded(x[n]) for x in operands[fixed + carried :]]
            results = self.trace(body, [*operands[:fixed], *carry, *given])
            carry = results[:carried]
            rows.append([self._program.single(x) for x in results[carried:]])
        stacked = [set(column) for column in zip(*rows, strict=True)]
        return [
            *carry,
            *(c.pop() if len(c) == 1 else self._program.unknown(sorted(c)) for c in stacked),
        ]

    def _while(self, params: dict[str, Any], operands: list[int]) -> list[int]:
        first, begins = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        test, step = Program(), Program()
        count = len(operands) - begins
        asked = [test.input(f"x{n}") for n in range(first + count)]
        given = [step.input(f"x{n}") for n in range(begins - first + count)]
        answer = list(map(test.single, trace(test, params["cond_jaxpr"], asked)))
        after = list(map(step.single, trace(step, params["body_jaxpr"], given)))

        def loop(place: int, *values: Array) -> Array:
            values = tuple(np.broadcast_arrays(*values))
            carry = list(values[begins:])
            for _ in range(_MOST_ROUNDS):
                goes_on = test.run(
                    dict(zip(asked, [*values[:first], *carry], strict=True)), answer
                )[0]
                if not np.any(goes_on[0]) or np.any(goes_on[1]):
                    return np.where(goes_on[1], np.nan, carry[place])
                new = step.run(
                    dict(zip(given, [*values[first:begins], *carry], strict=True)), after
                )
                carry = [
                    np.where(goes_on[0], x, old) for (x, _), old in zip(new, carry, strict=True)
                ]
            return np.full_like(carry[place], np.nan, float)

        key = ("while", *map(test.text, answer), *map(step.text, after))
        loops = [Operation((*key, n), functools.partial(loop, n)) for n in range(count)]
        return [self._program.apply(what, operands) for what in loops]
