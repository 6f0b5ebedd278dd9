r"""The equilibrium that decay brings scale-invariant weights to: predicted next to measured.

The gradient of a weight before a normalization is orthogonal to it: steps make it longer, decay
shorter, until both balance. With :math:`\delta = \kappa\lambda` the share that decay takes per
step, and steps u whose directions are random, :math:`|\theta|^2` stays where
:math:`2 \delta |\theta|^2 = |u|^2` (per step, without momentum). Then the weight turns by
:math:`|u| / |\theta| = \sqrt{2\delta}` a step, whatever gradient, initialization and loss are.

Sources: Wan et al. 2021, "Spherical Motion Dynamics", arXiv 2006.08419 (SGD with momentum);
Kosson et al. 2023, "Rotational Equilibrium", arXiv 2305.17212 (the table of norms and rotations
for SGD with momentum, AdamW, Lion). Both are written there for the coupling "lr"; here every
coupling goes through :math:`\delta`.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import widen
from wdlab.instruments.metrics import angular_update
from wdlab.instruments.norms import norm
from wdlab.rules import ALL, decisions
from wdlab.schedules import check_coupling, multiplier_of

PyTree = Any
StepSize = Literal["gradient", "normalized"]


class Equilibrium(NamedTuple):
    """One leaf, now and at the equilibrium; all of shape ()."""

    norm: jax.Array
    predicted_norm: jax.Array
    rotation: jax.Array  # Radians per step.
    predicted_rotation: jax.Array


def shrink_per_step(
    coupling: str,
    weight_decay: float,
    learning_rate: ArrayLike,
    *,
    peak_learning_rate: float | None = None,
    momentum: float = 0.0,
) -> ArrayLike:
    r"""The share of a weight that decay takes per step, :math:`\delta = \kappa_t\lambda`.

    For "l2" it is that of SGD, where momentum repeats each decay:
    :math:`\delta = \mathrm{lr}\,\lambda / (1 - \beta)`. (L2 under Adam has no fixed share.)

    Args:
      coupling: One of :data:`wdlab.schedules.COUPLINGS`, see :mod:`wdlab.schedules.couplings`.
      weight_decay: ``lambda`` >= 0.
      learning_rate: Of this step, a number.
      peak_learning_rate: For "schedule" and "lr2_over_peak": what ``learning_rate`` is divided by.
        None: it is the peak.
      momentum: For "l2": SGD's momentum in [0, 1).

    >>> shrink_per_step("lr", 0.1, 0.01), shrink_per_step("l2", 0.1, 0.01, momentum=0.75)
    (0.001, 0.004)
    """
    check_number("weight_decay", weight_decay)
    check_number("learning_rate", learning_rate)
    check_number("momentum", momentum, high=1.0, high_open=True)
    check_coupling("shrink_per_step", coupling, learning_rate, weight_decay)
    if coupling == "l2":
        return learning_rate * weight_decay / (1.0 - momentum)
    return multiplier_of(coupling, learning_rate, peak_learning_rate) * weight_decay


def predicted_rotation(shrink: ArrayLike, momentum: float = 0.0) -> jax.Array:
    r"""Radians per step at equilibrium: :math:`\sqrt{2\delta\,(1-\beta)/(1+\beta)}`.

    Without momentum it is :math:`\sqrt{2\,\mathrm{lr}\,\lambda}` for the coupling "lr". With it
    successive steps are alike: each is smaller, and over many they turn the weight as far. SGD with
    L2 has :math:`\delta = \mathrm{lr}\,\lambda/(1-\beta)` and so
    :math:`\sqrt{2\,\mathrm{lr}\,\lambda/(1+\beta)}`. Holds for :math:`\delta \ll 1 - \beta`
    and, where there is momentum, for gradients that are mostly noise.

    Args:
      shrink: :math:`\delta` >= 0, see :func:`shrink_per_step`.
      momentum: :math:`\beta` in [0, 1): SGD's momentum, Adam's b1.

    >>> round(float(predicted_rotation(0.005)), 6)
    0.1

    Source: see the module's docstring.
    """
    check_number("momentum", momentum, high=1.0, high_open=True)
    return jnp.sqrt(2.0 * jnp.asarray(shrink) * (1.0 - momentum) / (1.0 + momentum))


def predicted_norm(
    weight_norm: ArrayLike, step_norm: ArrayLike, rotation: ArrayLike, step_size: StepSize
) -> jax.Array:
    r"""The norm at equilibrium, from one at which steps were measured.

    There :math:`|u^*| = r\,|\theta^*|`. Steps of Adam, Lion and other normalized ones have one
    size at any norm: :math:`|\theta^*| = |u| / r`. SGD's go with the gradient, which a
    scale-invariant loss has in proportion to :math:`1/|\theta|`:
    :math:`|\theta^*| = \sqrt{|u| |\theta| / r}`, which is
    :math:`(\mathrm{lr} / 2\lambda)^{1/4} |\tilde g|^{1/2}` without momentum, with
    :math:`\tilde g` the gradient at norm 1.

    Args:
      weight_norm: :math:`|\theta|` where the step was measured.
      step_norm: :math:`|u|`, root mean square over steps, without the decay.
      rotation: r > 0, :func:`predicted_rotation`.
      step_size: "gradient" (SGD) or "normalized" (Adam, Lion).

    >>> float(predicted_norm(4.0, 0.1, 0.1, "gradient"))
    2.0
    >>> float(predicted_norm(4.0, 0.25, 0.125, "normalized"))
    2.0
    """
    check_choice("step_size", step_size, get_args(StepSize))
    ratio = jnp.asarray(step_norm) / rotation
    return ratio if step_size == "normalized" else jnp.sqrt(ratio * weight_norm)


def equilibrium(
    params: PyTree,
    updates: PyTree,
    shrink: ArrayLike,
    step_size: StepSize,
    *,
    momentum: float = 0.0,
    rules: PyTree = ALL,
) -> dict[str, Equilibrium]:
    r"""Norm and rotation of every leaf that decays, measured on one step and predicted.

    The part of the step that is not decay is taken as :math:`u = \Delta\theta + \delta s\theta`.
    One step is noisy; average norms and rotations over many. The prediction is for leaves that a
    normalization makes scale-invariant; the others need not follow it.

    Args:
      params: Pytree of arrays, before the step.
      updates: Like ``params``: what the step adds, decay included.
      shrink: :math:`\delta` > 0, see :func:`shrink_per_step`.
      step_size: "gradient" (SGD) or "normalized" (Adam, Lion).
      momentum: See :func:`predicted_rotation`.
      rules: Scales s of the decay; leaves with s = 0 are left out.

    Returns:
      Path -> :class:`Equilibrium`.

    >>> params, updates = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([-0.005, 0.1])}
    >>> found = equilibrium(params, updates, 0.005, "normalized")["w"]
    >>> [round(float(x), 3) for x in found]
    [1.0, 1.0, 0.1, 0.1]
    """
    results = {}
    decided = zip(decisions(params, rules), jax.tree.leaves(updates), strict=True)
    for (path, leaf, _, scale), update in decided:
        if scale == 0.0:
            continue
        p, u = widen(leaf), widen(update)
        share = jnp.asarray(shrink * scale, p.dtype)
        size, rotation = norm(p), predicted_rotation(share, momentum)
        wanted = predicted_norm(size, norm(u + share * p), rotation, step_size)
        results[path] = Equilibrium(size, wanted, angular_update(p, u), rotation)
    return results
