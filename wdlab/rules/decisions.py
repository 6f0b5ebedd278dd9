"""Which parameters decay, and how much: ordered rules from path to scale.

A rule is data: a regular expression that must match the whole path, and a scale (0 = exempt,
1 = full strength, any float between or beyond). The first rule that matches decides; a leaf that
no rule matches is an error. Rules are never functions, because Optax calls functions in the wrong
place: as schedules in ``inject_hyperparams``, with updates instead of params in ``masked``.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from wdlab._core.names import first_few
from wdlab.rules.paths import (
    leaves_with_paths,
    masked_paths,
    nearest_path,
    parameters,
)
from wdlab.rules.rule import Rule, scale_value

PyTree = Any


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
    (Rule(pattern='.*', scale=1.0, ndim=None, optional=False, role=None),)
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
    if isinstance(rules, tuple | list) and any(_is_rule_or_names_one(rule) for rule in rules):
        others = [rule for rule in rules if not isinstance(rule, Rule)]
        if others:
            words = (*jax.tree.leaves(others[0]), "bias")
            example = next(word for word in words if isinstance(word, str))
            raise TypeError(
                f"rules: every entry must be a Rule, got {others[0]!r}. To exempt what is called "
                f"{example!r}, write rules=(Rule('(.*/)?{example}', 0.0), Rule('.*'))."
            )
        return tuple(rules)
    if any(isinstance(leaf, Rule) for leaf in leaves):
        raise TypeError("rules: a pytree of rules must hold floats or bools; Rules go in a tuple.")
    return rules


def _is_rule_or_names_one(rule: Any) -> bool:
    """A Rule, its pattern alone, or the pair ``("bias", 0.0)`` that is meant as one."""
    pair = isinstance(rule, tuple | list) and rule[:1] and isinstance(rule[0], str)
    return isinstance(rule, Rule | str) or bool(pair)


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
    if not leaves:  # optax.tree.map_params asks for the state of no parameters.
        return []
    if not are_rules(rules):
        return _decisions_from_tree(params, leaves, rules)
    decided, unmatched = [], []
    for path, leaf in leaves:
        rule = next((rule for rule in rules if rule.matches(path, np.ndim(leaf))), None)
        if rule is None:
            unmatched.append(path)
        else:
            decided.append(Decision(path, leaf, rule, rule.scale))
    if unmatched:
        raise ValueError(
            f"{len(unmatched)} parameter(s) match none of the {len(rules)} rules: "
            f"{first_few(unmatched)}. End the rules with Rule('.*', scale) to say what happens to "
            "the rest."
        )
    return decided


def are_rules(rules: PyTree) -> bool:
    """Whether normalized rules are a tuple of :class:`Rule`, and no pytree of scales.

    >>> are_rules((Rule(".*"),)), are_rules({"kernel": 1.0})
    (True, False)
    """
    return isinstance(rules, tuple) and len(rules) > 0 and isinstance(rules[0], Rule)


def _decisions_from_tree(
    params: PyTree, leaves: list[tuple[str, Any]], tree: PyTree
) -> list[Decision]:
    """Looks scales up by path, so that a dict serves for a FrozenDict or an nnx.State."""
    scales = dict(leaves_with_paths(_none_as_string(tree)))
    decided, missing, used = [], [], set()
    for path, leaf in leaves:
        prefix = next((p for p in _prefixes(path) if p in scales), None)
        if prefix is None:
            missing.append(path)
            continue
        used.add(prefix)
        scale = scale_value(scales[prefix], f"the scale of {prefix!r} in rules")
        decided.append(Decision(path, leaf, None, scale))
    masked = masked_paths(params)
    unknown = [
        entry
        for entry in scales
        if entry not in used
        and scales[entry] != _NONE
        and not any(entry in _prefixes(path) for path in masked)
    ]
    if unknown:
        near = nearest_path(unknown[0], missing or [path for path, _ in leaves])
        raise ValueError(
            f"rules: the pytree names {first_few(unknown)}, which params do not have"
            + (f"; the nearest parameter is {near!r}." if near else ".")
        )
    if missing:
        raise ValueError(
            f"rules: the pytree says nothing of {len(missing)} parameter(s): {first_few(missing)}. "
            "Give each a float, or a parent of theirs one for all."
        )
    return decided


_NONE = "None"


def _none_as_string(tree: PyTree) -> PyTree:
    """Turns None, which JAX drops, into a leaf that is refused where a parameter needs a scale."""
    return jax.tree.map(
        lambda leaf: _NONE if leaf is None else leaf, tree, is_leaf=lambda node: node is None
    )


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def decay_scales(params: PyTree, rules: PyTree, *, wrt: Any = None) -> PyTree:
    """Returns the scale ``s`` of every leaf: theta' = theta - step - kappa_t lambda s theta.

    Args:
      params: Pytree of arrays, any shapes; or a Flax nnx model or State.
      rules: Tuple of :class:`Rule` (first full match wins), or a pytree of floats or bools with
        the structure of ``params``; a prefix of it is enough.
      wrt: What is trained of an nnx model, as in ``nnx.Optimizer(..., wrt=)``; None is
        ``nnx.Param``.

    Returns:
      A pytree of Python floats, structured like ``params``; 0.0 for what is not a parameter of a
      model.

    Raises:
      ValueError: If a rule or entry decides nothing it should, see :func:`decisions`.

    >>> from wdlab.rules import NO_BIAS_OR_NORM
    >>> decay_scales({"kernel": 1.0, "bias": 1.0}, NO_BIAS_OR_NORM)
    {'bias': 0.0, 'kernel': 1.0}
    """
    scales = {d.path: d.scale for d in decisions(parameters(params, wrt), rules)}
    every = [scales.get(path, 0.0) for path, _ in leaves_with_paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), every)
