r"""Parameter groups: a learning rate, a decay strength or a freeze per leaf, in one state.

A group is data, matched like a :class:`wdlab.Rule`: a regular expression for the whole path, the
first match wins, a leaf that no group matches is an error. Unlike under ``optax.partition`` the
groups share one optimizer state: moments structured like the params, and one step count.

With the rate :math:`lr_{k,t}` and the scale :math:`d_k` of a leaf's group, one step is
:math:`\theta' = \theta - lr_{k,t} u_t - \kappa_{k,t} \lambda d_k s \theta`. Whether
:math:`\kappa` follows the group's rate or the base rate is where systems differ; see
``decay_follows`` of :func:`grouped`.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import check_number, is_zero
from wdlab._core.transformation import transformation
from wdlab.decay import add_l2_gradient, check_leaves, decay_weights
from wdlab.groups.group import Group, assign_groups, normalize_groups
from wdlab.groups.transforms import freeze_groups, scale_by_groups
from wdlab.optimizers import complete
from wdlab.rules import NO_BIAS_OR_NORM, decisions, normalize_rules
from wdlab.schedules import ScalarOrSchedule, check_coupling, multiplier_of, peak_value

PyTree = Any
DecayFollows = Literal["group", "base"]
# How often the group's learning_rate_scale is in kappa_t, where the decay follows the group.
_POWER = {"lr": 1, "lr2": 2, "lr2_over_peak": 1}


@answers
def grouped(
    direction: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    groups: tuple[Group, ...],
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    decay_follows: DecayFollows | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""An optimizer with parameter groups: one direction, a rate and a decay per group.

    One step is :math:`\theta \leftarrow \theta - lr_{k,t} u_t - \kappa_{k,t} \lambda d_k s \theta`,
    with "l2" :math:`\theta \leftarrow \theta - lr_{k,t} u_t(g + \lambda d_k s \theta)`. With one
    group ``Group(".*")`` it is the optimizer of :mod:`wdlab.optimizers`. Global norms inside
    ``direction`` run over the leaves that are not frozen.

    Args:
      direction: Transformation of the gradient without learning rate or sign, such as
        ``optax.scale_by_adam()`` or ``optax.trace(0.9)``.
      learning_rate: The base rate, number >= 0 or schedule.
      groups: First full match wins; a leaf in no group is an error.
      weight_decay: ``lambda`` >= 0, number or schedule.
      coupling: One of :data:`wdlab.schedules.COUPLINGS`; required unless ``weight_decay`` is 0.
      decay_follows: The rate that :math:`\kappa` is made of. "group": torch's ``param_groups``,
        timm; a group with a tenth of the rate has a tenth of the decay under "lr" (a
        hundredth under "lr2"), and one with its own schedule decays by that. "base": the group's
        rate leaves the decay alone, as big_vision's ``lr_mults`` do. Required where it matters;
        under "schedule" a ``learning_rate_scale`` makes no difference to either.
      rules: Scale ``s`` of every leaf; the group's ``decay_scale`` multiplies it.
      peak_learning_rate: Peak of the base rate, for "schedule" where it does not carry it.

    Raises:
      TypeError, ValueError: At construction for wrong numbers, a missing coupling or a missing
        ``decay_follows``; from ``init`` for a leaf in no group, decided by no rule or no float.

    Example:
      >>> import jax.numpy as jnp
      >>> groups = (Group("old/.*", frozen=True), Group("head", learning_rate_scale=10.0))
      >>> tx = grouped(optax.identity(), 0.1, groups)
      >>> params = {"old": {"w": jnp.ones(2)}, "head": jnp.ones(2)}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> updates["old"]["w"].tolist(), updates["head"].tolist()
      ([-0.0, -0.0], [-1.0, -1.0])

    Source: torch 2.13.0, torch/optim/optimizer.py (``param_groups``); big_vision 0127fb6,
    big_vision/optax.py (``lr_mults``, ``wd_mults``, frozen leaves).
    """
    groups = normalize_groups(groups)
    rules = normalize_rules(rules)
    check_number("weight_decay", weight_decay, schedule=True)
    coupling = check_coupling("grouped", coupling, learning_rate, weight_decay)
    follows = _check_follows(decay_follows, groups, coupling, learning_rate, weight_decay)
    step = scale_by_groups(learning_rate, groups)
    decay = _decay_by_groups(
        _GroupDecay(
            groups, learning_rate, weight_decay, coupling, follows, rules, peak_learning_rate
        )
    )
    parts = (decay, direction, step) if coupling == "l2" else (direction, step, decay)
    return freeze_groups(complete("grouped", optax.chain(*parts), rules, complex_ok=True), groups)


@dataclass(frozen=True)
class _GroupDecay:
    """What the decay of a group is made of, checked by :func:`grouped`."""

    groups: tuple[Group, ...]
    learning_rate: ScalarOrSchedule
    weight_decay: ScalarOrSchedule
    coupling: str
    follows: DecayFollows
    rules: PyTree
    peak_learning_rate: float | None

    def term(self, rate: ScalarOrSchedule, scales: PyTree) -> optax.GradientTransformation:
        """The ordinary decay term of the leaves with a scale, its kappa_t made of ``rate``."""
        if self.coupling == "l2":
            return add_l2_gradient(self.weight_decay, rules=scales)
        peak = self.peak_learning_rate if rate is self.learning_rate else None
        multiplier = multiplier_of(self.coupling, rate, peak)
        return decay_weights(self.weight_decay, multiplier=multiplier, rules=scales)

    def rate_of(self, group: Group) -> ScalarOrSchedule:
        """The rate of a group's kappa_t, its learning_rate_scale left to the leaf's scale."""
        matters = self.follows == "group" and self.coupling not in ("constant", "l2")
        return (
            group.learning_rate
            if matters and group.learning_rate is not None
            else (self.learning_rate)
        )

    def rates(self) -> list[ScalarOrSchedule]:
        """The distinct rates, by identity, which pickling does not keep: ask again each time."""
        return list({id(rate): rate for rate in map(self.rate_of, self.groups)}.values())

    def scales(self, params: PyTree, only: ScalarOrSchedule | None = None) -> PyTree:
        """Scales of the leaves whose kappa_t is made of ``only``, 0 for the others."""
        power = _POWER.get(self.coupling, 0) if self.follows == "group" else 0
        scales = []
        pairs = zip(assign_groups(params, self.groups), decisions(params, self.rules), strict=True)
        for (_, _, group), decision in pairs:
            scale = decision.scale * group.decay_scale * group.learning_rate_scale**power
            scales.append(scale if only is None or self.rate_of(group) is only else 0.0)
        return jax.tree.unflatten(jax.tree.structure(params), scales)


def _decay_by_groups(decay: _GroupDecay) -> optax.GradientTransformation:
    """The decay terms of all groups: one per distinct kappa_t, all with the first one's state."""
    for rate in decay.rates():
        decay.term(rate, 0.0)  # Refuses bad numbers now.

    def init_fn(params: PyTree) -> PyTree:
        check_leaves(params, decay.rules, complex_ok=True)  # Warns of the user's own rules.
        first, *others = decay.rates()
        for rate in others:  # Refuses shrinks above 1.
            decay.term(rate, decay.scales(params, rate)).init(params)
        return decay.term(first, decay.scales(params)).init(params)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        new_state = state
        for rate in decay.rates():
            scales = 0.0 if params is None else decay.scales(params, rate)
            updates, new_state = decay.term(rate, scales).update(updates, state, params)
        return updates, new_state

    return transformation(init_fn, update_fn)


def _check_follows(
    follows: DecayFollows | None,
    groups: tuple[Group, ...],
    coupling: str,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
) -> DecayFollows:
    """Returns which rate the decay follows, or says that it must be said."""
    if follows is not None and follows in get_args(DecayFollows):
        return follows
    matters = [
        group
        for group in groups
        if (coupling in _POWER and group.learning_rate_scale != 1.0)
        or (coupling in (*_POWER, "schedule") and group.learning_rate is not None)
    ]
    if follows is None and (not matters or is_zero(weight_decay)):
        return "group"
    found = "is missing" if follows is None else f"{follows!r} is unknown"
    example = f", here of Group({matters[0].pattern!r})" if matters else ""
    raise ValueError(
        f"grouped: decay_follows {found}: coupling={coupling!r} multiplies weight_decay by a "
        f"learning rate. Choices: 'group', that of the leaf's own group{example} (torch "
        f"param_groups, timm); 'base', {peak_value(learning_rate) or 'the base rate'} for all "
        "(big_vision's lr_mults do not scale its decay)."
    )
