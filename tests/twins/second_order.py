"""Float64 NumPy twins of the preconditioners by matrices: SOAP, Kron, Shampoo, Sophia.

As in ``tests/twins/conventions.py`` each is one step of one leaf in the statements and the order of
the original's source: ``step(p, g, state, t, lr, h)``.
"""

import math

import numpy as np


def gram(g, axis):
    rows = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.T


def along(x, matrix, axis):
    """``x`` with every row along the axis multiplied by the matrix."""
    return np.moveaxis(np.moveaxis(x, axis, -1) @ matrix, -1, axis)


def soap_project(x, bases):
    for axis, basis in bases.items():
        x = along(x, basis, axis)
    return x


def soap_project_back(x, bases):
    for axis, basis in bases.items():
        x = along(x, basis.T, axis)
    return x


def soap_refresh(state):
    """One power iteration and QR; the second moment follows the order of the columns."""
    for axis, factor in state["factors"].items():
        basis = state["bases"][axis]
        order = np.argsort(-np.diag(basis.T @ factor @ basis), kind="stable")
        state["v"] = np.take(state["v"], order, axis=axis)
        state["bases"][axis] = np.linalg.qr(factor @ basis[:, order])[0]


def soap_update_factors(g, state, beta, every):
    started = "bases" in state
    if started:
        state["m"] = soap_project_back(state["m"], state["bases"])
    for axis in state["factors"]:
        state["factors"][axis] = beta * state["factors"][axis] + (1 - beta) * gram(g, axis)
    if not started:
        state["bases"] = {
            axis: np.linalg.eigh(factor)[1][:, ::-1] for axis, factor in state["factors"].items()
        }
    elif state["step"] % every == 0:
        soap_refresh(state)
    if started:
        state["m"] = soap_project(state["m"], state["bases"])


def soap(p, g, state, t, lr, h):
    (b1, b2), most, every = h["betas"], h["max_precond_dim"], h["precondition_frequency"]
    beta = h["shampoo_beta"] if h["shampoo_beta"] >= 0 else b2
    if t == 1:
        axes = range(g.ndim) if g.ndim > 1 or h["precondition_1d"] else ()
        state |= {"m": np.zeros_like(g), "v": np.zeros_like(g), "step": 0}
        state["factors"] = {i: np.zeros((g.shape[i],) * 2) for i in axes if g.shape[i] <= most}
        soap_update_factors(g, state, beta, every)
        return p
    inside = soap_project(g, state["bases"])
    state["step"] += 1
    state["m"] = b1 * state["m"] + (1 - b1) * inside
    state["v"] = b2 * state["v"] + (1 - b2) * inside**2
    size = lr
    if h["correct_bias"]:
        size = lr * math.sqrt(1 - b2 ** state["step"]) / (1 - b1 ** state["step"])
    direction = soap_project_back(state["m"] / (np.sqrt(state["v"]) + h["eps"]), state["bases"])
    if h["normalize_grads"]:
        direction = direction / (1e-30 + math.sqrt(np.mean(direction**2)))
    p = p - size * direction
    p = p * (1 - lr * h["weight_decay"])
    soap_update_factors(g, state, beta, every)
    return p


def nvidia_soap(p, g, state, t, lr, h):
    """The basis first, at every step."""
    (b1, b2), beta = h["betas"], h["shampoo_beta"]
    if t == 1:
        state |= {"m": np.zeros_like(g), "v": np.zeros_like(g)}
        state["factors"] = {axis: np.zeros((n, n)) for axis, n in enumerate(g.shape)}
        state["bases"] = {axis: np.eye(n) for axis, n in enumerate(g.shape)}
    corrects = h["correct_shampoo_beta_bias"]
    corrects = h["correct_bias"] if corrects is None else corrects
    weight = (1 - beta) / (1 - beta**t) if corrects else 1 - beta
    mean = soap_project_back(state["m"], state["bases"])
    for axis in range(2):
        factor = state["factors"][axis] = (1 - weight) * state["factors"][axis] + weight * gram(
            g, axis
        )
        if t == 1:
            state["bases"][axis] = np.linalg.eigh(factor)[1][:, ::-1]
        else:
            basis = np.linalg.qr(factor @ state["bases"][axis])[0]
            order = np.argsort(-np.diag(basis.T @ factor @ basis), kind="stable")
            state["bases"][axis] = basis[:, order]
    mean = soap_project(mean, state["bases"])
    powers = {"decoupled": lr, "independent": 1.0, "palm": lr * lr}
    p = p - powers[h["weight_decay_method"]] * h["weight_decay"] * p
    inside = soap_project(g, state["bases"])
    m = state["m"] = b1 * mean + (1 - b1) * inside
    v = state["v"] = b2 * state["v"] + (1 - b2) * inside**2
    c1, c2, ahead = 1 - b1**t, 1 - b2**t, 1 - b1 ** (t + 1)
    c1, c2, ahead = (c1, c2, ahead) if h["correct_bias"] else (1.0, 1.0, 1.0)
    top = b1 * m / ahead + (1 - b1) * inside / c1 if h["nesterov"] else m / c1
    return p - lr * soap_project_back(top / (np.sqrt(v / c2) + h["eps"]), state["bases"])


def kron_start(g, h):
    """The factors of a leaf: a matrix where it is triangular, a vector where it is diagonal."""
    n, mode = max(g.ndim, 1), h["memory_save_mode"]
    sizes = g.shape or (1,)
    scale, order = h["precond_init_scale"] ** (1 / n), np.argsort(sizes, kind="stable")
    diagonal = [mode == "all_diag" or n < 2 or size == 1 for size in sizes]
    diagonal = [
        d or size > h["max_size_triangular"] for d, size in zip(diagonal, sizes, strict=True)
    ]
    smart = mode == "smart_one_diag" and n > 1 and max(sizes) > min(sizes)
    if mode == "one_diag" or smart:
        diagonal[order[-1]] = True
    return [scale * (np.ones(k) if d else np.eye(k)) for k, d in zip(sizes, diagonal, strict=True)]


def kron_bound(a):
    """A lower bound of the spectral norm."""
    largest = np.abs(a).max()
    a = a / largest
    x = a[:, np.argmax((a * a).sum(0))] @ a
    return np.linalg.norm(a @ (x / np.linalg.norm(x))) * largest


def kron_learn(qs, g, v, step):
    """New factors from a gradient g to which the probe v has been added."""
    a, b = g, v
    for i, q in enumerate(qs):
        q = np.diag(q) if q.ndim == 1 else q
        a, b = along(a, q.T, i), along(b, np.linalg.inv(q), i)
    new = []
    for i, q in enumerate(qs):
        minus, plus = gram(a, i) - gram(b, i), gram(a, i) + gram(b, i)
        if q.ndim == 1:
            new.append(q - step * np.diag(minus) * q / np.diag(plus).max())
        else:
            new.append(q - np.triu(step * minus) / kron_bound(plus) @ q)
    return new


def kron(p, g, state, t, lr, h):
    """``state["probe"]``, where there is one, is a function of the shape: the normal probe."""
    shape = g.shape
    if g.ndim > 2:
        rows = (math.prod(shape[:-1]), shape[-1]), (shape[0], math.prod(shape[1:]))
        g = g.reshape(min(rows, key=lambda pair: pair[1] - pair[0]))
    g = g if g.ndim else g.reshape(1)
    if t == 1:
        state |= {"m": np.zeros_like(g), "Q": kron_start(g, h), "waited": 0}
    m = state["m"] = h["b1"] * state["m"] + (1 - h["b1"]) * g
    m = m / (1 - h["b1"] ** t)
    share = h["preconditioner_update_probability"]
    if share is None:
        share = min(1.0, max(0.03, math.exp(-0.001 * (t - 1 - 500))))
    state["waited"] += 1
    if state["waited"] >= 1 / share:
        state["waited"] = 0
        source, v = m if h["momentum_into_precond_update"] else g, state["probe"](g.shape)
        source = source + math.sqrt(2.0**-23) * np.abs(source).mean() * v
        state["Q"] = kron_learn(state["Q"], source, v, h["precond_lr"])
        if h["momentum_into_precond_update"] and h.get("damp_direction", True):
            m = source  # The original adds the probe in place.
    u = m
    for i, q in enumerate(state["Q"]):
        q = np.diag(q) if q.ndim == 1 else q
        u = along(u, q.T @ q, i)
    u = u * min(1.0, 1.1 / (math.sqrt(np.mean(u * u)) + 1e-12))
    u = u.reshape(shape)
    return p - lr * (u + h["weight_decay"] * p)  # The original: of two axes or more alone.


def singular_vectors(g, rank, right):
    left, _, transposed = np.linalg.svd(g, full_matrices=False)
    return transposed[:rank].T if right else left[:, :rank]


def low_rank_adam(g, state, h, t):
    """The direction of Adam without correction in the projected space, and the projected g."""
    low = g
    if g.ndim == 2:
        tall = g.shape[0] >= g.shape[1]
        right = {"std": tall, "reverse_std": not tall, "right": True, "left": False}
        state["right"] = right[h["proj_type"]]
        if (t - 1) % h["update_proj_gap"] == 0:
            state["p"] = singular_vectors(g, h["rank"], state["right"])
        low = g @ state["p"] if state["right"] else state["p"].T @ g
    b1, b2 = h["betas"]
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * low
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * low * low
    return state["m"] / (np.sqrt(state["v"]) + h["eps"]), low


def hat_size(lr, t, h):
    b1, b2 = h["betas"]
    return lr * math.sqrt(1 - b2**t) / (1 - b1**t) if h["correct_bias"] else lr


def galore(p, g, state, t, lr, h):
    u, _ = low_rank_adam(g, state, h, t)
    if g.ndim == 2:
        u = (u @ state["p"].T if state["right"] else state["p"] @ u) * h["scale"]
    p = p - hat_size(lr, t, h) * u
    return p + p * (-lr * h["weight_decay"])


def apollo(p, g, state, t, lr, h):
    u, low = low_rank_adam(g, state, h, t)
    if g.ndim == 2:
        axis = 0 if g.shape[0] < g.shape[1] else 1
        if h["scale_type"] == "tensor":
            axis = (0, 1)
        size = lambda x: np.sqrt(np.sum(x * x, axis=axis, keepdims=True))  # noqa: E731
        u = g * (size(u) / (size(low) + 1e-8))
        if h["scale_front"]:
            u = u * math.sqrt(h["scale"])
        norm = math.sqrt(np.sum(u * u))
        if not h["disable_nl"]:
            cut = max(norm / (state["norm"] + 1e-8), 1.01) / 1.01 if "norm" in state else 1.0
            u, state["norm"] = u / cut, norm / cut
        if not h["scale_front"]:
            u = u * math.sqrt(h["scale"])
    p = p - hat_size(lr, t, h) * u
    return p + p * (-lr * h["weight_decay"])


def sophia_g(p, g, state, t, lr, h):
    """A sampled gradient for after the step is in ``state["sampled"]``, where there is one."""
    (b1, b2), g = h["betas"], -g if h["maximize"] else g
    p = p * (1 - lr * h["weight_decay"])
    m = state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    curvature = state.get("h", np.zeros_like(g))
    ratio = np.minimum(np.abs(m) / (h["rho"] * h["bs"] * curvature + 1e-15), 1)
    p = p - lr * np.sign(m) * ratio
    if "sampled" in state:
        state["h"] = b2 * curvature + (1 - b2) * state.pop("sampled") ** 2
    return p


def merged_shape(shape, most, least_axes):
    """From the last axis on, neighbours whose product is at most ``most``."""
    left = [n for n in reversed(shape) if n != 1] or [1]
    merged = left[:1]
    for done, n in enumerate(left[1:], start=1):
        if len(merged) + len(left) - done > least_axes and merged[-1] * n <= most:
            merged[-1] *= n
        else:
            merged.append(n)
    return tuple(reversed(merged))


def split(x, most, axis=0):
    """All blocks of at most ``most`` along every axis, as views of ``x``."""
    if axis == x.ndim:
        return [x]
    parts = [
        x[(slice(None),) * axis + (slice(i, i + most),)] for i in range(0, x.shape[axis], most)
    ]
    return [block for part in parts for block in split(part, most, axis + 1)]


def inverse_root(a, root, eps):
    values, vectors = np.linalg.eigh(a + eps * np.eye(len(a)))
    if values.min() < eps:
        values = values - values.min() + eps
    return vectors * values ** (-1 / root) @ vectors.T


def shampoo_block(g, own, t, h):
    """The direction of one block, before decay and momentum."""
    (b1, b2), beta3, graft = h["betas"], h["beta3"], h["grafting_config"]
    beta3 = b1 if beta3 == -1 else beta3
    every, start = h["precondition_frequency"], h["start_preconditioning_step"]
    start = every if start == -1 else start
    correct, root = h["use_bias_correction"], 2 * g.ndim
    if not own:
        own |= {"m": np.zeros_like(g), "v": np.zeros_like(g)}
        own["factors"] = [np.zeros((n, n)) for n in g.shape]
        own["roots"] = [np.eye(n) for n in g.shape]
    weight = 1.0 if b2 == 1 else 1 - b2
    own["factors"] = [b2 * f + weight * gram(g, i) for i, f in enumerate(own["factors"])]
    if graft is not None and graft.method != "sgd":
        rate = 1.0 if graft.method == "adagrad" else graft.formulas.b2
        own["v"] = rate * own["v"] + (1.0 if rate == 1 else 1 - rate) * g * g
    if t == start or (t > start and t % every == 0):
        c2 = 1 - b2**t if correct and b2 < 1 else 1.0
        own["roots"] = [inverse_root(f / c2, root, h["epsilon"]) for f in own["factors"]]
    mean = g
    if b1 != 0:
        mean = beta3 * own["m"] + (1 - beta3) * g
        own["m"] = b1 * own["m"] + (1 - b1) * g
        mean = mean / (1 - beta3 * b1 ** (t - 1)) if correct else mean
    other = mean
    if graft is not None and graft.method != "sgd":
        c2 = 1 - graft.formulas.b2**t if graft.method == "adam" else 1.0
        other = mean / (np.sqrt(own["v"] / c2) + graft.eps)
    if graft is not None and t < start:
        return other
    u = mean
    for axis, matrix in enumerate(own["roots"]):
        u = along(u, matrix, axis)
    if graft is not None:
        u = u * (np.linalg.norm(other) / (np.linalg.norm(u) + 1e-16))
    return u


def distributed_shampoo(p, g, state, t, lr, h):
    kind, peak = h["weight_decay_type"], h["peak"]
    if kind == "L2":
        g = g + h["weight_decay"] * p
    most = h["max_preconditioner_dim"]
    shape = merged_shape(g.shape, most, h["target_parameter_dimensionality"])
    u = np.zeros(shape)
    pairs = zip(split(g.reshape(shape), most), split(u, most), strict=True)
    for i, (block, place) in enumerate(pairs):
        place[...] = shampoo_block(block, state.setdefault(i, {}), t, h)
    u = u.reshape(g.shape)
    alphas = {"L2": 0.0, "DECOUPLED": 1.0, "CORRECTED": lr / peak, "INDEPENDENT": 1 / peak}
    u = u + h["weight_decay"] * alphas[kind] * p
    classic = h["iterate_averaging_config"]
    if classic is not None:
        mu, rest = classic["momentum"], 1 - classic["dampening"]
        state["M"] = mu * state.get("M", 0.0) + rest * u
        u = rest * u + mu * state["M"] if classic["use_nesterov"] else state["M"]
    return p - lr * u


TWINS = {
    "soap.SOAP": soap,
    "emerging_optimizers.SOAP": nvidia_soap,
    "kron.Kron": kron,
    "galore.GaLoreAdamW": galore,
    "apollo.APOLLOAdamW": apollo,
    "sophia.SophiaG": sophia_g,
    "distributed_shampoo.DistributedShampoo": distributed_shampoo,
}
