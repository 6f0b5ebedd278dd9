"""How far the best weight decay moves with the learning rate: one number for a heat map."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy

from wdlab.sweep.table import Table


@dataclass(frozen=True)
class Separability:
    """Octaves that the best weight decay moves per octave of learning rate.

    0: they can be tuned one at a time. -1: only their product counts. NaN: not identified.
    """

    slope: float
    low: float  # 95 % interval over seeds, by bootstrap; NaN for one seed
    high: float
    rows_used: int  # learning rates that the slope rests on
    rows_at_edge: int  # within reach, but with the place sought at the grid's edge
    rows_flat: int  # within reach, but no weight decay is better than the smallest

    def __str__(self) -> str:
        rows = f"{self.rows_used} rows, {self.rows_flat} flat, {self.rows_at_edge} at the edge"
        if np.isnan(self.slope):
            return f"not identified ({rows})"
        return f"{self.slope:+.2f} [{self.low:+.2f}, {self.high:+.2f}] ({rows})"


def loss_surface(table: Table, metric: str, *axes: str) -> tuple[np.ndarray, ...]:
    """A table as a surface: values of each axis, sorted, and losses (seeds, *axes), inf = diverged.

    Further axes have to be fixed first (:meth:`wdlab.sweep.Table.where`).

    Raises:
      ValueError: If a column is missing, or a point is there twice or not at all.

    >>> columns = {"a": [1., 1., 2., 2.], "b": [3., 4., 3., 4.], "seed": [0, 0, 0, 0],
    ...     "loss": [5., 6., 7., 8.], "status": ["ok", "ok", "ok", "diverged"]}
    >>> table = Table(("a", "b"), {k: np.array(v) for k, v in columns.items()})
    >>> loss_surface(table, "loss", "a", "b")[2].tolist()
    [[[5.0, 6.0], [7.0, inf]]]
    """
    found = [np.unique(table[name], return_inverse=True) for name in ("seed", *axes)]
    (_, *values), indices = zip(*found, strict=True)
    shape = tuple(len(v) for v, _ in found)
    if len({*zip(*indices, strict=True)}) != len(table) or len(table) != math.prod(shape):
        raise ValueError(
            f"the table must hold one row for each seed, {', '.join(axes)}; it has {len(table)} "
            f"for {' x '.join(map(str, shape))}. Fix its other axes with table.where(...)."
        )
    losses = np.empty(shape)
    losses[indices] = table.values(metric)
    return *values, losses


def separability(
    table: Table,
    *,
    metric: str = "val_loss",
    learning_rate: str = "learning_rate",
    weight_decay: str = "weight_decay",
    of: Literal["best", "shoulder"] = "best",
    tolerance: float = 0.1,
    reach: float = 0.5,
    samples: int = 1000,
    random_seed: int = 0,
) -> Separability:
    r"""Estimates d log2(best weight decay) / d log2(learning rate), with a bootstrap interval.

    1. Losses are averaged over seeds; a point that diverged for one seed is out.
    2. In each row (one learning rate) the best weight decay is the vertex of the parabola, least
       squares in log2(weight decay), through the five points around the smallest loss, or, where
       that does not lie between its neighbours, through the three around it. The "shoulder" is
       the largest weight decay that costs at most ``tolerance`` of the row's smallest loss,
       interpolated: it is there too where decay does not help and the best is anywhere.
    3. Left out are rows at the edge (the smallest loss at the grid's first or last weight decay,
       no shoulder inside), which tell only a bound; and, for "best", flat rows: over the seeds
       the best point is not better than the smallest weight decay by two standard errors.
    4. The slope of these places over log2(learning rate) is fitted by least squares with weights
       :math:`\max(0, 1 - e/(r E))`: :math:`e` is how much worse a row's best loss is than the
       best of all, :math:`E` the same for the median of all points, :math:`r` the ``reach``.
    5. The interval repeats it on :math:`n` seeds drawn with replacement and reaches
       :math:`t\sqrt{n/(n-1)}` of its standard deviation over them to both sides, :math:`t` the
       97.5 % quantile of Student's distribution with :math:`n - 1` degrees. (Quantiles of the
       draws themselves cover the truth four times in five with three seeds.)

    Args:
      table: With one row per learning rate, weight decay and seed, both above 0 (0 is left out).
      metric: Column to minimize.
      learning_rate: Column.
      weight_decay: Column.
      of: What is followed from row to row.
      tolerance: For "shoulder", relative to the row's smallest loss, > 0.
      reach: ``r``, > 0.
      samples: Bootstrap samples.
      random_seed: Of the bootstrap.

    Returns:
      NaN as slope where fewer than 3 rows can be used.

    Raises:
      ValueError: As :func:`loss_surface`, or for numbers out of range.

    >>> lr, wd = np.meshgrid(2.0 ** np.arange(5), 2.0 ** np.arange(-6, 5), indexing="ij")
    >>> loss = (np.log2(wd) + 0.5 * np.log2(lr)) ** 2 + 0.1 * np.log2(lr) ** 2
    >>> columns = {"learning_rate": lr.ravel(), "weight_decay": wd.ravel(),
    ...     "seed": np.zeros(55), "val_loss": loss.ravel(), "status": np.full(55, "ok")}
    >>> round(separability(Table(("learning_rate", "weight_decay"), columns)).slope, 6)
    -0.5
    """
    if not (reach > 0 and tolerance > 0) or samples < 1 or of not in ("best", "shoulder"):
        raise ValueError(
            "reach, tolerance and samples must be above 0 and of 'best' or 'shoulder', got "
            f"{reach}, {tolerance}, {samples}, {of!r}."
        )
    lrs, decays, losses_SxLxW = loss_surface(table, metric, learning_rate, weight_decay)
    rows, columns = lrs > 0, decays > 0
    losses_SxLxW = losses_SxLxW[:, rows][:, :, columns]
    log_lr, log_decay = np.log2(lrs[rows]), np.log2(decays[columns])
    if not losses_SxLxW.size:
        return Separability(np.nan, np.nan, np.nan, 0, 0, 0)

    def slope(losses_SxLxW: np.ndarray, usable_L: np.ndarray) -> tuple[float, Any, Any]:
        mean_LxW = losses_SxLxW.mean(0)
        weights_L = _weights(mean_LxW, reach) * usable_L
        places_L = [_place(log_decay, row, of, tolerance) for row in mean_LxW]
        return _fit(log_lr, np.array(places_L), weights_L), weights_L, np.array(places_L)

    flat_L = _flat(losses_SxLxW) if of == "best" else np.zeros(len(log_lr), bool)
    value, weights_L, places_L = slope(losses_SxLxW, ~flat_L)
    low = high = np.nan
    if len(losses_SxLxW) > 1 and np.isfinite(value):
        seeds = len(losses_SxLxW)
        draws = np.random.default_rng(random_seed).integers(seeds, size=(samples, seeds))
        # Few seeds have few draws that differ, each of which is fitted once.
        draws, times = np.unique(np.sort(draws, axis=1), axis=0, return_counts=True)
        slopes = np.repeat([slope(losses_SxLxW[draw], ~flat_L)[0] for draw in draws], times)
        some = slopes[np.isfinite(slopes)]
        if some.size:
            wide = (
                scipy.special.stdtrit(seeds - 1, 0.975)
                * math.sqrt(seeds / (seeds - 1))
                * some.std()
            )
            low, high = value - wide, value + wide
    within_L, placed_L = weights_L > 0, np.isfinite(places_L)
    flat = int((flat_L & (_weights(losses_SxLxW.mean(0), reach) > 0)).sum())
    used, at_edge = int((within_L & placed_L).sum()), int((within_L & ~placed_L).sum())
    return Separability(value, float(low), float(high), used, at_edge, flat)


def _weights(mean_LxW: np.ndarray, reach: float) -> np.ndarray:
    finite = mean_LxW[np.isfinite(mean_LxW)]
    best_L = mean_LxW.min(1)
    if not finite.size:
        return np.zeros(len(best_L))
    scale = reach * (np.median(finite) - finite.min())
    excess_L = best_L - finite.min()
    if scale == 0:
        return (excess_L == 0).astype(float)
    return np.maximum(0.0, 1.0 - excess_L / scale)


def _flat(losses_SxLxW: np.ndarray) -> np.ndarray:
    """Where the best point is not clearly better than the smallest weight decay."""
    seeds, rows, _ = losses_SxLxW.shape
    best_L = losses_SxLxW.mean(0).argmin(1)
    with np.errstate(invalid="ignore"):
        gain_SxL = losses_SxLxW[:, :, 0] - losses_SxLxW[:, np.arange(rows), best_L]
        error_L = gain_SxL.std(0, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(rows)
        return gain_SxL.mean(0) < 2 * error_L


def _fit(log_lr: np.ndarray, places_L: np.ndarray, weights_L: np.ndarray) -> float:
    used = (weights_L > 0) & np.isfinite(places_L)
    if used.sum() < 3:
        return np.nan
    # polyfit squares its weights.
    return float(np.polyfit(log_lr[used], places_L[used], 1, w=np.sqrt(weights_L[used]))[0])


def _place(log_decay: np.ndarray, losses_W: np.ndarray, of: str, tolerance: float) -> float:
    """The best weight decay of a row, or its shoulder, in log2; NaN at the edge."""
    j = int(np.argmin(losses_W))
    if j == len(losses_W) - 1 or not np.isfinite(losses_W[j]):
        return np.nan
    if of == "shoulder":
        limit = losses_W[j] + tolerance * abs(losses_W[j])
        above = np.flatnonzero(losses_W[j:] > limit)
        if not above.size:
            return np.nan
        k = j + above[0]
        fraction = (limit - losses_W[k - 1]) / (losses_W[k] - losses_W[k - 1])
        return float(log_decay[k - 1] + fraction * (log_decay[k] - log_decay[k - 1]))
    return np.nan if j == 0 else _vertex(log_decay, losses_W, j)


def _vertex(log_decay: np.ndarray, losses_W: np.ndarray, j: int) -> float:
    """The vertex of a parabola around the smallest loss, which is inside the row."""
    for half in (2, 1):
        window = slice(max(0, j - half), j + half + 1)
        x, y = log_decay[window] - log_decay[j], losses_W[window]
        keep = np.isfinite(y)
        if keep.sum() < 3:
            continue
        a, b, _ = np.polyfit(x[keep], y[keep], 2)
        vertex = -b / (2 * a) if a > 0 else np.nan
        if log_decay[j - 1] <= log_decay[j] + vertex <= log_decay[j + 1]:
            return float(log_decay[j] + vertex)
    return float(log_decay[j])  # A neighbour diverged.
