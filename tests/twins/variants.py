"""Float64 NumPy twins of the decay terms, written from their equations.

A rule is one step of one leaf: from the finished step ``u``, the weight ``w`` before it and the
strength ``k`` it returns the step with decay. What has a memory is a loop over steps instead.
"""

import numpy as np


def decoupled(u, w, k):
    return u - k * w


def cautious(u, w, k, ties="decay"):
    direction = -u  # w - lr * direction
    agree = {
        "decay": np.sign(direction) * np.sign(w) >= 0,
        "keep": np.sign(direction) * np.sign(w) > 0,
        "signbit": np.signbit(direction) == np.signbit(w),
    }[ties]
    return np.where(agree, u - k * w, u)


def after_the_step(u, w, k):
    return (1 - k) * (w + u) - w


def proximal(u, w, k):
    return (w + u) / (1 + k) - w


def proximal_of_the_previous(u, w, k):
    return w / (1 + k) + u - w


def soft_threshold(u, w, k):
    z = w + u
    return np.sign(z) * np.maximum(np.abs(z) - k, 0) - w


def huber(u, w, k, delta=0.5):
    return u - k * np.where(np.abs(w) <= delta, w, delta * np.sign(w))


def by_size(u, w, k, minimum=1e-3):
    return u - k * max(minimum, np.sqrt(np.mean(w**2))) * w


def trajectory(rule, theta, steps, decay):
    """The weights after each step, whose strength is that of ``decay``."""
    out = []
    for u, k in zip(steps, decay, strict=True):
        theta = theta + rule(u, theta, k)
        out.append(theta)
    return out


def toward_ema(theta, steps, decay, rho):
    ema, out = theta, []
    for u, k in zip(steps, decay, strict=True):
        ema = rho * ema + (1 - rho) * theta
        theta = theta + u - k * (theta - ema)
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
