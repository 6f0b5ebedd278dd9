"""Arguments that a factory does not have, answered with the line to write instead."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from wdlab._core.names import nearest

P = ParamSpec("P")
T = TypeVar("T")
_RULES = (
    "Which leaves decay is said by rules=(Rule('(.*/)?bias', 0.0), Rule('.*')), one of the presets "
    "in wdlab.rules, or a tree of bools: rules=mask. A function of the params is called first."
)
# What other packages call an argument -> what to write here.
_ELSEWHERE = {
    **dict.fromkeys(
        ("mask", "weight_decay_mask", "decay_mask", "exclude_from_weight_decay", "wd_mults"), _RULES
    ),
    **dict.fromkeys(
        ("lr", "learning_rate_fn", "alpha"),
        "Give the learning rate by its place, as the first number.",
    ),
    **dict.fromkeys(("wd", "weight_decay_rate", "decay"), "Write weight_decay=."),
    "betas": "Write b1= and b2=.",
}


def unknown_argument(name: str, argument: str, known: Sequence[str]) -> str:
    """Says what to write for an argument that ``name`` does not have.

    >>> unknown_argument("adamw", "rulse", ["learning_rate", "rules"])
    "adamw has no argument 'rulse'; the nearest is 'rules'. It has: learning_rate, rules."
    """
    if argument in _ELSEWHERE:
        return f"{name} has no argument {argument!r}. {_ELSEWHERE[argument]}"
    near = nearest(argument, known)
    return (
        f"{name} has no argument {argument!r}; the nearest is {near!r}. It has: {', '.join(known)}."
    )


def answers(factory: Callable[P, T]) -> Callable[P, T]:
    """Makes a factory say what to write for an argument that it does not have.

    >>> @answers
    ... def mine(learning_rate, *, rules=None): ...
    >>> mine(0.1, mask=lambda params: params)
    Traceback (most recent call last):
    TypeError: mine has no argument 'mask'. Which leaves decay is said by rules=...
    """
    known = list(inspect.signature(factory).parameters)

    @functools.wraps(factory)
    def answering(*args: P.args, **kwargs: P.kwargs) -> T:
        for argument in kwargs:
            if argument not in known:
                raise TypeError(unknown_argument(factory.__name__, argument, known))
        return factory(*args, **kwargs)

    return answering
