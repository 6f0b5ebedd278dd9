"""Later steps of two optimizers: their decay and their response to a gradient over a whole run.

Nothing is run up to them. What counts steps in the states is set to each, so that every boundary of
a schedule is met, up to a thousand million steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from wdlab.instruments.equivalence.problems import Difference
from wdlab.instruments.plans import GRID, TracedOptimizer, find_jumps, measure, shares

Array = Any
_RELATIVE, _ABSOLUTE = 1e-5, 1e-12


def later_difference(tx_a: Any, tx_b: Any, params: Any, paths: Sequence[str]) -> Difference | None:
    """The first step at which a decay or a response differs; None also where they are unknown.

    >>> import optax
    >>> rates = [optax.piecewise_constant_schedule(1.0, {n: 0.1}) for n in (70_000, 70_100)]
    >>> shape = {"w": jax.ShapeDtypeStruct((2,), "float32")}
    >>> later_difference(*map(optax.sgd, rates), shape, ["w"])
    Difference(step=70000, leaf='w', term='response to a gradient of 1', one=-0.1, two=-1.0, ...)
    """
    sides = [TracedOptimizer(tx, params) for tx in (tx_a, tx_b)]
    leaves = [measure(side, GRID) for side in sides]
    found: list[Difference] = []
    seen = set()
    for path, shape, one, two in zip(paths, jax.tree.leaves(params), *leaves, strict=True):
        if (one.kinds, two.kinds) in seen or not shape.size:
            continue
        seen.add((one.kinds, two.kinds))
        pair = [*zip(sides, (one, two), strict=True)]
        for term, column in (("decay, without a gradient", 0), ("response to a gradient of 1", 2)):
            values = [leaf.response if column else leaf.decay for _, leaf in pair]
            evaluate = [_at(side, leaf, column) for side, leaf in pair]
            step = _first(values, evaluate)
            if step is not None:
                a, b = (float(f(np.asarray([step]))[0]) * (1 if column else -1) for f in evaluate)
                found.append(Difference(step, path, term, a, b, 1.0, 1.0 if column else 0.0))
    return min(found, key=lambda difference: difference.step, default=None)


def _at(side: TracedOptimizer, leaf: Any, column: int) -> Callable[[Array], Array]:
    return lambda steps: shares(side, leaf.kinds[:1], steps)[0][column]


def _first(values: Sequence[Array], evaluate: Sequence[Callable[[Array], Array]]) -> int | None:
    """The first step at which two curves differ, to the step."""
    places = np.flatnonzero(_differ(*values))
    if len(places):
        high = int(GRID[places[0]])
        low = int(GRID[places[0] - 1]) if places[0] else -1
        while high - low > 1:
            middle = np.asarray([(low + high) // 2])
            apart = _differ(*(f(middle) for f in evaluate))[0]
            low, high = (low, int(middle[0])) if apart else (int(middle[0]), high)
        return high
    jumps = [set(find_jumps(v, f)) for v, f in zip(values, evaluate, strict=True)]
    steps = sorted(jumps[0] ^ jumps[1])
    apart = _differ(*(f(np.asarray(steps)) for f in evaluate)) if steps else []
    return next((step for step, differs in zip(steps, apart, strict=True) if differs), None)


def _differ(one: Array, two: Array) -> Array:
    """Where both are known and differ."""
    known = np.isfinite(one) & np.isfinite(two)
    return known & ~np.isclose(one, two, rtol=_RELATIVE, atol=_ABSOLUTE)
