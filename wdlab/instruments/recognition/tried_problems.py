"""An optimizer's answers on two tiny problems, and the numbers that its program works with."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.instruments.equivalence.evaluation import evaluate
from wdlab.instruments.equivalence.proof import Traced, traced
from wdlab.instruments.plans import one_leaf, with_results
from wdlab.instruments.recognition.candidates import Program, arrays_of
from wdlab.instruments.recognition.program_numbers import constants_of, scalars_of_step

Array = Any
# Sizes of the gradients, one for each update; the tiny ones show where an epsilon stands.
_SIZES = ((1.0, 0.3, 2.0, 30.0, 0.001), (1e-6, 3e-7, 2e-6))
_FIRST = 4  # Entries of the smallest axis.
_LONG, _MOST_ENTRIES = 128, 20_000


@dataclass(frozen=True)
class Problem:
    """Weights, gradients and losses of some updates, and these."""

    weights: Array  # (updates, ...)
    gradients: Array
    losses: Array
    updates: Array


@dataclass(frozen=True)
class Tried:
    """One leaf's optimizer, what it answered, and its numbers."""

    tx: Any  # Of the leaf alone, in a small shape.
    shape: tuple[int, ...]
    wide_tx: Any  # The same in a shape that is factored where the leaf's own is.
    wide_shape: tuple[int, ...]
    wide: Traced
    problems: tuple[Problem, ...]
    # Shapes in the state there, those of few entries and accumulated gradients left out.
    arrays: tuple[tuple[int, ...], ...]
    numbers: tuple[float, ...]  # The sizes of all constants of the program, each once.
    scalars: tuple[Any, ...]  # Variables of the program that depend on the step alone.
    sequences: Array  # Their values in the first problem: (scalars, updates).
    program: Traced
    clip: float | None  # The norm to which gradients are clipped; None where they are not.
    keeps_weights: bool  # Whether the state begins with a copy of the weights.
    cache: dict[Any, Array] = field(default_factory=dict, repr=False)  # Of candidates' answers.

    def answers(self, found: Program, values: tuple[float, ...], rates: Array, n: int = 0) -> Array:
        """A convention's updates in problem ``n``, with these numbers and rates; computed once."""
        key = found.text, values, rates.tobytes(), n
        if key not in self.cache:
            self.cache[key] = found.answers(values, rates, self.problems[n])
        return self.cache[key]

    def values(self, place: int, steps: Array) -> Array:
        """One of the scalars at these numbers of updates made before."""
        schedule = jax.jit(jax.vmap(self.schedule(place, 1.0)))
        return np.asarray(schedule(jnp.asarray(steps, jnp.int32)), float)

    def schedule(self, place: int, factor: float) -> Callable[[Any], Any]:
        """One of the scalars, times a number, as a function of the updates made before."""
        program, jaxpr = self.program, self.program.update.jaxpr
        only = with_results(program.update, [self.scalars[place]], keep=False)
        first = evaluate(program.init, [np.zeros(self.shape)])

        def schedule(count: Any) -> Any:
            given = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
            for n, x in enumerate(first):
                if x.shape == ():
                    start = jnp.asarray(x, jaxpr.invars[1 + n].aval.dtype)
                    given[1 + n] = start + count if x.dtype.kind in "iu" else start
            return factor * jax.core.eval_jaxpr(only.jaxpr, only.consts, *given)[0]

        return schedule


def small_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of few entries whose axes have the same order of sizes.

    >>> small_shape((768, 3072)), small_shape((10, 10)), small_shape((2,))
    ((4, 5), (4, 4), (4,))
    """
    least = 1 if math.prod(shape) > _FIRST else 0  # Else all axes are made longer.
    order = sorted({n for n in shape if n > least})
    small = {n: _FIRST + place for place, n in enumerate(order)}
    return tuple(small.get(n, n) for n in shape)


def wide_shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape whose axes are long or short as before: those from 128 on are factored by some.

    >>> wide_shape_of((50257, 768)), wide_shape_of((10, 300)), wide_shape_of((3, 3, 512, 512))
    ((129, 128), (10, 128), (4, 4, 5, 5))
    """
    order = sorted({n for n in shape if n > _LONG})
    wide = tuple(_LONG + order.index(n) if n > _LONG else n for n in shape)
    return wide if math.prod(wide) <= _MOST_ENTRIES else small_shape(shape)


def try_leaf(tx: Any, params: Any, place: int, calls: int) -> Tried:
    """Runs the optimizer of one leaf on the problems.

    Args:
      tx: An Optax transformation of the whole tree.
      params: Pytree of ``jax.ShapeDtypeStruct``.
      place: Which of the leaves.
      calls: Of the update, for one step of the weights.

    >>> import optax
    >>> found = try_leaf(optax.sgd(0.5), [jax.ShapeDtypeStruct((3,), "float32")], 0, 1)
    >>> bool(np.allclose(found.problems[0].updates, -0.5 * found.problems[0].gradients))
    True
    """
    leaf = jax.tree.leaves(params)[place]
    shape, wide_shape = small_shape(leaf.shape), wide_shape_of(leaf.shape)
    wide_tx = one_leaf(tx, params, place, wide_shape_of)
    wide = traced(wide_tx, jax.ShapeDtypeStruct(wide_shape, np.float32))
    alone = one_leaf(tx, params, place, small_shape)
    program = traced(alone, jax.ShapeDtypeStruct(shape, np.float32))
    of_step = scalars_of_step(program)
    problems, scalars = [], []
    for seed, sizes in enumerate(_SIZES):
        random = np.random.default_rng(seed)
        problem, values = _run(program, of_step, random, sizes, calls)
        problems.append(problem)
        scalars.append(values)
    arrays = list(arrays_of(wide.state))
    if calls > 1 and wide_shape in arrays:
        arrays.remove(wide_shape)  # Where gradients are accumulated.
    numbers = constants_of(program)
    scalars_of = tuple(of_step), np.transpose(scalars[0])
    clip = _clip(program, numbers, calls)
    weights = problems[0].weights[0]
    begun = evaluate(program.init, [weights])
    copies = any(x.shape == shape and np.array_equal(x, weights) for x in begun)
    own = alone, shape, wide_tx, wide_shape, wide
    return Tried(*own, tuple(problems), tuple(arrays), numbers, *scalars_of, program, clip, copies)


def _clip(program: Traced, numbers: tuple[float, ...], calls: int) -> float | None:
    """The least of the numbers to whose norm a second gradient can be made shorter unseen."""
    random = np.random.default_rng(2)
    w, g, h = (random.standard_normal(program.params.shape) for _ in range(3))
    g, h = g / np.linalg.norm(g), h / np.linalg.norm(h)

    def second(size: float) -> Array:
        return _updates(program, w, [1e6 * g, size * h], calls)[1]

    large = second(1e6)
    if not np.allclose(large, second(3e6), rtol=1e-9, atol=0) or np.allclose(
        large, second(1e-3), rtol=1e-9, atol=0
    ):
        return None
    options = [x for x in numbers if 1e-4 < x < 1e5]
    unseen = [x for x in options if np.allclose(second(x), large, rtol=1e-9, atol=0)]
    return min(unseen, default=None)


def _updates(program: Traced, weights: Array, gradients: list[Array], calls: int) -> list[Array]:
    """The updates of weights that stay as they are."""
    state, found = evaluate(program.init, [weights]), []
    for gradient in gradients:
        total = np.zeros_like(weights)
        for _ in range(calls):
            given = [gradient, *state, weights, *[np.float64(1.0)] * program.wants_loss]
            update, *state = evaluate(program.update, given)
            total = total + update
        found.append(total)
    return found


def _run(
    program: Traced, of_step: list[Any], random: Any, sizes: tuple[float, ...], calls: int
) -> tuple[Problem, list[list[float]]]:
    shape = program.params.shape
    weights = [random.standard_normal(shape)]
    state = evaluate(program.init, [weights[0]])
    gradients, updates, scalars = [], [], []
    losses = np.linspace(1.0, 0.5, len(sizes))
    watched = with_results(program.update, of_step)
    for size, loss in zip(sizes, losses, strict=True):
        gradient = size * random.standard_normal(shape)
        total, row = np.zeros(shape), []
        for _ in range(calls):
            given = [gradient, *state, weights[-1], *[np.float64(loss)] * program.wants_loss]
            results = evaluate(watched, given)
            count = len(results) - len(of_step)
            update, *state = results[:count]
            total = total + update
            row = [float(x) for x in results[count:]]
        scalars.append(row)
        gradients.append(gradient)
        updates.append(total)
        weights.append(weights[-1] + np.nan_to_num(total))
    parts = [np.asarray(x) for x in (weights[:-1], gradients, losses, updates)]
    return Problem(*parts), scalars
