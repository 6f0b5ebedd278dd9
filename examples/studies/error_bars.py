"""Means over the seeds with their error bars, in the pictures of the studies."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from .paired import Difference


def with_spread(axes: Axes, x: Any, values: Sequence[Any], **style: Any) -> None:
    """The mean and the standard deviation over the seeds, of the values at each ``x``."""
    means, spreads = [v.mean() for v in values], [v.std() for v in values]
    axes.errorbar(x, means, spreads, capsize=3, **style)


def with_interval(axes: Axes, x: Any, gaps: Sequence[Difference], **style: Any) -> None:
    """The mean difference and its 95 % interval at each ``x``."""
    bars = [[gap.mean - gap.low for gap in gaps], [gap.high - gap.mean for gap in gaps]]
    axes.errorbar(x, [gap.mean for gap in gaps], bars, capsize=3, **style)
