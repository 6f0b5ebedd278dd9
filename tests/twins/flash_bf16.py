"""A float64 NumPy twin of attention that rounds as a flash kernel in bfloat16, row by row.

arXiv:2510.04212, algorithms 1 and 2 with a row as one block; the shift as in the program of its
authors (ucker/why-low-precision-training-fails, attention.py, 02f0ab6).
"""

import math

import ml_dtypes
import numpy as np


def r(x):
    """Rounds to bfloat16."""
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


def head(q, k, v, d_out, shifted=False, float32_delta=False):
    """Output and gradients of q, k, v (the last two not rounded) of one head: (tokens, width)."""
    q, k, v, d_out = r(q), r(k), r(v), r(d_out)
    length, width = q.shape
    out, d_q, d_k, d_v = (np.zeros_like(q) for _ in range(4))
    for i in range(length):
        scores = np.array([q[i] @ k[j] for j in range(i + 1)]) / math.sqrt(width)
        top = scores.max()
        if shifted and sum(score >= top - 1e-3 for score in scores) > 1:
            top = min(2 * top, top + 64) if top > 0 else min(0, top + 64)
        p = np.exp(scores - top)
        total = p.sum()
        product = r(sum(r(p[j]) * v[j] for j in range(i + 1)))
        out[i] = r(product / total)
        p = p / total
        d_p = np.array([d_out[i] @ v[j] for j in range(i + 1)])
        delta = (p * d_p).sum() if float32_delta else (d_out[i] * out[i]).sum()
        d_s = r(p * (d_p - delta))
        for j in range(i + 1):
            d_q[i] += d_s[j] * k[j] / math.sqrt(width)
            d_k[j] += d_s[j] * q[i] / math.sqrt(width)
            d_v[j] += r(p[j]) * d_out[i]
    return out, r(d_q), d_k, d_v


def attention(q, k, v, d_out, **options):
    """Of arrays (sequences, tokens, heads, width); each head of keys serves as many of queries."""
    share = q.shape[2] // k.shape[2]
    out, d_q = np.zeros(q.shape), np.zeros(q.shape)
    d_k, d_v = np.zeros(k.shape), np.zeros(k.shape)
    parts = np.zeros((2, *q.shape))
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            g = h // share
            inputs = (q[b, :, h], k[b, :, g], v[b, :, g], d_out[b, :, h])
            out[b, :, h], d_q[b, :, h], *parts[:, b, :, h] = head(*inputs, **options)
            d_k[b, :, g] += parts[0, b, :, h]
            d_v[b, :, g] += parts[1, b, :, h]
    return out, d_q, r(d_k), r(d_v)
