"""NAdamW as timm and MLCommons have it, which is neither Optax' nor torch's NAdam."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number
from wdlab._core.dtypes import moment_dtype, step_number
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.moments import one_minus_power

PyTree = Any


class NesterovAdamState(NamedTuple):
    """State of :func:`scale_by_nesterov_adam`."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params, float32 or wider: first moment.
    nu: PyTree  # Like params, float32 or wider: second moment.


def scale_by_nesterov_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    r"""NAdamW of timm and MLCommons: the look-ahead is corrected by this step's factor.

    One step is :math:`u_t = \frac{b_1 m_t + (1-b_1) g_t}{1-b_1^t} / (\sqrt{v_t/(1-b_2^t)} +
    \epsilon)`, where Optax' ``nesterov=True`` divides :math:`b_1 m_t` by :math:`1-b_1^{t+1}` and
    torch's NAdam warms :math:`b_1` up.

    Args:
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      eps: Added to the root of the corrected second moment, at least 0.

    >>> tx = scale_by_nesterov_adam(0.5, 0.5, 0.0)
    >>> round(float(tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)))[0]), 5)  # (1/2 + 1) / 1
    1.5
    """
    check_number("b1", b1, high=1.0, high_open=True)
    check_number("b2", b2, high=1.0, high_open=True)
    check_number("eps", eps)

    def init_fn(params: PyTree) -> NesterovAdamState:
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=moment_dtype(p.dtype)), params)
        return NesterovAdamState(jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, NesterovAdamState]:
        del params
        t = step_number(state.count)
        c1, c2 = one_minus_power(b1, t), one_minus_power(b2, t)
        wide = jax.tree.map(lambda g: g.astype(moment_dtype(g.dtype)), updates)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, wide)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * (g * g), state.nu, wide)

        def direction(g: jax.Array, m: jax.Array, v: jax.Array, like: jax.Array) -> jax.Array:
            ahead = (b1 * m + (1 - b1) * g) / jnp.asarray(c1, g.dtype)
            return (ahead / (jnp.sqrt(v / jnp.asarray(c2, g.dtype)) + eps)).astype(like.dtype)

        steps = jax.tree.map(direction, wide, mu, nu, updates)
        count = next_count(state.count)
        return steps, NesterovAdamState(count, mu, nu)

    return transformation(init_fn, update_fn)
