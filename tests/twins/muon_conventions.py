"""Float64 NumPy twins of the Muon family, in the statements and the order of its sources.

Steps as in ``tests/twins/conventions.py``, which collects them. What an original gives to Muon goes
there by its rank; the rest to its own Adam, or to AdamW where the original has none.
``h["rounded"]``, where it is given, rounds every result of an iteration, as bfloat16 does.
"""

import math

import numpy as np

JORDAN = ((3.4445, -4.7750, 2.0315),)
DION = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
NVIDIA_POLAR_EXPRESS = (
    (8.2051, -22.9019, 16.4607),
    (4.0664, -2.8612, 0.5184),
    (3.9096, -2.8234, 0.5250),
    (3.2856, -2.4153, 0.4853),
    (2.2779, -1.6198, 0.3985),
    (1.8726, -1.2307, 0.3585),
    (1.8564, -1.2132, 0.3568),
    (1.8750, -1.2500, 0.3750),
)
SETS = {"simple": JORDAN, "quintic": DION, "polar_express": NVIDIA_POLAR_EXPRESS}


def exact(x):
    return x


def frobenius(x):
    return np.sqrt((x * x).sum((-2, -1), keepdims=True))


def iterated(x, coefficients, rounded=exact):
    """The iteration of every matrix of the last two axes, from what is divided already."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.swapaxes(-2, -1) if tall else x
    for a, b, c in coefficients:
        s = rounded(x @ x.swapaxes(-2, -1))
        q = rounded(rounded(b * s) + rounded(rounded(c * s) @ s))
        x = rounded(rounded(a * x) + rounded(q @ x))
    return x.swapaxes(-2, -1) if tall else x


def zeropower(g, steps=5, coefficients=JORDAN, *, eps=1e-7, safety=1.0, rounded=exact):
    """Jordan's: divided by the Frobenius norm and a little."""
    x = rounded(g)
    norm = rounded(rounded(rounded(frobenius(x)) * safety) + eps)
    repeated = (list(coefficients) * steps)[:steps]
    return iterated(rounded(x / norm), repeated, rounded)


def ema(g, state, mu, nesterov):
    state["b"] = mu * state.get("b", 0.0) + (1 - mu) * g
    return (1 - mu) * g + mu * state["b"] if nesterov else state["b"]


def heavy_ball(g, state, mu, nesterov):
    state["b"] = mu * state.get("b", 0.0) + g
    return g + mu * state["b"] if nesterov else state["b"]


def adam(g, state, t, b1, b2, eps, *, hat=False):
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
    if hat:
        return math.sqrt(1 - b2**t) / (1 - b1**t) * state["m"] / (np.sqrt(state["v"]) + eps)
    return state["m"] / (1 - b1**t) / (np.sqrt(state["v"] / (1 - b2**t)) + eps)


def adamw_by_default(p, g, state, t, lr, h):
    """torch.AdamW with its defaults, which the tests give to originals without one of their own."""
    return p * (1 - lr * 1e-2 * h["leaf_scale"]) - lr * adam(g, state, t, 0.9, 0.999, 1e-8)


def tall_factor(shape):
    return math.sqrt(max(1.0, shape[-2] / shape[-1]))


def torch_muon(p, g, state, t, lr, h):
    if p.ndim != 2:
        return adamw_by_default(p, g, state, t, lr, h)
    rounded = h.get("rounded", exact)
    x = rounded(ema(g, state, h["momentum"], h["nesterov"]))
    x = rounded(x / np.maximum(rounded(frobenius(x)), h["eps"]))
    u = iterated(x, [h["ns_coefficients"]] * h["ns_steps"], rounded)
    matched = h["adjust_lr_fn"] == "match_rms_adamw"
    size = 0.2 * math.sqrt(max(p.shape)) if matched else tall_factor(p.shape)
    return p * (1 - lr * h["weight_decay"]) - lr * size * u


def optax_muon(p, g, state, t, lr, h):
    """Kernels are (in, out); the Adam of the rest looks ahead as well."""
    ahead = h["nesterov"]
    rate = h["adam_learning_rate"] or lr
    if p.ndim != 2:
        b1, b2 = h["adam_b1"], h["adam_b2"]
        state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
        m = state["m"] / (1 - b1 ** (t + 1 if ahead else t))
        m = b1 * m + (1 - b1) * g / (1 - b1**t) if ahead else m
        u = m / (np.sqrt(state["v"] / (1 - b2**t) + h["adam_eps_root"]) + h["eps"])
        return p - rate * (u + h["adam_weight_decay"] * h["leaf_scale"] * p)
    b = h["beta"]
    state["b"] = b * state.get("b", 0.0) + (1 - b) * g
    x = state["b"] / (1 - b ** (t + 1 if ahead else t))
    x = b * x + (1 - b) * g / (1 - b**t) if ahead else x
    several = np.ndim(h["ns_coeffs"]) == 2
    triples = h["ns_coeffs"] if several else [h["ns_coeffs"]] * h["ns_steps"]
    u = iterated(x / (frobenius(x) + h["eps"]), triples)
    u = (x * u).sum() * u if h["adaptive"] else u
    size = tall_factor(p.shape[::-1])
    if h["consistent_rms"] is not None:
        size = h["consistent_rms"] * math.sqrt(max(p.shape))
    return p - lr * (size * u + h["weight_decay"] * p)


def moonlight(p, g, state, t, lr, h):
    kept = p * (1 - lr * h["wd"])
    if p.ndim != 2:
        return kept - lr * adam(g, state, t, *h["adamw_betas"], h["adamw_eps"], hat=True)
    x = heavy_ball(g, state, h["momentum"], h["nesterov"])
    u = zeropower(x, h["ns_steps"], rounded=h.get("rounded", exact))
    return kept - lr * 0.2 * math.sqrt(max(p.shape)) * u


def jordan_update(g, state, h):
    x = ema(g, state, h["momentum"], True)
    x = x.reshape(len(x), -1) if x.ndim == 4 else x
    u = zeropower(x, rounded=h.get("rounded", exact))
    return (u * tall_factor(g.shape)).reshape(g.shape)


def jordan(p, g, state, t, lr, h):
    if p.ndim < 2:
        return adamw_by_default(p, g, state, t, lr, h)
    return p * (1 - lr * h["weight_decay"]) - lr * jordan_update(g, state, h)


def jordan_with_adam(p, g, state, t, lr, h):
    if p.ndim >= 2:
        return p * (1 - lr * h["weight_decay"]) - lr * jordan_update(g, state, h)
    u = adam(g, state, t, *h["adam_betas"], h["adam_eps"])
    shrink = h["adam_lr"] * h["adam_weight_decay"] * h["leaf_scale"]
    return p * (1 - shrink) - h["adam_lr"] * u


def dion_scalar(p, g, state, t, lr, h):
    """Its fused AdamW; the mask is of the momentum and the weight."""
    u = adam(g, state, t, *h["betas"], h["epsilon"])
    decayed = (state["m"] * p >= 0) if h.get("cautious_wd") else 1.0
    return p - lr * h["weight_decay"] * p * decayed - lr * u


def dion_shapes(p, h):
    """The view of a leaf, and what the learning rate is multiplied by."""
    shape = (len(p), p.size // len(p)) if h["flatten"] and p.ndim >= 3 else p.shape
    rows, columns = shape[-2:]
    sizes = {
        "spectral_norm": math.sqrt(rows / columns),
        "rms_norm": 0.2 * math.sqrt(max(rows, columns)),
        None: 1.0,
    }
    return shape, sizes[h["adjust_lr"]]


def dion_orthogonal(g, state, h, shape):
    x = heavy_ball(g, state, h["mu"], h["nesterov"]).reshape(shape)
    rounded = h.get("rounded", exact)
    if h["use_polar_express"]:
        return zeropower(x, 5, POLAR_EXPRESS, eps=h["epsilon"], safety=1.02, rounded=rounded)
    return zeropower(x, 5, DION, eps=h["epsilon"], rounded=rounded)


def dion_decayed(p, u, lr, h):
    mask = np.minimum(np.sign(p * u) + 1, 1) if h["cautious_wd"] else 1.0
    return p - lr * h["weight_decay"] * p * mask


def dion_muon(p, g, state, t, lr, h):
    if p.ndim < 2:
        return dion_scalar(p, g, state, t, lr, h)
    shape, size = dion_shapes(p, h)
    u = dion_orthogonal(g, state, h, shape).reshape(p.shape)
    return dion_decayed(p, u, lr, h) - lr * size * u


def dion_normuon(p, g, state, t, lr, h):
    """The second moment is that of the last axis of the leaf itself."""
    if p.ndim < 2:
        return dion_scalar(p, g, state, t, lr, h)
    shape, size = dion_shapes(p, h)
    u = dion_orthogonal(g, state, h, shape).reshape(p.shape)
    b2 = h["muon_beta2"]
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * (u * u).mean(-1, keepdims=True)
    v = u / (np.sqrt(state["v"]) + 1e-8)
    u = v * frobenius(u) / np.maximum(frobenius(v), 1e-8)
    return dion_decayed(p, u, lr, h) - lr * size * u


def dion_low_rank(p, g, state, t, lr, h):
    """``h["bases"]``: the random start of Q, by the leaf's shape."""
    if p.ndim != 2:
        return dion_scalar(p, g, state, t, lr, h)
    m = state.get("m", 0.0) + g
    q = start = state.get("q", h["bases"].get(p.shape))
    b = m.T if len(m) < len(m.T) else m
    for _ in range(h["power_iters"]):
        basis, _ = np.linalg.qr(b @ q)
        q = b.T @ basis
    if not b.any():
        basis, q = 0 * basis, start
    m_t = b - (1 - h["mu"]) * (basis @ q.T)
    q = state["q"] = q / (np.sqrt((q * q).sum(0, keepdims=True)) + h["epsilon"])
    u = basis @ q.T
    turned = len(m) < len(m.T)
    state["m"], u = (m_t.T, u.T) if turned else (m_t, u)
    return p * (1 - lr * h["weight_decay"]) - lr * math.sqrt(len(p) / len(p.T)) * u


def dion_selected(p, g, state, t, lr, h):
    if p.ndim < 2:
        return dion_scalar(p, g, state, t, lr, h)
    state["m"] = state.get("m", np.zeros_like(p)) + g
    state["v"] = state.get("v", np.zeros((*p.shape[:-1], 1)))
    u = np.zeros_like(p)
    for index in np.ndindex(p.shape[:-2]):
        dion_part(u[index], state["m"][index], state["v"][index], h)
    _, size = dion_shapes(p, {**h, "flatten": False})
    return p * (1 - lr * h["weight_decay"]) - lr * size * u


def dion_part(u, m, v, h):
    """One matrix, in place: the direction, the momentum and NorDion2's second moment."""
    by_row = "muon_beta2" in h or len(m) <= len(m.T)
    u, m = (u, m) if by_row else (u.T, m.T)
    k = max(1, math.ceil(h["fraction"] * len(m)))
    chosen = np.argsort(-np.abs(m).sum(1), kind="stable")[:k]
    coefficients = POLAR_EXPRESS if h["use_polar_express"] else DION
    safety = 1.02 if h["use_polar_express"] else 1.0
    part = m[chosen] if by_row else m[chosen].T
    o = zeropower(part, 5, coefficients, eps=h["epsilon"], safety=safety)
    o = o if by_row else o.T
    m[chosen] *= h["mu"] if "muon_beta2" in h else h["ef_decay"]
    if "muon_beta2" in h:
        b2 = h["muon_beta2"]
        v[chosen] = b2 * v[chosen] + (1 - b2) * (o * o).mean(1, keepdims=True)
        w = o / (np.sqrt(v[chosen]) + 1e-8)
        o = w * frobenius(o) / np.maximum(frobenius(w), 1e-8)
    u[chosen] = o


def reduced_variance(u, state, b2, rounded=exact):
    """The second moment of modded-nanogpt and nanochat: of rows where the matrix is not wide."""
    axis = -1 if u.shape[-2] >= u.shape[-1] else -2
    mean = (u * u).mean(axis, keepdims=True)
    norm = np.sqrt(mean.sum((-2, -1), keepdims=True) * u.shape[axis])
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * mean
    step = 1 / np.sqrt(np.maximum(state["v"], 1e-10))
    new = np.sqrt((mean * u.shape[axis] * step**2).sum((-2, -1), keepdims=True))
    return rounded(u * rounded(step * (norm / np.maximum(new, 1e-10))))


def modded_normuon(p, g, state, t, lr, h):
    if p.ndim < 2:
        return adamw_by_default(p, g, state, t, lr, h)
    rounded = h.get("rounded", exact)
    x = ema(g, state, h["momentum"], True)
    u = zeropower(x, 5, POLAR_EXPRESS, eps=1e-6, safety=1.02, rounded=rounded)
    u = reduced_variance(u, state, h["beta2"], rounded)
    eff_lr, eff_wd = tall_factor(p.shape) * h["lr_mul"] * lr, h["wd_mul"] * h["weight_decay"] * lr
    return p - p * (u * p >= 0) * eff_wd * eff_lr - u * eff_lr


def nanochat(p, g, state, t, lr, h):
    if p.ndim < 2:
        return adamw_by_default(p, g, state, t, lr, h)
    rounded = h.get("rounded", exact)
    x = rounded(ema(g, state, h["momentum"], True))
    target = frobenius(x) / math.sqrt(x.shape[-2])
    rows = np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-6)
    x = rounded(x * rounded(target / rows))
    u = zeropower(x, h["ns_steps"], POLAR_EXPRESS, eps=1e-6, safety=1.01, rounded=rounded)
    u = u * (math.sqrt(min(u.shape[-2:])) / np.maximum(frobenius(u), 1e-6))
    u = reduced_variance(u, state, h["beta2"])
    wd, total = h["weight_decay"], h["num_iterations"]
    if total is not None:
        wd = wd * 0.5 * (1 + math.cos(math.pi * (t - 1) / total))
    lr = lr * tall_factor(p.shape)
    return p - lr * u - lr * wd * p * (u * p >= 0)


def nvidia_muon(p, g, state, t, lr, h):
    if p.ndim != 2:
        return adamw_by_default(p, g, state, t, lr, h)
    method, wd = h["weight_decay_method"], h["weight_decay"]
    if method == "l2":
        g = g + wd * p
    else:
        p = p - p * wd * {"decoupled": lr, "independent": 1.0, "palm": lr * lr}[method]
    return p - lr * nvidia_direction(g, state, h)


def nvidia_scion(p, g, state, t, lr, h):
    if p.ndim != 2:
        return adamw_by_default(p, g, state, t, lr, h)
    more = {"nesterov": False, "scale_mode": "unit_rms_norm"}
    more["extra_scale_factor"] = h["spectral_radius"]
    return p * (1 - lr * h["leaf_scale"]) - lr * nvidia_direction(g, state, {**h, **more})


def nvidia_direction(g, state, h):
    rounded = h.get("rounded", exact)
    x = ema(g, state, h.get("momentum", h.get("muon_momentum")), h["nesterov"])
    sets = SETS[h["coefficient_type"]]
    last = [sets[-1]] * h["num_ns_steps"] if h["coefficient_type"] == "polar_express" else sets
    repeated = (list(sets) + list(last) * h["num_ns_steps"])[: h["num_ns_steps"]]
    x = rounded(x / np.maximum(frobenius(x), 1e-15))
    u = iterated(x, repeated, rounded)
    rows, columns = g.shape
    size = {
        "shape_scaling": max(1, rows / columns) ** 0.5,
        "spectral": max(rows, columns) ** 0.5,
        "unit_rms_norm": (rows / columns) ** 0.5,
    }[h["scale_mode"]]
    return u * size * h["extra_scale_factor"]


def megatron_muon(p, g, state, t, lr, h):
    """The switch of the decay reaches Adam alone."""
    kept = p * (1 - lr * h["weight_decay"])
    if p.ndim != 2:
        rates = h["adam_beta1"], h["adam_beta2"], h["adam_eps"]
        if not h["decoupled_weight_decay"]:
            return p - lr * adam(g + h["weight_decay"] * p, state, t, *rates)
        return kept - lr * adam(g, state, t, *rates)
    names = ("momentum", "nesterov", "coefficient_type", "num_ns_steps", "scale_mode")
    muon = {name: h[f"muon_{name}"] for name in (*names, "extra_scale_factor")}
    return kept - lr * nvidia_direction(g, state, {**h, **muon})


def scion(p, g, state, t, lr, h):
    if h["momentum"] != 1:
        state["b"] = (1 - h["momentum"]) * state.get("b", 0.0) + h["momentum"] * g
        g = state["b"]
    u = h["scale"] * scion_lmo(g, h)
    return (p if h["unconstrained"] else p * (1 - lr * h["leaf_scale"])) - lr * u


def scion_lmo(g, h):
    norm, more = h["norm"], h["norm_kwargs"] or {}
    if norm == "Sign":
        return np.sign(g) / (g.shape[1] if more.get("normalized", True) else 1)
    if norm == "ColNorm":
        g = g.T if more.get("transpose") else g
        size = 1 / math.sqrt(len(g)) * np.sqrt((g**2).sum(0, keepdims=True))
        size = size * g.shape[1] if more.get("normalized") else size
        u = g / (size + 1e-8)
        return u.T if more.get("transpose") else u
    if norm == "RowNorm":
        g = g.T if more.get("transpose") else g
        size = np.sqrt((g**2).sum(-1, keepdims=True))
        size = size * math.sqrt(g.shape[-1]) if more.get("normalized", True) else size
        u = g / (size + 1e-8)
        return u.T if more.get("transpose") else u
    if g.ndim < 2:
        return g / (np.sqrt(np.mean(g**2)) + 1e-8)
    u = zeropower(g.reshape(len(g), -1), more.get("steps", 5), rounded=h.get("rounded", exact))
    u, scale = u.reshape(g.shape), math.sqrt(g.shape[0] / g.shape[1])
    if g.ndim > 2:
        return u * scale / g.shape[2] ** (g.ndim - 2)
    scale = scale if more.get("normalized", True) else math.sqrt(g.shape[0])
    return u * (max(1, scale) if more.get("max") else scale)


def signum(p, g, state, t, lr, h):
    p = p * (1 - lr * h["weight_decay"])
    if h["momentum"] != 0:
        b = state.get("b", p)  # It starts as a copy of the weights.
        b = state["b"] = h["momentum"] * b + (1 - h["dampening"]) * g
        g = g + h["momentum"] * b if h["nesterov"] else b
    return p - lr * (np.sign(g) if h["sign_update"] else g)


TWINS = {
    "torch.Muon": torch_muon,
    "optax.contrib.muon": optax_muon,
    "moonlight.Muon": moonlight,
    "keller_jordan.Muon": jordan,
    "keller_jordan.MuonWithAuxAdam": jordan_with_adam,
    "dion.Muon": dion_muon,
    "dion.NorMuon": dion_normuon,
    "dion.Dion": dion_low_rank,
    "dion.Dion2": dion_selected,
    "dion.NorDion2": dion_selected,
    "modded_nanogpt.NorMuon": modded_normuon,
    "nanochat.Muon": nanochat,
    "emerging_optimizers.Muon": nvidia_muon,
    "emerging_optimizers.Scion": nvidia_scion,
    "megatron.Muon": megatron_muon,
    "scion.Scion": scion,
    "llm_optimizer_benchmark.Signum": signum,
}
