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


def sgdm_equilibrium(lr, weight_decay, momentum, unit_gradient):
    """Norm and rotation of SGD with momentum and L2; the gradient's norm is of a unit weight."""
    norm = (lr / (2 * weight_decay * (1 - momentum))) ** 0.25 * unit_gradient**0.5
    return norm, (2 * lr * weight_decay / (1 + momentum)) ** 0.5


def adamw_equilibrium(lr, weight_decay, b1, size):
    """Norm and rotation of AdamW on ``size`` entries of pure noise, for the coupling "lr"."""
    norm = (lr * size / (2 * weight_decay)) ** 0.5
    return norm, (2 * lr * weight_decay * (1 - b1) / (1 + b1)) ** 0.5
