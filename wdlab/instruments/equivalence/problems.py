"""Problems on which two optimizers run side by side in float64, and the first step that differs.

The problems go from simple to mixed: no gradient, no weights, both, and then what takes branches:
large, tiny and vanishing gradients, and ones that are not finite.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.instruments.equivalence.evaluation import evaluate, in_float64
from wdlab.instruments.equivalence.proof import Traced

Array = Any
PyTree = Any
# Factors of the gradients between which branches are looked for.
_SIZES = (-30.0, -3.0, -1.0, -0.3, -0.03, 0.0, 0.03, 0.3, 1.0, 3.0, 30.0)
_BESIDE = 2e-3
_MOST_BOUNDARIES = 8
STEPS = 8  # Of each problem, where gradients are not accumulated over more.
_MOST_ENTRIES = 20_000  # Of parameters that are run in their own shapes.
# What two roundings of float32 constants can make of an update, and of a sum that cancels.
_RELATIVE, _ABSOLUTE = 3e-6, 1e-7
_LEFT = 1e-15  # Of a weight that goes and comes back in float64.
_LOSSES = (1.0, 0.8, 0.7, 0.7, 0.7, 0.9, 0.6, 0.5)


class Problem(NamedTuple):
    """Weights at the start and gradients of each step, as factors of random numbers."""

    term: str  # What a first difference in it is a difference of.
    weights: float
    sizes: tuple[float, ...]  # Of the gradients, step by step, and round again.
    bad: bool = False  # Whether one entry is not finite, at the third step.
    boundaries: bool = False  # Whether gradients go beside the sizes where branches change.


PROBLEMS = (
    Problem("decay, without a gradient", 1.0, (0.0,)),
    Problem("gradient, at weights of zero", 0.0, (1.0,)),
    Problem("gradient and decay together", 1.0, (1.0, 0.3, 2.0, 0.0)),
    Problem("large gradients", 1.0, (1e4, 1.0)),
    Problem("tiny gradients", 1.0, (1e-7, 1e-9)),
    Problem("large weights", 100.0, (0.1, 3.0)),
    Problem("gradients that are not finite", 1.0, (1.0,), bad=True),
    Problem("gradient at which a branch changes", 1.0, (1.0,), boundaries=True),
)


class Difference(NamedTuple):
    """Where two updates differ first: one entry of one leaf."""

    step: int  # Updates made before.
    leaf: str
    term: str
    one: float
    two: float
    weight: float
    gradient: float


def run_shapes(params: PyTree) -> PyTree:
    """The shapes of the runs: those of the parameters, or small ones with the same order of sizes.

    >>> [x.shape for x in run_shapes([jax.ShapeDtypeStruct((800, 300), "float32")] * 2)]
    [(4, 3), (4, 3)]
    """
    leaves = jax.tree.leaves(params)
    if sum(leaf.size for leaf in leaves) <= _MOST_ENTRIES:
        return params
    sizes = sorted({size for leaf in leaves for size in leaf.shape if size > 2})
    small = {size: min(size, 3 + n) for n, size in enumerate(sizes)}
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct([small.get(n, n) for n in x.shape], x.dtype), params
    )


def first_difference(
    one: Traced, two: Traced, paths: Sequence[str], steps: int = STEPS
) -> Difference | None:
    """Runs all problems; the earliest step that differs, and of those the simplest problem's.

    >>> import optax
    >>> from wdlab.instruments.equivalence.proof import traced
    >>> shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    >>> first_difference(traced(optax.sgd(1.0), shape), traced(optax.sgd(2.0), shape), ["w"])[:3]
    (0, 'w', 'gradient, at weights of zero')
    """
    found: Difference | None = None
    for seed, problem in enumerate(PROBLEMS):
        most = steps if found is None else found.step  # A later one would not be smaller.
        new = _run(one, two, paths, problem, seed, most)
        found = new or found
    return found


def _run(
    one: Traced, two: Traced, paths: Sequence[str], problem: Problem, seed: int, steps: int
) -> Difference | None:
    random = np.random.default_rng(seed)
    shapes = jax.tree.leaves(one.params)
    weights = [problem.weights * x for x in _numbers(random, shapes)]
    sides = [_Side(program, weights) for program in (one, two)]
    for step in range(steps):
        size = problem.sizes[step % len(problem.sizes)]
        gradients = [size * x for x in _numbers(random, shapes)]
        if problem.bad and step == 2:
            first = np.arange(gradients[0].size).reshape(shapes[0].shape) == 0
            gradients[0] = np.where(first, np.inf, gradients[0])
        tried = [gradients]
        if problem.boundaries and step in (1, 3):
            tried = [*_at_boundaries(sides[0], weights, gradients, step), gradients]
        results: list[Any] = []
        updates: list[list[Array]] = []
        for given in tried:
            results = [side.update(weights, given, step) for side in sides]
            updates = [result[0] for result in results]
            differing = [*_differing(problem.term, step, paths, weights, given, *updates)]
            if differing:
                return min(differing, key=lambda pair: pair[0])[1]
        for side, (_, state) in zip(sides, results, strict=True):
            side.state = state
        moves = [np.nan_to_num(u, posinf=0, neginf=0) for u in updates[0]]
        weights = [w + move for w, move in zip(weights, moves, strict=True)]
    return None


class _Side:
    """One of the two optimizers and its state."""

    def __init__(self, program: Traced, weights: list[Array]):
        self.program, self.state = program, evaluate(program.init, weights)

    def update(
        self, weights: list[Array], gradients: list[Array], step: int, watched: Any = None
    ) -> tuple[list[Array], list[Array]]:
        """The updates and the state after them; the own state stays."""
        loss = [np.float64(_LOSSES[step % len(_LOSSES)])] * self.program.wants_loss
        results = evaluate(self.program.update, [*gradients, *self.state, *weights, *loss], watched)
        split = len(results) - len(self.state)
        return [np.asarray(x) for x in results[:split]], results[split:]


def _at_boundaries(
    side: _Side, weights: list[Array], gradients: list[Array], step: int
) -> Iterator[list[Array]]:
    """Gradients a little before and behind the sizes at which the program takes another branch."""

    def signs(size: float) -> Array:
        watched: list[Array] = []
        with_gradients = [size * g for g in gradients]
        side.update(weights, with_gradients, step, watched)
        return np.concatenate([np.sign(x) for x in watched] or [np.zeros(0)])

    rows = [signs(size) for size in _SIZES]
    for low, high, before, after in zip(_SIZES, _SIZES[1:], rows, rows[1:], strict=False):
        for place in np.flatnonzero(before != after)[:_MOST_BOUNDARIES]:
            left, right = low, high
            for _ in range(12):
                middle = (left + right) / 2
                same = signs(middle)[place] == before[place]
                left, right = (middle, right) if same else (left, middle)
            for size in (
                left * (1 - _BESIDE * np.sign(left)),
                right * (1 + _BESIDE * np.sign(right)),
            ):
                yield [size * g for g in gradients]


def _numbers(random: np.random.Generator, shapes: Sequence[Any]) -> Iterator[Array]:
    for leaf in shapes:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            yield in_float64(np.zeros(leaf.shape, leaf.dtype))
            continue
        x = random.standard_normal(leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            x = x + 1j * random.standard_normal(leaf.shape)
        yield np.asarray(x)


def _differing(
    term: str, step: int, paths: Sequence[str], weights: list, gradients: list, one: list, two: list
) -> Iterator[tuple[int, Difference]]:
    """Of each leaf that differs its size, and the entry that differs most."""
    for path, w, g, a, b in zip(paths, weights, gradients, one, two, strict=True):
        scale = np.maximum(np.abs(a), np.abs(b))
        with np.errstate(invalid="ignore"):
            gap = np.abs(a - b)
        close = _RELATIVE * scale + _ABSOLUTE * np.max(np.nan_to_num(scale), initial=0.0)
        same = (gap <= close + _LEFT * np.abs(w)) | ((a == b) | (np.isnan(a) & np.isnan(b)))
        if same.all():
            continue
        share = np.where(same, -1.0, np.nan_to_num(gap / np.where(scale > 0, scale, 1.0), nan=1.0))
        worst = np.unravel_index(np.argmax(share), share.shape)
        numbers = (np.real(x[worst]).item() for x in (a, b, w, g))
        yield a.size, Difference(step, path, term, *numbers)
