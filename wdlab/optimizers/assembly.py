"""Puts a descent direction, a learning rate and a decay together, each in its place."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, require_same_shapes
from wdlab._core.dtypes import check_leaf, in_each_dtype, in_float32, is_fixed
from wdlab._core.transformation import transformation
from wdlab.decay import (
    add_l2_gradient,
    check_shrink,
    decay_weights,
    next_count,
    warn_if_rounded_away,
)
from wdlab.rules import decisions, normalize_rules
from wdlab.schedules import ScalarOrSchedule, check_coupling, multiplier_of, value_at

PyTree = Any
_LEARNING_RATE_HINT = "For no learning rate at all, chain the parts of wdlab.decay yourself."


def assemble(
    name: str,
    direction: optax.GradientTransformation | None,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
    coupling: str | None,
    rules: PyTree,
    peak_learning_rate: float | None = None,
    *,
    complex_ok: bool = False,
) -> optax.GradientTransformation:
    """Puts the decay of that coupling into its place around a descent direction.

    Args:
      name: Of the optimizer, for messages.
      direction: Transformation of the gradient without learning rate or sign; None: the gradient.
      learning_rate: Number >= 0 or schedule.
      weight_decay: ``lambda`` >= 0, number or schedule.
      coupling: One of :data:`wdlab.schedules.COUPLINGS`, or None where ``weight_decay`` is 0.
      rules: Which leaves decay, and how much.
      peak_learning_rate: The learning rate that eta_t = 1 stands for.
      complex_ok: Whether the direction is right for complex gradients.

    >>> from wdlab.rules import NO_BIAS_OR_NORM
    >>> tx = assemble("sign", optax.scale_by_sign(), 0.5, 0.25, "lr", NO_BIAS_OR_NORM)
    >>> params = {"kernel": jnp.array(4.0)}
    >>> float(tx.update(params, tx.init(params), params)[0]["kernel"])  # -0.5 - 0.5 * 0.25 * 4
    -1.0
    """
    check_number("learning_rate", learning_rate, schedule=True, hint=_LEARNING_RATE_HINT)
    check_number("weight_decay", weight_decay, schedule=True)
    coupling = check_coupling(name, coupling, learning_rate, weight_decay)
    plain, direction = direction is None, direction or optax.identity()
    step, known = scale_by_learning_rate(learning_rate), ()
    if coupling == "l2":
        parts = (add_l2_gradient(weight_decay, rules=rules), direction, step)
        known = (weight_decay, learning_rate) if plain else ()
    else:
        multiplier = multiplier_of(coupling, learning_rate, peak_learning_rate)
        decay = decay_weights(weight_decay, multiplier=multiplier, rules=rules)
        parts = (direction, step, decay)
    tx = complete(name, optax.chain(*parts), rules, *known, complex_ok=complex_ok)
    if coupling == "l2":
        return tx

    def init_fn(params: PyTree) -> PyTree:
        state = tx.init(params)  # Refuses odd leaves first.
        warn_if_rounded_away(params, rules, weight_decay, multiplier)  # Inside they are wider.
        return state

    return optax.GradientTransformationExtraArgs(init_fn, tx.update)


def complete(
    name: str,
    tx: optax.GradientTransformation,
    rules: PyTree,
    *shrinks: ScalarOrSchedule,
    complex_ok: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes a chain a whole optimizer: 16-bit leaves in float32, integers left alone, or refused.

    Args:
      name: Of the optimizer, for messages.
      tx: The whole chain, sign and decay included.
      rules: Integer leaves that they exempt stay as they are; others are refused at ``init``.
      *shrinks: ``weight_decay`` and the learning rate, where the chain itself cannot check that
        their product shrinks no weight by more than 1.
      complex_ok: Whether the chain is right for complex leaves; else they are refused at ``init``.

    >>> from wdlab.rules import Rule
    >>> tx = complete("mine", optax.sgd(0.5), (Rule("step", 0.0), Rule(".*")))
    >>> params = {"step": jnp.array(3), "w": jnp.array(4.0, jnp.float16)}
    >>> tx.update(params, tx.init(params), params)[0]["step"].item()
    0
    """
    rules, inner = normalize_rules(rules), in_float32(tx)

    def init_fn(params: PyTree) -> PyTree:
        made = decisions(params, rules)
        for path, leaf, _, scale in made:
            if not is_fixed(leaf) or scale > 0:
                check_leaf(path, leaf, needs=name, complex_ok=complex_ok)
        if shrinks and made:
            most = max(made, key=lambda decision: decision.scale)
            check_shrink(*shrinks, scale=most.scale, path=most.path, by="the learning rate")
        return inner.init(_trained(params, params))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        require_same_shapes(name, updates, params)
        leaves, (given, treedef) = jax.tree.leaves(params), jax.tree.flatten(updates)
        if not any(map(is_fixed, leaves)) or len(leaves) != len(given):
            return inner.update(updates, state, params, **extra_args)
        trained = _trained(updates, params), state, _trained(params, params)
        new, state = inner.update(*trained, **extra_args)
        steps = iter(jax.tree.leaves(new))
        filled = [jnp.zeros_like(p) if is_fixed(p) else next(steps) for p in leaves]
        return treedef.unflatten(filled), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _trained(tree: PyTree, params: PyTree) -> PyTree:
    """Puts ``MaskedNode`` in the place of the leaves that no step trains."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(leaves, jax.tree.leaves(params), strict=True)
    return treedef.unflatten([optax.MaskedNode() if is_fixed(p) else leaf for leaf, p in pairs])


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
