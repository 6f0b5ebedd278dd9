"""Faults of how much decays and when: its sign, its size, what it goes on doing after the steps."""

import numpy as np

from wdlab._core.dtypes import lost_to_rounding
from wdlab.instruments.diagnosis.examination import Examination, LeafFacts
from wdlab.instruments.diagnosis.finding import Finding, of_leaves
from wdlab.instruments.diagnosis.nearest_convention import Match, nearest_convention
from wdlab.instruments.plans import shares

_FORGETS = 100  # Timescales in a run, above which nothing of it is left but the end.
_NOTHING = 1e-3  # Of an undriven weight, that the run takes: no decay to speak of.
_OPTAX_DEFAULT = 1e-4
_RENEWED = 1000  # Steps within which what an optimizer does by the way, it does once.
_STRONGEST = 10.0  # As torch.AdamW counts it: what no recipe asks for.


def _weights_grow(run: Examination) -> list[Finding]:
    """A decay with the wrong sign."""
    grow = [leaf for leaf in run.leaves if _grows(leaf)]
    text = "the decay of {} has the wrong sign: without a gradient the weights grow"
    advice = (
        "add_decayed_weights goes before scale_by_learning_rate, which turns the sign; behind it "
        "write wdlab.decay_weights(weight_decay, multiplier=learning_rate)"
    )
    return of_leaves("weights_grow", "error", grow, text, advice)


def _forgets_the_run(run: Examination) -> list[Finding]:
    """A decay so strong that the weights remember a few steps alone: a number of another unit."""
    # Where gradients take part, as in a trust ratio, the share without one is no strength.
    strong = [x for x in run.leaves if x.coupling == "decoupled" and x.peak]
    strong = [x for x in strong if x.timescale * _FORGETS < run.steps]
    strong = [x for x in strong if x.moves and _mean(x) * run.steps > _FORGETS]
    if not strong:
        return []
    worst = max(strong, key=lambda leaf: leaf.peak)
    match = nearest_convention(run, worst)
    as_torch = ""
    if match is not None and match.exact and match.learning_rate:
        as_torch = f" (as torch.AdamW counts it, weight_decay={_strength(run, worst, match):.3g})"
    text = (
        f"the decay of {{}} takes {worst.peak:.3g} of a weight in each step: it remembers "
        f"{worst.timescale:,.0f} of {run.steps:,} steps{as_torch}"
    )
    advice = (
        "a number from another coupling? wdlab.convert(weight_decay, learning_rate=..., "
        "source='torch.AdamW', target=...) gives the one of the same strength"
    )
    severity = "error" if worst.timescale * 10 * _FORGETS < run.steps else "warning"
    return of_leaves("forgets_the_run", severity, strong, text, advice)


def _does_nothing(run: Examination) -> list[Finding]:
    """A decay that takes less than a thousandth of an undriven weight in the whole run."""
    weak = [x for x in run.leaves if x.peak > 0 and x.total_shrink < _NOTHING and x.moves]
    weak = [leaf for leaf in weak if not _grows(leaf)]
    if not weak:
        return []
    strongest = max(weak, key=lambda leaf: leaf.total_shrink)
    match = nearest_convention(run, strongest)
    known = match is not None and match.exact and match.learning_rate
    strength = _strength(run, strongest, match) if known and match else 0.0
    default = strength and abs(strength / _OPTAX_DEFAULT - 1) < 0.01
    text = (
        f"the decay of {{}} takes {strongest.total_shrink:.2g} of a weight in the whole run: it "
        "does next to nothing" + (" (1e-4 is optax.adamw's default)" if default else "")
    )
    wanted = 3 / run.steps / strongest.peak * strength
    advice = (
        f"for a timescale of a third of the run let a step take {3 / run.steps:.2g} of a weight"
        + (f": weight_decay={wanted:.2g}" if strength else "")
        + ", or write weight_decay=0.0"
    )
    if wanted > _STRONGEST or 3 / run.steps >= 1:
        advice = "at this learning rate no usual decay acts in so few steps: weight_decay=0.0"
    severity = "note" if default or not strength else "warning"
    return of_leaves("does_nothing", severity, weak, text, advice)


def _goes_on_alone(run: Examination) -> list[Finding]:
    """A decay that goes on where the schedule has ended and gradients do nothing any more."""
    found = []
    for leaf in run.leaves:
        alone = (leaf.response == 0) & (np.nan_to_num(leaf.shrink) > 0)
        last = leaf.steps >= leaf.steps[-1] if not alone[-1] else _tail(alone)
        lost = np.diff(leaf.steps, append=leaf.steps[-1] + 1)[alone & last].sum()
        start = int(leaf.steps[np.argmax(last)])
        if leaf.response.any() and alone[-1] and lost > 0.01 * run.steps:
            found += [] if _comes_back(run, leaf, start) else [(leaf, start)]
    if not found:
        return []
    start = min(step for _, step in found)
    text = (
        f"from step {start:,} of {run.steps:,} on the learning rate is 0 and the decay of {{}} is "
        "not: the weights only shrink"
    )
    advice = (
        f"end the run at step {start:,}, or let the decay follow the schedule: "
        "wdlab.decay_weights(weight_decay, multiplier=wdlab.schedule_multiplier(learning_rate))"
    )
    return of_leaves("goes_on_alone", "warning", [leaf for leaf, _ in found], text, advice)


def _lost_in_16_bits(run: Examination) -> list[Finding]:
    """Weights of 16 bits that are rounded back to where they were."""
    leaves = [x for x in run.leaves if x.in_16_bits and x.peak and not x.follows_copy]
    found = [(x, said) for x in leaves if (said := lost_to_rounding(x.peak, x.dtype))]
    wholly = [x for x, said in found if not said.startswith("partly")]
    partly = [x for x, said in found if said.startswith("partly")]
    advice = "wdlab.training.kahan(tx), or keep the weights in float32 and cast them in the model"
    text = "the decay of {} is lost: in 16 bits w - {peak:.2g} w rounds to w, so no weight shrinks"
    part = "the decay of {} is lost in part: some weights of 16 bits round back to where they were"
    peak = max((x.peak for x in wholly), default=0.0)
    return [
        *of_leaves("lost_in_16_bits", "warning", wholly, text.replace("{peak:.2g}", f"{peak:.2g}"),
                   advice),
        *of_leaves("lost_in_16_bits", "note", partly, part, advice),
    ]  # fmt: skip


def _another_rate(run: Examination) -> list[Finding]:
    """A learning rate that is another than the one given as ``lr``."""
    if run.learning_rate is None:
        return []
    found, numbers = [], ""
    for leaf in run.leaves:
        match = nearest_convention(run, leaf) if leaf.moves else None
        if match is None or not match.exact:
            continue
        step = run.busiest_step(leaf)
        rate = run.learning_rate
        wanted = float(rate(step) if callable(rate) else rate)
        if abs(match.learning_rate - wanted) > 0.01 * wanted:
            found.append(leaf)
            numbers = numbers or f"{match.learning_rate:.3g} at step {step:,}, not {wanted:.3g}"
    text = f"the learning rate of {{}} is {numbers}"
    advice = "is there a second scale in the chain, or another schedule?"
    return of_leaves("another_rate", "warning", found, text, advice)


def _strength(run: Examination, leaf: LeafFacts, match: Match) -> float:
    """The weight decay as torch.AdamW counts it."""
    return leaf.shrink_at(run.busiest_step(leaf)) / match.learning_rate


def _grows(leaf: LeafFacts) -> bool:
    return bool(np.any(np.nan_to_num(leaf.shrink) < 0))


def _mean(leaf: LeafFacts) -> float:
    lengths = np.diff(leaf.steps, append=leaf.steps[-1] + 1)
    return float(np.sum(np.nan_to_num(leaf.shrink) * lengths) / lengths.sum())


def _comes_back(run: Examination, leaf: LeafFacts, start: int) -> bool:
    """Whether a gradient does something soon after, as where GaLore makes its next projection."""
    soon = start + np.arange(_RENEWED)
    return run.traced is not None and bool(np.any(shares(run.traced, leaf.kinds[:1], soon)[0][2]))


def _tail(flags: np.ndarray) -> np.ndarray:
    """Which of the flags are followed by no other than set ones."""
    return np.cumprod(flags[::-1])[::-1].astype(bool)


CHECKS = (
    _weights_grow,
    _forgets_the_run,
    _goes_on_alone,
    _lost_in_16_bits,
    _another_rate,
    _does_nothing,
)
