"""How far the best weight decay moves with the learning rate: one number for a heat map."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wdlab.sweep_table import OK, STATUS, Table


@dataclass(frozen=True)
class Separability:
    """Octaves that the best weight decay moves per octave of learning rate.

    0: they can be tuned one at a time. -1: only their product counts. NaN: not identified.
    """

    slope: float
    low: float  # 95 % interval by bootstrap over seeds; NaN for one seed
    high: float
    rows_used: int  # learning rates that the slope rests on
    rows_at_edge: int  # within reach, but the best weight decay is the grid's first or last

    def __str__(self) -> str:
        if np.isnan(self.slope):
            return f"not identified ({self.rows_used} usable rows, {self.rows_at_edge} at the edge)"
        return (
            f"{self.slope:+.2f} [{self.low:+.2f}, {self.high:+.2f}] "
            f"({self.rows_used} rows, {self.rows_at_edge} at the edge)"
        )


def loss_surface(table: Table, metric: str, x: str, y: str) -> tuple[np.ndarray, ...]:
    """A table as a surface: values of x and y, sorted, and losses (seeds, x, y), inf = diverged.

    Further axes have to be fixed first (:meth:`wdlab.sweep_table.Table.where`).

    Raises:
      ValueError: If a column is missing, or a point is there twice or not at all.

    >>> columns = {"a": [1., 1., 2., 2.], "b": [3., 4., 3., 4.], "seed": [0, 0, 0, 0],
    ...     "loss": [5., 6., 7., 8.], "status": ["ok", "ok", "ok", "diverged"]}
    >>> table = Table(("a", "b"), {k: np.array(v) for k, v in columns.items()})
    >>> loss_surface(table, "loss", "a", "b")[2].tolist()
    [[[5.0, 6.0], [7.0, inf]]]
    """
    axes = [np.unique(table[name], return_inverse=True) for name in (x, y, "seed")]
    (xs, i), (ys, j), (seeds, s) = axes
    if len({*zip(i, j, s, strict=True)}) != len(table) or len(table) != len(xs) * len(ys) * len(
        seeds
    ):
        raise ValueError(
            f"the table must hold one row for each {x}, {y} and seed; it has {len(table)} for "
            f"{len(xs)} x {len(ys)} x {len(seeds)}. Fix its other axes with table.where(...)."
        )
    losses_SxXxY = np.full((len(seeds), len(xs), len(ys)), np.inf)
    values = np.asarray(table[metric], float)
    good = np.isfinite(values) & (table[STATUS] == OK)
    losses_SxXxY[s[good], i[good], j[good]] = values[good]
    return xs, ys, losses_SxXxY


def separability(
    table: Table,
    *,
    metric: str = "val_loss",
    learning_rate: str = "learning_rate",
    weight_decay: str = "weight_decay",
    reach: float = 0.25,
    samples: int = 1000,
    random_seed: int = 0,
) -> Separability:
    r"""Estimates d log2(best weight decay) / d log2(learning rate), with a bootstrap interval.

    1. Losses are averaged over seeds; a point that diverged for one seed is out.
    2. In each row (one learning rate) the best weight decay is the vertex of the parabola, least
       squares in log2(weight decay), through the five points around the smallest loss, or, where
       that does not lie between its neighbours, through the three around it.
    3. A row whose smallest loss is at the grid's edge tells only a bound, and is left out.
    4. The slope of the vertices over log2(learning rate) is fitted by least squares with weights
       :math:`\max(0, 1 - e/(r E))`: :math:`e` is how much worse a row's best loss is than the
       best of all, :math:`E` the same for the median of all points, :math:`r` the ``reach``.
    5. The interval repeats 1 to 4 on seeds drawn with replacement: the 2.5 and 97.5 % quantiles.
       With three seeds there are ten such draws, so it is a rough one.

    Args:
      table: With one row per learning rate, weight decay and seed, both above 0 (0 is left out).
      metric: Column to minimize.
      learning_rate: Column.
      weight_decay: Column.
      reach: ``r``, > 0.
      samples: Bootstrap samples.
      random_seed: Of the bootstrap.

    Returns:
      NaN as slope where fewer than 3 rows can be used.

    Raises:
      ValueError: As :func:`loss_surface`, or if ``reach`` or ``samples`` are not positive.

    >>> lr, wd = np.meshgrid(2.0 ** np.arange(5), 2.0 ** np.arange(-6, 5), indexing="ij")
    >>> loss = (np.log2(wd) + 0.5 * np.log2(lr)) ** 2 + 0.1 * np.log2(lr) ** 2
    >>> columns = {"learning_rate": lr.ravel(), "weight_decay": wd.ravel(),
    ...     "seed": np.zeros(55), "val_loss": loss.ravel(), "status": np.full(55, "ok")}
    >>> round(separability(Table(("learning_rate", "weight_decay"), columns)).slope, 6)
    -0.5
    """
    if not reach > 0 or samples < 1:
        raise ValueError(f"reach and samples must be above 0, got {reach} and {samples}.")
    lrs, decays, losses_SxLxW = loss_surface(table, metric, learning_rate, weight_decay)
    positive = decays > 0
    log_lr = np.log2(lrs, where=lrs > 0, out=np.full(len(lrs), -np.inf))
    log_decay, losses_SxLxW = np.log2(decays[positive]), losses_SxLxW[:, :, positive]
    slope, used, at_edge = _slope(log_lr, log_decay, losses_SxLxW.mean(0), reach)
    rng, count = np.random.default_rng(random_seed), len(losses_SxLxW)
    low = high = np.nan
    if count > 1 and np.isfinite(slope):
        draws = rng.integers(count, size=(samples, count))
        slopes = [_slope(log_lr, log_decay, losses_SxLxW[d].mean(0), reach)[0] for d in draws]
        if not np.isnan(slopes).all():
            low, high = np.nanquantile(slopes, (0.025, 0.975))
    return Separability(float(slope), float(low), float(high), used, at_edge)


def _slope(log_lr: Any, log_decay: Any, losses_LxW: Any, reach: float) -> tuple[float, int, int]:
    finite = np.isfinite(losses_LxW)
    if not finite.any() or len(log_decay) < 3:
        return np.nan, 0, 0
    best = losses_LxW.min(1)
    scale = reach * (np.median(losses_LxW[finite]) - best.min())
    excess = (best - best.min()) / scale if scale > 0 else np.where(best > best.min(), np.inf, 0.0)
    weights = np.where(np.isfinite(log_lr), np.maximum(0.0, 1.0 - excess), 0.0)
    vertices = np.array([_vertex(log_decay, row) for row in losses_LxW])
    within = weights > 0
    used = within & np.isfinite(vertices)
    at_edge = int((within & ~used).sum())
    if used.sum() < 3:
        return np.nan, int(used.sum()), at_edge
    # polyfit squares its weights.
    fit = np.polyfit(log_lr[used], vertices[used], 1, w=np.sqrt(weights[used]))
    return float(fit[0]), int(used.sum()), at_edge


def _vertex(log_decay: np.ndarray, losses_W: np.ndarray) -> float:
    """Where the loss is smallest; NaN at the edge."""
    j = int(np.argmin(losses_W))
    if j in (0, len(losses_W) - 1) or not np.isfinite(losses_W[j]):
        return np.nan
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
