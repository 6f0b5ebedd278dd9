r"""A running doctor: an Optax transformation that looks at every n-th step and changes nothing.

Of each group of leaves it keeps the norm, the angle that the step turns the weights by, how much of
the step is decay, and how far the group is from the equilibrium of
:mod:`wdlab.instruments.rotation`. All four follow from three sums over the group,
:math:`|\theta|^2`, :math:`|u|^2` and :math:`\theta\cdot u`: a look reads weights and updates once.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, check_whole, require_params
from wdlab._core.dtypes import squares, widen
from wdlab._core.transformation import transformation
from wdlab.instruments.norms import dot
from wdlab.instruments.rotation import predicted_rotation
from wdlab.rules import NO_BIAS_OR_NORM, compile_pattern, decisions, leaves_with_paths
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class Reading(NamedTuple):
    """Of one group at the last look; float32, shape ()."""

    norm: jax.Array  # |theta| before the step.
    rotation: jax.Array  # Radians that the step turns the weights by.
    decay_share: jax.Array  # |decay| / |step|; 0 where nothing moves.
    # |step without decay| / |theta| over what it is at equilibrium: above 1 the norm grows, below 1
    # it shrinks; 0 where nothing decays.
    balance: jax.Array


class MonitorState(NamedTuple):
    """State of :func:`monitor`; read it with :func:`readings`."""

    count: jax.Array  # int32, shape (): updates made.
    looked_at: jax.Array  # int32, shape (): the count at the last look, -1 before the first.
    groups: dict[str, Reading]


def monitor(
    shrink: ScalarOrSchedule = 0.0,
    *,
    every: int = 100,
    groups: str | Mapping[str, str] | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    momentum: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Watches norm, rotation, decay and equilibrium of groups of leaves; put it last in the chain.

    With u the finished step, :math:`\delta` the share that decay takes and s a leaf's scale, a look
    computes for each group the norm :math:`|\theta|`, the angle between :math:`\theta` and
    :math:`\theta + u`, the decay's share :math:`\delta |s\theta| / |u|` and the balance
    :math:`|u + \delta s\theta| / (r\,|\theta|)` with
    :math:`r = \sqrt{2\delta s\,(1-\beta)/(1+\beta)}`, which is 1 at equilibrium. Only every n-th
    step is looked at; a look costs 6 FLOPs a weight and reads weights and updates once.

    Args:
      shrink: :math:`\delta = \kappa_t\lambda` >= 0, number or schedule, as
        :func:`wdlab.instruments.shrink_per_step` gives it.
      every: Steps from one look to the next, >= 1.
      groups: Words, each a group of the leaves whose path contains it, or name -> pattern, as in
        :func:`wdlab.instruments.group_norms`. None: "decayed" and "exempt".
      rules: Scales s of the decay, as in :func:`wdlab.decay_scales`.
      momentum: :math:`\beta` of the optimizer, see :func:`wdlab.instruments.predicted_rotation`.

    Returns:
      A transformation whose updates are its input.

    Raises:
      TypeError, ValueError: At construction for numbers out of range; from ``init`` for a group
        without a leaf.

    >>> tx = optax.chain(optax.sgd(0.1), monitor(0.005, every=10))
    >>> params, grads = {"kernel": jnp.array([3.0, 4.0])}, {"kernel": jnp.array([-4.0, 3.0])}
    >>> _, state = tx.update(grads, tx.init(params), params)
    >>> {name: round(float(x), 4) for name, x in readings(state).items()}
    {'decayed/norm': 5.0, 'decayed/rotation': 0.0997, 'decayed/decay_share': 0.05, ...}
    """
    check_number("shrink", shrink, schedule=True)
    check_whole("every", every)
    check_number("momentum", momentum, high=1.0, high_open=True)
    if not (groups is None or isinstance(groups, str | Mapping)):
        raise TypeError(
            f"monitor: groups must be words in one string or name -> pattern, got {groups!r}. "
            "Write groups='attn mlp'."
        )

    def init_fn(params: PyTree) -> MonitorState:
        found = {  # Each number is a buffer of its own: they are donated.
            name: Reading(*(jnp.zeros([], jnp.float32) for _ in Reading._fields))
            for name in _members(params, groups, rules)
        }
        return MonitorState(jnp.zeros([], jnp.int32), jnp.full([], -1, jnp.int32), found)

    def update_fn(
        updates: PyTree, state: MonitorState, params: PyTree | None = None
    ) -> tuple[PyTree, MonitorState]:
        require_params("monitor", params)
        members = _members(params, groups, rules)
        delta = jnp.asarray(value_at(shrink, state.count), jnp.float32)

        def look(operands: tuple[PyTree, PyTree]) -> dict[str, Reading]:
            pairs = [*zip(*map(jax.tree.leaves, operands), strict=True)]
            return {
                name: _reading([(*pairs[n], scale) for n, scale in leaves], delta, momentum)
                for name, leaves in members.items()
            }

        due = state.count % every == 0
        kept = jax.lax.cond(due, look, lambda _: state.groups, (params, updates))
        looked_at = jnp.where(due, state.count, state.looked_at)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, MonitorState(count=count, looked_at=looked_at, groups=kept)

    return transformation(init_fn, update_fn)


def readings(opt_state: PyTree) -> dict[str, jax.Array]:
    """What :func:`monitor` saw at its last look: "group/quantity" -> number, for any logger.

    Args:
      opt_state: State of a chain with a monitor in it; several share one dict, the last wins.

    Raises:
      ValueError: If there is none.

    >>> state = monitor().init({"kernel": jnp.ones(2)})
    >>> list(readings(state))[:2]
    ['decayed/norm', 'decayed/rotation']
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, MonitorState))
    states = [node for node in nodes if isinstance(node, MonitorState)]
    if not states:
        raise ValueError(
            "readings: found no monitor in the optimizer state. Write optax.chain(..., "
            "wdlab.instruments.monitor(shrink))."
        )
    return {
        f"{group}/{quantity}": value
        for state in states
        for group, reading in state.groups.items()
        for quantity, value in reading._asdict().items()
    }


def _members(
    params: PyTree, groups: str | Mapping[str, str] | None, rules: PyTree
) -> dict[str, list[tuple[int, float]]]:
    """Of each group the places of its leaves and their scales."""
    scales = [decision.scale for decision in decisions(params, rules)]
    paths = [path for path, _ in leaves_with_paths(params)]
    if groups is None:
        inside = {
            "decayed": [scale > 0 for scale in scales],
            "exempt": [scale == 0 for scale in scales],
        }
    elif isinstance(groups, str):
        inside = {word: [word in path for path in paths] for word in groups.split()}
    else:
        inside = {
            name: [compile_pattern(pattern).fullmatch(path) is not None for path in paths]
            for name, pattern in groups.items()
        }
    empty = [name for name, flags in inside.items() if not any(flags)]
    if empty and paths and groups is not None:  # optax.tree.map_params has no leaves.
        raise ValueError(f"monitor: the group {empty[0]!r} has no leaf; paths: {paths[:3]} ...")
    return {
        name: [(n, scales[n]) for n, is_in in enumerate(flags) if is_in]
        for name, flags in inside.items()
    }


def _reading(leaves: list[tuple[Any, Any, float]], delta: jax.Array, momentum: float) -> Reading:
    """The numbers of a group, from three sums of each of its leaves: weights, update, scale."""
    size = moved = along = decayed = driven = wanted = jnp.zeros([], jnp.float32)
    for param, update, scale in leaves:
        square, step = jnp.sum(squares(param)), jnp.sum(squares(update))
        product, share = dot(widen(param), widen(update)), delta * scale
        size, moved, along = size + square, moved + step, along + product
        if scale > 0:
            decayed += share**2 * square
            driven += step + 2 * share * product + share**2 * square
            wanted += predicted_rotation(share, momentum) ** 2 * square
    length = jnp.sqrt(size)
    across = jnp.sqrt(jnp.maximum(moved - along**2 / _or_one(size), 0.0))
    found = Reading(
        norm=length,
        rotation=jnp.arctan2(across, length + along / _or_one(length)),
        decay_share=jnp.sqrt(decayed / _or_one(moved)),
        balance=jnp.where(wanted > 0, jnp.sqrt(jnp.maximum(driven, 0.0) / _or_one(wanted)), 0.0),
    )
    return Reading(*(x.astype(jnp.float32) for x in found))


def _or_one(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 1.0)
