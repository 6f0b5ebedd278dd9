"""Branches of a leaf's program that no tried step takes, such as a clip of longer steps."""

from typing import Any

import jax
import numpy as np

from wdlab.instruments.equivalence.evaluation import evaluate
from wdlab.instruments.equivalence.proof import Traced, traced
from wdlab.instruments.recognition.tried_problems import Tried

Array = Any


def untried_branches(tried: Tried, theirs: Any, calls: int) -> bool:
    """Whether a comparison came out alike in all tried steps, and the convention has none like it.

    Args:
      tried: The leaf.
      theirs: The convention as a transformation, with the leaf's learning rate.
      calls: Of the update, for one step of the weights.

    >>> import optax
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> shape = jax.ShapeDtypeStruct((5,), "float32")
    >>> tx = optax.chain(optax.sgd(0.5), optax.clip_by_global_norm(1e6))
    >>> untried_branches(try_leaf(tx, [shape], 0, 1), optax.sgd(0.5), 1)
    True
    """
    program = traced(theirs, jax.ShapeDtypeStruct(tried.shape, np.float32))
    own, others = (_untaken(x, tried, calls) for x in (tried.program, program))
    return any(not any(_alike(x, y) for y in others) for x in own)


def _alike(one: Array, two: Array) -> bool:
    return one.shape == two.shape and np.allclose(one, two, rtol=1e-4, atol=0)


def _untaken(program: Traced, tried: Tried, calls: int) -> list[Array]:
    """How far off each comparison is that looks at gradients and has one outcome throughout."""
    runs = []
    for problem in tried.problems:
        state = evaluate(program.init, [problem.weights[0]])
        columns = problem.weights, problem.gradients, problem.losses
        for w, g, loss in zip(*columns, strict=True):
            compared: list[Array] = []
            for _ in range(calls):
                compared = []
                given = [g, *state, w, *[np.float64(loss)] * program.wants_loss]
                _, *state = evaluate(program.update, given, compared)
            runs.append(compared)
    first = len(tried.problems[0].losses)
    found = []
    for values in zip(*runs, strict=False):
        both = zip(values[:first], values[first:], strict=False)
        outcomes = {*np.concatenate([np.sign(x) for x in values]).tolist()} - {0.0}
        if len(outcomes) < 2 and not all(np.array_equal(a, b) for a, b in both):
            found.append(np.abs(np.concatenate(values)))
    return found
