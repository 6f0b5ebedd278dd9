"""The walk through a traced program, control flow included."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.extend import core

from wdlab._core.equations import called_programs, counts_of_scan
from wdlab.rules.traced_roles.degrees import Degrees, of_any, of_product
from wdlab.rules.traced_roles.equations import results
from wdlab.rules.traced_roles.marks import IOTA
from wdlab.rules.traced_roles.notes import Note, Notes
from wdlab.rules.traced_roles.values import (
    DATA,
    NO_TAGS,
    Kind,
    Tags,
    Value,
    activation,
    constant,
    joined,
    with_first_dimension,
    without_first_dimension,
)

_INLINED = {
    *("jit", "pjit", "closed_call", "core_call", "core_closed_call", "xla_call", "named_call"),
    *("remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"),
    *("custom_vjp_call_jaxpr", "shard_map", "custom_lin"),
}
_MOST_ROUNDS = 12  # Until what is known of a loop's carry stands still; two or three are usual.
_MOST_LOOKED_AT = 2**20  # Entries of a constant array that are looked at.


class Walk:
    """Walks jaxprs and writes notes down.

    Args:
      notes: Written to.
      constants_are_data: Whether arrays that the loss closes over are its data.
    """

    def __init__(self, notes: Notes, constants_are_data: bool = False):
        self._notes = notes
        self._constants_are_data = constants_are_data

    def run(self, closed: Any, operands: Sequence[Value]) -> list[Value]:
        """What is known of a jaxpr's results, given what is known of its arguments."""
        jaxpr = getattr(closed, "jaxpr", closed)
        constants = map(self._constant, getattr(closed, "consts", ()))
        known = dict(zip(jaxpr.constvars, constants, strict=True))
        known |= dict(zip(jaxpr.invars, operands, strict=True))

        def value(atom: Any) -> Value:
            return literal(atom) if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            found = self._equation(eqn, [value(atom) for atom in eqn.invars])
            known |= dict(zip(eqn.outvars, found, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _constant(self, array: Any) -> Value:
        ndim, size = np.ndim(array), np.size(array)
        if not isinstance(array, np.ndarray | np.generic | jax.Array | int | float | bool):
            return constant(len(getattr(array, "shape", ())))
        if isinstance(array, jax.Array) and not (
            array.is_fully_addressable and jax.numpy.issubdtype(array.dtype, np.number)
        ):
            return constant(ndim)
        if 0 < size <= _MOST_LOOKED_AT:
            entries = np.asarray(array).ravel()
            if entries.dtype.kind in "fiub" and (entries == entries[0]).all():
                return constant(ndim, float(entries[0]))
            if entries.dtype.kind in "iu" and (np.diff(entries.astype(np.int64)) == 1).all():
                return constant(ndim, None, IOTA)
        return activation(ndim) if self._constants_are_data else constant(ndim)

    def _equation(self, eqn: Any, operands: list[Value]) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            return self._scan(params, operands)
        if name == "while":
            return self._while(params, operands)
        if name == "cond":
            return self._cond(params["branches"], operands)
        if name in _INLINED:
            for inner in called_programs(params):
                if _takes(inner, len(operands)):
                    return self.run(inner, operands)
        return results(self._notes, eqn, operands)

    def _cond(self, branches: Sequence[Any], operands: list[Value]) -> list[Value]:
        which, *rest = operands
        found = [self.run(branch, rest) for branch in branches]
        chosen = []
        for cases in zip(*found, strict=True):
            value = cases[0]
            for case in cases[1:]:
                value = joined(value, case)
            degrees = of_product(value.degrees, of_any([which.degrees]))
            chosen.append(replace(value, degrees=degrees))
        return chosen

    def _scan(self, params: dict[str, Any], operands: list[Value]) -> list[Value]:
        body = params["jaxpr"]
        fixed, carried = counts_of_scan(params)
        constants, carry = operands[:fixed], operands[fixed : fixed + carried]
        slices = [without_first_dimension(x) for x in operands[fixed + carried :]]

        def step(values: list[Value]) -> list[Value]:
            return self.run(body, [*constants, *values, *slices])

        carry = self._settled(step, carry)
        found = step(carry)
        after = [joined(a, b) for a, b in zip(carry, found[:carried], strict=True)]
        return [*after, *(with_first_dimension(x, _along_loop(x)) for x in found[carried:])]

    def _while(self, params: dict[str, Any], operands: list[Value]) -> list[Value]:
        first = params["cond_nconsts"]
        begins = first + params["body_nconsts"]
        asked, constants, carry = operands[:first], operands[first:begins], operands[begins:]

        def step(values: list[Value]) -> list[Value]:
            return self.run(params["body_jaxpr"], [*constants, *values])

        carry = self._settled(step, carry)
        found = step(carry)
        [until] = self.run(params["cond_jaxpr"], [*asked, *carry])
        after = [joined(a, b) for a, b in zip(carry, found, strict=True)]
        return [replace(x, degrees=of_product(x.degrees, of_any([until.degrees]))) for x in after]

    def _settled(self, step: Any, carry: list[Value]) -> list[Value]:
        """What is known of a loop's carry before any of its rounds."""
        first = carry
        with self._notes.paused():
            for _ in range(_MOST_ROUNDS):
                found = step(carry)[: len(carry)]
                wider = [joined(a, b) for a, b in zip(carry, found, strict=True)]
                if wider == carry:
                    break
                carry = wider
            else:
                carry = [replace(x, degrees=of_any([_moving(x)])) for x in carry]
        for before, value in zip(first, carry, strict=True):
            if before.kind == Kind.WEIGHTS and value.kind == Kind.ACTIVATION:
                for carrier in before.carriers:
                    evidence = "the first value of a loop's state"
                    self._notes.add(carrier.leaf, Note("embedding", evidence, ("state",)))
        return carry


def _moving(value: Value) -> Degrees:
    """All leaves of a value that did not stand still, as unknown."""
    return Degrees({}, 0, value.degrees.leaves)


def _along_loop(value: Value) -> Tags:
    return frozenset({DATA}) if value.kind == Kind.ACTIVATION else NO_TAGS


def _takes(inner: Any, count: int) -> bool:
    jaxpr = getattr(inner, "jaxpr", inner)
    return hasattr(jaxpr, "invars") and len(jaxpr.invars) == count


def literal(atom: Any) -> Value:
    """A number that is written into the program.

    >>> [eqn] = jax.make_jaxpr(lambda x: x + 2.0)(1.0).eqns
    >>> literal(eqn.invars[1]).number
    2.0
    """
    try:
        return constant(np.ndim(atom.val), float(atom.val))
    except (TypeError, ValueError):  # A key, or several entries.
        return constant(np.ndim(atom.val))
