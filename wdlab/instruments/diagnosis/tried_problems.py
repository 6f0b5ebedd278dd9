"""An optimizer's answers on two tiny problems, and the numbers that its program works with."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from wdlab.instruments.diagnosis.candidates import arrays_of
from wdlab.instruments.diagnosis.one_leaf import one_leaf
from wdlab.instruments.equivalence.evaluation import evaluate
from wdlab.instruments.equivalence.proof import Traced, traced
from wdlab.instruments.plans import of_kind

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
    of_step = _of_the_step(program)
    problems, scalars = [], []
    for seed, sizes in enumerate(_SIZES):
        random = np.random.default_rng(seed)
        problem, values = _run(program, of_step, random, sizes, calls)
        problems.append(problem)
        scalars.append(values)
    arrays = list(arrays_of(wide.state))
    if calls > 1 and wide_shape in arrays:
        arrays.remove(wide_shape)  # Where gradients are accumulated.
    numbers = _numbers(program)
    told = tuple(of_step), np.transpose(scalars[0])
    clip = _clip(program, numbers, calls)
    weights = problems[0].weights[0]
    begun = evaluate(program.init, [weights])
    copies = any(x.shape == shape and np.array_equal(x, weights) for x in begun)
    own = alone, shape, wide_tx, wide_shape, wide
    return Tried(*own, tuple(problems), tuple(arrays), numbers, *told, program, clip, copies)


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
    told = [np.asarray(x) for x in (weights[:-1], gradients, losses, updates)]
    return Problem(*told), scalars


def with_results(closed: Any, variables: list[Any], *, keep: bool = True) -> Any:
    """A jaxpr with some of its variables as results, behind its own or, else, in their place.

    >>> program = jax.make_jaxpr(lambda x: 3 * (x + 1))(2.0)
    >>> evaluate(with_results(program, program.eqns[0].outvars, keep=False), [np.float64(2.0)])
    [array(3.)]
    """
    jaxpr, own = closed.jaxpr, [*closed.jaxpr.outvars] * keep
    needed, eqns = {v for v in [*own, *variables] if not isinstance(v, core.Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(a for a in eqn.invars if not isinstance(a, core.Literal))
            eqns.append(eqn)
    more = jaxpr.replace(
        eqns=eqns[::-1],
        outvars=[*own, *variables],
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return core.ClosedJaxpr(more, closed.consts)


def _of_the_step(program: Traced) -> list[Any]:
    """Scalars of the program that depend on no gradient, weight, loss or array of the state.

    But on whether these are finite: those tried are.
    """
    jaxpr, count = program.update.jaxpr, len(program.state)
    states = [n for n in range(count) if program.state[n].shape == ()]
    while True:  # Until those left go on to values of those left alone.
        known = {*jaxpr.constvars, *(jaxpr.invars[1 + n] for n in states)}
        found = [jaxpr.invars[1 + n] for n in states]
        for eqn in jaxpr.eqns:
            if _tells_finite(eqn) or all(
                isinstance(a, core.Literal) or a in known for a in eqn.invars
            ):
                known.update(eqn.outvars)
                found += [v for v in eqn.outvars if v.aval.shape == ()]
        after = [jaxpr.outvars[1 + n] for n in states]
        pairs = zip(states, after, strict=True)
        left = [n for n, v in pairs if isinstance(v, core.Literal) or v in known]
        if left == states:
            return [v for v in found if v.aval.dtype.kind == "f"]
        states = left


def _tells_finite(eqn: Any) -> bool:
    """Whether an operation has one result for all finite numbers: ``isfinite(x)``, ``x - x``."""
    name, given = eqn.primitive.name, eqn.invars
    return name == "is_finite" or (name == "sub" and given[0] is given[1])


def _numbers(program: Traced) -> tuple[float, ...]:
    found = {abs(x) for closed in (program.init, program.update) for x in _constants(closed)}
    return tuple(sorted(x for x in found if 1e-32 < x < 1e6))


def _constants(closed: Any) -> Iterator[float]:
    jaxpr = getattr(closed, "jaxpr", closed)
    for x in getattr(closed, "consts", ()):
        if np.size(x) == 1 and np.asarray(x).dtype.kind in "fiu":
            yield float(of_kind(np.ravel(x))[0])
    for atom in [a for eqn in jaxpr.eqns for a in eqn.invars] + list(jaxpr.outvars):
        if isinstance(atom, core.Literal) and np.size(atom.val) == 1:
            yield float(of_kind(np.ravel(np.asarray(atom.val)))[0])
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield float(eqn.params["length"])
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "cond_jaxpr", "body_jaxpr"):
            if key in eqn.params:
                yield from _constants(eqn.params[key])
        for branch in eqn.params.get("branches", ()):
            yield from _constants(branch)
