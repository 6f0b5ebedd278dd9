"""Float64 twin of the separability, point by point, without vectors."""

import math

import numpy as np
import scipy.stats

INF, NAN = math.inf, math.nan


def mean(losses):
    """Over the seeds: losses[seed][rate][decay]."""
    _, rates, decays = np.shape(losses)
    return [
        [sum(s[i][j] for s in losses) / len(losses) for j in range(decays)] for i in range(rates)
    ]


def weights(surface, reach):
    """1 at the best row, 0 where a row's best is as far above it as ``reach`` says."""
    finite = sorted(v for row in surface for v in row if v < INF)
    if not finite:
        return [0.0] * len(surface)
    n = len(finite)
    middle = (finite[(n - 1) // 2] + finite[n // 2]) / 2
    found = []
    for row in surface:
        excess, scale = min(row) - finite[0], reach * (middle - finite[0])
        found.append(float(excess == 0) if scale == 0 else max(0.0, 1 - excess / scale))
    return found


def is_flat(losses, i, surface):
    """Whether the gain over the smallest decay is below two standard errors."""
    best = surface[i].index(min(surface[i]))
    gains = [s[i][0] - s[i][best] for s in losses]
    if not all(map(math.isfinite, gains)):
        return False
    gain, n = sum(gains) / len(gains), len(gains)
    if n == 1:
        return gain < 0
    variance = sum((g - gain) ** 2 for g in gains) / (n - 1)
    return gain < 2 * math.sqrt(variance / n)


def parabola(x, y):
    """Vertex of the least-squares parabola, by its normal equations; None without a minimum."""
    basis = np.array([[v * v, v, 1.0] for v in x])
    a, b, _ = np.linalg.solve(basis.T @ basis, basis.T @ np.array(y))
    return -b / (2 * a) if a > 0 else None


def best_place(decays, row):
    """Vertex around the smallest loss in log2."""
    j = row.index(min(row))
    if j in (0, len(row) - 1) or row[j] == INF:
        return NAN
    for around in (2, 1):
        near = [k for k in range(j - around, j + around + 1) if 0 <= k < len(row) and row[k] < INF]
        if len(near) >= 3:
            vertex = parabola([decays[k] - decays[j] for k in near], [row[k] for k in near])
            if vertex is not None and decays[j - 1] <= decays[j] + vertex <= decays[j + 1]:
                return decays[j] + vertex
    return decays[j]


def shoulder(decays, row, tolerance):
    """Where the loss first rises above the tolerated one, between two decays."""
    j = row.index(min(row))
    limit = row[j] + tolerance * abs(row[j])
    for k in range(j + 1, len(row)):
        if row[k] > limit:
            share = (limit - row[k - 1]) / (row[k] - row[k - 1])
            return decays[k - 1] + share * (decays[k] - decays[k - 1])
    return NAN


def slope(rates, places, weighted):
    """Weighted least squares: sum w (x - mx)(y - my) / sum w (x - mx)^2."""
    some = [i for i in range(len(rates)) if weighted[i] > 0 and math.isfinite(places[i])]
    if len(some) < 3:
        return NAN
    total = sum(weighted[i] for i in some)
    mx = sum(weighted[i] * rates[i] for i in some) / total
    my = sum(weighted[i] * places[i] for i in some) / total
    above = sum(weighted[i] * (rates[i] - mx) * (places[i] - my) for i in some)
    return above / sum(weighted[i] * (rates[i] - mx) ** 2 for i in some)


def separability(rates, decays, losses, *, of, tolerance=0.1, reach=0.5, samples=1000, seed=0):
    """Slope, interval, and the rows used, at the edge, flat; rates and decays in log2."""
    surface = mean(losses)
    flat = [of == "best" and is_flat(losses, i, surface) for i in range(len(rates))]

    def fit(losses):
        surface = mean(losses)
        places = [
            best_place(decays, row) if of == "best" else shoulder(decays, row, tolerance)
            for row in surface
        ]
        weighted = [0.0 if f else w for w, f in zip(weights(surface, reach), flat, strict=True)]
        return slope(rates, places, weighted), places, weighted

    value, places, weighted = fit(losses)
    low = high = NAN
    if len(losses) > 1 and math.isfinite(value):
        n = len(losses)
        draws = np.random.default_rng(seed).integers(n, size=(samples, n))
        drawn = [fit([losses[s] for s in sorted(draw)])[0] for draw in draws.tolist()]
        drawn = [v for v in drawn if math.isfinite(v)]
        center = sum(drawn) / len(drawn)
        variance = sum((v - center) ** 2 for v in drawn) / len(drawn) * n / (n - 1)
        wide = scipy.stats.t(n - 1).ppf(0.975) * math.sqrt(variance)
        low, high = value - wide, value + wide
    near = [w > 0 for w in weights(surface, reach)]
    within = [i for i in range(len(rates)) if weighted[i] > 0]
    edge = sum(not math.isfinite(places[i]) for i in within)
    return value, low, high, len(within) - edge, edge, sum(map(all, zip(flat, near, strict=True)))
