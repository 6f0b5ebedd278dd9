"""Parameters, gradients and learning rates that every comparison uses.

The gradients are given, not computed from the parameters, so that an error at one step is not
fed back and the comparison stays sharp over all 200 steps. They hold what breaks optimizers:
exact zeros (single elements, one element for ever, a whole leaf, a whole step), a spike of 1e4,
and elements of very different size.
"""

import numpy as np

STEPS = 200
SPIKE_STEP = 97
SHAPES = {"matrix": (12, 5), "vector": (7,), "kernel": (2, 3, 4, 6)}  # Matrix, vector, 4-D.
# For the optimizers of matrices: a tall one, a wide one, a square one, and the rest.
MATRIX_SHAPES = {
    "matrix": (12, 5),
    "wide": (5, 12),
    "square": (6, 6),
    "vector": (7,),
    "kernel": (2, 3, 4, 6),
}
DECAYS = (0.0, 0.01, 0.3)
PEAK_LEARNING_RATE = 1e-2


def initial_params(seed=0, shapes=SHAPES):
    """Returns float64 parameters, one leaf per shape; one element is exactly zero."""
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params["matrix"][0, 0] = 0.0
    return params


def gradients(steps=STEPS, seed=1, shapes=SHAPES):
    """Returns a list of float64 gradient trees with zeros and the spike."""
    rng = np.random.default_rng(seed)
    size = {name: 10.0 ** rng.uniform(-3, 1, shape) for name, shape in shapes.items()}
    trees = []
    for _ in range(steps):
        tree = {}
        for name, shape in shapes.items():
            g = rng.normal(size=shape) * size[name]
            g[rng.uniform(size=shape) < 0.1] = 0.0
            tree[name] = g
        tree["vector"][3] = 0.0  # Never a gradient.
        trees.append(tree)
    for name in shapes:
        trees[min(20, steps - 1)][name][...] = 0.0  # A whole step.
    trees[min(41, steps - 1)]["kernel"][...] = 0.0  # A whole leaf.
    trees[min(SPIKE_STEP, steps - 1)]["matrix"][1, 2] = 1e4
    return trees


def learning_rates(steps=STEPS, peak=PEAK_LEARNING_RATE, warmup=20):
    """Returns linear warm-up to ``peak``, then a cosine to zero: the last step has rate zero."""
    t = np.arange(steps)
    cosine = 0.5 * (1 + np.cos(np.pi * (t - warmup) / max(1, steps - 1 - warmup)))
    return peak * np.where(t < warmup, (t + 1) / warmup, cosine)


def relative_error(ours, theirs):
    """Returns the largest deviation of a trajectory, per leaf relative to its largest weight."""
    worst = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        for name in other:
            reference = np.asarray(other[name], np.float64)
            deviation = np.abs(np.asarray(mine[name], np.float64) - reference).max()
            worst = max(worst, deviation / np.abs(reference).max())
    return float(worst)
