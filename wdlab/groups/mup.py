r"""Maximal-update parametrization: rates and decays by width, exactly as the ``mup`` package.

The multiplier m of a dimension is its size over its size in a base model. A leaf is matrix-like
with two dimensions that grow with width, vector-like with one, scalar-like with none; the rules are

==============  ==========================  ==============  ====================================
leaf            Adam: rate, decay           SGD: rate       SGD: decay
==============  ==========================  ==============  ====================================
matrix-like     1/m of fan-in, m of fan-in  m_out / m_in    m_in / m_out
vector-like     1, 1                        m               1/m
scalar-like     1, 1                        1               1
==============  ==========================  ==============  ====================================

so that rate times decay does not depend on width. Traps:

- The decay grows with width only because torch multiplies it by the rate, which falls. Under a
  coupling that does not ("schedule", "constant") it must stay: ``scale_decay=False``, which ``mup``
  calls ``decoupled_wd=True``. That name does not mean AdamW, and AdamW with it shrinks by 1/m.
- Under Adam with "l2" ``mup`` scales the decay too, although L2 goes through the preconditioner.
- nanoGPT-mup scales the rate alone: its lr-coupled decay weakens as 1/m (``scale_decay=False``).
- The release 1.0.0 of ``mup`` has no ``decoupled_wd``; its repository at 1981497 has.
- Only the optimizer is here. The readout's output multiplier 1/m, attention's 1/d and the
  initialization belong to the model.
"""

import re
from typing import Any, Literal

import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import check_choice, check_number
from wdlab.groups.chains import grouped
from wdlab.groups.group import Group
from wdlab.groups.layer_widths import Width
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


def mup_groups(
    widths: tuple[Width, ...], optimizer: Literal["adam", "sgd"], *, scale_decay: bool
) -> tuple[Group, ...]:
    """Makes the parameter groups of muP, one per distinct multiplier.

    Args:
      widths: From :func:`widths`.
      optimizer: "adam" for all that normalize the gradient per entry, "sgd" for those that do not.
      scale_decay: Whether the decay's scale undoes the rate's.

    >>> hidden = Width("hidden", (4.0, 4.0), "in_out")
    >>> [(g.learning_rate_scale, g.decay_scale) for g in mup_groups((hidden,), "adam",
    ...                                                             scale_decay=True)]
    [(0.25, 4.0)]
    """
    check_choice("optimizer", optimizer, ("adam", "sgd"))
    by_factor: dict[float, list[str]] = {}
    for width in widths:
        by_factor.setdefault(_divisor(width, optimizer), []).append(re.escape(width.path))
    return tuple(
        Group(
            "|".join(paths),
            learning_rate_scale=1.0 / divisor,
            decay_scale=divisor if scale_decay else 1.0,
            name=f"rate / {divisor:g}",
        )
        for divisor, paths in by_factor.items()
    )


@answers
def mu_sgd(
    learning_rate: ScalarOrSchedule,
    widths: tuple[Width, ...],
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    scale_decay: bool | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    momentum: float = 0.0,
    nesterov: bool = False,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""SGD whose rate follows the width: ``mup.MuSGD`` with ``coupling="l2"``.

    One step is :math:`b \leftarrow \mu b + g + \lambda r s \theta`,
    :math:`\theta \leftarrow \theta - (lr_t / r) b` with r the divisor of the leaf: m_in / m_out for
    a matrix, 1/m for a vector, 1 for a scalar.

    Args:
      learning_rate: Of the base model, number >= 0 or schedule.
      widths: From :func:`widths`.
      weight_decay: ``lambda`` >= 0 of the base model; its unit depends on ``coupling``.
      coupling: One of :data:`wdlab.schedules.COUPLINGS`; required unless ``weight_decay`` is 0.
      scale_decay: Whether the decay is multiplied by r. None: as keeps the shrink the same at every
        width, True under "lr" and "l2" (``mup``'s default), False under "schedule", "constant".
      rules: Scale ``s`` of every leaf; ``mup`` decays all, ``rules.ALL``.
      momentum: ``mu`` in [0, 1).
      nesterov: Whether the step looks ahead by one momentum step.
      peak_learning_rate: Peak of a schedule that does not carry it, under "schedule".

    Raises:
      TypeError, ValueError: As :func:`wdlab.groups.grouped`; under "lr2" for ``scale_decay=None``.

    >>> import jax.numpy as jnp
    >>> from wdlab.groups import widths
    >>> params = {"wte": jnp.ones((3, 8))}
    >>> tx = mu_sgd(0.5, widths({"wte": jnp.ones((3, 2))}, params, layout="in_out"))
    >>> float(tx.update(params, tx.init(params), params)[0]["wte"][0, 0])  # -0.5 * 4
    -2.0

    Source: mup 1.0.0 and 1981497, mup/optim.py; Yang et al., https://arxiv.org/abs/2203.03466.
    """
    check_number("momentum", momentum, high=1.0, high_open=True)
    direction = optax.trace(momentum, nesterov=nesterov) if momentum else optax.identity()
    return grouped(
        direction,
        learning_rate,
        mup_groups(widths, "sgd", scale_decay=_scaled(scale_decay, coupling)),
        weight_decay=weight_decay,
        coupling=coupling,
        decay_follows="group",
        rules=rules,
        peak_learning_rate=peak_learning_rate,
    )


@answers
def mu_adam(
    learning_rate: ScalarOrSchedule,
    widths: tuple[Width, ...],
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    scale_decay: bool | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Adam whose rate follows the width: ``mup.MuAdam`` with "l2", ``mup.MuAdamW`` with "lr".

    One step is :math:`\theta \leftarrow \theta - (lr_t/m)\, \hat m / (\sqrt{\hat v} + \epsilon) -
    \kappa_t \lambda m s \theta` with m the fan-in multiplier of a matrix, else 1, and
    :math:`\kappa_t = lr_t/m` under "lr". ``eps`` is the same at every width, as in ``mup``.
    :func:`mu_sgd` has the other Args and the Raises.

    Args:
      learning_rate: Of the base model, number >= 0 or schedule.
      widths: From :func:`widths`.
      weight_decay: ``lambda`` >= 0 of the base model.
      coupling: As in :func:`mu_sgd`.
      scale_decay: As in :func:`mu_sgd`, with m for r.
      rules: Scale ``s`` of every leaf.
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      eps: Added to the root of the corrected second moment, >= 0.
      peak_learning_rate: As in :func:`mu_sgd`.

    >>> import jax.numpy as jnp
    >>> from wdlab.groups import widths
    >>> params = {"kernel": jnp.ones((8, 8))}
    >>> tx = mu_adam(0.5, widths({"kernel": jnp.ones((2, 2))}, params, layout="in_out"))
    >>> step = tx.update(params, tx.init(params), params)[0]["kernel"]
    >>> round(float(step[0, 0]), 5)  # -0.5 / 4
    -0.125
    """
    return grouped(
        scale_by_adam(b1, b2, eps),
        learning_rate,
        mup_groups(widths, "adam", scale_decay=_scaled(scale_decay, coupling)),
        weight_decay=weight_decay,
        coupling=coupling,
        decay_follows="group",
        rules=rules,
        peak_learning_rate=peak_learning_rate,
    )


def mu_adamw(
    learning_rate: ScalarOrSchedule, widths: tuple[Width, ...], **arguments: Any
) -> optax.GradientTransformation:
    """The name that ``mup`` users look for: :func:`mu_adam`; MuAdamW is its ``coupling="lr"``.

    >>> tx = mu_adamw(0.5, (Width("kernel", (4.0, 4.0), "in_out"),), weight_decay=0.1,
    ...               coupling="lr")
    """
    return mu_adam(learning_rate, widths, **arguments)


def _divisor(width: Width, optimizer: str) -> float:
    """What the rate of a leaf is divided by."""
    if optimizer == "adam":
        return width.width_multiplier if width.kind == "matrix" else 1.0
    if width.kind == "matrix":
        return width.fan_ratio
    return 1.0 / width.width_multiplier


def _scaled(scale_decay: bool | None, coupling: str | None) -> bool:
    if scale_decay is not None:
        return scale_decay
    if coupling == "lr2":
        raise ValueError(
            "scale_decay: coupling='lr2' divides the decay by the square of the width multiplier, "
            "and mup has no rule for it. Say True (decay times m) or False."
        )
    return coupling not in ("schedule", "constant")
