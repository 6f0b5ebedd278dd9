"""What the decay terms share: the walk over decayed leaves, and the checks at init."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, is_zero, require_params, require_same_shapes
from wdlab._core.dtypes import (
    check_leaf,
    in_each_dtype,
    is_16_bit,
    is_fixed,
    lost_to_rounding,
    untouched,
    wider,
    working_dtype,
)
from wdlab._core.names import first_few
from wdlab.rules import RuleWarning, decisions, warn_if_idle
from wdlab.schedules import ScalarOrSchedule, largest_product, peak_value

PyTree = Any
_ROUNDING = 1e-6  # Of a product of float32 numbers that is 1.


def map_decayed(
    name: str,
    function: Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array],
    updates: PyTree,
    params: PyTree | None,
    rules: PyTree,
    coefficient: Any,
    reference: PyTree = None,
) -> PyTree:
    """Applies ``function(u, coefficient * s, p, ref)`` where s > 0.

    Every update comes back in the wider dtype of itself and its parameter.

    Args:
      name: Of the transformation, for messages.
      function: Of one leaf, in that dtype, float32 for 16-bit leaves.
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
    require_same_shapes(name, updates, params)
    strengths = {d.scale: in_each_dtype(coefficient * d.scale) for d in made}
    references = [None] * len(leaves) if reference is None else jax.tree.leaves(reference)

    def apply(u: jax.Array, decision: Any, ref: Any) -> jax.Array:
        dtype = wider(u, decision.leaf)
        if decision.scale == 0:
            return untouched(u, decision.leaf) if is_fixed(u) else jnp.asarray(u, dtype)
        wide = working_dtype(dtype)
        strength = strengths[decision.scale](wide)
        ref = None if ref is None else jnp.asarray(ref, wide)
        new = function(jnp.asarray(u, wide), strength, jnp.asarray(decision.leaf, wide), ref)
        return new.astype(dtype)

    return jax.tree.unflatten(treedef, map(apply, leaves, made, references))


def check_leaves(
    params: PyTree,
    rules: PyTree,
    *shrinks: ScalarOrSchedule,
    needs: str = "weight decay",
    complex_ok: bool = False,
) -> None:
    """Refuses at ``init`` the decayed leaves that are not floats, and a shrink of more than 1.

    Args:
      params: Pytree of arrays.
      rules: Which leaves decay, and how much.
      *shrinks: ``weight_decay`` and ``kappa_t``, whose product with a leaf's scale must not be
        above 1; none where the step has no such limit.
      needs: Who needs floats, for the message.
      complex_ok: Whether it is right for complex leaves too.

    >>> check_leaves({"steps": jnp.zeros(2, jnp.int32)}, 1.0)
    Traceback (most recent call last):
    TypeError: parameter 'steps' is int32; weight decay needs floats of 16 bits or more. ...
    """
    warn_if_idle(params, rules)
    made = decisions(params, rules)
    for decision in made:
        if decision.scale > 0:
            check_leaf(decision.path, decision.leaf, needs=needs, complex_ok=complex_ok)
    if shrinks and made:
        most = max(made, key=lambda decision: decision.scale)
        check_shrink(*shrinks, scale=most.scale, path=most.path)


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
    """Refuses a strength or a multiplier that is not a number >= 0, and a shrink above 1 a step.

    >>> check_decay(0.1, 20.0)
    Traceback (most recent call last):
    ValueError: weight_decay 0.1 times multiplier 20 shrinks weights by 2 a step; ...
    """
    check_number("weight_decay", weight_decay, schedule=True)
    check_number("multiplier", kappa, schedule=True)
    check_shrink(weight_decay, kappa)


def check_shrink(
    weight_decay: ScalarOrSchedule,
    kappa: ScalarOrSchedule,
    *,
    scale: float = 1.0,
    path: str = "",
    by: str = "multiplier",
) -> None:
    """Refuses a shrink of more than 1 a step, where it is known before the program runs.

    ``by`` names ``kappa`` in the message, ``path`` the leaf whose scale it is.

    >>> check_shrink(0.1, 0.5, scale=100.0, path="kernel")
    Traceback (most recent call last):
    ValueError: weight_decay 0.1 times multiplier 0.5 times the scale 100 of 'kernel' shrinks ...
    """
    product, factors = largest_product(weight_decay, kappa)
    if product * scale <= 1 + _ROUNDING:
        return
    of_leaf = f" times the scale {scale:g} of {path!r}" if path and scale != 1 else ""
    raise ValueError(
        f"weight_decay {factors[0]:g} times {by} {factors[1]:g}{of_leaf} shrinks weights by "
        f"{product * scale:g} a step; more than 1 flips their sign. A weight decay of 0.1 as in "
        "torch is multiplied by the learning rate: multiplier=learning_rate, or coupling='lr'."
    )
