"""GaLore: Adam on the gradient's leading singular directions."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number, check_whole
from wdlab.preconditioners.adam_formulas import AdamFormulas
from wdlab.preconditioners.low_rank import Projected, Side, low_rank, singular_vectors

PyTree = Any


def scale_by_galore(
    rank: int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    *,
    refresh_every: int = 200,
    scale: ArrayLike = 1.0,
    side: Side = "std",
    bias_correction: bool = True,
    batch_axes: PyTree = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns gradients into GaLore's direction: no learning rate, no sign, no decay.

    With P the first ``rank`` singular vectors of the gradient, on its shorter side, one step is
    :math:`U = \gamma\, \mathrm{Adam}(G P) P^T` (or :math:`\gamma\, P\, \mathrm{Adam}(P^T G)`), Adam
    with epsilon "hat". P is made again every ``refresh_every`` steps; the moments stay as they are,
    in coordinates of the old P. Only matrices are projected, the other leaves get Adam.

    Args:
      rank: Columns of P, at least 1.
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      eps: Epsilon, at least 0, before the bias correction; unit: gradient.
      refresh_every: Steps between two projections, at least 1.
      scale: :math:`\gamma`, at least 0.
      side: "std": the shorter side is reduced, of a square the second; "reverse_std": the longer
        one; "left", "right": always the first axis, or the second.
      bias_correction: Whether both moments are corrected for their start at zero.
      batch_axes: How many leading axes only stack matrices, as in :func:`scale_by_soap`.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``init`` for complex leaves.

    >>> gradient = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    >>> tx = scale_by_galore(1, eps=0.0)
    >>> jnp.round(tx.update(gradient, tx.init(gradient))[0], 3).tolist()
    [[1.0, 0.0], [1.0, 0.0]]

    Source: Zhao et al. 2024, https://arxiv.org/abs/2403.03507, Algorithm 2; galore-torch 1.0.
    """
    check_whole("rank", rank)
    check_number("scale", scale)
    adam = AdamFormulas(b1=b1, b2=b2, eps=eps, epsilon="hat", bias_correction=bias_correction)

    def draw(g: jax.Array, right: bool, leaf: int, number: jax.Array) -> jax.Array:
        del leaf, number
        return singular_vectors(g, rank, right=right)

    def direction(x: Projected, t: jax.Array) -> tuple[jax.Array, Any]:
        step = adam.direction(x.low, x.leaf.mu, x.leaf.nu, adam.scalars(t, None)[0])
        if x.right is not None:
            step = jnp.asarray(scale, step.dtype) * x.back(step)
        return step, x.leaf.norm

    return low_rank(
        "scale_by_galore", adam, draw, direction,
        refresh_every=refresh_every, side=side, batch_axes=batch_axes,
    )  # fmt: skip
