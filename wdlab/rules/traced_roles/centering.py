"""What subtracting a mean removes: a bias before BatchNorm takes no part in what comes after.

A value that is a sum of a and b, with b constant along some dimensions, is remembered as a up to
such a term. Where its own mean over those dimensions is subtracted, or its variance is taken, b is
gone, and what scales as a does not have to scale as b.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wdlab.rules.traced_roles.degrees import Degrees
from wdlab.rules.traced_roles.values import Shift, Statistic, Value

_SAME_ENTRIES = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy")
_ENTRYWISE = ("add", "sub", "mul", "div", "neg", "convert_element_type")


@dataclass(frozen=True)
class _Equation:
    name: str
    params: dict[str, Any]
    operands: Sequence[Value]
    shapes: Sequence[tuple[int, ...]]
    out: tuple[int, ...]


def centered(
    name: str,
    params: dict[str, Any],
    operands: Sequence[Value],
    shapes: Sequence[tuple[int, ...]],
    out: tuple[int, ...],
    value: Value,
) -> Value:
    """Adds to a primitive's result what is known of terms that are constant along dimensions.

    Args:
      name: The primitive's.
      params: The primitive's.
      operands: Its operands.
      shapes: Their shapes.
      out: The result's shape.
      value: What else is known of the result.

    >>> from wdlab.rules.traced_roles.values import activation, constant
    >>> row = centered("broadcast_in_dim", {"broadcast_dimensions": (1,)}, [constant(1)], [(3,)],
    ...                (2, 3), constant(2))
    >>> sorted(row.constant_along)
    [0]
    """
    equation = _Equation(name, params, operands, shapes, out)
    found = replace(
        value,
        constant_along=_constant_along(equation),
        shift=_shift(equation),
        statistic=_statistic(equation),
    )
    if name == "convert_element_type":  # The same numbers.
        found = replace(found, token=operands[0].token)
    degrees = _without_shift(equation)
    return found if degrees is None else replace(found, degrees=degrees)


def _constant_along(eqn: _Equation) -> frozenset[int]:
    if eqn.name == "broadcast_in_dim":
        placed = dict(zip(eqn.params["broadcast_dimensions"], range(len(eqn.out)), strict=False))
        [before, *_], [shape, *_] = eqn.operands, eqn.shapes
        return frozenset(
            d
            for d, size in enumerate(eqn.out)
            if d not in placed or placed[d] in before.constant_along or shape[placed[d]] != size
        )
    if eqn.name not in _ENTRYWISE:
        return frozenset()
    return frozenset.intersection(*(_along(eqn, n) for n in range(len(eqn.operands))))


def _along(eqn: _Equation, n: int) -> frozenset[int]:
    """The dimensions of the result along which operand n is constant."""
    operand, shape = eqn.operands[n], eqn.shapes[n]
    if operand.number is not None or len(shape) != len(eqn.out):
        return frozenset(range(len(eqn.out)))
    repeated = {d for d, size in enumerate(eqn.out) if shape[d] != size}
    return operand.constant_along | repeated


def _shift(eqn: _Equation) -> Shift | None:
    """What is left of a sum without the term that is constant, and along which dimensions."""
    if eqn.name == "convert_element_type":
        return eqn.operands[0].shift
    if eqn.name not in ("add", "sub"):
        return None
    for n, m in ((0, 1), (1, 0)):
        along, rest = _along(eqn, m), eqn.operands[n]
        if along and len(eqn.shapes[n]) == len(eqn.out):
            if rest.shift is not None:
                return Shift(rest.shift.rest, rest.shift.along & along)
            return Shift(rest.degrees, along)
    return None


def _statistic(eqn: _Equation) -> Statistic | None:
    """Squares, sums and means of a value."""
    if not eqn.operands:
        return None
    first = eqn.operands[0]
    of = first.statistic
    if eqn.name in _SAME_ENTRIES:
        return of
    squares = eqn.name == "square" or (eqn.name == "integer_pow" and eqn.params["y"] == 2)
    if squares or (eqn.name == "mul" and first.token is eqn.operands[1].token):
        if of is not None:
            return replace(of, kind="square of the mean") if of.kind == "mean" else None
        return Statistic("square", first.token, first.shift)
    if eqn.name == "reduce_sum":
        axes = frozenset(eqn.params["axes"])
        count = 1
        for axis in axes:
            count *= eqn.shapes[0][axis]
        if of is None:
            return Statistic("sum", first.token, first.shift, axes, count)
        return (
            replace(of, kind="sum of squares", axes=axes, count=count)
            if of.kind == "square"
            else None
        )
    if eqn.name == "div" and of is not None and eqn.operands[1].number == of.count:
        kinds = {"sum": "mean", "sum of squares": "mean of squares"}
        return replace(of, kind=kinds[of.kind]) if of.kind in kinds else None
    return None


def _without_shift(eqn: _Equation) -> Degrees | None:
    """The degrees of x - mean(x) and of mean(x**2) - mean(x)**2; None of anything else."""
    if eqn.name != "sub":
        return None
    x, mean = eqn.operands
    of, own = mean.statistic, x.statistic
    if of is None:
        return None
    if of.kind == "mean" and of.token is x.token and x.shift is not None:
        return _gone(x, x.shift) if of.axes <= x.shift.along else None
    if own is None or (own.kind, of.kind) != ("mean of squares", "square of the mean"):
        return None
    alike = own.token is of.token and own.axes == of.axes
    if alike and own.shift is not None and own.axes <= own.shift.along:
        return _gone(x, replace(own.shift, rest=own.shift.rest.power(2)))
    return None


def _gone(x: Value, shift: Shift) -> Degrees:
    """The rest's degrees; what was in the constant term alone changes nothing any more."""
    gone = x.degrees.leaves & ~shift.rest.leaves
    return replace(shift.rest, zero=shift.rest.zero | gone)
