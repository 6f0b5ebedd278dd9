"""Float64 NumPy twins: every formula once more, as plain loops over steps.

Each takes a dict of parameters, a list of dicts of gradients, one learning rate a step, and dicts
of per-leaf scales; each returns the parameters after the last step.
"""

import numpy as np


def shrink_of(coupling, weight_decay, lr, peak):
    """kappa_t * lambda of a decoupled coupling."""
    kappa = {"schedule": lr / peak, "lr": lr, "lr2": lr * lr, "constant": 1.0}[coupling]
    return kappa * weight_decay


def run(direction, params, grads, lrs, *, weight_decay, coupling, scales):
    """theta' = theta - lr * direction(g + l s theta) - kappa lambda s theta."""
    theta = {name: np.array(value, np.float64) for name, value in params.items()}
    state = {name: {} for name in theta}
    peak = max(lrs)
    for step, lr in enumerate(lrs):
        for name, old in theta.items():
            g = np.array(grads[step][name], np.float64)
            if coupling == "l2":
                g = g + weight_decay * scales[name] * old
            new = old - lr * direction(g, state[name], step + 1)
            if coupling != "l2":
                new = new - shrink_of(coupling, weight_decay, lr, peak) * scales[name] * old
            theta[name] = new
    return theta


def sgd_direction(momentum=0.0, nesterov=False):
    def direction(g, state, t):
        state["b"] = momentum * state.get("b", 0.0) + g
        return g + momentum * state["b"] if nesterov else state["b"]

    return direction


def adam_direction(b1=0.9, b2=0.999, eps=1e-8):
    def direction(g, state, t):
        state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
        m_hat = state["m"] / (1 - b1**t)
        v_hat = state["v"] / (1 - b2**t)
        return m_hat / (np.sqrt(v_hat) + eps)

    return direction


def lion_direction(b1=0.9, b2=0.99):
    def direction(g, state, t):
        m = state.get("m", 0.0)
        state["m"] = b2 * m + (1 - b2) * g
        return np.sign(b1 * m + (1 - b1) * g)

    return direction


def radam_direction(b1=0.9, b2=0.999, eps=1e-8, threshold=5.0):
    def direction(g, state, t):
        state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
        m_hat = state["m"] / (1 - b1**t)
        rho_limit = 2 / (1 - b2) - 1
        rho = rho_limit - 2 * t * b2**t / (1 - b2**t)
        if rho <= threshold:
            return m_hat
        r2 = (rho - 4) * (rho - 2) * rho_limit / ((rho_limit - 4) * (rho_limit - 2) * rho)
        return np.sqrt(r2) * m_hat / (np.sqrt(state["v"] / (1 - b2**t)) + eps)

    return direction
