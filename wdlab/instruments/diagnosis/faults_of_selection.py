"""Faults of which leaves decay: against what was intended, against the roles of the others."""

import re

import numpy as np

from wdlab._core.names import first_few
from wdlab.instruments.diagnosis.examination import Examination, LeafFacts
from wdlab.instruments.diagnosis.finding import Finding, of_leaves

_RULES = "rules=wdlab.rules.NO_BIAS_OR_NORM decays matrices and embeddings alone"


def _not_as_intended(run: Examination) -> list[Finding]:
    """Leaves that decay though the intended rules exempt them, and the other way round."""
    if run.intended is None:
        return []
    wanted = run.intended
    more = [x for x in run.leaves if x.decays and wanted[x.path] == 0]
    less = [x for x in run.leaves if not x.decays and wanted[x.path] > 0]
    advice = "write the intended rules into the optimizer: wdlab.optimizers.adamw(..., rules=rules)"
    return [
        *of_leaves("not_as_intended", "error", less, "{} should decay and do not", advice),
        *of_leaves("not_as_intended", "error", more, "{} should not decay and do", advice),
    ]


def _inverted(run: Examination) -> list[Finding]:
    """Biases and norms decay, and the matrices do not: a mask the wrong way round."""
    vectors, matrices = _by_role(run)
    decaying, moving = [x for x in vectors if x.decays], [x for x in matrices if x.moves]
    if not decaying or not moving or any(x.decays for x in matrices):
        return []
    text = "{} decay and no matrix does: is the mask the wrong way round?"
    advice = f"in Optax True means decay; {_RULES}"
    if all(_other(x, y) for x in decaying for y in moving):
        text = (
            "{} decay and no matrix does; they have an optimizer of their own (in MARS 1-D leaves "
            "take the decay of AdamW, whatever the matrices' is)"
        )
        advice = f"give both one number; {_RULES}"
    return of_leaves("inverted", "error", decaying, text, advice)


def _some_of_a_role(run: Examination) -> list[Finding]:
    """Leaves that decay against others of their role: a mask by name or rank that misses them."""
    found = []
    vectors, matrices = _by_role(run)
    if any(x.decays for x in matrices):
        decaying = [x for x in vectors if x.decays and x.moves]
        exempt = [x for x in vectors if not x.decays and x.moves]
        if decaying and exempt:
            text = (
                "{} decay, while other biases and norms ("
                + first_few([x.path for x in exempt], 2)
                + ") are exempt"
            )
            advice = f"a pattern that misses them, or a rule by rank? {_RULES}"
            found += of_leaves("some_of_a_role", "warning", decaying, text, advice)
        missed = [x for x in matrices if not x.decays and x.moves and not _apart(x, run)]
        if missed:
            text = "{} do not decay, while other matrices do"
            advice = "wdlab.check_rules(params, rules) names a pattern that matches nothing"
            found += of_leaves("some_of_a_role", "warning", missed, text, advice)
    return found


def _one_of_its_kind(run: Examination) -> list[Finding]:
    """Leaves of one name in several blocks, of which some decay and others do not."""
    families: dict[str, list[LeafFacts]] = {}
    for leaf in run.leaves:
        if leaf.moves:
            families.setdefault(re.sub(r"\d+", "N", leaf.path), []).append(leaf)
    odd = []
    for family in families.values():
        sides = [x for x in family if x.decays], [x for x in family if not x.decays]
        few = min(sides, key=len)
        if few and len(family) > 2 and len({x.shape for x in family}) == 1:
            odd += few
    text = "{} are treated otherwise than the same leaf of other blocks"
    advice = "is a pattern such as h_1.* meant for h_10 to h_19 too? wdlab.check_rules tells"
    return of_leaves("one_of_its_kind", "warning", odd, text, advice)


def _embeddings_alone(run: Examination) -> list[Finding]:
    """Embeddings that do not decay where matrices do: some recipes mean that, others do not."""
    _, matrices = _by_role(run)
    exempt = [x for x in run.leaves if x.role.startswith("embedding") and not x.decays and x.moves]
    if not any(x.decays for x in matrices):
        return []
    text = "{} (embeddings) do not decay, matrices do: nanoGPT and BERT decay them, minGPT does not"
    return of_leaves("embeddings_alone", "note", exempt, text, "say it: rules=...")


def _everything_decays(run: Examination) -> list[Finding]:
    """Biases and norms decay with all others: the default of Optax and torch."""
    vectors, matrices = _by_role(run)
    if not vectors or not all(x.decays for x in (*vectors, *matrices)) or not matrices:
        return []
    text = "everything decays, biases and norms as well ({}): most recipes exempt them"
    return of_leaves("everything_decays", "note", vectors, text, _RULES)


def _statistics(run: Examination) -> list[Finding]:
    """Linen's running statistics among the parameters: the whole of ``model.init`` was given."""
    found = [x for x in run.leaves if x.path.startswith("batch_stats/") and (x.decays or x.moves)]
    text = "{} are running statistics of Linen and no parameters, and the optimizer updates them"
    advice = "give variables['params'] to tx.init, and to the doctor"
    return of_leaves("statistics", "warning", found, text, advice)


def _frozen_decays(run: Examination) -> list[Finding]:
    """Leaves that no gradient moves and that the decay takes to zero."""
    frozen = [x for x in run.leaves if x.decays and not x.moves and x.peak]
    if "MultiStepsState" in run.parts:
        return []  # Looked at by decays_between_updates.
    text = "{} are frozen, no gradient moves them, and still they decay"
    advice = "wdlab.decay.freeze(rules) as the last of the chain stops both"
    return of_leaves("frozen_decays", "error", frozen, text, advice)


def _unused_decays(run: Examination) -> list[Finding]:
    """Leaves that the loss does not use: only the decay moves them."""
    unused = [x for x in run.leaves if "unused" in x.role or "no gradient" in x.role]
    text = "the loss does not use {}: only the decay moves them"
    return [
        *of_leaves("unused_decays", "warning", [x for x in unused if x.decays], text,
                   "take them out of the parameters, or exempt them"),
        *of_leaves("unused_decays", "note", [x for x in unused if not x.decays],
                   "the loss does not use {}", "take them out of the parameters"),
    ]  # fmt: skip


def _frozen(run: Examination) -> list[Finding]:
    """Leaves that nothing updates."""
    still = [x for x in run.leaves if not x.moves and not x.decays]
    text = "nothing updates {}"
    every = len(still) == len(run.leaves)
    advice = "is that meant? Check the labels of multi_transform and the masks"
    return of_leaves("frozen", "error" if every else "note", still, text, advice)


def _nothing_decays(run: Examination) -> list[Finding]:
    """No leaf decays; with a masked term in the chain its mask matches nothing."""
    if any(x.decays or not x.moves or x.coupling == "unknown" for x in run.leaves):
        return []
    if not run.leaves:
        return []
    idle = run.parts.count("MaskedState") == 1 and "PartitionState" not in run.parts
    if idle and "EmptyState" in run.parts:  # optax.lars has two.
        text = "nothing decays, and the chain has a masked part: does its mask match no leaf?"
        advice = "wdlab.check_rules(params, rules) names the pattern that matches nothing"
        return [Finding("nothing_decays", "warning", run.leaves[0].path, text, advice)]
    return [Finding("nothing_decays", "note", "", "nothing decays", "")]


def _by_role(run: Examination) -> tuple[list[LeafFacts], list[LeafFacts]]:
    """Biases and norms, and weights of products, as far as it is known whether they decay."""
    known = [x for x in run.leaves if x.coupling != "unknown"]
    return [x for x in known if x.exempt_role], [x for x in known if x.decayed_role]


def _apart(leaf: LeafFacts, run: Examination) -> bool:
    """Whether a matrix is stepped in another way than those that decay: a group of its own."""
    others = [x for x in run.leaves if x.decayed_role and x.decays]
    return leaf.role.startswith("head") or all(
        leaf.kinds != x.kinds and _other(leaf, x) for x in others
    )


def _other(one: LeafFacts, two: LeafFacts) -> bool:
    return not np.allclose(one.response, two.response, rtol=1e-6, equal_nan=True)


CHECKS = (
    _not_as_intended,
    _inverted,
    _frozen_decays,
    _statistics,
    _some_of_a_role,
    _one_of_its_kind,
    _unused_decays,
    _nothing_decays,
    _frozen,
    _embeddings_alone,
    _everything_decays,
)
