"""Lion's direction in a form that needs no second copy of the momentum."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, concrete
from wdlab._core.dtypes import check_real
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


def scale_by_lion(
    b1: ScalarOrSchedule = 0.9, b2: ScalarOrSchedule = 0.99
) -> optax.GradientTransformation:
    r"""Turns gradients into signs: no learning rate, no minus, no decay.

    One step is :math:`u_t = sign(\beta_1 m_{t-1} + (1-\beta_1) g_t)`,
    :math:`m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t`. Both read the old momentum, so that XLA keeps a
    copy of it beside the new one (``optax.scale_by_lion``: one parameter-sized temporary and a copy
    a step). Here the direction comes from the new momentum instead,
    :math:`u_t = sign(\frac{\beta_1}{\beta_2} m_t + (1 - \frac{\beta_1}{\beta_2}) g_t)`, the same
    number: no temporary. The two can differ in the sign of sums that are zero to rounding.

    Args:
      b1: Weight of the momentum in the step, in [0, 1).
      b2: Decay of the momentum, in [0, 1). Below ``b1``, or traced, the plain form is used: the
        other one would lose digits.

    Returns:
      A transformation with the state of ``optax.scale_by_lion``.

    Raises:
      TypeError, ValueError: If a number is out of range.

    >>> gradient = jnp.array([0.5, -3.0, 0.0])
    >>> tx = scale_by_lion()
    >>> tx.update(gradient, tx.init(gradient))[0].tolist()
    [1.0, -1.0, 0.0]

    Source: Chen et al. 2023, arXiv 2302.06675, Algorithm 2.
    """
    check_number("b1", b1, high=1.0, high_open=True)
    check_number("b2", b2, high=1.0, high_open=True)
    plain = optax.scale_by_lion(b1=b1, b2=b2)

    def init_fn(params: PyTree) -> PyTree:
        check_real("scale_by_lion", params)
        return plain.init(params)

    known1, known2 = concrete(b1), concrete(b2)
    if known1 is None or known2 is None or known2 < known1 or known2 == 0:
        return transformation(init_fn, plain.update)
    ratio, kept, added = known1 / known2, known2, 1 - known2

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByLionState]:
        del params
        mu = jax.tree.map(lambda g, m: kept * m + added * g, updates, state.mu)
        signs = jax.tree.map(lambda g, m: jnp.sign(ratio * m + (1 - ratio) * g), updates, mu)
        count = next_count(state.count)
        return signs, optax.ScaleByLionState(count=count, mu=mu)

    return transformation(init_fn, update_fn)
