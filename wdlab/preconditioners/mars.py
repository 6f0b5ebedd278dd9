"""MARS: a gradient corrected by the one before, for any optimizer that follows."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import check_real
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import like
from wdlab.preconditioners.clipping import clip_by_leaf_norm
from wdlab.preconditioners.leaf_states import as_before, widened, zeros_for

PyTree = Any
FirstGradient = Literal["corrected", "plain"]


class ReduceVarianceState(NamedTuple):
    """State of :func:`reduce_variance`."""

    count: jax.Array  # int32, shape (): updates made.
    gradient: PyTree  # Like params, float32 or wider: the last gradient.


def reduce_variance(
    gamma: ArrayLike = 0.025,
    b1: ArrayLike = 0.95,
    *,
    max_norm: ArrayLike = 1.0,
    first: FirstGradient = "corrected",
) -> optax.GradientTransformation:
    r"""Adds a share of the gradient's change to it, and bounds the norm of each leaf.

    One step is :math:`c_t = g_t + \gamma\frac{b_1}{1-b_1}(g_t - g_{t-1})`, then
    :math:`c_t \leftarrow c_t \min(1, c_{max}/\lVert c_t \rVert)`. MARS is this before Adam, Lion
    or Shampoo, whose first decay rate is ``b1``: ``optax.chain(reduce_variance(b1=0.95),
    scale_by_adam(0.95, 0.99))``. It is the approximate form, of consecutive batches; the exact one
    takes both gradients of the same batch.

    Args:
      gamma: :math:`\gamma`, at least 0.
      b1: The decay rate of the average that follows, in [0, 1).
      max_norm: :math:`c_{max}` > 0, in units of the gradient, of each leaf by itself.
      first: "corrected": :math:`g_0 = 0`, so that the first gradient is enlarged (the authors'
        code); "plain": :math:`c_1 = g_1` (timm).

    Raises:
      TypeError, ValueError: If a number is out of range, or ``first`` is unknown.

    >>> tx = reduce_variance(0.5, 0.5, max_norm=10.0, first="plain")
    >>> state = tx.init(jnp.array(0.0))
    >>> first, state = tx.update(jnp.array(2.0), state)
    >>> float(first), float(tx.update(jnp.array(3.0), state)[0])  # 3 + 0.5 * (3 - 2)
    (2.0, 3.5)

    Source: Yuan et al. 2024, arXiv 2411.10438, Algorithm 2; AGI-Arena/MARS 4831e28,
    MARS/optimizers/mars.py.
    """
    check_number("gamma", gamma)
    check_number("b1", b1, high=1.0, high_open=True)
    check_choice("first", first, get_args(FirstGradient))
    clip, weight = clip_by_leaf_norm(max_norm), gamma * (b1 / (1.0 - b1))

    def init_fn(params: PyTree) -> ReduceVarianceState:
        check_real("reduce_variance", params)
        return ReduceVarianceState(jnp.zeros([], jnp.int32), zeros_for(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ReduceVarianceState]:
        del params
        wide = widened(updates, state.gradient)
        share = weight if first == "corrected" else jnp.where(state.count == 0, 0.0, weight)
        corrected = jax.tree.map(
            lambda g, last: g + like(share, g) * (g - last), wide, state.gradient
        )
        clipped, _ = clip.update(corrected, optax.EmptyState())
        new = ReduceVarianceState(next_count(state.count), wide)
        return as_before(clipped, updates), as_before(new, state)

    return transformation(init_fn, update_fn)
