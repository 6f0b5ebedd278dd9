"""What the numbers among a convention's arguments mean, whatever its system calls them."""

from collections.abc import Mapping
from typing import Any

# (argument, its place in a tuple) -> what it is. A convention has at most one of a meaning.
_MEANINGS = {
    ("betas", 0): "b1", ("b1", None): "b1", ("beta1", None): "b1", ("beta_1", None): "b1",
    ("betas", 1): "b2", ("b2", None): "b2", ("beta2", None): "b2", ("beta_2", None): "b2",
    ("eps", None): "eps", ("epsilon", None): "eps", ("momentum", None): "momentum",
    ("beta", None): "momentum", ("mu", None): "momentum", ("muon_momentum", None): "momentum",
}  # fmt: skip


def meaning(argument: str, index: int | None = None) -> Any:
    """The meaning of a number; itself where no other argument has its meaning.

    >>> meaning("betas", 0) == meaning("beta_1"), meaning("rho")
    (True, ('rho', None))
    """
    return _MEANINGS.get((argument, index), (argument, index))


def first_moment(arguments: Mapping[str, Any]) -> float:
    """The decay rate of the first moment; 0 where there is none.

    >>> first_moment({"betas": (0.9, 0.95)}), first_moment({"mu": 0.8}), first_moment({})
    (0.9, 0.8, 0.0)
    """
    for (argument, index), word in _MEANINGS.items():
        if word in ("b1", "momentum") and argument in arguments:
            value = arguments[argument]
            return float((value if index is None else value[index]) or 0.0)
    return 0.0
