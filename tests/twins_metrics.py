"""Float64 NumPy twins of the metrics."""

import jax
import numpy as np


def flat(tree):
    """All entries as one float64 vector."""
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def angle(before, update):
    """Twice the arc sine of half the chord between the unit vectors (Kahan's form with atan2)."""
    before, after = np.longdouble(before), np.longdouble(before) + np.longdouble(update)
    u, v = before / np.linalg.norm(before), after / np.linalg.norm(after)
    return 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))


def mean_rate(history, lr, *, b2, eps, corrected):
    """Mean of lr / (sqrt(v) + eps) after the gradients of ``history``."""
    v = 0.0
    for grads in history:
        v = b2 * v + (1 - b2) * flat(grads) ** 2
    if corrected:
        v = v / (1 - b2 ** len(history))
    return np.mean(lr / (np.sqrt(v) + eps))
