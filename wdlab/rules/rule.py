"""One line of a decay policy, as data."""

import math
import numbers
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wdlab._core.checks import check_choice
from wdlab.rules.patterns import compile_pattern

Ndim = int | tuple[int, int | None] | None
# What a leaf can be. Where the places at which it is used differ, the one named first counts.
ROLES = (
    *("embedding", "kernel", "matrix", "head", "scale", "gate", "position", "bias"),
    *("unused", "unknown"),
)
# Further words that go with them.
WORDS = (
    *("scale-invariant", "before a matrix", "after a matrix", "of a weight", "grouped", "token"),
    *("state", "penalty", "no gradient"),
)


@dataclass(frozen=True)
class Rule:
    """One line of a decay policy: leaves whose path matches get this scale.

    The leaf's decay is ``scale * kappa_t * weight_decay``.

    Args:
      pattern: A regular expression that must match the whole path (``re.fullmatch``; a dot matches
        line breaks too).
      scale: Float >= 0, dimensionless; 0 exempts, 1 decays in full.
      ndim: A rank, or a (low, high) pair of ranks, both ends included and None for no upper end,
        that the leaf must have as well. Prefer paths: rank is not role in Flax, where attention
        biases have rank 2 and every leaf under ``nn.scan`` has one dimension more.
      optional: Whether :func:`check_rules` lets the rule match nothing, as those of presets may.
      role: What the leaf must be as well, one of :data:`ROLES` or a further word of
        ``wdlab.rules.roles``: "matrix", "scale-invariant". Such rules go through
        ``wdlab.rules.by_role`` first, which knows the roles.

    Raises:
      TypeError, ValueError: If an argument is not as above.

    >>> Rule("(.*/)?bias", 0.0)
    Rule(pattern='(.*/)?bias', scale=0.0, ndim=None, optional=False, role=None)
    >>> Rule(role="matrix").pattern
    '.*'
    """

    pattern: str = ".*"
    scale: float = 1.0
    ndim: Ndim = None
    optional: bool = False
    role: str | None = None

    def __init__(
        self,
        pattern: str | None = None,
        scale: float = 1.0,
        *,
        ndim: Ndim = None,
        optional: bool = False,
        role: str | None = None,
    ):
        if role is not None:
            check_choice("Rule: role", role, (*ROLES, *WORDS))
        elif pattern is None:
            raise TypeError(
                "Rule needs a pattern or a role. Write Rule('.*') or Rule(role='bias')."
            )
        pattern = ".*" if pattern is None else pattern
        if not isinstance(pattern, str):
            raise TypeError(f"Rule: pattern must be a string, got {pattern!r}.")
        try:
            compile_pattern(pattern)
        except ValueError as error:
            raise ValueError(f"Rule: {error}") from None
        if ndim is not None and not _is_ndim(ndim):
            raise ValueError(
                f"Rule: ndim must be None, a rank or a (low, high) pair, got {ndim!r}."
            )
        object.__setattr__(self, "pattern", pattern)
        what = repr(pattern) if role is None else f"role={role!r}"
        object.__setattr__(self, "scale", scale_value(scale, f"the scale of Rule({what})"))
        object.__setattr__(self, "ndim", ndim)
        object.__setattr__(self, "optional", bool(optional))
        object.__setattr__(self, "role", role)

    def matches(self, path: str, ndim: int, role: str | None = None) -> bool:
        """Whether a leaf falls under this rule.

        Args:
          path: The leaf's path.
          ndim: Its rank.
          role: What ``wdlab.rules.roles`` says that it is.

        Raises:
          ValueError: If the rule goes by role, and the leaf's is not given.

        >>> Rule(".*", ndim=(2, None)).matches("dense/kernel", 2)
        True
        >>> Rule(role="head").matches("wte/embedding", 2, "embedding, head")
        True
        """
        if self.role is not None:
            if role is None:
                raise ValueError(
                    f"Rule(role={self.role!r}) needs to know what each parameter is. Write rules="
                    "wdlab.rules.by_role(rules, wdlab.rules.roles(loss_fn, params, batch), params)."
                )
            if self.role not in role.split(", "):
                return False
        if compile_pattern(self.pattern).fullmatch(path) is None:
            return False
        if self.ndim is None:
            return True
        low, high = self.ndim if isinstance(self.ndim, tuple) else (self.ndim, self.ndim)
        return low <= ndim and (high is None or ndim <= high)


def _is_ndim(ndim: Any) -> bool:
    def is_rank(n: Any) -> bool:
        return isinstance(n, int) and not isinstance(n, bool) and n >= 0

    if not isinstance(ndim, tuple):
        return is_rank(ndim)
    if len(ndim) != 2 or not is_rank(ndim[0]):
        return False
    return ndim[1] is None or (is_rank(ndim[1]) and ndim[0] <= ndim[1])


def scale_value(value: Any, what: str) -> float:
    """Returns a rule's scale as a float, or says what is wrong with it.

    >>> scale_value(True, "the scale")
    1.0
    """
    scalar = isinstance(value, numbers.Real | np.bool_) or (
        isinstance(value, np.ndarray | jax.Array)
        and not isinstance(value, jax.core.Tracer)
        and value.ndim == 0
    )
    if not scalar:
        raise TypeError(f"{what} must be a Python float or bool, got {value!r}.")
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{what} must be a finite number >= 0, got {number:g}.")
    return number
