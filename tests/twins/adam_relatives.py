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
        decayed = h["leaf_scale"] * h["weight_decay_1d"] * p
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


def optimi_shrink(lr, h):
    """Of a decoupled decay: lambda lr_t, or lambda lr_t / max_lr."""
    return h["weight_decay"] * (lr / (h["max_lr"] or h["peak"]) if h["decouple_lr"] else lr)


def optimi_decay(p, g, lr, h):
    """The weights and the gradient after the decay."""
    if h.get("decouple_wd", True) or h["decouple_lr"]:
        return p * (1 - optimi_shrink(lr, h)), g
    return p, g + h["weight_decay"] * p


def debiased(b, t):
    """The rate of an average that needs no correction afterwards."""
    return (b**t - b) / (b**t - 1)


def optimi_moments(g, state, t, h):
    for name, b, new in (("m", h["betas"][0], g), ("v", h["betas"][1], g * g)):
        rate = debiased(b, t)
        state[name] = state.get(name, 0.0) * rate + (1 - rate) * new
    return state["m"], state["v"]


def optimi_adam(p, g, state, t, lr, h):
    p, g = optimi_decay(p, g, lr, h)
    m, v = optimi_moments(g, state, t, h)
    return p - lr * m / (np.sqrt(v) + h["eps"])


def optimi_radam(p, g, state, t, lr, h):
    p, g = optimi_decay(p, g, lr, h)
    m, v = optimi_moments(g, state, t, h)
    b2 = h["betas"][1]
    longest = 2 / (1 - b2) - 1
    rho = longest - 2 * t * b2**t / (1 - b2**t)
    if rho <= 5:
        return p - lr * m
    r = math.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
    return p - lr * r * m / (np.sqrt(v) + h["eps"])


def optimi_lion(p, g, state, t, lr, h):
    b1, b2 = h["betas"]
    p, m = p * (1 - optimi_shrink(lr, h)), state.get("m", 0.0 * g)
    state["m"] = m + (1 - b2) * (g - m)
    return p - lr * np.sign(m + (1 - b1) * (g - m))


def optimi_sgd(p, g, state, t, lr, h):
    p, g = optimi_decay(p, g, lr, h)
    mu = h["momentum"]
    if mu == 0:
        return p - lr * g
    b = state.get("b", g if h["dampening"] and h["torch_init"] else 0.0)
    state["b"] = b + (1 - mu) * (g - b) if h["dampening"] else mu * b + g
    return p - lr * state["b"]


def optimi_stable_adamw(p, g, state, t, lr, h):
    m, v = optimi_moments(g, state, t, h)
    lr = lr / max(1.0, math.sqrt(float(np.mean(g * g / np.maximum(v, h["eps"] ** 2)))))
    p = p * (1 - optimi_shrink(lr, h))
    return p - lr * m / (np.sqrt(v) + h["eps"])


def optimi_adan(p, g, state, t, lr, h):
    b1, b2, b3 = h["betas"]
    change = g - state.get("last", g)
    state["last"] = g
    ahead = g + b2 * change
    for name, b, new in (("m", b1, g), ("d", b2, change), ("n", b3, ahead * ahead)):
        rate = debiased(b, t)
        state[name] = state.get(name, 0.0) * rate + (1 - rate) * new
    root = np.sqrt(state["n"]) + h["eps"]
    return (p - lr * state["m"] / root - lr * b2 * state["d"] / root) / (1 + optimi_shrink(lr, h))


TWINS = {
    "ademamix.AdEMAMix": ademamix,
    "ademamix.ademamix": ademamix_optax,
    "adan.Adan": adan,
    "adopt.ADOPT": adopt,
    "mars.MARS": mars,
    "optimi.Adam": optimi_adam,
    "optimi.AdamW": optimi_adam,
    "optimi.RAdam": optimi_radam,
    "optimi.Lion": optimi_lion,
    "optimi.SGD": optimi_sgd,
    "optimi.StableAdamW": optimi_stable_adamw,
    "optimi.Adan": optimi_adan,
}
