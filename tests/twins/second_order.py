"""Float64 NumPy twins of the preconditioners by matrices: SOAP, Shampoo, Sophia.

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


TWINS = {"soap.SOAP": soap}
