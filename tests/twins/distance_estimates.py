"""Float64 NumPy twins of Prodigy and D-Adaptation: whole trees, since d is over all leaves.

Each is ``step(p, g, state, lr, h, decays)``: dicts of leaves, the state, the rate, the original's
arguments, and each leaf's weight decay; it returns the new weights.
"""

import math

import numpy as np

KEPT = ("m", "v", "s", "n")


def _begin(p, state, d0):
    if not state:
        state.update(d=d0, d_max=d0, num=0.0, k=0, gsq=0.0)
        state["p0"] = {n: x.copy() for n, x in p.items()}
        state.update({key: {n: 0.0 * x for n, x in p.items()} for key in KEPT})
        state["a"] = {n: 0.0 * x + 1e-6 for n, x in p.items()}


def _correction(b1, b2, k, h):
    return math.sqrt(1 - b2 ** (k + 1)) / (1 - b1 ** (k + 1)) if h["use_bias_correction"] else 1.0


def prodigy(p, g, state, lr, h, decays):
    (b1, b2), slice_p = h["betas"], h["slice_p"]
    b3 = math.sqrt(b2) if h["beta3"] is None else h["beta3"]
    _begin(p, state, h["d0"])
    d, d0 = state["d"], h["d0"]
    dlr = d * lr * _correction(b1, b2, state["k"], h)
    if not h["decouple"]:
        g = {n: g[n] + decays[n] * p[n] for n in p}
    if lr == 0:
        return p
    flat = lambda x: np.asarray(x).reshape(-1)[::slice_p]  # noqa: E731
    num, denom = b3 * state["num"], 0.0
    for n in p:
        if state["s"][n].shape != flat(p[n]).shape:
            state["s"][n] = 0.0 * flat(p[n])
        num += d / d0 * dlr * float(flat(g[n]) @ (flat(state["p0"][n]) - flat(p[n])))
        state["m"][n] = b1 * state["m"][n] + d * (1 - b1) * g[n]
        state["v"][n] = b2 * state["v"][n] + d * d * (1 - b2) * g[n] ** 2
        step = d if h["safeguard_warmup"] else dlr
        state["s"][n] = b3 * state["s"][n] + d / d0 * step * flat(g[n])
        denom += float(np.abs(state["s"][n]).sum())
    if denom == 0:
        return p
    d_hat = h["d_coef"] * num / denom
    if d == d0:
        d = max(d, d_hat)
    state["d_max"] = max(state["d_max"], d_hat)
    d = min(state["d_max"], d * h["growth_rate"])
    state.update(d=d, num=num, k=state["k"] + 1)
    out = {}
    for n in p:
        decay = decays[n] if h["decouple"] else 0.0
        moved = p[n] - decay * dlr * p[n]
        out[n] = moved - dlr * state["m"][n] / (np.sqrt(state["v"][n]) + d * h["eps"])
    return out


def dadapt_adam(p, g, state, lr, h, decays):
    b1, b2 = h["betas"]
    root = math.sqrt(b2)
    _begin(p, state, h["d0"])
    dlr = state["d"] * lr * _correction(b1, b2, state["k"], h)
    if not h["decouple"]:
        g = {n: g[n] + decays[n] * p[n] for n in p}
    if lr == 0:
        return p
    seen = size = 0.0
    for n in p:
        weighted = state["s"][n] / (np.sqrt(state["v"][n]) + h["eps"])
        seen += dlr * float((g[n] * weighted).sum())
        state["m"][n] = b1 * state["m"][n] + dlr * (1 - b1) * g[n]
        state["v"][n] = b2 * state["v"][n] + (1 - b2) * g[n] ** 2
        state["s"][n] = root * state["s"][n] + dlr * (1 - root) * g[n]
        size += float(np.abs(state["s"][n]).sum())
    if size == 0:
        return p
    state["num"] = root * state["num"] + (1 - root) * seen
    d_hat = state["num"] / ((1 - root) * size)
    state["d"] = max(state["d"], min(d_hat, state["d"] * h["growth_rate"]))
    state["k"] += 1
    out = {}
    for n in p:
        decay = decays[n] if h["decouple"] else 0.0
        step = state["m"][n] / (np.sqrt(state["v"][n]) + h["eps"])
        out[n] = p[n] - decay * dlr * p[n] - step
    return out


def dadapt_lion(p, g, state, lr, h, decays):
    b1, b2 = h["betas"]
    root = math.sqrt(b2)
    _begin(p, state, h["d0"])
    dlr, seen, size, out = state["d"] * lr, 0.0, 0.0, {}
    for n in p:
        u = np.sign(b1 * state["m"][n] + (1 - b1) * g[n])
        out[n] = p[n] * (1 - dlr * decays[n]) - dlr * u
        state["m"][n] = b2 * state["m"][n] + (1 - b2) * dlr * g[n]
        seen += dlr * float((u * state["s"][n]).sum())
        state["s"][n] = root * state["s"][n] + (1 - root) * dlr * u
        size += float(np.abs(state["s"][n]).sum())
    if size != 0:
        state["num"] = root * state["num"] + (1 - root) * seen
        if lr > 0:
            state["d"] = max(state["d"], state["num"] / ((1 - root) * size))
    return out


def dadapt_adan(p, g, state, lr, h, decays):
    b1, b2, b3 = h["betas"]
    _begin(p, state, h["d0"])
    dlr, g_sq, s_sq, size = state["d"] * lr, 0.0, 0.0, 0.0
    for n in p:
        change = g[n] - state["last"][n] if state["k"] else 0.0 * g[n]
        ahead = g[n] + b2 * change
        state["m"][n] = b1 * state["m"][n] + dlr * (1 - b1) * g[n]
        state["n"][n] = b2 * state["n"][n] + dlr * (1 - b2) * change
        state["v"][n] = b3 * state["v"][n] + (1 - b3) * ahead**2
        denom = np.sqrt(state["v"][n]) + h["eps"]
        g_sq += float((g[n] ** 2 / denom).sum())
        state["s"][n] = b3 * state["s"][n] + dlr * (1 - b3) * g[n]
        s_sq += float((state["s"][n] ** 2 / denom).sum())
        size += float(np.abs(state["s"][n]).sum())
    if size == 0:
        return p
    state["gsq"] = b3 * state["gsq"] + g_sq * dlr**2 * (1 - b3)
    if lr > 0:
        d_hat = (s_sq / (1 - b3) - state["gsq"]) / size
        state["d"] = max(state["d"], min(d_hat, state["d"] * h["growth_rate"]))
    state["last"], state["k"], out = g, state["k"] + 1, {}
    for n in p:
        u = (state["m"][n] + b2 * state["n"][n]) / (np.sqrt(state["v"][n]) + h["eps"])
        k = dlr * decays[n]
        out[n] = p[n] * (1 - k) - u if h["no_prox"] else (p[n] - u) / (1 + k)
    return out


def dadapt_sgd(p, g, state, lr, h, decays):
    _begin(p, state, h["d0"])
    mu = h["momentum"]
    if state["k"] == 0:
        state["first"] = math.sqrt(sum(float((g[n] ** 2).sum()) for n in p))
    if lr == 0 or state["first"] == 0:
        return p
    dlr, num, sq = state["d"] * lr / state["first"], state["num"], 0.0
    for n in p:
        grad = g[n] + decays[n] * p[n]
        num += dlr * float((grad * state["s"][n]).sum())
        state["s"][n] = state["s"][n] + dlr * grad
        sq += float((state["s"][n] ** 2).sum())
    if sq == 0:
        return p
    d_hat = 2 * num / math.sqrt(sq)
    state["d"] = max(state["d"], min(d_hat, state["d"] * h["growth_rate"]))
    state.update(num=num, k=state["k"] + 1)
    return {n: mu * p[n] + (1 - mu) * (state["p0"][n] - state["s"][n]) for n in p}


def dadapt_adagrad(p, g, state, lr, h, decays):
    _begin(p, state, h["d0"])
    mu, dlr, g_sq, s_sq, size = h["momentum"], state["d"] * lr, 0.0, 0.0, 0.0
    for n in p:
        grad = g[n] + decays[n] * p[n]
        state["a"][n] = state["a"][n] + grad**2
        denom = np.sqrt(state["a"][n]) + h["eps"]
        g_sq += float((grad**2 / denom).sum())
        state["s"][n] = state["s"][n] + dlr * grad
        s_sq += float((state["s"][n] ** 2 / denom).sum())
        size += float(np.abs(state["s"][n]).sum())
    if size == 0:
        return p
    state["gsq"] += dlr**2 * g_sq
    if lr > 0:
        d_hat = (s_sq - state["gsq"]) / size
        state["d"] = max(state["d"], min(d_hat, state["d"] * h["growth_rate"]))
    out = {}
    for n in p:
        z = state["p0"][n] - state["s"][n] / (np.sqrt(state["a"][n]) + h["eps"])
        out[n] = mu * p[n] + (1 - mu) * z
    return out


def run(step, arguments, params, grads_per_step, lr_per_step, scales):
    """The weights after every step."""
    p = {n: np.array(x, np.float64) for n, x in params.items()}
    decays = {n: scales[n] * arguments["weight_decay"] for n in p}
    state, after = {}, []
    for g, lr in zip(grads_per_step, lr_per_step, strict=True):
        p = step(p, g, state, float(lr), arguments, decays)
        after.append(p)
    return after
