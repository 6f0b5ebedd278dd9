"""Adan: Nesterov momentum from the difference of two gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number
from wdlab._core.dtypes import check_real, step_number
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import AdamFormulas, like
from wdlab.preconditioners.leaf_states import as_before, widened, zeros_for
from wdlab.preconditioners.moments import one_minus_power

PyTree = Any


class ScaleByAdanState(NamedTuple):
    """State of :func:`scale_by_adan`; all float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    gradient: PyTree  # Like params: the last gradient.
    mu: PyTree  # Like params: average of the gradients.
    difference: PyTree  # Like params: average of the gradients' differences.
    nu: PyTree  # Like params: average of the squares of g + b2 (g - last g).


def scale_by_adan(
    b1: ArrayLike = 0.98,
    b2: ArrayLike = 0.92,
    b3: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
) -> optax.GradientTransformation:
    r"""Turns gradients into Adan's direction: no learning rate, no sign, no decay.

    With :math:`d_t = g_t - g_{t-1}` (0 at first), the averages :math:`m_t` of :math:`g_t` (rate
    b1), :math:`v_t` of :math:`d_t` (b2) and :math:`n_t` of :math:`(g_t + b_2 d_t)^2` (b3), and
    :math:`c_i = 1 - b_i^t`, one step is
    :math:`u_t = (m_t/c_1 + b_2 v_t/c_2) / (\sqrt{n_t/c_3} + \epsilon)`.

    The paper writes :math:`\beta = 1 - b`. ``optax.scale_by_adan`` (0.2.8) took its formulas with
    the rates of the code: the difference has the weight 1 - b2 = 0.08 there, 0.92 in the paper and
    in the authors' code, and is almost lost.

    Adan's decay is proximal: :func:`wdlab.decay.decay_proximal` comes after the learning rate.

    Args:
      b1: Decay rate of the average of gradients, in [0, 1).
      b2: Decay rate of the average of differences, in [0, 1).
      b3: Decay rate of the second moment, in [0, 1).
      eps: At least 0, in units of the gradient.

    Raises:
      TypeError, ValueError: If a number is out of range.

    >>> tx = scale_by_adan(0.5, 0.5, 0.5, eps=0.0)
    >>> state = tx.init(jnp.array(0.0))
    >>> first, state = tx.update(jnp.array(2.0), state)
    >>> float(first), round(float(tx.update(jnp.array(2.0), state)[0]), 5)
    (1.0, 1.0)

    Source: Xie et al. 2022, arXiv 2208.06677, Algorithm 1; sail-sg/Adan 2c65bea, adan.py.
    """
    formulas = AdamFormulas(b1=b1, b2=b3, eps=eps)
    check_number("b2", b2, high=1.0, high_open=True)

    def init_fn(params: PyTree) -> ScaleByAdanState:
        check_real("scale_by_adan", params)
        return ScaleByAdanState(jnp.zeros([], jnp.int32), *(zeros_for(params) for _ in range(4)))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByAdanState]:
        del params
        wide = widened(updates, state.nu)
        t, first = step_number(state.count), state.count == 0
        scalars, _ = formulas.scalars(t, None)
        change = jax.tree.map(lambda g, last: jnp.where(first, 0, g - last), wide, state.gradient)
        mu = jax.tree.map(formulas.next_first, wide, state.mu)
        difference = jax.tree.map(
            lambda d, v: like(b2, v) * v + like(1.0 - b2, v) * d, change, state.difference
        )
        ahead = jax.tree.map(lambda g, d: g + like(b2, g) * d, wide, change)
        nu = jax.tree.map(formulas.next_second, ahead, state.nu)
        of_mean, of_difference = 1.0 / one_minus_power(b1, t), b2 / one_minus_power(b2, t)

        def direction(m: jax.Array, v: jax.Array, n: jax.Array) -> jax.Array:
            numerator = like(of_mean, m) * m + like(of_difference, v) * v
            return numerator / formulas.denominator(n, scalars.correction)

        new = ScaleByAdanState(next_count(state.count), wide, mu, difference, nu)
        directions = jax.tree.map(direction, mu, difference, nu)
        return as_before(directions, updates), as_before(new, state)

    return transformation(init_fn, update_fn)
