"""Float64 NumPy twins of Muon, torch's orientation: rows are fan-out; one matrix, plain loops."""

import math

import numpy as np

JORDAN = [(3.4445, -4.7750, 2.0315)] * 5


def newton_schulz(g, triples=JORDAN, eps=1e-7, added=False, safety=1.0):
    x = g.T if g.shape[0] > g.shape[1] else g
    norm = safety * math.sqrt(sum(value * value for value in x.ravel()))
    x = x / (norm + eps if added else max(norm, eps))
    for a, b, c in triples:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def polynomial(values, triples):
    """What the iteration does to singular values."""
    for a, b, c in triples:
        values = a * values + b * values**3 + c * values**5
    return values


def momentum(grads, mu=0.95, nesterov=True, average="ema"):
    m, out = 0.0, []
    for t, g in enumerate(grads, start=1):
        new = 1.0 if average == "sum" else 1 - mu
        m = mu * m + new * g
        if average == "corrected" and nesterov:
            out.append(mu * m / (1 - mu ** (t + 1)) + (1 - mu) * g / (1 - mu**t))
        elif average == "corrected":
            out.append(m / (1 - mu**t))
        else:
            out.append(new * g + mu * m if nesterov else m)
    return out


def factor(scaling, rows, columns, rms=0.2):
    if scaling == "original":
        return max(1, rows / columns) ** 0.5
    if scaling == "rms":
        return rms * max(rows, columns) ** 0.5
    return (rows / columns) ** 0.5 if scaling == "spectral" else 1.0


def normuon(directions, b2=0.95, eps=1e-8, per="row", clamped=False):
    """One number for each row, or each column of a wider matrix with per="longer"."""
    v, out = 0.0, []
    for u in directions:
        rows, columns = u.shape
        by_row = per == "row" or rows >= columns
        v = b2 * v + (1 - b2) * np.mean(u**2, axis=1 if by_row else 0, keepdims=True)
        w = u / (np.sqrt(np.maximum(v, eps)) if clamped else np.sqrt(v) + eps)
        out.append(w * np.linalg.norm(u) / max(np.linalg.norm(w), eps))
    return out
