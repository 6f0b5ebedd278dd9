"""StableAdamW's clipping: Adam's step is divided where the gradient outgrows its second moment."""

from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice
from wdlab._core.dtypes import check_real, step_number
from wdlab._core.transformation import transformation, with_extra_args
from wdlab.preconditioners.adam import ScaleByAdamState, scale_by_adam
from wdlab.preconditioners.adam_formulas import like
from wdlab.preconditioners.clipping import clipping_divisor, root_mean_square
from wdlab.preconditioners.leaf_states import as_before, widened
from wdlab.preconditioners.moments import one_minus_power

PyTree = Any
RootEpsilon = Literal["clamped", "added"]


class StableAdamState(NamedTuple):
    """State of :func:`scale_by_stable_adam`."""

    adam: PyTree  # State of :func:`scale_by_adam`.
    step: PyTree  # State of what is divided with the direction.


def scale_by_stable_adam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-6,
    *,
    threshold: ArrayLike = 1.0,
    root_epsilon: RootEpsilon = "clamped",
    step: optax.GradientTransformation | None = None,
    **conventions: Any,
) -> optax.GradientTransformation:
    r"""Divides each leaf's Adam step by the RMS of its gradient over the root second moment.

    With :math:`\hat v_t` Adam's corrected second moment, this gradient included, and
    :math:`r = \operatorname{RMS}(g_t / \max(\sqrt{\hat v_t}, \epsilon))`, one step is
    :math:`u_t = f(\hat m_t / (\sqrt{\hat v_t} + \epsilon)) / \max(1, r/d)`. A leaf whose gradient
    has grown suddenly moves less, before the second moment has followed.

    What ``f`` does is divided too: with the learning rate and the decay in it, the decay shrinks
    along with the step, which is the paper's and optimi's StableAdamW. With ``f`` the identity and
    the decay later in the chain it does not, as in timm.

    Args:
      b1: As in :func:`scale_by_adam`.
      b2: As there.
      eps: As there.
      threshold: ``d`` > 0; 1 in the paper.
      root_epsilon: "clamped" as above, or "added": :math:`\sqrt{\hat v_t} + \epsilon` (timm).
      step: ``f``: a transformation of the direction, such as
        ``optax.chain(scale_by_learning_rate(lr), decay_weights(...))``; None is the identity.
      **conventions: Further arguments of :func:`scale_by_adam`; of AMSGrad the "raw" one.

    Raises:
      TypeError, ValueError: As :func:`scale_by_adam`; if the threshold is not above 0.

    >>> tx = scale_by_stable_adam(0.0, 0.75, eps=0.0)
    >>> state = tx.init(jnp.zeros(1))
    >>> _, state = tx.update(jnp.ones(1), state)
    >>> step, _ = tx.update(jnp.full(1, 1e6), state)  # v^ = 0.57 g**2, in it and in the divisor.
    >>> round(float(step[0]), 4)
    1.0

    Source: Wortsman et al. 2023, arXiv 2304.13013, Algorithm 2; optimi 0.3.3,
    optimi/stableadamw.py; timm 1.0.31, timm/optim/_helpers.py, ``_rms_clip_denom_``.
    """
    check_choice("root_epsilon", root_epsilon, get_args(RootEpsilon))
    divisor = clipping_divisor(threshold)
    adam = scale_by_adam(b1, b2, eps, **conventions)
    finish = with_extra_args(optax.identity() if step is None else step)

    def init_fn(params: PyTree) -> StableAdamState:
        check_real("scale_by_stable_adam", params)
        return StableAdamState(adam.init(params), finish.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, StableAdamState]:
        direction, moved = adam.update(updates, state.adam)
        moments = cast(ScaleByAdamState, moved)
        correction = one_minus_power(b2, step_number(state.adam.count))

        def divide(u: jax.Array, g: jax.Array, v: jax.Array) -> jax.Array:
            root, small = jnp.sqrt(v / like(correction, v)), like(eps, v)
            root = jnp.maximum(root, small) if root_epsilon == "clamped" else root + small
            # No gradient has no root where eps underflows or is 0.
            relative = jnp.where(g == 0, 0, g / jnp.where(root > 0, root, 1))
            return u / divisor(root_mean_square(relative)).astype(u.dtype)

        steps, new = finish.update(direction, state.step, params, **extra_args)
        nu = moments.nu if moments.nu_max is None else moments.nu_max
        steps = as_before(jax.tree.map(divide, steps, widened(updates, nu), nu), steps)
        return steps, StableAdamState(moments, new)

    return transformation(init_fn, update_fn)
