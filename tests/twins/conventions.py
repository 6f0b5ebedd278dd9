"""Float64 NumPy twins of the conventions whose packages are not compared live.

Each is one step of one leaf, written in the statements and the order of the original's source:
``step(p, g, state, t, lr, h)`` returns the new weights. t is 1 at the first step; h holds the
original's arguments and ``peak``, the learning rate of its constructor.
"""

import math

import numpy as np

from tests.twins import adam_relatives, muon_conventions, schedule_free, second_order


def moments(g, state, b1, b2):
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g**2
    return state["m"], state["v"]


def rms(x):
    return math.sqrt(float(np.mean(x * x)))


def hat_step(g, state, t, b1, b2, eps, amsgrad=False):
    m, v = moments(g, state, b1, b2)
    if amsgrad:
        v = state["top"] = np.maximum(state.get("top", 0.0), v)
    return math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)


def adam_step(g, state, t, b1, b2, eps, amsgrad=False, eps_root=0.0):
    m, v = moments(g, state, b1, b2)
    if amsgrad:
        v = state["top"] = np.maximum(state.get("top", 0.0), v)
    return (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)


def torch_buffer(g, state, mu, dampening, nesterov):
    if mu == 0:
        return g
    state["b"] = g.copy() if "b" not in state else mu * state["b"] + (1 - dampening) * g
    return g + mu * state["b"] if nesterov else state["b"]


def transformers_adamw(p, g, state, t, lr, h):
    b1, b2 = h["betas"]
    m, v = moments(g, state, b1, b2)
    size = lr
    if h["correct_bias"]:
        size = size * math.sqrt(1 - b2**t) / (1 - b1**t)
    p = p - size * m / (np.sqrt(v) + h["eps"])
    return p + p * (-lr * h["weight_decay"])


def fairseq_adam(p, g, state, t, lr, h):
    p = p - h["weight_decay"] * lr * p
    return p - lr * hat_step(g, state, t, *h["betas"], h["eps"], h["amsgrad"])


def fairseq_nag(p, g, state, t, lr, h):
    """The buffer is minus the learning rate times the momentum, rescaled when the rate changes."""
    mu, old = h["momentum"], state.get("lr", lr)
    change = lr / old
    b = state.get("b", 0.0)
    p = p * (1 - lr * h["weight_decay"])
    p = p + mu * mu * change * b
    p = p - (1 + mu) * lr * g
    state["b"] = mu * change * b - lr * g
    state["lr"] = lr
    return p


def composer_sgdw(p, g, state, t, lr, h):
    b = torch_buffer(g, state, h["momentum"], h["dampening"], h["nesterov"])
    p = p * (1 - lr / h["peak"] * h["weight_decay"])
    return p - lr * b


def composer_adamw(p, g, state, t, lr, h):
    p = p * (1 - lr / h["peak"] * h["weight_decay"])
    return p - lr * adam_step(g, state, t, *h["betas"], h["eps"], h["amsgrad"])


def fused_adam(p, g, state, t, lr, h):
    if not h["adam_w_mode"]:
        g = g + h["weight_decay"] * p
    (b1, b2), correct = h["betas"], h["bias_correction"]
    m, v = moments(g, state, b1, b2)
    c1, c2 = (1 - b1**t, 1 - b2**t) if correct else (1.0, 1.0)
    update = (m / c1) / (np.sqrt(v / c2) + h["eps"])
    if h["adam_w_mode"]:
        update = update + h["weight_decay"] * p
    return p - lr * update


def cpu_adam(p, g, state, t, lr, h):
    if h["weight_decay"] > 0 and not h["adamw_mode"]:
        g = g + h["weight_decay"] * p
    b1, b2 = h["betas"]
    m, v = moments(g, state, b1, b2)
    c1, c2 = (1 - b1**t, 1 - b2**t) if h["bias_correction"] else (1.0, 1.0)
    if h["weight_decay"] > 0 and h["adamw_mode"]:
        p = p + -lr * h["weight_decay"] * p
    return p - lr / c1 * (m / (np.sqrt(v) / math.sqrt(c2) + h["eps"]))


def factored(g, state, b2, eps1, axes, least):
    """g / sqrt(V), V of rank one over two axes: of each matrix of the leaf its own R and C."""
    square = g * g + eps1
    pair = None
    if axes == "last" and g.ndim > 1:
        pair = (g.ndim - 2, g.ndim - 1)
    if axes == "largest" and g.ndim > 1:
        columns, rows = sorted(range(g.ndim), key=lambda i: (g.shape[i], i))[-2:]
        pair = (columns, rows) if g.shape[columns] >= least else None
    if pair is None:
        state["full"] = b2 * state.get("full", 0.0) + (1 - b2) * square
        return g / np.sqrt(state["full"])
    r_axis, c_axis = pair[1], pair[0]
    state["r"] = b2 * state.get("r", 0.0) + (1 - b2) * square.mean(axis=r_axis, keepdims=True)
    state["c"] = b2 * state.get("c", 0.0) + (1 - b2) * square.mean(axis=c_axis, keepdims=True)
    return g / np.sqrt(state["r"] / state["r"].mean(axis=c_axis, keepdims=True) * state["c"])


def clipped(u, d):
    return u if d is None else u / max(1.0, rms(u) / d)


def fairseq_adafactor(p, g, state, t, lr, h):
    if h["relative_step"]:
        lr = min(1e-6 * t if h["warmup_init"] else 1e-2, 1 / math.sqrt(t))
    if h["scale_parameter"]:
        lr = lr * max(h["eps"][1], rms(p))
    u = factored(g, state, 1 - t ** h["decay_rate"], h["eps"][0], "last", 1)
    u = clipped(u, h["clip_threshold"]) * lr
    if h["beta1"] is not None:
        u = state["m"] = h["beta1"] * state.get("m", 0.0) + (1 - h["beta1"]) * u
    p = p + p * (-h["weight_decay"] * lr)
    return p - u


def t5x_adafactor(p, g, state, t, lr, h):
    rate = h["weight_decay_rate"]
    if h["weight_decay_rate_lr_exponent"]:
        rate = (rate or 1.0) * lr ** h["weight_decay_rate_lr_exponent"]
    scale = lr
    if h["multiply_by_parameter_scale"]:
        size = max(rms(p), h["epsilon2"])
        if h["max_parameter_scale"] is not None:
            size = min(size, h["max_parameter_scale"])
        scale = scale * size
    b2 = 1 - (t - h["step_offset"]) ** -h["decay_rate"]
    axes = "largest" if h["factored"] else "never"
    y = factored(g, state, b2, h["epsilon1"], axes, h["min_dim_size_to_factor"])
    taken = scale * clipped(y, h["clipping_threshold"])
    if h["beta1"] is not None:
        taken = state["m"] = h["beta1"] * state.get("m", 0.0) + (1 - h["beta1"]) * taken
    return (1 - (rate or 0.0)) * p - taken


def palm_adafactor(p, g, state, t, lr, h):
    u = clipped(factored(g, state, 1 - t ** -h["decay_rate"], 1e-30, "never", 1), 1.0)
    state["m"] = h["beta1"] * state.get("m", 0.0) + (1 - h["beta1"]) * lr * max(1e-3, rms(p)) * u
    return p - state["m"] - h["weight_decay"] * lr**2 * p


def praxis_adam(p, g, state, t, lr, h):
    """The bias correction is inside the decaying rates."""
    r1, r2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (h["beta1"], h["beta2"]))
    m, v = moments(g, state, r1, r2)
    u = m / (np.sqrt(v + h["epsilon_root"]) + h["epsilon"])
    if h["update_capping"] > 0:
        u = u / max(1.0, rms(u) / h["update_capping"])
    return p - lr * (u + h["weight_decay"] * p)


def praxis_adafactor(p, g, state, t, lr, h):
    if h["decay_method"] == "adam":
        b = h["decay_adam"]
        b2 = b * (1 - b ** (t - 1)) / (1 - b**t)
    else:
        b2 = 1 - t ** -h["decay_pow"]
    scale = lr
    if h["multiply_by_parameter_scale"]:
        scale = scale * max(rms(p), h["epsilon2_param_scale_reg"])
    axes = "last" if h["factored"] else "never"
    x = factored(g, state, b2, h["epsilon1_grad_sq_reg"], axes, 1)
    taken = scale * clipped(x, h["clip_threshold"])
    if h["beta1"]:
        taken = state["m"] = h["beta1"] * state.get("m", 0.0) + (1 - h["beta1"]) * taken
    if h["weight_decay"] is not None:
        taken = taken + h["weight_decay"] * lr * p
    return p - taken


def big_vision_adam(p, g, state, t, lr, h):
    update = h["peak"] * adam_step(g, state, t, h["b1"], h["b2"], h["eps"], False, h["eps_root"])
    if h["wd"]:
        update = update + h["wd"] * p
    return p - lr / h["peak"] * update


def big_vision_adafactor(p, g, state, t, lr, h):
    b2 = min(h["beta2_cap"], 1 - t ** -h["decay_rate"])
    u = factored(g, state, b2, h["eps"], "largest", h["min_dim_size_to_factor"])
    u = clipped(u, h["clipping_threshold"])
    if h["momentum"]:
        u = state["m"] = h["momentum"] * state.get("m", 0.0) + (1 - h["momentum"]) * u
    update = h["peak"] * u + (h["wd"] or 0.0) * p
    return p - lr / h["peak"] * update


def axlearn_adamw(p, g, state, t, lr, h):
    u = adam_step(g, state, t, h["b1"], h["b2"], h["eps"])
    return p - lr * (u + h["weight_decay"] * p)


def axlearn_decoupled(p, g, state, t, lr, h):
    u = h["peak"] * adam_step(g, state, t, h["b1"], h["b2"], h["eps"])
    return p - lr / h["peak"] * (u + h["weight_decay"] * p)


def nanodo_adamw(p, g, state, t, lr, h):
    rate = h["weight_decay"] / h["peak"] if h["independent_weight_decay"] else h["weight_decay"]
    return p - lr * (adam_step(g, state, t, h["b1"], h["b2"], h["eps"]) + rate * p)


def timm_decay(p, lr, h):
    scale = lr**2 / h["peak"] if h["corrected_weight_decay"] else lr
    return p * (1.0 - scale * h["weight_decay"])


def timm_caution(u, g, h):
    if not h["caution"]:
        return u
    mask = (u * g > 0).astype(float)
    return u * (mask / max(mask.mean(), 1e-3))


def timm_clipped(root, g, h):
    """The denominator, enlarged where the gradient has outgrown it."""
    threshold = h["clipping_threshold"]
    return root if threshold is None else root * max(1.0, rms(g / root) / threshold)


def timm_adamw(p, g, state, t, lr, h):
    (b1, b2), p = h["betas"], timm_decay(p, lr, h)
    m, v = moments(g, state, b1, b2)
    if h["amsgrad"]:
        v = state["top"] = np.maximum(state.get("top", 0.0), v)
    root = timm_clipped(np.sqrt(v) / math.sqrt(1 - b2**t) + h["eps"], g, h)
    return p - lr / (1 - b1**t) * timm_caution(m, g, h) / root


def timm_nadamw(p, g, state, t, lr, h):
    (b1, b2), p = h["betas"], timm_decay(p, lr, h)
    m, v = moments(g, state, b1, b2)
    ahead = timm_caution(b1 * m + (1 - b1) * g, g, h)
    root = timm_clipped(np.sqrt(v) / math.sqrt(1 - b2**t) + h["eps"], g, h)
    return p - lr / (1 - b1**t) * ahead / root


def timm_sgdw(p, g, state, t, lr, h):
    p = timm_decay(p, lr, h)
    b = torch_buffer(g, state, h["momentum"], h["dampening"], h["nesterov"])
    return p - lr * (timm_caution(b, g, h) if h["momentum"] else b)


def timm_lion(p, g, state, t, lr, h):
    (b1, b2), p = h["betas"], timm_decay(p, lr, h)
    m = state.get("m", np.zeros_like(g))
    update = timm_caution(np.sign(b1 * m + (1 - b1) * g), g, h)
    state["m"] = b2 * m + (1 - b2) * g
    return p - lr * update


def modded_adam(p, g, state, t, lr, h):
    lr = lr * h["lr_mul"]
    update = lr * hat_step(g, state, t, *h["adam_betas"], h["eps"])
    shrink = lr * lr * h["weight_decay"] * h["wd_mul"]
    return p - (update + p * (update * p > 0) * shrink)


def tfa_adamw(p, g, state, t, lr, h):
    p = p - h["weight_decay"] * p
    b1, b2 = h["beta_1"], h["beta_2"]
    return p - lr * hat_step(g, state, t, b1, b2, h["epsilon"], h["amsgrad"])


def tfa_sgdw(p, g, state, t, lr, h):
    p = p - h["weight_decay"] * p
    state["b"] = h["momentum"] * state.get("b", 0.0) - lr * g
    return p + (h["momentum"] * state["b"] - lr * g if h["nesterov"] else state["b"])


def bert(p, g, state, t, lr, h):
    m, v = moments(g, state, h["beta_1"], h["beta_2"])
    update = m / (np.sqrt(v) + h["epsilon"])
    return p - lr * (update + h["weight_decay_rate"] * p)


def paper_sgdw(p, g, state, t, lr, h):
    state["m"] = h["beta1"] * state.get("m", 0.0) + lr * g
    return p - state["m"] - lr / h["peak"] * h["weight_decay"] * p


def paper_adamw(p, g, state, t, lr, h):
    alpha, eta = h["peak"], lr / h["peak"]
    u = adam_step(g, state, t, h["beta1"], h["beta2"], h["eps"])
    return p - eta * (alpha * u + h["weight_decay"] * p)


def paper_adamwr(p, g, state, t, lr, h):
    """Its own restarts; the rate of the call is not looked at."""
    alpha, since, length = h["peak"], t - 1, h["first_steps"]
    while since >= length:
        since, length = since - length, length * h["factor"]
    eta = 0.5 + 0.5 * math.cos(math.pi * since / length)
    u = adam_step(g, state, t, h["beta1"], h["beta2"], h["eps"])
    return p - eta * (alpha * u + h["weight_decay"] / math.sqrt(length) * p)


def paper_adafactor(p, g, state, t, lr, h):
    u = factored(g, state, 1 - t ** -h["decay_exponent"], h["eps1"], "last", 1)
    return p - max(h["eps2"], rms(p)) * lr * clipped(u, h["d"])


def paper_radam(p, g, state, t, lr, h):
    from tests.twins.adam import average_length

    b1, b2 = h["betas"]
    p = p - h["weight_decay"] * lr * p
    m, v = moments(g, state, b1, b2)
    longest, length = average_length(b2), average_length(b2, t)
    if length <= 4:
        return p - lr * m / (1 - b1**t)
    top = (length - 4) * (length - 2) * longest
    r = math.sqrt(top / ((longest - 4) * (longest - 2) * length))
    return p - lr * r * (m / (1 - b1**t)) * math.sqrt(1 - b2**t) / (np.sqrt(v) + h["eps"])


def torch_adadelta(p, g, state, t, lr, h):
    rho, eps = h["rho"], h["eps"]
    g = (-g if h["maximize"] else g) + h["weight_decay"] * p
    state["v"] = rho * state.get("v", 0.0) + (1 - rho) * g * g
    delta = np.sqrt(state.get("a", 0.0) + eps) / np.sqrt(state["v"] + eps) * g
    state["a"] = rho * state.get("a", 0.0) + (1 - rho) * delta * delta
    return p - lr * delta


def torch_asgd(p, g, state, t, lr, h):
    g = (-g if h["maximize"] else g) + h["weight_decay"] * p
    eta = state.get("eta", lr)
    state["eta"] = lr / (1 + h["lambd"] * lr * t) ** h["alpha"]
    return p * (1 - h["leaf_scale"] * h["lambd"] * eta) - eta * g


def torch_rprop(p, g, state, t, lr, h):
    (down, up), (least, most) = h["etas"], h["step_sizes"]
    g = -g if h["maximize"] else g
    sign = np.sign(g * state.get("last", 0.0 * g))
    factor = np.where(sign > 0, up, np.where(sign < 0, down, 1.0))
    state["size"] = np.clip(state.get("size", lr + 0.0 * g) * factor, least, most)
    state["last"] = np.where(sign < 0, 0.0, g)
    return p - np.sign(state["last"]) * state["size"]


TWINS = {
    **adam_relatives.TWINS,
    **muon_conventions.TWINS,
    "torch.Adadelta": torch_adadelta,
    "torch.ASGD": torch_asgd,
    "torch.Rprop": torch_rprop,
    "transformers.AdamW": transformers_adamw,
    "fairseq.Adam": fairseq_adam,
    "fairseq.NAG": fairseq_nag,
    "fairseq.Adafactor": fairseq_adafactor,
    "composer.DecoupledSGDW": composer_sgdw,
    "composer.DecoupledAdamW": composer_adamw,
    "apex.FusedAdam": fused_adam,
    "deepspeed.FusedAdam": fused_adam,
    "deepspeed.DeepSpeedCPUAdam": cpu_adam,
    "t5x.Adafactor": t5x_adafactor,
    "palm.Adafactor": palm_adafactor,
    "praxis.sharded_adam": praxis_adam,
    "praxis.sharded_adafactor": praxis_adafactor,
    "big_vision.adam": big_vision_adam,
    "big_vision.adafactor": big_vision_adafactor,
    "axlearn.adamw": axlearn_adamw,
    "axlearn.adamw_decoupled": axlearn_decoupled,
    "nanodo.adamw": nanodo_adamw,
    "timm.AdamW": timm_adamw,
    "timm.NAdamW": timm_nadamw,
    "timm.SGDW": timm_sgdw,
    "timm.Lion": timm_lion,
    "modded_nanogpt.Adam": modded_adam,
    "tfa.AdamW": tfa_adamw,
    "tfa.SGDW": tfa_sgdw,
    "bert.AdamWeightDecayOptimizer": bert,
    "paper.SGDW": paper_sgdw,
    "paper.AdamW": paper_adamw,
    "paper.AdamWR": paper_adamwr,
    "paper.Adafactor": paper_adafactor,
    "paper.RAdam": paper_radam,
    **second_order.TWINS,
    **schedule_free.TWINS,
}


def run(name, arguments, params, grads_per_step, lr_per_step, peak, *, copies=1):
    """Returns the parameters after every step, all decayed (``rules.ALL``).

    ``copies`` is how many trees like this one the optimizer holds: of all is the global norm.
    """
    step, h = TWINS[name], {**arguments, "peak": peak, "rates": [float(lr) for lr in lr_per_step]}
    theta = {leaf: np.array(value, np.float64) for leaf, value in params.items()}
    state = {leaf: {} for leaf in theta}
    after = []
    for t, (grads, lr) in enumerate(zip(grads_per_step, lr_per_step, strict=True), start=1):
        h["global_norm"] = math.sqrt(copies * sum(float(np.sum(g * g)) for g in grads.values()))
        theta = {n: step(p, grads[n], state[n], t, float(lr), h) for n, p in theta.items()}
        after.append(theta)
    return after
