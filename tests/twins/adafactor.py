"""Float64 NumPy twin of Adafactor, one leaf at a time, from the paper's Algorithms 4 to 6.

Factored leaves are treated slice by slice: for every index of the axes that are not factored
there is one matrix with its own R and C, and the matrices are looped over. The variants of the
systems are arguments; each is written where the original has it.
"""

import itertools

import numpy as np


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def factored_axes(shape, axes, least):
    """Returns (row axis kept, column axis kept) or None."""
    if axes == "never" or len(shape) < 2:
        return None
    if axes == "last":
        rows, columns = len(shape) - 2, len(shape) - 1
    else:
        rows, columns = sorted(range(len(shape)), key=lambda i: (shape[i], i))[-2:]
    return (rows, columns) if min(shape[rows], shape[columns]) >= least else None


class SecondMoment:
    """V_t of one leaf: whole, or as one R and C per matrix of the leaf."""

    def __init__(self, shape, axes, least, eps1, clamped):
        self.kept = factored_axes(shape, axes, least)
        self.eps1, self.clamped = eps1, clamped
        self.whole = np.zeros(shape)
        self.rows, self.columns = {}, {}

    def direction(self, g, beta2):
        square = g**2 if self.clamped else g**2 + self.eps1
        if self.kept is None:
            self.whole = beta2 * self.whole + (1 - beta2) * square
            v = self.whole
        else:
            v = self.estimate(square, beta2)
        if self.clamped:
            v = np.maximum(v, self.eps1**2)
        return g / np.sqrt(v)

    def estimate(self, square, beta2):
        v = np.zeros_like(square)
        others = [range(n) if i not in self.kept else [slice(None)] for i, n in enumerate(v.shape)]
        for index in itertools.product(*others):
            key = tuple(i for i in index if not isinstance(i, slice))
            matrix = square[index] if self.kept[0] < self.kept[1] else square[index].T
            r = beta2 * self.rows.get(key, 0.0) + (1 - beta2) * matrix.mean(axis=1)
            c = beta2 * self.columns.get(key, 0.0) + (1 - beta2) * matrix.mean(axis=0)
            self.rows[key], self.columns[key] = r, c
            mean = max(r.mean(), self.eps1) if self.clamped else r.mean()
            estimate = np.outer(r / mean, c)
            v[index] = estimate if self.kept[0] < self.kept[1] else estimate.T
        return v


def adafactor(
    theta,
    grads,
    rates,
    *,
    weight_decay=0.0,
    kappa=None,
    l2=0.0,
    decay_by_size=False,
    decay_first=False,
    inverse_sqrt_cap=False,
    c=0.8,
    cap=1.0,
    offset=0,
    axes="largest",
    least=128,
    eps1=1e-30,
    clamped=False,
    d=1.0,
    eps2=1e-3,
    beta1=None,
    average="step",
):
    """Returns theta after every step; kappa(lr_t) multiplies the decay.

    A gradient is an array, or a function of theta.
    """
    theta = np.array(theta, np.float64)
    moment = SecondMoment(theta.shape, axes, least, eps1, clamped)
    m = np.zeros_like(theta)
    out = []
    for t, (g, lr) in enumerate(zip(grads, rates, strict=True), start=1):
        g = (g(theta) if callable(g) else g) + l2 * theta
        rho = min(lr, t**-0.5) if inverse_sqrt_cap else lr
        old = theta
        size = max(eps2, rms(old)) if eps2 is not None else 1.0
        shrink = weight_decay * (rho * size if decay_by_size else (kappa or (lambda x: x))(lr))
        if decay_first:
            old = (1 - shrink) * old
            size = max(eps2, rms(old)) if eps2 is not None else 1.0
            shrink = 0.0
        u = moment.direction(g, min(cap, 1 - max(t - offset, 1) ** -c))
        if d is not None:
            u = u / max(1.0, rms(u) / d)
        if beta1 is not None and average == "direction":
            u = m = beta1 * m + (1 - beta1) * u
        step = rho * size * u
        if beta1 is not None and average == "step":
            step = m = beta1 * m + (1 - beta1) * step
        theta = old - step - shrink * old
        out.append(theta)
    return out
