"""Float64 NumPy twins of directions: the Adam family, momentum, Lion; one per published algorithm.

Written from the papers' equations with plain loops over steps and powers computed as powers, so
that they share no trick with the JAX code. A twin maps (gradient, t) to the direction u_t, without
learning rate or sign; t is 1 at the first step.
"""

from decimal import Decimal, localcontext

import numpy as np


def adam(grads, b1=0.9, b2=0.999, eps=1e-8, place="outside", correct=True, eps_root=0.0):
    m = v = 0.0
    out = []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        c1, c2 = (1 - b1**t, 1 - b2**t) if correct else (1.0, 1.0)
        if place == "outside":
            u = (m / c1) / (np.sqrt(v / c2 + eps_root) + eps)
        elif place == "hat":
            u = m * np.sqrt(c2) / c1 / (np.sqrt(v + eps_root) + eps)
        else:
            u = (m / c1) / np.sqrt(v / c2 + eps_root + eps)
        out.append(u)
    return out


def praxis_adam(grads, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0):
    """Decaying rates b (1 - b^(t-1)) / (1 - b^t), and no correction afterwards."""
    m = v = 0.0
    out = []
    for t, g in enumerate(grads, start=1):
        r1 = b1 * (1 - b1 ** (t - 1)) / (1 - b1**t)
        r2 = b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)
        m = r1 * m + (1 - r1) * g
        v = r2 * v + (1 - r2) * g**2
        out.append(m / (np.sqrt(v + eps_root) + eps))
    return out


def amsgrad(grads, b1=0.9, b2=0.999, eps=1e-8, of="raw", place="outside"):
    m = v = top = 0.0
    out = []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        c1, c2 = 1 - b1**t, 1 - b2**t
        if of == "corrected":
            top = np.maximum(top, v / c2)
            u = (m / c1) / (np.sqrt(top) + eps)
        else:
            top = np.maximum(top, v)
            root = np.sqrt(top) + eps if place == "hat" else np.sqrt(top / c2) + eps
            u = (m / c1) / root * (np.sqrt(c2) if place == "hat" else 1.0)
        out.append(u)
    return out


def nesterov_adam(grads, b1=0.9, b2=0.999, eps=1e-8):
    """Dozat's look-ahead with a constant rate."""
    m = v = 0.0
    out = []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        out.append(ahead / (np.sqrt(v / (1 - b2**t)) + eps))
    return out


def nadam(grads, b1=0.9, b2=0.999, eps=1e-8, psi=4e-3):
    """Dozat's algorithm with its warming momentum rate."""
    m = v = 0.0
    product = 1.0
    out = []
    for t, g in enumerate(grads, start=1):
        now = b1 * (1 - 0.5 * 0.96 ** (t * psi))
        then = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * psi))
        product *= now
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = then * m / (1 - product * then) + (1 - now) * g / (1 - product)
        out.append(ahead / (np.sqrt(v / (1 - b2**t)) + eps))
    return out


def radam(grads, b1=0.9, b2=0.999, eps=1e-8, threshold=5.0, place="hat"):
    m = v = 0.0
    longest = average_length(b2)
    out = []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        mean = m / (1 - b1**t)
        length = average_length(b2, t)
        if length > threshold:
            top = (length - 4) * (length - 2) * longest
            r = np.sqrt(top / ((longest - 4) * (longest - 2) * length))
            if place == "hat":
                mean = r * mean * np.sqrt(1 - b2**t) / (np.sqrt(v) + eps)
            else:
                mean = r * mean / (np.sqrt(v / (1 - b2**t)) + eps)
        out.append(mean)
    return out


def average_length(b2, t=None):
    """rho_t in 50 digits, because its two terms agree in most of a double's; rho_inf without t."""
    with localcontext() as context:
        context.prec = 50
        b = Decimal(b2)
        longest = 2 / (1 - b) - 1
        return float(longest if t is None else longest - 2 * t * b**t / (1 - b**t))


def adamax(grads, b1=0.9, b2=0.999, eps=1e-8, place="inside"):
    m = top = 0.0
    out = []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        if place == "inside":
            top = np.maximum(b2 * top, np.abs(g) + eps)
            out.append(m / (1 - b1**t) / top)
        else:
            top = np.maximum(b2 * top, np.abs(g))
            out.append(m / (1 - b1**t) / (top + eps))
    return out


def adagrad(grads, eps=1e-10, initial=0.0, place="outside"):
    total = initial
    out = []
    for g in grads:
        total = total + g**2
        out.append(g / (np.sqrt(total) + eps if place == "outside" else np.sqrt(total + eps)))
    return out


def rmsprop(grads, b2=0.99, eps=1e-8, initial=0.0, place="outside"):
    v = initial
    out = []
    for g in grads:
        v = b2 * v + (1 - b2) * g**2
        out.append(g / (np.sqrt(v) + eps if place == "outside" else np.sqrt(v + eps)))
    return out


def momentum(grads, mu=0.0, nesterov=False):
    b = 0.0
    out = []
    for g in grads:
        b = mu * b + g
        out.append(g + mu * b if nesterov else b)
    return out


def lion(grads, b1=0.9, b2=0.99):
    m = 0.0
    out = []
    for g in grads:
        out.append(np.sign(b1 * m + (1 - b1) * g))
        m = b2 * m + (1 - b2) * g
    return out
