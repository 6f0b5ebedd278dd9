"""ADOPT: the gradient is divided by the second moment of before, and then averaged."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number
from wdlab._core.dtypes import check_real
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import like
from wdlab.preconditioners.leaf_states import as_before, widened, zeros_for

PyTree = Any


class ScaleByAdoptState(NamedTuple):
    """State of :func:`scale_by_adopt`; the averages are float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params: average of the normalized gradients.
    nu: PyTree  # Like params: second moment, of the gradients before this one.


def scale_by_adopt(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.9999,
    eps: ArrayLike = 1e-6,
    *,
    clip_exponent: ArrayLike | None = 0.25,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    r"""Turns gradients into ADOPT's direction: no learning rate, no sign, no decay.

    With :math:`n_t = g_t / \max(\sqrt{v_{t-1}}, \epsilon)`, each entry clipped to
    :math:`\pm (t-1)^p`, one step is :math:`u_t = m_t = b_1 m_{t-1} + (1-b_1) n_t` and then
    :math:`v_t = b_2 v_{t-1} + (1-b_2) g_t^2`. The first step does not move: :math:`u_1 = 0`,
    :math:`v_1 = g_1^2`. Nothing is corrected for bias.

    ``optax.contrib.scale_by_adopt`` (0.2.8) is the same formula, with ``1 - b2`` of a float32
    0.9999, which is off by 1.7e-4.

    Args:
      b1: Decay rate of the average, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      eps: Least root of the second moment, at least 0, in units of the gradient.
      clip_exponent: ``p``, at least 0: 0.25 in the authors' code, 0.333 in timm. None: no clipping.
      nesterov: Whether the step looks ahead, :math:`u_t = b_1 m_t + (1-b_1) n_t` (Optax).

    Raises:
      TypeError, ValueError: If a number is out of range.

    >>> tx = scale_by_adopt(0.5)
    >>> state = tx.init(jnp.array(0.0))
    >>> first, state = tx.update(jnp.array(2.0), state)
    >>> float(first), float(tx.update(jnp.array(1.0), state)[0])  # 0.5 * 1 / 2
    (0.0, 0.25)

    Source: Taniguchi et al. 2024, arXiv 2411.02853, Algorithm 2 and its clipping;
    iShohei220/adopt 6468572, src/adopt/adopt.py.
    """
    check_number("b1", b1, high=1.0, high_open=True)
    check_number("b2", b2, high=1.0, high_open=True)
    check_number("eps", eps)
    if clip_exponent is not None:
        check_number("clip_exponent", clip_exponent)

    def init_fn(params: PyTree) -> ScaleByAdoptState:
        check_real("scale_by_adopt", params)
        return ScaleByAdoptState(jnp.zeros([], jnp.int32), zeros_for(params), zeros_for(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByAdoptState]:
        del params
        wide, first = widened(updates, state.nu), state.count == 0
        limit = None
        if clip_exponent is not None:
            limit = jnp.power(state.count.astype(jnp.result_type(float)), clip_exponent)
        of_square = jnp.where(first, 1.0, 1.0 - b2)

        def normalize(g: jax.Array, v: jax.Array) -> jax.Array:
            normed = g / jnp.where(first, 1, jnp.maximum(jnp.sqrt(v), like(eps, v)))
            if limit is not None:
                normed = jnp.clip(normed, -like(limit, g), like(limit, g))
            return jnp.where(first, 0, normed)

        def average(n: jax.Array, m: jax.Array) -> jax.Array:
            return like(b1, m) * m + like(1.0 - b1, m) * n

        normed = jax.tree.map(normalize, wide, state.nu)
        mu = jax.tree.map(average, normed, state.mu)
        nu = jax.tree.map(
            lambda g, v: like(b2, v) * v + like(of_square, g) * (g * g), wide, state.nu
        )
        new = ScaleByAdoptState(next_count(state.count), mu, nu)
        directions = jax.tree.map(average, normed, mu) if nesterov else mu
        return as_before(directions, updates), as_before(new, state)

    return transformation(init_fn, update_fn)
