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
    if h.get("max_grad_norm", 0) > 0:
        g = g * min(1.0, h["max_grad_norm"] / (h["global_norm"] + h["eps"]))
    step = adan_step(g, state, t, lr, h["betas"], h["eps"])
    if h["no_prox"]:
        return p * (1 - lr * h["weight_decay"]) - step
    return (p - step) / (1 + lr * h["weight_decay"])


def cautious(u, g, h):
    if not h.get("caution"):
        return u
    mask = (u * g > 0).astype(float)
    return u * (mask / max(mask.mean(), 1e-3))


def timm_scale(lr, h):
    return lr**2 / h["peak"] if h["corrected_weight_decay"] else lr


def adopt_step(p, g, state, t, lr, h, exponent, scale):
    """``scale`` multiplies a decoupled decay; None for L2."""
    b1, b2 = h["betas"]
    g = -g if h["maximize"] else g
    if scale is None:
        g = g + h["weight_decay"] * p
    if t == 1:
        state["v"] = g * g
        return p
    if scale is not None:
        p = p - scale * h["weight_decay"] * p
    normed = g / np.maximum(np.sqrt(state["v"]), h["eps"])
    if exponent is not None:
        limit = (t - 1) ** exponent
        normed = np.clip(normed, -limit, limit)
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * normed
    state["v"] = b2 * state["v"] + (1 - b2) * g * g
    return p - lr * cautious(state["m"], g, h)


def adopt(p, g, state, t, lr, h):
    return adopt_step(p, g, state, t, lr, h, h["clip_lambda"], lr if h["decouple"] else None)


def timm_adopt(p, g, state, t, lr, h):
    scale = timm_scale(lr, h) if h["decoupled"] else None
    return adopt_step(p, g, state, t, lr, h, h["clip_exp"], scale)


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


def timm_mars(p, g, state, t, lr, h):
    b1, b2 = h["betas"]
    c, rate, h = g, lr, {**h, "amsgrad": False}
    if g.ndim < 2 and not h["optimize_1d"]:
        b1, b2 = h["betas_1d"] or h["betas"]
        rate = lr * h["lr_1d_factor"]
    else:
        if t > 1:
            c = (g - state["last"]) * (h["gamma"] * (b1 / (1 - b1))) + g
        state["last"] = g
        c = c / max(1.0, norm(c))
    state["m"] = state.get("m", 0.0) * b1 + (1 - b1) * c
    m = cautious(state["m"], g, h)
    if h["mars_type"] == "lion" and (g.ndim >= 2 or h["optimize_1d"]):
        return p - rate * (p * h["weight_decay"] + np.sign(m))
    update = m / (1 - b1**t) / adam_denominator(c, state, t, b2, h)
    return p - rate * (p * h["weight_decay"] + update)


def norm(x):
    return float(np.sqrt(np.sum(x * x)))


def trust_ratio(p, update):
    return norm(p) / norm(update) if norm(p) > 0 and norm(update) > 0 else 1.0


def lamb_direction(g, state, t, h):
    (b1, b2), correct = h["betas"], h["bias_correction"]
    added = 1 - b1 if h["grad_averaging"] else 1.0
    state["m"] = state.get("m", 0.0) * b1 + added * g
    state["v"] = state.get("v", 0.0) * b2 + (1 - b2) * g * g
    c1, c2 = (1 - b1**t, 1 - b2**t) if correct else (1.0, 1.0)
    return state["m"] / c1 / (np.sqrt(state["v"]) / math.sqrt(c2) + h["eps"])


def timm_lamb(p, g, state, t, lr, h):
    decay = h["weight_decay"]
    if h["max_grad_norm"] is not None:
        g = g / max(1.0, h["global_norm"] / h["max_grad_norm"])
    update = cautious(lamb_direction(g, state, t, h), g, h)
    if decay and h["decoupled_decay"]:
        p = p - timm_scale(lr, h) * decay * p
    elif decay:
        update = update + decay * p
    if decay or h["always_adapt"]:
        ratio = trust_ratio(p, update)
        update = update * (min(ratio, 1.0) if h["trust_clip"] else ratio)
    return p - lr * update


def apex_lamb(p, g, state, t, lr, h):
    decay, most = h["weight_decay"], h["max_grad_norm"]
    g = g / (h["global_norm"] / most if h["global_norm"] > most else 1.0)
    if not h["adam_w_mode"]:
        g = g + decay * p
    update = lamb_direction(g, state, t, h)
    if h["adam_w_mode"]:
        update = update + decay * p
    if h["use_nvlamb"] or decay != 0:
        update = update * trust_ratio(p, update)
    return p - lr * update


def timm_lars(p, g, state, t, lr, h):
    decay, mu = h["weight_decay"], h["momentum"]
    if decay or h["always_adapt"]:
        ratio = h["trust_coeff"] * norm(p) / (norm(g) + norm(p) * decay + h["eps"])
        ratio = ratio if norm(p) > 0 and norm(g) > 0 else 1.0
        if h["trust_clip"]:
            ratio = min(ratio / lr, 1.0) if lr > 0 else 1.0
        g = (g + decay * p) * ratio
    if mu:
        b = state["b"] = g if "b" not in state else mu * state["b"] + (1 - h["dampening"]) * g
        g = g + mu * b if h["nesterov"] else b
    return p - lr * g


def timm_novograd(p, g, state, t, lr, h):
    (b1, b2), decay = h["betas"], h["weight_decay"]
    size, before = float(np.sum(g * g)), state.get("v", 0.0)
    v = state["v"] = size if before == 0 else b2 * before + (1 - b2) * size
    if h["amsgrad"]:
        v = state["top"] = max(state.get("top", 0.0), v)
    update = g / (math.sqrt(v) + h["eps"])
    if h["decoupled_decay"]:
        p = p * (1 - timm_scale(lr, h) * decay)
    else:
        update = update + decay * p
    if h["grad_averaging"]:
        update = update * (1 - b1)
    state["m"] = b1 * state.get("m", 0.0) + update
    return p - lr * state["m"]


def apex_novograd(p, g, state, t, lr, h):
    (b1, b2), decay, squared = h["betas"], h["weight_decay"], h["norm_type"] == 2
    size = norm(g) if squared else float(np.max(np.abs(g)))
    n = state.get("n", 0.0 if h["init_zero"] else size)
    n = math.sqrt(b2 * n**2 + (1 - b2) * size**2) if squared else b2 * n + (1 - b2) * size
    state["n"] = n
    c1, c2 = (1 - b1**t, math.sqrt(1 - b2**t)) if h["bias_correction"] else (1.0, 1.0)
    added = 1 - b1 if h["grad_averaging"] else 1.0
    denominator = n / c2 + h["eps"]
    if h["reg_inside_moment"]:
        state["m"] = b1 * state.get("m", 0.0) + added * (g / denominator + decay * p)
        return p - lr * (state["m"] / c1)
    state["m"] = b1 * state.get("m", 0.0) + added * g
    return p - lr * (state["m"] / c1 / denominator + decay * p)


def plain_adam(g, state, t, betas, eps, amsgrad=False):
    (b1, b2) = betas
    state["m"] = state.get("m", 0.0) + (1 - b1) * (g - state.get("m", 0.0))
    state["v"] = state.get("v", 0.0) + (1 - b2) * (g * g - state.get("v", 0.0))
    v = state["v"]
    if amsgrad:
        v = state["top"] = np.maximum(state.get("top", 0.0), v)
    return state["m"] / (1 - b1**t) / (np.sqrt(v) / math.sqrt(1 - b2**t) + eps)


def torchao_adam(p, g, state, t, lr, h):
    g = g + h["weight_decay"] * p
    return p - lr * plain_adam(g, state, t, h["betas"], h["eps"], h["amsgrad"])


def torchao_adamw(p, g, state, t, lr, h):
    p = p - lr * h["weight_decay"] * p
    return p - lr * plain_adam(g, state, t, h["betas"], h["eps"], h["amsgrad"])


def bnb_adam(p, g, state, t, lr, h):
    p = p * (1 - lr * h["weight_decay"])
    return p - lr * plain_adam(g, state, t, h["betas"], h["eps"])


def bnb_ademamix(p, g, state, t, lr, h):
    b1, b2, b3 = h["betas"]
    alpha, over, rise = h["alpha"], h["t_alpha"], h["t_beta3"]
    if over:
        alpha = min(t * alpha / over, alpha)
    if rise:
        logs, a = (math.log(b1), math.log(b3)), t / rise
        b3 = min(math.exp(logs[0] * logs[1] / ((1 - a) * logs[1] + a * logs[0])), b3)
    p = p * (1 - lr * h["weight_decay"])
    numbers = {"b1": b1, "b2": b2, "eps": h["eps"]}
    return p - lr * ademamix_step(g, state, t, numbers, b3, alpha)


def bnb_lion(p, g, state, t, lr, h):
    (b1, b2), m = h["betas"], state.get("m", 0.0 * g)
    p = p * (1 - lr * h["weight_decay"]) - lr * np.sign(b1 * m + (1 - b1) * g)
    state["m"] = b2 * m + (1 - b2) * g
    return p


def bnb_sgd(p, g, state, t, lr, h):
    g = g + h["weight_decay"] * p
    state["b"] = g if t == 1 else h["momentum"] * state["b"] + g
    return p - lr * state["b"]


def bnb_rmsprop(p, g, state, t, lr, h):
    g = g + h["weight_decay"] * p
    state["v"] = h["alpha"] * state.get("v", 0.0) + (1 - h["alpha"]) * g * g
    return p - lr * g / (np.sqrt(state["v"]) + h["eps"])


def bnb_adagrad(p, g, state, t, lr, h):
    g = g + h["weight_decay"] * p
    state["v"] = state.get("v", 0.0) + g * g
    return p - lr * g / (np.sqrt(state["v"]) + h["eps"])


def bnb_lamb(p, g, state, t, lr, h):
    """The CUDA kernels: a pass for the norm of the update, then the update, then the decay."""
    update = plain_adam(g, state, t, h["betas"], h["eps"])
    length, most = norm(update), h["max_unorm"] * norm(p)
    p = p - lr * (most / length if length > most else 1.0) * update
    return p * (1 - lr * h["weight_decay"])


def bnb_lars(p, g, state, t, lr, h):
    """The CUDA kernels: the pass for the norm does not see the decay of this step."""
    measured = g if t == 1 else h["momentum"] * state["b"] + g
    length, most = norm(measured), h["max_unorm"] * norm(p)
    state["b"] = measured + h["weight_decay"] * p
    return p - lr * (most / length if length > most else 1.0) * state["b"]


def optax_adan(p, g, state, t, lr, h):
    """With 1 - b2 where adan_step has b2."""
    b1, b2, b3 = (h[name] for name in ("b1", "b2", "b3"))
    change = g - state.get("last", g)
    state["last"] = g
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    state["d"] = b2 * state.get("d", 0.0) + (1 - b2) * change
    state["n"] = b3 * state.get("n", 0.0) + (1 - b3) * (g + (1 - b2) * change) ** 2
    u = state["m"] / (1 - b1**t) + (1 - b2) * state["d"] / (1 - b2**t)
    u = u / (np.sqrt(state["n"] / (1 - b3**t) + h["eps_root"]) + h["eps"])
    return p - lr * (u + h["weight_decay"] * p)


def optax_ademamix(p, g, state, t, lr, h):
    update = ademamix_step(g, state, t, h, h["b3"], h["alpha"], h["eps_root"])
    return p - lr * (update + h["weight_decay"] * p)


def optax_adopt(p, g, state, t, lr, h):
    b1, b2 = h["b1"], h["b2"]
    if t == 1:
        state["v"], state["m"] = g * g, 0.0 * g
        return p
    normed = g / np.maximum(np.sqrt(state["v"]), h["eps"])
    if h["use_clipping"]:
        normed = np.clip(normed, -((t - 1) ** 0.25), (t - 1) ** 0.25)
    state["v"] = b2 * state["v"] + (1 - b2) * g * g
    m = state["m"] = b1 * state["m"] + (1 - b1) * normed
    return p - lr * (b1 * m + (1 - b1) * normed if h["nesterov"] else m)


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
    "timm.Adan": adan,
    "timm.Adopt": timm_adopt,
    "timm.Mars": timm_mars,
    "timm.Lamb": timm_lamb,
    "timm.Lars": timm_lars,
    "timm.NvNovoGrad": timm_novograd,
    "apex.FusedLAMB": apex_lamb,
    "apex.FusedNovoGrad": apex_novograd,
    "bitsandbytes.Adam": bnb_adam,
    "bitsandbytes.AdamW": bnb_adam,
    "bitsandbytes.AdEMAMix": bnb_ademamix,
    "bitsandbytes.Lion": bnb_lion,
    "bitsandbytes.SGD": bnb_sgd,
    "bitsandbytes.RMSprop": bnb_rmsprop,
    "bitsandbytes.Adagrad": bnb_adagrad,
    "bitsandbytes.LAMB": bnb_lamb,
    "bitsandbytes.LARS": bnb_lars,
    "optax.adan": optax_adan,
    "optax.contrib.ademamix": optax_ademamix,
    "optax.contrib.adopt": optax_adopt,
    "torchao._AdamW": torchao_adamw,
    **{f"torchao.AdamW{bits}": torchao_adamw for bits in ("8bit", "4bit", "Fp8")},
    **{f"torchao.Adam{bits}": torchao_adam for bits in ("8bit", "4bit", "Fp8")},
}
