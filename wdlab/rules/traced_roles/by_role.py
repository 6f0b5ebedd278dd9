"""Rules that go by role, resolved to the scales that every ``rules=`` takes."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from wdlab._core.names import first_few
from wdlab.rules.coverage import RuleWarning
from wdlab.rules.decisions import normalize_rules
from wdlab.rules.paths import leaves_with_paths
from wdlab.rules.rule import Rule
from wdlab.rules.traced_roles.leaf_role import LeafRole

PyTree = Any

# Products with the data decay, and nothing else does.
ROLE_MATRICES = (
    Rule(role="embedding", scale=0.0, optional=True),
    *(Rule(role=role, optional=True) for role in ("matrix", "kernel", "head")),
    Rule(".*", 0.0, optional=True),
)
# The same, and rows that are looked up.
ROLE_MATRICES_AND_EMBEDDINGS = (Rule(role="embedding", optional=True), *ROLE_MATRICES[1:])


def by_role(
    rules: tuple[Rule, ...], roles: Mapping[str, str] | Sequence[LeafRole], params: PyTree
) -> PyTree:
    """Returns the scale of every leaf under rules of which some go by role.

    A rule with several conditions (pattern, rank, role) asks for all of them; the first rule that
    matches decides. Warns (:class:`RuleWarning`) of leaves whose role is unknown and that no rule
    names by path or as unknown.

    Args:
      rules: Tuple of :class:`Rule`.
      roles: From ``wdlab.rules.roles`` or ``wdlab.rules.leaf_roles``, of the whole model.
      params: The same parameters, all or a part of them.

    Returns:
      A pytree of floats like ``params``: what every ``rules=`` takes.

    Raises:
      ValueError: If a leaf has no role or no rule, or a rule that is not optional decides none.

    >>> roles = {"w": "matrix, scale-invariant", "b": "bias"}
    >>> by_role((Rule(role="bias", scale=0.0), Rule(".*")), roles, {"w": np.ones((2, 2)), "b": 0.0})
    {'b': 0.0, 'w': 1.0}
    """
    rules = normalize_rules(rules)
    if not isinstance(rules, tuple) or not all(isinstance(rule, Rule) for rule in rules):
        raise TypeError(
            "by_role: rules must be a tuple of Rule; a pytree of scales needs no roles."
        )
    known = _as_mapping(roles)
    scales, used, missing, open_ = [], set(), [], []
    for path, leaf in leaves_with_paths(params):
        if path not in known:
            if hasattr(leaf, "dtype") and np.issubdtype(leaf.dtype, np.inexact):
                missing.append(path)
            scales.append(0.0)
            continue
        matching = (r for r in rules if r.matches(path, np.ndim(leaf), known[path]))
        rule = next(matching, None)
        if rule is None:
            raise ValueError(
                f"by_role: {path} ({known[path]}) matches none of the {len(rules)} rules. End the "
                "rules with Rule('.*', scale) to say what happens to the rest."
            )
        used.add(rule)
        scales.append(rule.scale)
        if known[path].startswith("unknown") and rule.role is None and rule.pattern == ".*":
            open_.append(path)
    _check(rules, used, missing, known)
    if open_:
        warnings.warn(
            f"the role of {first_few(open_)} is unknown, and Rule('.*') decides; put "
            f"Rule({open_[0]!r}, scale) or Rule(role='unknown', scale=0.0) in front to say which.",
            RuleWarning,
            stacklevel=2,
        )
    return jax.tree.unflatten(jax.tree.structure(params), scales)


def _as_mapping(roles: Mapping[str, str] | Sequence[LeafRole]) -> Mapping[str, str]:
    if isinstance(roles, Mapping):
        return roles
    return {leaf.path: str(leaf) for leaf in roles}


def _check(
    rules: tuple[Rule, ...], used: set[Rule], missing: list[str], known: Mapping[str, str]
) -> None:
    if missing:
        raise ValueError(
            f"by_role: roles say nothing of {first_few(missing)}. Write "
            "roles=wdlab.rules.roles(loss_fn, params, batch) with the whole model."
        )
    for rule in rules:
        if (
            rule not in used
            and not rule.optional
            and rule.pattern == ".*"
            and rule.role is not None
        ):
            pattern = "" if rule.pattern == ".*" else f"{rule.pattern!r}, "
            found = first_few(sorted({role.split(", ")[0] for role in known.values()}), 10)
            raise ValueError(
                f"by_role: Rule({pattern}role={rule.role!r}) decides no parameter; found {found}. "
                "Rule(..., optional=True) may decide none."
            )
