"""The parts of an optimizer that differ by parameter group: the step and the freeze."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number
from wdlab._core.dtypes import check_leaf, is_fixed
from wdlab._core.transformation import transformation, with_extra_args
from wdlab.decay import next_count
from wdlab.groups.group import Assignment, Group, assign_groups, idle_groups, normalize_groups
from wdlab.rules import RuleWarning, masked_paths
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


class ScaleByGroupsState(NamedTuple):
    """State of :func:`scale_by_groups`."""

    count: jax.Array  # int32, shape (): number of updates made


def scale_by_groups(
    learning_rate: ScalarOrSchedule, groups: tuple[Group, ...]
) -> optax.GradientTransformation:
    r"""Makes the step of every leaf: :math:`u_t \leftarrow -lr_{k,t} u_t`, sign included.

    Args:
      learning_rate: The base rate, number >= 0 or schedule.
      groups: First full match wins.

    Raises:
      TypeError, ValueError: At construction for a wrong rate; from ``init`` for a leaf in no
        group or that is not a float; from ``update`` without ``params``.

    >>> tx = scale_by_groups(0.5, (Group("head", learning_rate_scale=2.0), Group(".*")))
    >>> params = {"body": jnp.array(4.0), "head": jnp.array(4.0)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> float(updates["body"]), float(updates["head"])
    (-2.0, -4.0)

    Source: torch 2.13.0, torch/optim/optimizer.py, ``param_groups``.
    """
    groups = normalize_groups(groups)
    check_number("learning_rate", learning_rate, schedule=True)

    def init_fn(params: PyTree) -> ScaleByGroupsState:
        for assignment in assign_groups(params, groups):
            check_leaf(assignment.path, assignment.leaf, needs="scale_by_groups", complex_ok=True)
        return ScaleByGroupsState(count=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByGroupsState]:
        leaves, treedef = jax.tree.flatten(updates)
        assigned = _assigned("scale_by_groups", updates, params, groups)
        rates = [a.group.rate(learning_rate, state.count) for a in assigned]
        steps = [u * -jnp.asarray(r, u.dtype) for u, r in zip(leaves, rates, strict=True)]
        count = next_count(state.count)
        return jax.tree.unflatten(treedef, steps), ScaleByGroupsState(count)

    return transformation(init_fn, update_fn)


def freeze_groups(
    inner: optax.GradientTransformation, groups: tuple[Group, ...]
) -> optax.GradientTransformation:
    r"""Keeps the frozen groups' leaves out of ``inner``: no state, no step, :math:`\theta'=\theta`.

    Their update is minus zero, the one number that changes no other to the last bit: 0.0 would turn
    a weight of -0.0 into 0.0. (Outside jit XLA's sum flushes subnormal weights on the CPU.) Zero
    gradients do not freeze, since momentum and decay go on. Add no decay after this.

    Args:
      inner: Any transformation; it sees ``optax.MaskedNode`` in place of the frozen leaves.
      groups: Those with ``frozen=True`` count; the others have to be there for the rest.

    Raises:
      ValueError: From ``init`` for a leaf in no group; from ``update`` without ``params``.

    >>> tx = freeze_groups(optax.adam(0.5), (Group("old", frozen=True), Group(".*")))
    >>> params = {"new": jnp.array(1.0), "old": jnp.array(1.0)}
    >>> tx.init(params)[0].mu["old"]
    MaskedNode()
    """
    groups = normalize_groups(groups)
    inner = with_extra_args(inner)

    def init_fn(params: PyTree) -> PyTree:
        if jax.tree.leaves(params) and not masked_paths(params):
            for message in idle_groups(params, groups):
                warnings.warn(message, RuleWarning, stacklevel=2)
        return inner.init(_hidden(params, assign_groups(params, groups)))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        leaves, treedef = jax.tree.flatten(updates)
        assigned = _assigned("freeze_groups", updates, params, groups)
        hidden_params = None if params is None else _hidden(params, assigned)
        new, state = inner.update(_hidden(updates, assigned), state, hidden_params, **extra_args)
        trained = iter(jax.tree.leaves(new))
        steps = [
            _unmoved(u, a.leaf) if a.group.frozen else next(trained)
            for u, a in zip(leaves, assigned, strict=True)
        ]
        return jax.tree.unflatten(treedef, steps), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _unmoved(update: jax.Array, param: jax.Array) -> jax.Array:
    return jnp.zeros_like(param) if is_fixed(param) else jnp.full_like(update, -0.0)


def _hidden(tree: PyTree, assigned: list[Assignment]) -> PyTree:
    """Puts ``MaskedNode`` in place of the frozen leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(leaves, assigned, strict=True)
    return jax.tree.unflatten(
        treedef, [optax.MaskedNode() if a.group.frozen else leaf for leaf, a in pairs]
    )


def _assigned(
    name: str, updates: PyTree, params: PyTree | None, groups: tuple[Group, ...]
) -> list[Assignment]:
    """The group of each update: by its parameter's path, or by its own where there are none."""
    assigned = assign_groups(updates if params is None else params, groups)
    count = len(jax.tree.leaves(updates))
    if len(assigned) != count:
        raise ValueError(
            f"{name}: {count} updates for {len(assigned)} parameters; both must have the "
            "same structure. Write tx.update(grads, opt_state, params)."
        )
    return assigned
