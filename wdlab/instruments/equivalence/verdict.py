"""Whether two optimizers are the same, and where they differ first if they are not."""

from dataclasses import dataclass
from typing import Any

from wdlab._core.names import first_line
from wdlab._core.transformation import check_transformation
from wdlab.instruments.equivalence.later_steps import later_difference
from wdlab.instruments.equivalence.problems import (
    PROBLEMS,
    STEPS,
    Difference,
    first_difference,
    run_shapes,
)
from wdlab.instruments.equivalence.proof import Traced, proved_equal, traced
from wdlab.instruments.inputs import check_arrays, float32_shapes
from wdlab.instruments.plans import GRID, TracedOptimizer
from wdlab.rules import leaves_with_paths, parameters

PyTree = Any


@dataclass(frozen=True)
class Equivalence:
    """The answer of :func:`equivalent`; ``str`` says how it is known, or where they differ."""

    equal: bool
    how: str  # "proved", "tested on N steps" or "differ".
    difference: Difference | None = None

    def __bool__(self) -> bool:
        """Whether the two are the same."""
        return self.equal

    def __str__(self) -> str:
        """One or two lines."""
        d = self.difference
        if d is None:
            return f"the same optimizer: {self.how}"
        noise = 1e-12 * max(abs(d.one), abs(d.two))
        one, two = (0.0 if abs(x) <= noise else x for x in (d.one, d.two))
        ratio = f", {two / one:.6g} times" if one * two > 0 else ""
        at = f"weight {d.weight:.6g}, gradient {d.gradient:.6g}"
        return (
            f"not the same optimizer: they differ first at step {d.step} in {d.leaf} ({d.term})\n"
            f"  at {at} the first updates by {one:.9g}, the second by {two:.9g}{ratio}"
        )


def equivalent(tx_a: Any, tx_b: Any, params: PyTree, *, wrt: Any = None) -> Equivalence:
    r"""Whether two optimizers make the same updates, whatever their programs look like.

    First a proof is tried: both updates are traced and brought to a normal form of sums and
    products, and equal arrays of the two states are found by induction over the steps. Where that
    does not settle it, both are run side by side in float64 on problems that take every branch we
    know of (no gradient, no weights, large, tiny and non-finite gradients, accumulation), and their
    decay and response are compared at all steps up to :math:`10^9`, schedules' boundaries included.

    The same means: as functions of real numbers, with constants equal to float32's seven digits,
    and counts below :math:`2^{31} - 1`. Dtypes and the order of roundings are not compared.

    Args:
      tx_a: An Optax transformation.
      tx_b: Another.
      params: Pytree of float arrays or of ``jax.ShapeDtypeStruct``, or a Flax nnx model; the values
        do not matter. Parameters of more than 20,000 entries are run in smaller shapes; decisions
        by shape are then compared in the proof and at later steps alone.
      wrt: What is trained of an nnx model, as in :func:`wdlab.decay_scales`.

    Returns:
      True-ish where they are the same; ``how`` is "proved" or "tested on N steps". Else false with
      the smallest ``difference`` that was found: step, leaf, term and numbers.

    Raises:
      TypeError: If one is no transformation, or a leaf of ``params`` no array.
      ValueError: If an update cannot be traced on ``params``: which, and the error.

    >>> import jax, optax, wdlab
    >>> theirs = optax.adamw(1e-3, weight_decay=0.1)
    >>> ours = wdlab.optimizers.adamw(
    ...     1e-3, weight_decay=0.1, coupling="lr", rules=wdlab.rules.ALL)
    >>> params = {"w": jax.ShapeDtypeStruct((8, 4), "float32")}
    >>> print(wdlab.equivalent(ours, theirs, params))
    the same optimizer: proved
    >>> print(wdlab.equivalent(ours, optax.adamw(1e-3, weight_decay=0.01), params))
    not the same optimizer: they differ first at step 0 in w (decay, without a gradient)
      at weight 0.411631, gradient 0 the first updates by -4.11630536e-05, the second by ...
    """
    for tx in (tx_a, tx_b):
        check_transformation(tx, "equivalent")
    params = parameters(params, wrt)
    check_arrays("equivalent", params)
    paths = [path for path, _ in leaves_with_paths(params)]
    shapes = float32_shapes(params)
    one, two = _traced("first", tx_a, shapes), _traced("second", tx_b, shapes)
    if proved_equal(one, two):
        return Equivalence(True, "proved")
    small = run_shapes(shapes)
    sides = (one, two)
    if small is not shapes:
        sides = _traced("first", tx_a, small), _traced("second", tx_b, small)
    difference = first_difference(*sides, paths)
    steps = STEPS
    if difference is None:
        calls = [TracedOptimizer(tx, shapes).calls for tx in (tx_a, tx_b)]
        if max(calls) * 2 > STEPS:
            steps = 2 * max(calls) + 1
            difference = first_difference(*sides, paths, steps)
    difference = difference or later_difference(tx_a, tx_b, shapes, paths)
    if difference is not None:
        return Equivalence(False, "differ", difference)
    return Equivalence(True, f"tested on {len(PROBLEMS) * steps + len(GRID)} steps")


def _traced(which: str, tx: Any, params: PyTree) -> Traced:
    try:
        return traced(tx, params)
    except Exception as error:
        raise ValueError(
            f"equivalent: the {which} optimizer cannot be traced on these parameters: "
            f"{first_line(error)}"
        ) from error
