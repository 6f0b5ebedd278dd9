"""Float64 NumPy twins of Adam's relatives, one step of one leaf in the statements of the source.

As in ``tests/twins/conventions.py``: ``step(p, g, state, t, lr, h)`` returns the new weights.
"""

import math

import numpy as np


def ademamix_step(g, state, t, h, b3, alpha, eps_root=0.0):
    b1, b2 = h["b1"], h["b2"]
    state["fast"] = state.get("fast", 0.0) * b1 + (1 - b1) * g
    state["slow"] = state.get("slow", 0.0) * b3 + (1 - b3) * g
    state["v"] = state.get("v", 0.0) * b2 + (1 - b2) * g * g
    root = np.sqrt(state["v"] / (1 - b2**t) + eps_root) + h["eps"]
    return (state["fast"] / (1 - b1**t) + alpha * state["slow"]) / root


def ademamix(p, g, state, t, lr, h):
    b1, b2, b3 = h["betas"]
    alpha, over, rise = h["alpha"], h["alpha_warmup"], h["beta3_warmup"]
    if over is not None and t < over:
        alpha = t / over * alpha
    if rise is not None and t < rise:
        half_life = lambda beta: math.log(0.5) / math.log(beta + 1e-8) - 1  # noqa: E731
        a = t / rise
        b3 = 0.5 ** (1 / ((1 - a) * half_life(b1) + a * half_life(b3) + 1))
    update = ademamix_step(g, state, t, {"b1": b1, "b2": b2, "eps": h["eps"]}, b3, alpha)
    return p - lr * (update + h["weight_decay"] * p)


def ademamix_optax(p, g, state, t, lr, h):
    scheduled = [h[f"{name}_scheduler"] for name in ("b3", "alpha")]
    b3, alpha = (
        h[name] if schedule is None else float(schedule(t - 1))
        for name, schedule in zip(("b3", "alpha"), scheduled, strict=True)
    )
    update = ademamix_step(g, state, t, h, b3, alpha, h["eps_root"])
    return p - lr * (update + h["weight_decay"] * p)


def adan_step(g, state, t, lr, betas, eps):
    b1, b2, b3 = betas
    change = g - state.get("last", g)
    state["m"] = state.get("m", 0.0) * b1 + (1 - b1) * g
    state["d"] = state.get("d", 0.0) * b2 + (1 - b2) * change
    state["n"] = state.get("n", 0.0) * b3 + (1 - b3) * (g + b2 * change) ** 2
    state["last"] = g
    root = np.sqrt(state["n"]) / math.sqrt(1 - b3**t) + eps
    return lr / (1 - b1**t) * state["m"] / root + lr * b2 / (1 - b2**t) * state["d"] / root


def adan(p, g, state, t, lr, h):
    if h["max_grad_norm"] > 0:
        g = g * min(1.0, h["max_grad_norm"] / (h["global_norm"] + h["eps"]))
    step = adan_step(g, state, t, lr, h["betas"], h["eps"])
    if h["no_prox"]:
        return p * (1 - lr * h["weight_decay"]) - step
    return (p - step) / (1 + lr * h["weight_decay"])


def adopt(p, g, state, t, lr, h):
    b1, b2 = h["betas"]
    g = -g if h["maximize"] else g
    if not h["decouple"]:
        g = g + h["weight_decay"] * p
    if t == 1:
        state["v"] = g * g
        return p
    if h["decouple"]:
        p = p - lr * h["weight_decay"] * p
    normed = g / np.maximum(np.sqrt(state["v"]), h["eps"])
    if h["clip_lambda"] is not None:
        limit = (t - 1) ** h["clip_lambda"]
        normed = np.clip(normed, -limit, limit)
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * normed
    state["v"] = b2 * state["v"] + (1 - b2) * g * g
    return p - lr * state["m"]


def adam_denominator(c, state, t, b2, h):
    state["v"] = state.get("v", 0.0) * b2 + (1 - b2) * c * c
    v = state["v"]
    if h["amsgrad"]:
        v = state["top"] = np.maximum(state.get("top", 0.0), v)
    return np.sqrt(v) / math.sqrt(1 - b2**t) + h["eps"]


def mars(p, g, state, t, lr, h):
    if g.ndim != 2 and not h["optimize_1d"]:
        b1, b2 = h["betas_1d"]
        state["m"] = state.get("m", 0.0) * b1 + (1 - b1) * g
        update = state["m"] / (1 - b1**t) / adam_denominator(g, state, t, b2, h)
        decayed = h["scale"] * h["weight_decay_1d"] * p
        return p - lr * h["lr_1d"] / h["peak"] * (decayed + update)
    b1, b2 = h["betas"]
    c = (g - state.get("last", 0.0)) * (h["gamma"] * (b1 / (1 - b1))) + g
    state["last"] = g
    size = float(np.sqrt(np.sum(c * c)))
    c = c / size if size > 1 else c
    state["m"] = state.get("m", 0.0) * b1 + (1 - b1) * c
    if h["mars_type"] == "mars-lion":
        return p - lr * (h["weight_decay"] * p + np.sign(state["m"]))
    update = state["m"] / (1 - b1**t) / adam_denominator(c, state, t, b2, h)
    return p - lr * (h["weight_decay"] * p + update)


TWINS = {
    "ademamix.AdEMAMix": ademamix,
    "ademamix.ademamix": ademamix_optax,
    "adan.Adan": adan,
    "adopt.ADOPT": adopt,
    "mars.MARS": mars,
}
