"""AdamS: stable weight decay, whose strength follows the size of all gradients together."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import check_number, is_zero, named_errors
from wdlab._core.dtypes import step_number
from wdlab.decay import check_leaves, map_decayed, next_count
from wdlab.optimizers.assembly import complete
from wdlab.preconditioners import ScaleByAdamState, one_minus_power, scale_by_adam
from wdlab.rules import NO_BIAS_OR_NORM, normalize_rules
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class AdamSState(NamedTuple):
    """State of :func:`adams`."""

    count: jax.Array  # int32, shape (): number of updates made
    adam: PyTree  # wdlab.preconditioners.ScaleByAdamState


@answers
def adams(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    r"""AdamS: Adam whose decay is divided by the typical size of its gradients.

    With :math:`\hat m_t, \hat v_t` of Adam and the mean of :math:`\hat v_t` over all entries of
    all leaves (exempt ones too), one step is :math:`\theta_t = \theta_{t-1}
    - lr_t \hat m_t/(\sqrt{\hat v_t} + \epsilon) - k_t s\theta_{t-1}` with
    :math:`k_t = lr_t \lambda / \sqrt{\mathrm{mean}\,\hat v_t}`. It is a whole optimizer, since
    the decay needs Adam's second moment; nothing stored is changed by it.

    The equation has no limit where gradients vanish; here :math:`k_t s` stays at most 1, and a
    mean of zero (no gradient yet) means no decay. Under ``optax.partition`` or ``masked`` the mean
    is over the leaves that this transformation sees.

    Args:
      learning_rate: ``lr_t``, number >= 0 or schedule.
      weight_decay: ``lambda``, number >= 0 or schedule; in units of the gradient, so that AdamW's
        number is right only if gradients are of size 1.
      rules: Which leaves decay, and how much; see :func:`wdlab.decay_scales`.
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      eps: Epsilon of the step, >= 0; none is added to the root of the mean.
      amsgrad: Whether the running maximum of :math:`v_t` takes its place, in the mean too.

    Raises:
      TypeError, ValueError: At construction for wrong numbers; from ``init`` for a leaf that
        no rule decides or that is not a float; from ``update`` without ``params``.

    >>> tx = adams(0.5, weight_decay=0.25, eps=0.0)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5 - 0.5*0.25/2 * 4
    -0.75

    Source: Xie et al. 2023, arXiv 2011.11152, Algorithm "AdamS", and the authors' swd_optim.
    """
    with named_errors("adams"):
        check_number("learning_rate", learning_rate, schedule=True)
        check_number("weight_decay", weight_decay, schedule=True)
        rules = normalize_rules(rules)
        direction = scale_by_adam(b1, b2, eps, amsgrad="raw" if amsgrad else "off")

    def init_fn(params: PyTree) -> AdamSState:
        check_leaves(params, rules)
        return AdamSState(jnp.zeros([], jnp.int32), direction.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, AdamSState]:
        def decay(u: jax.Array, shrink: jax.Array, p: jax.Array, _: Any) -> jax.Array:
            return u - jnp.minimum(shrink, 1.0) * p

        updates, new = direction.update(updates, state.adam, params)
        moments = cast(ScaleByAdamState, new)
        rate = value_at(learning_rate, state.count)
        updates = jax.tree.map(lambda u: -jnp.asarray(rate, u.dtype) * u, updates)
        correction = one_minus_power(b2, step_number(state.count))
        size = jnp.sqrt(_mean(moments.nu_max if amsgrad else moments.nu) / correction)
        strength = rate * value_at(weight_decay, state.count)
        shrink = jnp.where(size > 0, strength / jnp.where(size > 0, size, 1.0), 0.0)
        shrink = 0.0 if is_zero(weight_decay) else shrink
        updates = map_decayed("adams", decay, updates, params, rules, shrink)
        return updates, AdamSState(next_count(state.count), moments)

    return complete("adams", optax.GradientTransformation(init_fn, update_fn), rules)


def _mean(tree: PyTree) -> jax.Array:
    """The mean over all entries of all leaves; 0 for a tree without leaves."""
    leaves = jax.tree.leaves(tree)
    total = sum((jnp.sum(leaf) for leaf in leaves), start=jnp.zeros([]))
    return total / max(1, sum(leaf.size for leaf in leaves))
