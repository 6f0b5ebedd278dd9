"""Float64 NumPy twins of schedule-free training, with all three sequences kept."""

import numpy as np


def schedule_free(
    y,
    grads,
    rates,
    *,
    weight_decay=0.0,
    decay_at="y",
    b1=0.9,
    b2=None,
    eps=1e-8,
    r=0.0,
    weight_lr_power=2.0,
):
    """y and x after every step of one leaf, in the statements of adamw_schedulefree_reference.py.

    b2 None: SGD. At "x" the decay is calculated from x as the reference does it from y and z.
    """
    x, z, v = y.copy(), y.copy(), np.zeros_like(y)
    weight_sum, lr_max, out = 0.0, -1.0, []
    for k, (g, lr) in enumerate(zip(grads, rates, strict=True)):
        lr_max = max(lr, lr_max)
        weight = (k + 1) ** r * lr_max**weight_lr_power
        weight_sum += weight
        c = weight / weight_sum if weight_sum != 0 else 0.0
        point = {"y": y, "z": z, "x": x}[decay_at]
        z = z - lr * weight_decay * point
        step = g
        if b2 is not None:
            v = b2 * v + (1 - b2) * g * g
            step = g / (np.sqrt(v / (1 - b2 ** (k + 1))) + eps)
        z = z - lr * step
        x = (1 - c) * x + c * z
        y = b1 * x + (1 - b1) * z
        out.append((y, x))
    return out
