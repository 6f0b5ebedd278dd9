"""The decay terms, each an Optax ``(init, update)`` pair, and where each belongs in a chain.

``add_l2_gradient`` goes first: it is part of the gradient, so the optimizer transforms it.
``decay_weights`` goes last: it subtracts from the finished step, after the learning rate and its
sign, so that it composes with every Optax optimizer without that optimizer knowing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import check_choice, check_number, is_zero
from wdlab._core.dtypes import cast
from wdlab._core.dtypes import in_float32 as in_float32
from wdlab._core.transformation import transformation
from wdlab.decay.leafwise import (
    check_decay,
    check_leaves,
    map_decayed,
    next_count,
    warn_if_rounded_away,
)
from wdlab.rules import ALL, leaves_with_paths, normalize_rules, warn_if_idle
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class AddL2GradientState(NamedTuple):
    """State of :func:`add_l2_gradient`."""

    count: jax.Array  # int32, shape (): number of updates made


class DecayWeightsState(NamedTuple):
    """State of :func:`decay_weights`."""

    count: jax.Array  # int32, shape (): number of updates made
    reference: PyTree  # theta_ref, like params; None where the decay is toward zero


@answers
def add_l2_gradient(
    strength: ScalarOrSchedule, *, rules: PyTree = ALL
) -> optax.GradientTransformation:
    r"""L2 regularization as a gradient: adds ``strength * s * theta`` to the updates.

    One step is :math:`g_t \leftarrow g_t + l_t s \theta_{t-1}`, the gradient of
    :math:`\frac{l}{2} s \lVert\theta\rVert^2`. First in the chain it is what torch.optim.Adam and
    torch.optim.SGD call ``weight_decay``. Under Adam it is not weight decay: the preconditioner
    divides it by the gradient's own size (Loshchilov & Hutter 2019, Proposition 2).

    Args:
      strength: ``l``, number >= 0 or schedule of the step count; unit: gradient per weight.
      rules: Which leaves, and how much; see :func:`wdlab.decay_scales`.

    Raises:
      TypeError, ValueError: At construction for a wrong strength or rules; from ``init`` for
        a leaf that no rule decides or that is not a float; from ``update`` without ``params``.

    >>> tx = add_l2_gradient(0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(1.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])
    3.0
    """
    check_number("strength", strength, schedule=True)
    rules = normalize_rules(rules)

    def init_fn(params: PyTree) -> AddL2GradientState:
        check_leaves(params, rules, needs="add_l2_gradient", complex_ok=True)
        return AddL2GradientState(count=jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, AddL2GradientState]:
        def add(g: jax.Array, l_s: jax.Array, p: jax.Array, _: Any) -> jax.Array:
            return g + l_s * p

        coefficient = value_at(strength, state.count)
        updates = map_decayed("add_l2_gradient", add, updates, params, rules, coefficient)
        return updates, AddL2GradientState(next_count(state.count))

    return transformation(init_fn, update_fn)


@answers
def decay_weights(
    weight_decay: ScalarOrSchedule,
    *,
    multiplier: ScalarOrSchedule | None = None,
    rules: PyTree = ALL,
    cautious: bool = False,
    toward: PyTree | str | None = None,
    ties: str = "decay",
) -> optax.GradientTransformation:
    r"""Decoupled weight decay: subtracts ``kappa_t * weight_decay * s * theta`` from the step.

    With the finished step :math:`u_t` (learning rate and minus sign included), one step is
    :math:`u_t \leftarrow u_t - \kappa_t \lambda s (\theta_{t-1} - \theta_{ref})`. Put it last in
    the chain. The multiplier is the convention (``wdlab.optimizers`` names them):
    ``schedule_multiplier(lr)`` for the schedule only, ``lr`` itself for torch's AdamW,
    ``schedules.squared(lr)`` for PaLM's, None for a constant.

    A leaf whose gradient is zero decays all the same. To freeze a leaf give it scale 0, or put
    :func:`freeze` after this. Inside ``optax.MultiSteps`` the decay comes once per accumulated
    step, outside of it once per micro-step.

    Args:
      weight_decay: ``lambda``, number >= 0 or schedule; the shrink per step is kappa_t lambda s.
      multiplier: ``kappa_t``, number >= 0 or schedule of the step count; None is 1.
      rules: Which leaves, and how much; see :func:`wdlab.decay_scales`.
      cautious: Decay only the entries whose step moves them toward the reference as well,
        ``u (theta - ref) <= 0`` (Chen et al. 2025, arXiv 2510.12402).
      toward: ``theta_ref``: None for zero, "init" for the parameters seen by ``init`` (L2-SP,
        Li et al. 2018, arXiv 1802.01483), or a pytree like ``params``. Kept in the state.
      ties: What ``cautious`` does where the step is zero: "decay" (the paper, dion), "keep"
        (``< 0``: lucidrains, modded-nanogpt's Adam; no gradient, no decay), or "signbit" (zero
        has its sign bit's sign: HeavyBall).

    Raises:
      TypeError, ValueError: At construction for wrong numbers or rules; from ``init`` for a
        leaf that no rule decides or that is not a float; from ``update`` without ``params``.

    >>> tx = optax.chain(optax.sgd(0.5), decay_weights(0.25))
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5*2 - 0.25*4
    -2.0
    """
    kappa = 1.0 if multiplier is None else multiplier
    check_decay(weight_decay, kappa)
    _check_toward(toward)
    check_choice("ties", ties, ("decay", "keep", "signbit"))
    rules = normalize_rules(rules)

    def init_fn(params: PyTree) -> DecayWeightsState:
        known = (weight_decay, kappa)
        check_leaves(params, rules, *known, needs="decay_weights", complex_ok=not cautious)
        warn_if_rounded_away(params, rules, *known)
        return DecayWeightsState(jnp.zeros([], jnp.int32), _reference(params, toward))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DecayWeightsState]:
        def decay(u: jax.Array, shrink: jax.Array, p: jax.Array, ref: Any) -> jax.Array:
            distance = p if ref is None else p - ref
            decayed = u - shrink * distance
            if not cautious:
                return decayed
            return jnp.where(_agree(u, distance, ties), decayed, u)

        coefficient = 0.0
        if not is_zero(weight_decay):
            coefficient = value_at(kappa, state.count) * value_at(weight_decay, state.count)
        updates = map_decayed(
            "decay_weights", decay, updates, params, rules, coefficient, state.reference
        )
        return updates, DecayWeightsState(next_count(state.count), state.reference)

    return transformation(init_fn, update_fn)


def freeze(rules: PyTree) -> optax.GradientTransformation:
    """Sets the updates of the leaves with a scale above 0 to zero: u = 0. Put it last.

    Zero gradients do not freeze a parameter: decay, and momentum, move it still.

    Args:
      rules: The frozen leaves have a scale above 0; see :func:`wdlab.decay_scales`.

    Raises:
      ValueError: From ``init`` for a leaf that no rule decides; from ``update`` without params.

    >>> from wdlab.rules import Rule
    >>> tx = freeze((Rule("backbone/.*"), Rule(".*", 0.0)))
    >>> params = {"backbone": {"w": jnp.array(4.0)}, "head": {"w": jnp.array(4.0)}}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> float(updates["backbone"]["w"]), float(updates["head"]["w"])
    (0.0, 4.0)
    """
    rules = normalize_rules(rules)

    def init_fn(params: PyTree) -> optax.EmptyState:
        warn_if_idle(params, rules)
        return optax.EmptyState()

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        def zero(u: jax.Array, *_: Any) -> jax.Array:
            return jnp.zeros_like(u)

        return map_decayed("freeze", zero, updates, params, rules, 1.0), state

    return transformation(init_fn, update_fn)


def _agree(u: jax.Array, distance: jax.Array, ties: str) -> jax.Array:
    """Whether the step shortens the distance as decay does, elementwise."""
    if ties == "signbit":
        return jnp.signbit(-u) == jnp.signbit(distance)
    # Signs, since the product of a small step and a small weight underflows to a tie.
    product = jnp.sign(u) * jnp.sign(distance)
    return product <= 0 if ties == "decay" else product < 0


def _check_toward(toward: Any) -> None:
    if callable(toward) or (isinstance(toward, str) and toward != "init"):
        raise ValueError(
            f"toward must be None (zero), 'init' or a pytree like params, got {toward!r}."
        )


def _reference(params: PyTree, toward: PyTree | str | None) -> PyTree:
    """Copies theta_ref into the state: the same buffer twice could not be donated."""
    if toward is None:
        return None
    source = params
    if not isinstance(toward, str):
        given = dict(leaves_with_paths(toward))
        wanted = leaves_with_paths(params)
        for path, leaf in wanted:
            if path not in given or jnp.shape(given[path]) != jnp.shape(leaf):
                found = "nothing" if path not in given else f"shape {jnp.shape(given[path])}"
                raise ValueError(
                    f"toward must be a pytree like params: {path!r} has shape {jnp.shape(leaf)}, "
                    f"found {found}."
                )
        source = jax.tree.unflatten(jax.tree.structure(params), [given[path] for path, _ in wanted])
    return jax.tree.map(lambda x: cast(x, jnp.result_type(x), copy=True), source)
