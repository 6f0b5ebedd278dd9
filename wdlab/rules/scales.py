"""Which parameters decay, and how much: ordered rules from path to scale.

A rule is data: a regular expression that must match the whole path, and a scale (0 = exempt,
1 = full strength, any float between or beyond). The first rule that matches decides; a leaf that
no rule matches is an error. Rules are never functions, because Optax calls functions in the wrong
place: as schedules in ``inject_hyperparams``, with updates instead of params in ``masked``.
"""

import warnings
from typing import Any, NamedTuple

import jax

from wdlab._core.names import first_few
from wdlab.rules.paths import leaves_with_paths, masked_paths, nearest_path
from wdlab.rules.presets import (
    ALL,
    BERT,
    BIG_VISION,
    DEEPSPEED_CHAT,
    KERNELS_ONLY,
    MATRICES_ONLY,
    MINGPT,
    NANOGPT,
    NO_BIAS_OR_NORM,
    containing,
    looks_like_matrix,
    looks_like_norm_or_bias,
)
from wdlab.rules.rule import Rule, scale_value

__all__ = [
    "ALL",
    "BERT",
    "BIG_VISION",
    "DEEPSPEED_CHAT",
    "KERNELS_ONLY",
    "MATRICES_ONLY",
    "MINGPT",
    "NANOGPT",
    "NO_BIAS_OR_NORM",
    "Decision",
    "Rule",
    "RuleWarning",
    "check_rules",
    "containing",
    "decay_scales",
    "decisions",
    "normalize_rules",
]

PyTree = Any


class RuleWarning(UserWarning):
    """A rule that decides nothing, or rules that decay nothing, seen at ``init``."""


class Decision(NamedTuple):
    """What was decided for one leaf."""

    path: str
    leaf: Any
    rule: Rule | None  # None where the rules are a pytree of scales.
    scale: float


def normalize_rules(rules: PyTree) -> PyTree:
    """Returns ``rules`` as a tuple of :class:`Rule` or a pytree of scales, refusing functions.

    Raises:
      TypeError: If ``rules`` is or holds a function, a string, or a lone Rule.

    >>> normalize_rules([Rule(".*")])
    (Rule(pattern='.*', scale=1.0, ndim=None, optional=False),)
    """
    leaves = jax.tree.leaves(rules, is_leaf=lambda node: isinstance(node, Rule))
    if callable(rules) or any(callable(leaf) for leaf in leaves):
        raise TypeError(
            "rules must be data, got a function. Write "
            "rules=(Rule('(.*/)?bias', 0.0), Rule('.*')), or call the function yourself: "
            "rules=jax.tree_util.tree_map_with_path(fn, params)."
        )
    if isinstance(rules, Rule):
        raise TypeError(f"rules must be a tuple, got one Rule. Write rules=({rules!r},).")
    if isinstance(rules, str) or rules is None:
        raise TypeError(
            f"rules must be a tuple of Rule or a pytree of floats, got {rules!r}. "
            "Write rules=wdlab.rules.NO_BIAS_OR_NORM or rules=(Rule('.*'),)."
        )
    if isinstance(rules, tuple | list) and any(isinstance(rule, Rule) for rule in rules):
        strangers = [rule for rule in rules if not isinstance(rule, Rule)]
        if strangers:
            raise TypeError(f"rules: every entry must be a Rule, got {strangers[0]!r}.")
        return tuple(rules)
    if any(isinstance(leaf, Rule) for leaf in leaves):
        raise TypeError("rules: a pytree of rules must hold floats or bools; Rules go in a tuple.")
    return rules


def decisions(params: PyTree, rules: PyTree) -> list[Decision]:
    """Decides every leaf, in the order of ``jax.tree.leaves(params)``.

    Args:
      params: Pytree of arrays, or of anything with a shape.
      rules: Tuple of :class:`Rule`, or a pytree (a prefix is enough) of floats or bools.

    Raises:
      ValueError: If a leaf is decided by nothing, or a pytree of scales names no such leaf.

    >>> decisions({"bias": 0.0}, (Rule("bias", 0.5),))[0].scale
    0.5
    """
    rules = normalize_rules(rules)
    leaves = leaves_with_paths(params)
    if not _are_rules(rules):
        return _decisions_from_tree(params, leaves, rules)
    made, unmatched = [], []
    for path, leaf in leaves:
        ndim = len(getattr(leaf, "shape", ()))
        rule = next((rule for rule in rules if rule.matches(path, ndim)), None)
        if rule is None:
            unmatched.append(path)
        else:
            made.append(Decision(path, leaf, rule, rule.scale))
    if unmatched:
        raise ValueError(
            f"{len(unmatched)} parameter(s) match none of the {len(rules)} rules: "
            f"{first_few(unmatched)}. End the rules with Rule('.*', scale) to say what happens to "
            "the rest."
        )
    return made


def _are_rules(rules: PyTree) -> bool:
    return isinstance(rules, tuple) and len(rules) > 0 and isinstance(rules[0], Rule)


def _decisions_from_tree(
    params: PyTree, leaves: list[tuple[str, Any]], tree: PyTree
) -> list[Decision]:
    """Looks scales up by path, so that a dict serves for a FrozenDict or an nnx.State."""
    scales = dict(leaves_with_paths(_none_as_string(tree)))
    made, missing, used = [], [], set()
    for path, leaf in leaves:
        prefix = next((p for p in _prefixes(path) if p in scales), None)
        if prefix is None:
            missing.append(path)
            continue
        used.add(prefix)
        scale = scale_value(scales[prefix], f"the scale of {prefix!r} in rules")
        made.append(Decision(path, leaf, None, scale))
    masked = masked_paths(params)
    strangers = [
        entry
        for entry in scales
        if entry not in used
        and scales[entry] != _NONE
        and not any(entry in _prefixes(path) for path in masked)
    ]
    if strangers:
        near = nearest_path(strangers[0], missing or [path for path, _ in leaves])
        raise ValueError(
            f"rules: the pytree names {first_few(strangers)}, which params do not have"
            + (f"; the nearest parameter is {near!r}." if near else ".")
        )
    if missing:
        raise ValueError(
            f"rules: the pytree says nothing of {len(missing)} parameter(s): {first_few(missing)}. "
            "Give each a float, or a parent of theirs one for all."
        )
    return made


_NONE = "None"


def _none_as_string(tree: PyTree) -> PyTree:
    """Turns None, which JAX drops, into a leaf that is refused where a parameter needs a scale."""
    return jax.tree.map(
        lambda leaf: _NONE if leaf is None else leaf, tree, is_leaf=lambda node: node is None
    )


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def decay_scales(params: PyTree, rules: PyTree) -> PyTree:
    """Returns the scale ``s`` of every leaf: theta' = theta - step - kappa_t lambda s theta.

    Args:
      params: Pytree of arrays, any shapes.
      rules: Tuple of :class:`Rule` (first full match wins), or a pytree of floats or bools with
        the structure of ``params``; a prefix of it is enough.

    Returns:
      A pytree of Python floats, structured like ``params``.

    Raises:
      ValueError: If a rule or entry decides nothing it should, see :func:`decisions`.

    >>> decay_scales({"kernel": 1.0, "bias": 1.0}, NO_BIAS_OR_NORM)
    {'bias': 0.0, 'kernel': 1.0}
    """
    scales = [decision.scale for decision in decisions(params, rules)]
    return jax.tree.unflatten(jax.tree.structure(params), scales)


def _unmatched(made: list[Decision], rules: PyTree) -> list[Rule]:
    """Rules that decided no leaf, although they had to."""
    if not _are_rules(rules):
        return []
    used = {id(decision.rule) for decision in made}
    return [
        rule
        for rule in rules
        if id(rule) not in used and not rule.optional and rule.pattern != ".*"
    ]


def check_rules(params: PyTree, rules: PyTree, *, allow_uniform: bool = False) -> None:
    """Raises unless every rule decides a leaf: the guard against a misspelt pattern.

    Call it once, on the whole model. A transformation cannot, since inside ``optax.partition`` it
    sees its own part of the tree only; there ``init`` warns (:class:`RuleWarning`) instead.

    Args:
      params: The whole model's parameters.
      rules: As in :func:`decay_scales`.
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
    made = decisions(params, rules)
    for rule in _unmatched(made, rules):
        raise ValueError(_unmatched_message(rule, [decision.path for decision in made]))
    entries = rules if _are_rules(rules) else jax.tree.leaves(rules)
    decayed = [decision for decision in made if decision.scale > 0]
    if made and not allow_uniform and len(entries) > 1 and len(decayed) in (0, len(made)):
        what = "every parameter decays" if decayed else "no parameter decays"
        raise ValueError(
            f"Under these rules {what} ({first_few([d.path for d in made])}). If that is meant, "
            "pass allow_uniform=True or say it with one rule, rules=(Rule('.*', scale),)."
        )
    if decayed and not allow_uniform and _looks_inverted(made):
        raise ValueError(
            "Under these rules only biases and norms decay "
            f"({first_few([d.path for d in decayed])}): a scale of 1 means decay, 0 means exempt. "
            "Pass allow_uniform=True if that is meant."
        )


def _unmatched_message(rule: Rule, paths: list[str]) -> str:
    near = nearest_path(rule.pattern, paths)
    return (
        f"Rule({rule.pattern!r}, {rule.scale:g}) decides no parameter; "
        f"the nearest path is {near!r}. A pattern must match the whole path (start with '(.*/)?' "
        "for any depth), and an earlier rule must not take its leaves. Rule(..., optional=True) "
        "may match nothing."
    )


def _looks_inverted(made: list[Decision]) -> bool:
    small = [d for d in made if looks_like_norm_or_bias(d.path)]
    large = [d for d in made if looks_like_matrix(d.path)]
    if not small or not large:
        return False
    return all(d.scale > 0 for d in small) and not any(d.scale > 0 for d in large)


def warn_if_idle(params: PyTree, rules: PyTree) -> None:
    """Warns at ``init`` of rules that decide nothing, unless Optax has masked a part away.

    >>> warn_if_idle({"bias": 0.0, "kernel": 0.0}, NO_BIAS_OR_NORM)
    """
    made = decisions(params, rules)
    if not made or masked_paths(params):
        return
    paths = [decision.path for decision in made]
    for rule in _unmatched(made, normalize_rules(rules)):
        warnings.warn(_unmatched_message(rule, paths), RuleWarning, stacklevel=3)
    entries = rules if _are_rules(rules) else jax.tree.leaves(rules)
    if len(entries) > 1 and not any(decision.scale > 0 for decision in made):
        warnings.warn(
            f"No parameter decays under these rules ({first_few(paths)}).",
            RuleWarning,
            stacklevel=3,
        )
