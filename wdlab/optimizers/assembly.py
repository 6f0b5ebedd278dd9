"""Puts a descent direction, a learning rate and a decay together, each in its place."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, check_schedule
from wdlab._core.dtypes import check_float_leaf, in_each_dtype, in_float32
from wdlab._core.transformation import transformation
from wdlab.decay import add_l2_gradient, decay_weights, next_count, warn_if_rounded_away
from wdlab.rules import leaves_with_paths
from wdlab.schedules import ScalarOrSchedule, check_coupling, multiplier_of, value_at

PyTree = Any


def assemble(
    name: str,
    direction: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
    coupling: str | None,
    rules: PyTree,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    """Puts the decay of that coupling into its place around a descent direction.

    Args:
      name: Of the optimizer, for messages.
      direction: Transformation of the gradient without learning rate or sign.
      learning_rate: Number >= 0 or schedule.
      weight_decay: ``lambda`` >= 0, number or schedule.
      coupling: One of :data:`wdlab.schedules.COUPLINGS`, or None where ``weight_decay`` is 0.
      rules: Which leaves decay, and how much.
      peak_learning_rate: The learning rate that eta_t = 1 stands for.

    >>> from wdlab.rules import NO_BIAS_OR_NORM
    >>> tx = assemble("sign", optax.scale_by_sign(), 0.5, 0.25, "lr", NO_BIAS_OR_NORM)
    >>> params = {"kernel": jnp.array(4.0)}
    >>> float(tx.update(params, tx.init(params), params)[0]["kernel"])  # -0.5 - 0.5 * 0.25 * 4
    -1.0
    """
    check_number("learning_rate", learning_rate, schedule=True, hint=_LEARNING_RATE_HINT)
    check_schedule("learning_rate", learning_rate)
    check_number("weight_decay", weight_decay, schedule=True)
    coupling = check_coupling(name, coupling, learning_rate, weight_decay)
    step = scale_by_learning_rate(learning_rate)
    if coupling == "l2":
        parts = (add_l2_gradient(weight_decay, rules=rules), direction, step)
    else:
        multiplier = multiplier_of(coupling, learning_rate, peak_learning_rate)
        decay = decay_weights(weight_decay, multiplier=multiplier, rules=rules)
        parts = (direction, step, decay)
    tx = _for_floats(in_float32(optax.chain(*parts)))
    if coupling == "l2":
        return tx

    def init_fn(params: PyTree) -> PyTree:
        state = tx.init(params)  # Refuses odd leaves first.
        warn_if_rounded_away(params, rules, weight_decay, multiplier)  # Inside they are wider.
        return state

    return optax.GradientTransformationExtraArgs(init_fn, tx.update)


_LEARNING_RATE_HINT = "For no learning rate at all, chain the parts of wdlab.decay yourself."


def scale_by_learning_rate(learning_rate: ScalarOrSchedule) -> optax.GradientTransformation:
    r"""Turns a direction into a step, :math:`u \leftarrow -lr_t u`, keeping dtypes.

    The state is that of ``optax.scale_by_schedule``, for numbers as for schedules, where that of
    ``optax.scale_by_learning_rate`` depends on which it is. Of thousands of leaves each costs one
    traced operation here, and three there.

    >>> tx = scale_by_learning_rate(0.5)
    >>> tx.update(jnp.ones(1), tx.init(jnp.ones(1)))[0].tolist()
    [-0.5]
    """
    counting = optax.scale_by_schedule(lambda count: value_at(learning_rate, count))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        del params
        rate = in_each_dtype(-1.0 * value_at(learning_rate, state.count))
        steps = jax.tree.map(lambda u: rate(jnp.result_type(u)) * u, updates)
        return steps, optax.ScaleByScheduleState(next_count(state.count))

    return transformation(counting.init, update_fn)


def _for_floats(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Refuses at ``init`` the leaves that an optimizer would truncate, such as integers."""

    def init_fn(params: PyTree) -> PyTree:
        for path, leaf in leaves_with_paths(params):
            check_float_leaf(path, leaf)
        return inner.init(params)

    return optax.GradientTransformationExtraArgs(init_fn, inner.update)
