"""Whether rules fit a model: none is idle, out of order, or decides by a vague name."""

import warnings
from typing import Any

import jax
import numpy as np

from wdlab._core.names import first_few, printable
from wdlab.rules.decisions import Decision, are_rules, decisions, normalize_rules
from wdlab.rules.paths import masked_paths, nearest_path, parameters
from wdlab.rules.presets import (
    NO_BIAS_OR_NORM,
    doubt,
    looks_like_matrix,
    looks_like_norm_or_bias,
)
from wdlab.rules.rule import Rule

PyTree = Any


class RuleWarning(UserWarning):
    """A rule that decides nothing, or rules that decay nothing, seen at ``init``."""


def _unmatched(decided: list[Decision], rules: PyTree) -> list[Rule]:
    """Rules that decided no leaf, although they had to."""
    if not are_rules(rules):
        return []
    used = {id(decision.rule) for decision in decided}
    return [
        rule
        for rule in rules
        if id(rule) not in used and not rule.optional and rule.pattern != ".*"
    ]


def check_rules(
    params: PyTree, rules: PyTree, *, allow_uniform: bool = False, wrt: Any = None
) -> None:
    """Raises unless every rule decides a leaf: the guard against a misspelt pattern.

    Warns (:class:`RuleWarning`) of leaves whose role is open after their name and rank. Call it
    once, on the whole model. A transformation cannot, since inside ``optax.partition`` it sees its
    own part of the tree only; there ``init`` warns instead.

    Args:
      params: The whole model's parameters, or an nnx model.
      rules: As in :func:`decay_scales`.
      wrt: As in :func:`decay_scales`.
      allow_uniform: Say that it is meant when no leaf decays, or all do, under several rules. A
        single ``Rule('.*', scale)``, a single number, and ``rules.ALL`` say so themselves.

    Raises:
      ValueError: If a rule decides no leaf, every leaf or none decays, or all biases and norms
        decay while no matrix does.

    >>> check_rules({"bias": 0.0, "kernel": 0.0}, (Rule("bais", 0.0), Rule(".*")))
    Traceback (most recent call last):
    ValueError: Rule('bais', 0.0) decides no parameter; the nearest path is 'bias'. ...
    """
    rules = normalize_rules(rules)
    decided = decisions(parameters(params, wrt), rules)
    for rule in _unmatched(decided, rules):
        raise ValueError(_unmatched_message(rule, [decision.path for decision in decided]))
    entries = rules if are_rules(rules) else jax.tree.leaves(rules)
    decayed = [decision for decision in decided if decision.scale > 0]
    if decided and not allow_uniform and len(entries) > 1 and len(decayed) in (0, len(decided)):
        what = "every parameter decays" if decayed else "no parameter decays"
        raise ValueError(
            f"Under these rules {what} ({first_few([d.path for d in decided])}). If that is meant, "
            "pass allow_uniform=True or say it with one rule, rules=(Rule('.*', scale),)."
        )
    if decayed and not allow_uniform and _looks_inverted(decided):
        raise ValueError(
            f"Under these rules only biases and norms decay: {first_few([d.path for d in decayed])}"
            ". A scale of 1 means decay, 0 means exempt. If that is meant, pass allow_uniform=True."
        )
    for path, text in doubts(decided, rules).items():
        warnings.warn(f"{printable(path)} {text}.", RuleWarning, stacklevel=2)


def doubts(decided: list[Decision], rules: PyTree) -> dict[str, str]:
    """What names leave open, by path, where :data:`NO_BIAS_OR_NORM` decided by name and rank.

    >>> list(doubts(decisions({"expert_b": np.ones((2, 3))}, NO_BIAS_OR_NORM), NO_BIAS_OR_NORM))
    ['expert_b']
    """
    if not are_rules(rules) or not set(NO_BIAS_OR_NORM) <= set(rules):
        return {}
    open_ = {
        d.path: doubt(d.path, np.ndim(d.leaf), d.scale)
        for d in decided
        if d.rule in NO_BIAS_OR_NORM
    }
    return {path: text for path, text in open_.items() if text}


def _unmatched_message(rule: Rule, paths: list[str]) -> str:
    near = nearest_path(rule.pattern, paths)
    return (
        f"Rule({rule.pattern!r}, {rule.scale:g}) decides no parameter; "
        f"the nearest path is {near!r}. A pattern must match the whole path (start with '(.*/)?' "
        "for any depth), and an earlier rule must not take its leaves. Rule(..., optional=True) "
        "may match nothing."
    )


def _looks_inverted(decided: list[Decision]) -> bool:
    small = [d for d in decided if looks_like_norm_or_bias(d.path, np.ndim(d.leaf))]
    large = [d for d in decided if looks_like_matrix(d.path, np.ndim(d.leaf))]
    if not small or not large:
        return False
    return all(d.scale > 0 for d in small) and not any(d.scale > 0 for d in large)


def warn_if_idle(params: PyTree, rules: PyTree) -> None:
    """Warns at ``init`` of rules that decide nothing, unless Optax has masked a part away.

    >>> warn_if_idle({"bias": 0.0, "kernel": 0.0}, NO_BIAS_OR_NORM)
    """
    decided = decisions(params, rules)
    if not decided or masked_paths(params):
        return
    paths = [decision.path for decision in decided]
    for rule in _unmatched(decided, normalize_rules(rules)):
        warnings.warn(_unmatched_message(rule, paths), RuleWarning, stacklevel=3)
    entries = rules if are_rules(rules) else jax.tree.leaves(rules)
    if len(entries) > 1 and not any(decision.scale > 0 for decision in decided):
        warnings.warn(
            f"No parameter decays under these rules ({first_few(paths)}).",
            RuleWarning,
            stacklevel=3,
        )
