"""What the decay terms share: the walk over decayed leaves, and the checks at init."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, check_schedule, is_zero, require_params
from wdlab._core.dtypes import (
    check_float_leaf,
    in_each_dtype,
    is_16_bit,
    lost_to_rounding,
    working_dtype,
)
from wdlab._core.names import first_few
from wdlab.rules import RuleWarning, decisions, warn_if_idle
from wdlab.schedules import ScalarOrSchedule, peak_value

PyTree = Any


def map_decayed(
    name: str,
    function: Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array],
    updates: PyTree,
    params: PyTree | None,
    rules: PyTree,
    coefficient: Any,
    reference: PyTree = None,
) -> PyTree:
    """Applies ``function(u, coefficient * s, p, ref)`` where s > 0, keeping every dtype.

    Args:
      name: Of the transformation, for messages.
      function: Of one leaf, in the working dtype (float32 for 16-bit leaves).
      updates: The finished steps.
      params: Like ``updates``.
      rules: Which leaves, and how much.
      coefficient: Number; a plain 0 leaves all updates as they are.
      reference: One array per leaf, or None.

    >>> step = lambda u, strength, p, _: u - strength * p
    >>> params = {"w": jnp.array(4.0)}
    >>> map_decayed("mine", step, params, params, 1.0, 0.5)["w"].item()
    2.0
    """
    if is_zero(coefficient):
        return updates
    require_params(name, params)
    leaves, treedef = jax.tree.flatten(updates)
    made = decisions(params, rules)
    if len(leaves) != len(made):
        raise ValueError(
            f"{name}: {len(leaves)} updates for {len(made)} parameters; both must have the same "
            "structure. Write tx.update(grads, opt_state, params)."
        )
    strengths = {d.scale: in_each_dtype(coefficient * d.scale) for d in made}
    references = [None] * len(leaves) if reference is None else jax.tree.leaves(reference)

    def apply(u: jax.Array, decision: Any, ref: Any) -> jax.Array:
        if decision.scale == 0:
            return u
        wide = jnp.promote_types(working_dtype(u), working_dtype(decision.leaf))
        strength = strengths[decision.scale](wide)
        ref = None if ref is None else jnp.asarray(ref, wide)
        new = function(jnp.asarray(u, wide), strength, jnp.asarray(decision.leaf, wide), ref)
        return new.astype(jnp.result_type(u))

    return jax.tree.unflatten(treedef, map(apply, leaves, made, references))


def check_leaves(params: PyTree, rules: PyTree) -> None:
    """Refuses at ``init`` the decayed leaves that are no floats: they would be truncated.

    >>> check_leaves({"steps": jnp.zeros(2, jnp.int32)}, 1.0)
    Traceback (most recent call last):
    TypeError: parameter 'steps' is int32; weight decay needs real floats. ...
    """
    warn_if_idle(params, rules)
    for decision in decisions(params, rules):
        if decision.scale > 0:
            check_float_leaf(decision.path, decision.leaf)


def warn_if_rounded_away(
    params: PyTree, rules: PyTree, weight_decay: ScalarOrSchedule, kappa: ScalarOrSchedule
) -> None:
    """Warns at ``init`` of 16-bit weights that are too coarse for the decay's largest step.

    >>> warn_if_rounded_away({"w": jnp.ones(2)}, 1.0, 0.1, 6e-4)
    """
    peaks = peak_value(weight_decay), peak_value(kappa)
    if None in peaks or not any(map(is_16_bit, jax.tree.leaves(params))):
        return
    shrink = math.prod(peak or 0.0 for peak in peaks)
    texts = {
        d.path: text
        for d in decisions(params, rules)
        if is_16_bit(d.leaf) and (text := lost_to_rounding(d.scale * shrink, d.leaf.dtype))
    }
    if texts:
        warnings.warn(
            f"A decay of {shrink:.3g} a step is {next(iter(texts.values()))} "
            f"({first_few(list(texts))}).",
            RuleWarning,
            stacklevel=3,
        )


def next_count(count: jax.Array) -> jax.Array:
    """The step count of the next update, which stays at the largest int32.

    >>> next_count(jnp.zeros([], jnp.int32)).item()
    1
    """
    return jnp.asarray(optax.safe_increment(count))


def check_decay(weight_decay: ScalarOrSchedule, kappa: ScalarOrSchedule) -> None:
    """Refuses senseless numbers, and a shrink of more than 1 a step.

    >>> check_decay(0.1, 20.0)
    Traceback (most recent call last):
    ValueError: weight_decay 0.1 times multiplier 20 shrinks weights by 2 a step; ...
    """
    check_number("weight_decay", weight_decay, schedule=True)
    check_schedule("weight_decay", weight_decay)
    check_number("multiplier", kappa, schedule=True)
    check_schedule("multiplier", kappa)
    peak_kappa, peak_decay = peak_value(kappa), peak_value(weight_decay)
    if peak_kappa is None or peak_decay is None:
        return
    if peak_kappa * peak_decay > 1:
        raise ValueError(
            f"weight_decay {peak_decay:g} times multiplier {peak_kappa:g} shrinks weights by "
            f"{peak_kappa * peak_decay:g} a step; more than 1 flips their sign. A weight decay "
            "of 0.1 as in torch is multiplied by the learning rate: multiplier=learning_rate."
        )
