"""Faults of where the decay stands in the chain, and of the wrappers around it."""

import math
import re

import numpy as np

from wdlab._core.dtypes import is_16_bit
from wdlab.instruments.diagnosis.examination import Examination, LeafFacts
from wdlab.instruments.diagnosis.finding import Finding, of_leaves
from wdlab.instruments.diagnosis.nearest_convention import nearest_convention

_BEHIND = "wdlab.decay_weights(weight_decay, multiplier=learning_rate) as the last of the chain"
# Such as the loss as a function (L-BFGS, Sophia), or two copies of the parameters (lookahead).
_ASKS_MORE = r"missing \d+ required|must be provided|attribute '(fast|slow)'|not consumed by"


def _l2_under_a_preconditioner(run: Examination) -> list[Finding]:
    """L2 in the gradient of an optimizer that divides gradients by their own size."""
    found = [x for x in run.leaves if x.coupling == "gradient" and _divided_out(run, x)]
    text = (
        "the decay of {} is part of the gradient and the optimizer divides it by the gradient's "
        "size: weights with large gradients hardly decay (torch.Adam's weight_decay)"
    )
    return of_leaves("l2_under_a_preconditioner", "warning", found, text, _BEHIND)


def _clipped_with_the_step(run: Examination) -> list[Finding]:
    """A clip behind the decay: large gradients shrink the decay."""
    found = [
        x
        for x in run.leaves
        if (x.coupling == "gradient" or x.peak) and not _divided_out(run, x) and _clipped(run, x)
    ]
    # StableAdamW makes step and decay smaller together: a convention is no fault.
    found = [x for x in found if (match := nearest_convention(run, x)) is None or not match.exact]
    text = "the decay of {} is clipped together with the step: large gradients make it smaller"
    advice = f"clip first: optax.chain(optax.clip_by_global_norm(1.0), optimizer), or {_BEHIND}"
    return of_leaves("clipped_with_the_step", "warning", found, text, advice)


def _decays_twice(run: Examination) -> list[Finding]:
    """Two decay terms on one leaf."""
    twice = [x for x in run.leaves if x.terms > 1 and x.decays and not x.follows_copy]
    twice = [x for x in twice if "ScheduleFreeState" not in run.parts]
    count = max((x.terms for x in twice), default=0)
    text = f"{{}} decay {count} times in each step: the chain has {count} decay terms"
    advice = "leave one: optax.adamw(..., weight_decay=0.0) beside another decay"
    return of_leaves("decays_twice", "warning", twice, text, advice)


def _decays_between_updates(run: Examination) -> list[Finding]:
    """A decay outside MultiSteps: it acts at each of the k calls, the step at one of them."""
    if "MultiStepsState" not in run.parts or run.traced is None or run.traced.calls > 1:
        return []
    # Measured from one call to the next, the step of the k-th is not seen.
    found = [x for x in run.leaves if x.peak and not np.any(np.nan_to_num(x.response, nan=1.0))]
    text = (
        "the decay of {} stands outside MultiSteps: it acts at every call, the step at one of "
        "several: the decay is as many times stronger"
    )
    advice = "put the decay into the optimizer that MultiSteps is given"
    return of_leaves("decays_between_updates", "error", found, text, advice)


def _mask_under_injection(run: Examination) -> list[Finding]:
    """A callable mask that inject_hyperparams has taken for a schedule."""
    masks = [name for name in run.injected if "mask" in name]
    if not masks:
        return []
    text = (
        f"inject_hyperparams has taken {masks[0]} for a schedule: the function is called with the "
        "step and not with the parameters, so the mask does not say what decays"
    )
    advice = (
        f"optax.inject_hyperparams(..., static_args={masks[0]!r}), or wdlab.inject_hyperparams "
        "with rules="
    )
    return [Finding("mask_under_injection", "error", "", text, advice)]


def _numbers_in_16_bits(run: Examination) -> list[Finding]:
    """Injected hyperparameters in the parameters' 16 bits: b2 = 0.999 is 1 in bfloat16."""
    narrow = [name for name, x in run.injected.items() if hasattr(x, "dtype") and is_16_bit(x)]
    if not narrow:
        return []
    text = (
        f"inject_hyperparams keeps {', '.join(sorted(narrow))} in the parameters' 16 bits: in "
        "bfloat16 0.999 is 1 and a learning rate has two digits"
    )
    advice = "wdlab.inject_hyperparams keeps them in float32"
    return [Finding("numbers_in_16_bits", "error", "", text, advice)]


def _schedule_free_at_y(run: Examination) -> list[Finding]:
    """Schedule-free's wrapper decays what gradients are taken at, and subtracts it from another."""
    if "ScheduleFreeState" not in run.parts:
        return []
    found = [x for x in run.leaves if x.peak]
    text = (
        "under schedule_free the decay of {} is measured at y and subtracted from z: what is "
        "evaluated, x, is an average that shrinks otherwise than the number says"
    )
    advice = "compare at the weights of schedule_free_eval_params; read weight_decay as one of y"
    return of_leaves("schedule_free_at_y", "warning", found, text, advice)


def _two_momenta(run: Examination) -> list[Finding]:
    """Muon's other half: optax.contrib.muon makes it NAdamW, and hands it no mask."""
    if "MuonState" not in run.parts:
        return []
    others = [x for x in run.leaves if x.moves and _is_nadam(run, x)]
    decaying = [x for x in others if x.decays and x.exempt_role]
    advice = (
        "wdlab.optimizers.muon has AdamW for the rest and one set of rules for both; or "
        "optax.partition with optax.adamw"
    )
    text = "the leaves that Muon leaves out ({}) are stepped by NAdamW, with Nesterov's momentum"
    more = "the NAdamW half of Muon decays {} too: it is given no mask"
    severity = "warning" if any(x.decays for x in others) else "note"
    return [
        *of_leaves("two_momenta", severity, others, text, advice),
        *of_leaves("two_momenta", "warning", decaying, more, advice),
    ]


def _state_changes(run: Examination) -> list[Finding]:
    """A state whose arrays change dtype or shape: compiled twice, and donation is refused."""
    if not run.state_changes:
        return []
    text = (
        f"the optimizer's state changes at the first update ({run.state_changes[0]}): the step is "
        "compiled twice and its donated buffers cannot be used"
    )
    advice = "wdlab.init_opt_state(tx, params) with the same dtypes, and wdlab.make_update(tx)"
    return [Finding("state_changes", "warning", "", text, advice)]


def _not_measured(run: Examination) -> list[Finding]:
    """What cannot be known of this chain."""
    if run.traced is None and re.search(_ASKS_MORE, run.reason):
        text = (
            "nothing is measured: the update asks for more than gradients, state and parameters, "
            f"and the doctor has no more ({run.reason})"
        )
        copies = "optax.lookahead: look at the optimizer inside it, and at its own decay alone"
        return [Finding("not_measured", "note", "", text, copies * ("fast" in run.reason))]
    if run.traced is None:
        text = f"the update cannot be traced on these parameters: {run.reason}"
        return [Finding("not_measured", "warning", "", text, "pass the parameters as in training")]
    unknown = [x for x in run.leaves if x.coupling == "unknown" or np.isnan(x.shrink).all()]
    text = "what decays of {} cannot be measured: the update looks at more than sizes"
    return of_leaves("not_measured", "note", [x for x in unknown if not x.peak], text)


def _divided_out(run: Examination, leaf: LeafFacts) -> bool:
    """Whether without a gradient weights of two sizes shrink alike in absolute terms."""
    step = run.busiest_step(leaf)
    drift = run.update(leaf, 0.0, 0.0, step)  # Yogi's accumulators do not start at 0.
    small, large = (run.update(leaf, w, 0.0, step) - drift for w in (1e-3, 1e-2))
    known = math.isfinite(small) and math.isfinite(large) and small != 0
    return known and leaf.coupling == "gradient" and abs(large / small) < 5


def _clipped(run: Examination, leaf: LeafFacts) -> bool:
    """Whether the decay, what both signs of a gradient share, is smaller for large gradients."""

    def even(weight: float, step: int) -> float:
        return sum(run.update(leaf, weight, g, step) for g in (1e6, -1e6)) / 2

    for step in (run.busiest_step(leaf), run.steps // 4):
        still, driven, larger = (
            run.update(leaf, 1e-3, 0.0, step),
            even(1e-3, step),
            even(1e-2, step),
        )
        size, other = (abs(run.update(leaf, 1e-3, g, step)) for g in (1e6, 1e7))
        # Of a clip all large steps have one size; those of a step that looks at the loss have not.
        known = math.isfinite(still + driven + larger) and abs(still) > 1e-9 * size > 0
        known = known and abs(other / size - 1) < 0.1
        # A trust ratio, as LAMB's, grows with the weights: it is another thing.
        clip = abs(larger) < 30 * abs(driven)
        if known and clip and abs(driven) < 0.5 * abs(still) and run.is_normalized(leaf):
            return True
    return False


def _is_nadam(run: Examination, leaf: LeafFacts) -> bool:
    match = nearest_convention(run, leaf)
    return match is not None and match.exact and "nesterov" in match.arguments


CHECKS = (
    _decays_between_updates,
    _mask_under_injection,
    _numbers_in_16_bits,
    _l2_under_a_preconditioner,
    _clipped_with_the_step,
    _decays_twice,
    _schedule_free_at_y,
    _two_momenta,
    _state_changes,
    _not_measured,
)
