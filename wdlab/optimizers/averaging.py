"""Schedule-free training: averages in the place of momentum and of a falling learning rate.

Three sequences: z takes the steps, x is a weighted average of z, and y, between them, is where the
gradients are. The parameters that are trained are y; evaluate at x.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number, named_errors, require_params
from wdlab._core.dtypes import cast, is_fixed, step_number, working_dtype
from wdlab._core.transformation import with_extra_args
from wdlab.decay import next_count
from wdlab.optimizers.assembly import complete
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any
POINTS = ("y", "z", "x")


class ScheduleFreeState(NamedTuple):
    """State of :func:`schedule_free`."""

    count: jax.Array  # int32, shape (): updates made.
    b1: jax.Array  # float, shape (): share of x in y, for evaluation.
    largest_rate: jax.Array  # float, shape (): of all learning rates so far.
    weight_sum: jax.Array  # float, shape (): of all weights of the average so far.
    z: PyTree  # Like params, float32 or wider.
    base: PyTree  # State of what z steps by.


def schedule_free(
    base: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    r: ArrayLike = 0.0,
    weight_lr_power: ArrayLike = 2.0,
    decay_at: str = "y",
) -> optax.GradientTransformation:
    r"""Makes an optimizer schedule-free: it moves z, and the parameters are between z and its mean.

    With the finished step :math:`u_t` of ``base``, learning rate, sign and decay included, and the
    weight :math:`w_t = t^r (\max_{i \le t} lr_i)^p`, one step is
    :math:`z_t = z_{t-1} + u_t`, :math:`x_t = (1 - c_t) x_{t-1} + c_t z_t` with
    :math:`c_t = w_t / \sum_{i \le t} w_i`, and :math:`y_t = \beta_1 x_t + (1 - \beta_1) z_t`. x is
    not kept: :math:`y_t = y_{t-1} + c_t (z_{t-1} - y_{t-1}) + (1 - \beta_1 (1 - c_t)) u_t`.

    ``base`` must have no momentum of its own. Its decay reads the parameters that it is given:
    ``decay_at`` says which of the three these are. At y and x it pulls z by another sequence than z
    itself, so that an undriven weight does not shrink by a fixed share a step.

    Different from ``optax.contrib.schedule_free`` 0.2.8 in four points: its average is weighted by
    the learning rate of the next step (its count starts at 1, the optimizer's inside at 0); b1 must
    be above 0; there is no ``r``; and its sum of weights has the narrowest dtype of the parameters:
    in bfloat16 it stops growing after 256 steps, and x forgets by 1/256 a step from then on.

    Args:
      base: Such as ``optax.chain(optax.sgd(lr), wdlab.decay_weights(0.1, multiplier=lr))``.
      learning_rate: That of ``base``, number >= 0 or schedule; only the average is weighted by it.
        With a warm-up and no decay.
      b1: Share of x in y, in [0, 1); 0 trains at z. In the place of momentum.
      r: Power of the step's number in its weight, >= 0.
      weight_lr_power: Power of the largest learning rate so far in it, >= 0; 0: equal weights.
      decay_at: "y", where the gradient is (the reference's default), "z" (its ``decay_at_z``) or
        "x", which needs ``b1`` above 0.

    Raises:
      TypeError, ValueError: At construction for wrong numbers; from ``update`` without ``params``.

    >>> tx = schedule_free(optax.sgd(0.5), 0.5, b1=0.5)
    >>> params = jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array(2.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params), float(schedule_free_eval_params(state, params))  # z: 4, 3, 2
    (2.25, 2.5)

    Source: Defazio et al. 2024, https://arxiv.org/abs/2405.15682, equations 3 to 5;
    facebookresearch/schedule_free, schedulefree 1.4.1, adamw_schedulefree_reference.py.
    """
    with named_errors("schedule_free"):
        check_number("learning_rate", learning_rate, schedule=True)
        check_number("b1", b1, high=1.0, high_open=True, low_open=decay_at == "x")
        check_number("r", r)
        check_number("weight_lr_power", weight_lr_power)
        check_choice("decay_at", decay_at, POINTS)
    base = with_extra_args(base)

    def init_fn(params: PyTree) -> ScheduleFreeState:
        dtype = jnp.result_type(float)
        return ScheduleFreeState(
            jnp.zeros([], jnp.int32),
            jnp.asarray(b1, dtype),
            jnp.zeros([], dtype),
            jnp.zeros([], dtype),
            jax.tree.map(lambda p: cast(p, working_dtype(p), copy=True), params),
            base.init(params),
        )

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, ScheduleFreeState]:
        require_params("schedule_free", params)
        seen = {"y": lambda: params, "z": lambda: state.z, "x": lambda: _x(b1, params, state.z)}
        steps, inner = base.update(updates, state.base, seen[decay_at](), **extra_args)
        rate = jnp.asarray(value_at(learning_rate, state.count), state.weight_sum.dtype)
        largest = jnp.maximum(state.largest_rate, rate)
        weight = step_number(state.count) ** r * largest**weight_lr_power
        total = state.weight_sum + weight
        share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0)
        updates, z = averaged(params, state.z, steps, share, b1)
        new = ScheduleFreeState(next_count(state.count), jnp.asarray(b1), largest, total, z, inner)
        return updates, jax.tree.map(lambda n, old: jnp.asarray(n, old.dtype), new, state)

    # All leaves in float32 or wider; integers are left alone. What decays is for ``base`` to check.
    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return complete("schedule_free", tx, 0.0, complex_ok=True)


def averaged(
    y: PyTree, z: PyTree, steps: PyTree, share: ArrayLike, b1: ArrayLike
) -> tuple[PyTree, PyTree]:
    """Returns the update of y and the new z, from z's finished step and its share of the average.

    >>> [float(x) for x in averaged(jnp.array(3.0), jnp.array(2.0), jnp.array(-1.0), 0.5, 0.5)]
    [-1.25, 1.0]
    """

    def update(y: jax.Array, z: jax.Array, u: jax.Array) -> jax.Array:
        c, b = jnp.asarray(share, jnp.real(y).dtype), jnp.asarray(b1, jnp.real(y).dtype)
        return c * (z - y) + (1.0 - b * (1.0 - c)) * u

    moved = jax.tree.map(lambda z, u: z + u.astype(z.dtype), z, steps)
    return jax.tree.map(update, y, z, steps), moved


def schedule_free_eval_params(state: PyTree, params: PyTree) -> PyTree:
    r"""Returns the parameters to evaluate, :math:`x = (y - (1 - \beta_1) z) / \beta_1`.

    Args:
      state: The optimizer's state, with one or several :class:`ScheduleFreeState` anywhere inside.
      params: y, the parameters that are trained.

    Returns:
      A tree like ``params``, in its dtypes; leaves that no such state trains are as given. With
      16-bit ``params`` x is only as exact as they are; :func:`wdlab.training.float32_masters`
      around the optimizer keeps y in float32.

    Raises:
      ValueError: If there is no such state.

    >>> tx = schedule_free(optax.sgd(0.5), 0.5)
    >>> params = {"w": jnp.array(4.0)}
    >>> schedule_free_eval_params(tx.init(params), params)["w"].item()
    4.0
    """
    is_state = lambda node: isinstance(node, ScheduleFreeState)  # noqa: E731
    found = [node for node in jax.tree.leaves(state, is_leaf=is_state) if is_state(node)]
    if not found:
        raise ValueError(
            "schedule_free_eval_params: no ScheduleFreeState in the state. Pass the state of an "
            "optimizer made of wdlab.optimizers.schedule_free, and the params that it trains."
        )
    for each in found:
        params = _x(each.b1, params, each.z)
    return params


def _x(b1: ArrayLike, y: PyTree, z: PyTree) -> PyTree:
    def point(z: Any, y: Any) -> Any:
        if isinstance(z, optax.MaskedNode) or is_fixed(y):
            return y
        wide = jnp.asarray(y, jnp.promote_types(jnp.result_type(y), z.dtype))
        b = jnp.asarray(b1, jnp.real(wide).dtype)
        x = (wide - (1.0 - b) * z) / jnp.where(b > 0, b, 1.0)
        return x.astype(jnp.result_type(y))

    return jax.tree.map(point, z, y, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
