"""Float64 NumPy twins of the decay variants: plain loops over steps, written from the equations.

A twin maps (theta_0, the finished steps u_t) to the list of weights; where a variant replaces the
step, ``steps`` are directions or gradients. ``decay`` is the strength k_t of each step, a list.
"""

import numpy as np


def plain(theta, steps, decay):
    out = []
    for u, k in zip(steps, decay, strict=True):
        theta = theta + u - k * theta
        out.append(theta)
    return out


def cautious(theta, steps, decay, ties="decay"):
    out = []
    for u, k in zip(steps, decay, strict=True):
        new = np.array(theta + u)
        for i in np.ndindex(theta.shape):
            direction = -u[i]  # theta - lr * direction
            agree = {
                "decay": direction * theta[i] >= 0,
                "keep": direction * theta[i] > 0,
                "signbit": np.signbit(direction) == np.signbit(theta[i]),
            }[ties]
            if agree:
                new[i] -= k * theta[i]
        theta = new
        out.append(theta)
    return out


def corrected(theta, steps, weight_decay, rates, top, normalized):
    out = []
    for u, rate in zip(steps, rates, strict=True):
        k = weight_decay * (rate**2 / top if normalized else rate)
        theta = theta + u - k * theta
        out.append(theta)
    return out


def toward_ema(theta, steps, decay, rho):
    ema, out = theta, []
    for u, k in zip(steps, decay, strict=True):
        ema = rho * ema + (1 - rho) * theta
        theta = theta + u - k * (theta - ema)
        out.append(theta)
    return out


def proximal(theta, steps, decay, of="stepped"):
    out = []
    for u, k in zip(steps, decay, strict=True):
        theta = (theta + u) / (1 + k) if of == "stepped" else theta / (1 + k) + u
        out.append(theta)
    return out


def l1(theta, steps, decay):
    out = []
    for u, k in zip(steps, decay, strict=True):
        z = theta + u
        theta = np.sign(z) * np.maximum(np.abs(z) - k, 0)
        out.append(theta)
    return out


def huber(theta, steps, decay, delta):
    out = []
    for u, k in zip(steps, decay, strict=True):
        slope = np.where(np.abs(theta) <= delta, theta, delta * np.sign(theta))
        theta = theta + u - k * slope
        out.append(theta)
    return out


def adams(params, grads, rates, weight_decay, decayed, b1=0.9, b2=0.999, eps=1e-8, top=False):
    """The whole tree, since the statistic is over all of it; ``decayed`` names leaves."""
    names = list(params)
    theta = {n: np.array(params[n]) for n in names}
    m, v = ({n: np.zeros_like(theta[n]) for n in names} for _ in range(2))
    largest = {n: np.zeros_like(theta[n]) for n in names}
    out = []
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        total = count = 0.0
        hat = {}
        for n in names:
            m[n] = b1 * m[n] + (1 - b1) * g[n]
            v[n] = b2 * v[n] + (1 - b2) * g[n] ** 2
            largest[n] = np.maximum(largest[n], v[n])
            hat[n] = (largest[n] if top else v[n]) / (1 - b2**t)
            total, count = total + hat[n].sum(), count + hat[n].size
        size = np.sqrt(total / count)
        for n in names:
            k = min(rate * weight_decay / size, 1.0) if n in decayed and size > 0 else 0.0
            step = rate * m[n] / (1 - b1**t) / (np.sqrt(hat[n]) + eps)
            theta[n] = theta[n] - step - k * theta[n]
        out.append(dict(theta))
    return out


def cpr(theta, steps, method, value=None, rho=1.0, sample=200, ema_rate=0.99, least=0.01):
    bound = None
    if method == "uniform":
        bound = value
    if method == "dependent":
        bound = value * (theta**2).sum()
    mu = ema = last_ema = last_growth = 0.0
    out = []
    for t, u in enumerate(steps, start=1):
        theta = theta + u
        if bound is not None:
            mu = max(0.0, mu + rho / theta.size * ((theta**2).sum() - bound))
            theta = theta - 2 * mu * theta
        norm = np.sqrt((theta**2).sum())
        if method == "warm_start" and t == value:
            bound = norm**2
        if method == "inflection":
            ema = norm if t < sample else ema_rate * ema + (1 - ema_rate) * norm
            if t > sample and t % sample == 0:
                growth, last_ema = (ema - last_ema) / ema, ema
                if bound is None and t > 3 * sample and last_growth > growth > least:
                    bound = norm**2
                last_growth = growth if t > 2 * sample else last_growth
        out.append(theta)
    return out


def hyperball(theta, directions, rates):
    radius = np.sqrt((theta**2).sum())
    out = []
    for u, rate in zip(directions, rates, strict=True):
        size = np.sqrt((u**2).sum())
        if size > 0:
            z = theta - rate * radius * u / size
            theta = radius * z / np.sqrt((z**2).sum())
        out.append(theta)
    return out


def projected(theta, steps):
    radius = np.sqrt((theta**2).sum())
    out = []
    for u in steps:
        z = theta + u
        theta = radius * z / np.sqrt((z**2).sum())
        out.append(theta)
    return out


def sgdr(t, peak, end, first, factor):
    """Walks from restart to restart, as the definition does."""
    length = first
    while t >= length:
        t, length = t - length, length * factor
    return end + 0.5 * (peak - end) * (1 + np.cos(np.pi * t / length)), length
