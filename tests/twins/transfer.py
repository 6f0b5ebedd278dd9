"""The scaling rules of weight decay once more, for AdamW whose decay the learning rate multiplies.

Each gives (learning rate, weight decay) of the new run from the old one's numbers and the ratios
new / old of what changes: batch size, tokens, parameters, width.
"""

import math


def constant_timescale(lr, decay, batch, tokens, parameters, width):
    """2405.13698: tau_epoch = 1 / (lr lambda M); lr = lr_base / s with s the ratio of fan-in."""
    steps = 1000.0
    tau = 1 / (lr * decay * steps)
    new_lr, new_steps = lr / width, steps * tokens / batch
    return new_lr, 1 / (new_lr * tau * new_steps)


def power_lines(lr, decay, batch, tokens, parameters, width):
    """2505.13738: lambda = B TPP^-m / (c lr D), m = -0.527; c and the units cancel."""
    per_parameter, b, d = 20.0, 1e6, 1e10
    c = b * per_parameter**0.527 / (decay * lr * d)
    new = per_parameter * tokens / parameters
    return lr, b * batch * new**0.527 / (c * lr * d * tokens)


def normalized(lr, decay, batch, tokens, parameters, width):
    """1711.05101: lambda = lambda_norm sqrt(b / (B T)), of the decay lr * decay here."""
    b, data = 128.0, 50_000.0 * 100
    norm = lr * decay / math.sqrt(b / data)
    return lr, norm * math.sqrt(b * batch / (data * tokens)) / lr


def sqrt_width(lr, decay, batch, tokens, parameters, width):
    """2510.15262: lr ~ 1 / d, lambda ~ sqrt(d)."""
    return lr / width, decay * math.sqrt(width)


def mup_standard(lr, decay, batch, tokens, parameters, width):
    """2510.19093, (eta, lambda) -> (eta / m, lambda)."""
    return lr / width, decay


def mup_independent(lr, decay, batch, tokens, parameters, width):
    """2510.19093, (eta, lambda) -> (eta / m, m lambda)."""
    return lr / width, decay * width


def root_batch(lr, decay, batch, tokens, parameters, width):
    """lr ~ sqrt(b)."""
    return lr * batch**0.5, decay


def linear_batch(lr, decay, batch, tokens, parameters, width):
    """1706.02677: lr ~ b."""
    return lr * batch, decay


def nanochat(lr, decay, batch, tokens, parameters, width):
    """scripts/base_train.py: lambda ~ sqrt(B) / D, lr ~ sqrt(B)."""
    return lr * batch**0.5, decay * batch**0.5 / tokens


RULES = {
    "constant timescale": constant_timescale,
    "Power Lines": power_lines,
    "normalized decay": normalized,
    "sqrt(width)": sqrt_width,
    "muP with standard decay": mup_standard,
    "muP with decay times width": mup_independent,
    "sqrt(batch)": root_batch,
    "linear batch": linear_batch,
    "sqrt(batch) and timescale": nanochat,
}
