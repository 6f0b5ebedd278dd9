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


def _rate(lr, t, h):
    """The learning rate of the package's warm-up."""
    warmup = h.get("warmup_steps", 0)
    return lr * (t / warmup if t - 1 < warmup else 1.0)


def _walk(y, state, step, decay, lr, weight_lr, t, b1, h):
    """In place, without x: the statements of adamw_schedulefree.py."""
    z = state.setdefault("z", y.copy())
    lr_max = state["lr_max"] = max(weight_lr, state.get("lr_max", -1.0))
    weight = t ** h.get("r", 0.0) * lr_max ** h["weight_lr_power"]
    total = state["weight_sum"] = state.get("weight_sum", 0.0) + weight
    c = weight / total if total != 0 else 0.0
    step = step + decay
    state["z"] = z - lr * step
    return y + c * (z - y) + lr * (b1 * (1 - c) - 1) * step


def _second(g, state, b2):
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
    return state["v"]


def adamw(y, g, state, t, lr, h):
    b1, b2 = h["betas"]
    lr = _rate(lr, t, h)
    step = g / (np.sqrt(_second(g, state, b2) / (1 - b2**t)) + h["eps"])
    point = state.get("z", y) if h.get("decay_at_z", False) else y
    return _walk(y, state, step, h["weight_decay"] * point, lr, lr, t, b1, h)


def sgd(y, g, state, t, lr, h):
    lr = _rate(lr, t, h)
    return _walk(y, state, g, h["weight_decay"] * y, lr, lr, t, h["momentum"], h)


def radam(y, g, state, t, lr, h):
    b1, b2 = h["betas"]
    v, power = _second(g, state, b2), b2**t
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * power / (1 - power)
    rect, step = float(not h["silent_sgd_phase"]), g
    if length > 4:
        top = (length - 4) * (length - 2) * longest
        rect = (top / ((longest - 4) * (longest - 2) * length)) ** 0.5
        step = g / (np.sqrt(v / (1 - power)) + h["eps"])
    return _walk(y, state, step, h["weight_decay"] * y, lr * rect, lr * rect, t, b1, h)


def _optax(direction):
    def step(y, g, state, t, lr, h):
        """Its average is weighted by the rate of the next step, the last by its own."""
        rates = h["rates"]
        following = rates[min(t, len(rates) - 1)]
        decay = (h["weight_decay"] or 0.0) * y
        return _walk(y, state, direction(g, state, t, h), decay, lr, following, t, h["b1"], h)

    return step


def _optax_adam(g, state, t, h):
    return g / (np.sqrt(_second(g, state, h["b2"]) / (1 - h["b2"] ** t)) + h["eps"])


def gpa(y, g, state, t, lr, h):
    """gpa/gpa_adamw.py, with its names."""
    z = state.get("z", y)
    mu_y = h["train_interp_coeff"]
    lr_max = state["lr_max"] = max(lr, state.get("lr_max", -1.0))
    coeff = 1 - h["eval_interp_coeff"]
    if h["iterate_averaging_type"] == "SCHEDULE_FREE":
        weight = t ** h["weight_pow_coeff"] * lr_max ** h["weight_lr_power"]
        state["sum"] = state.get("sum", 0.0) + weight
        coeff = weight / state["sum"]
    b1, b2 = h["beta1"], h["beta2"]
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    denom = np.sqrt(_second(g, state, b2) / (1 - b2**t)) + h["eps"]
    step = state["m"] / (1 - b1**t) / denom
    if h["use_wd_on_y"]:
        y = y * (1 - lr * h["weight_decay"])
    else:
        z = z * (1 - lr * h["weight_decay"])
    state["z"] = z - lr * step
    return y + coeff * (z - y) + lr * (mu_y * (1 - coeff) - 1) * step


TWINS = {
    "gpa.GPAAdamW": gpa,
    "schedulefree.AdamWScheduleFree": adamw,
    "schedulefree.AdamWScheduleFreeReference": adamw,
    "schedulefree.SGDScheduleFree": sgd,
    "schedulefree.RAdamScheduleFree": radam,
    "optax.contrib.schedule_free_adamw": _optax(_optax_adam),
    "optax.contrib.schedule_free_sgd": _optax(lambda g, state, t, h: g),
}
