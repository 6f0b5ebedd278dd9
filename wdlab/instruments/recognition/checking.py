"""A convention that fits a leaf's steps, built and given to ``equivalent``."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from wdlab.instruments.equivalence import Equivalence, equivalent
from wdlab.instruments.recognition.candidates import arrays_of
from wdlab.instruments.recognition.fit import Fit
from wdlab.instruments.recognition.tried_problems import Tried
from wdlab.instruments.recognition.untried_branches import untried_branches

Array = Any
_MOST_SCALARS = 2  # Of the program that the learning rates may be.


@dataclass(frozen=True)
class Rates:
    """The learning rates of an exact fit, and where they come from."""

    values: Array  # Of the first problem's updates.
    # Which scalars of the program equal them, after a multiplication by ``factor``; () where they
    # are constant, None where no scalar equals them.
    places: tuple[int, ...] | None
    factor: float
    rank: int  # 0: a number of the program as it is; 1: times another; 2: no number of it.


def checked(
    tried: Tried, fit: Fit, rates: Rates, peak: float, calls: int
) -> tuple[Equivalence | None, bool]:
    """What ``equivalent`` says of the leaf's optimizer and the convention; None if not asked.

    And whether the leaf's optimizer has branches beside the convention's that no tried step takes.

    Args:
      tried: The leaf.
      fit: The convention.
      rates: Its learning rates.
      peak: Their largest in the run.
      calls: Of the update, for one step of the weights.

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.candidates import program
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> shape = jax.ShapeDtypeStruct((5,), "float32")
    >>> tried = try_leaf(optax.sgd(0.5), [shape], 0, 1)
    >>> from wdlab.instruments.recognition.fitting import first_guess
    >>> fit = first_guess(tried, program("torch.SGD", tried.shape, ()), l2=False)
    >>> rates = Rates(fit.rates, (), 0.5, 0)
    >>> answer, untried = checked(tried, fit, rates, 0.5, 1)
    >>> answer.how, untried
    ('proved', False)
    """
    own, shape = tried.tx, tried.shape
    if len(arrays_of(tried.program.state)) != len(arrays_of(tried.wide.state)):  # It is factored.
        own, shape = tried.wide_tx, tried.wide_shape
    answer = theirs = None
    for scalar in () if rates.places is None else rates.places[:_MOST_SCALARS] or (None,):
        rate = rates.factor if scalar is None else tried.schedule(scalar, rates.factor)
        theirs = fit.transformation(rate, peak)
        if calls > 1:
            theirs = optax.MultiSteps(theirs, calls).gradient_transformation()
        answer = equivalent(own, theirs, jax.ShapeDtypeStruct(shape, np.float32))
        if answer:
            break
    if answer is not None and answer.how == "proved":
        return answer, False
    return answer, untried_branches(tried, theirs or fit.transformation(peak, peak), calls)


# A difference of this name does not count: no run uses the weights after it.
NOT_FINITE = "gradients that are not finite"
