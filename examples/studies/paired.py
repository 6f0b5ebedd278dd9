"""Paired differences over seeds: the same initial weights and data, with and without something.

What two runs of one seed share cancels in their difference, whose spread is often ten times smaller
than that of the runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

Agrees = Literal["yes", "in part", "no", "not tested"]
CONFIDENCE = 0.95
_RESAMPLES = 10_000


class Difference(NamedTuple):
    """A mean difference and its 95 % interval: the wider end of Student's t and the bootstrap."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        """Mean and interval, with their sign."""
        return f"{self.mean:+.3g} [{self.low:+.2g}, {self.high:+.2g}]"


def difference(one: Any, other: Any) -> Difference:
    """Returns ``one - other``, seed by seed.

    Args:
      one: A number for each seed, in the order of ``other``; of a single seed nothing is known.
      other: Likewise.

    >>> print(difference([1.0, 1.1, 1.2], [2.0, 2.1, 2.3]))
    -1.03 [-1.2, -0.89]
    """
    gaps = np.asarray(one, float) - np.asarray(other, float)
    if gaps.ndim != 1 or not gaps.size:
        raise ValueError(f"a paired difference needs a number for each seed, got {gaps}")
    if gaps.size == 1 or not np.isfinite(gaps).all():
        return Difference(float(np.mean(gaps)), -np.inf, np.inf, gaps.size)
    mean, error = gaps.mean(), stats.sem(gaps)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, gaps.size - 1) * error
    drawn = np.random.default_rng(0).integers(gaps.size, size=(_RESAMPLES, gaps.size))
    edges = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(gaps[drawn].mean(1), edges)
    return Difference(
        float(mean), float(min(mean - half, low)), float(max(mean + half, high)), gaps.size
    )


def is_lower(one: Any, other: Any, *, by: float = 0.0) -> bool | None:
    """Whether ``one`` is lower than ``other`` for the same seeds; None where it cannot be told.

    Args:
      one: A number for each seed.
      other: Likewise, of the same seeds.
      by: The source's own effect, >= 0. False means that the interval excludes a fall of so much;
        with 0 it means that ``one`` is higher.

    >>> is_lower([1.0, 1.1, 1.0], [2.0, 2.1, 2.1]), is_lower([2.0, 2.1, 2.1], [1.0, 1.1, 1.0])
    (True, False)
    >>> is_lower([1.0, 3.0], [2.0, 2.1]) is None
    True
    """
    gap = difference(one, other)
    if gap.high < 0:
        return True
    return False if gap.low > -by else None


def word(holds: bool | None) -> str:
    """A statement's answer in a remark.

    >>> word(True), word(None)
    ('yes', 'undecided')
    """
    return "undecided" if holds is None else "yes" if holds else "no"


def every(holds: Sequence[bool | None]) -> bool | None:
    """Whether all hold; None where one cannot be told and none is false.

    >>> every([True, True]), every([True, None]), every([None, False])
    (True, None, False)
    """
    return False if False in holds else None if None in holds else True


def in_words(statements: Mapping[str, bool | None]) -> str:
    """All statements with their answers, in a remark.

    >>> in_words({"decay helps": True, "flatter": None})
    'decay helps: yes, flatter: undecided'
    """
    return ", ".join(f"{what}: {word(holds)}" for what, holds in statements.items())


def agreement(statements: Sequence[bool | None]) -> Agrees:
    """Whether all of the source's statements hold, some, or none; None is one that is undecided.

    One that is contradicted, with none that holds, is a no: it cannot become a yes, whatever the
    undecided ones turn out to be.

    >>> agreement([True, True]), agreement([True, None]), agreement([False, False])
    ('yes', 'in part', 'no')
    >>> agreement([False, None]), agreement([None, None])
    ('no', 'not tested')
    """
    if all(statements):
        return "yes"
    if any(statements):
        return "in part"
    return "no" if False in statements else "not tested"
