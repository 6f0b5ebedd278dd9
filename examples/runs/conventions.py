"""``--convention NAME``: another system's optimizer, for any of the programs that train."""

import ast
from typing import Any

import optax

import wdlab
from wdlab.rules import Rule
from wdlab.schedules import ScalarOrSchedule

from .errors import UserError

OWN_RULES = "convention"  # rules="convention": what the system itself exempts.


def arguments_of(text: str) -> dict[str, Any]:
    """Reads ``--convention_args``: keyword arguments as Python writes them.

    Raises:
      UserError: If they are not.

    >>> arguments_of("betas=(0.9, 0.95), eps=1e-10")
    {'betas': (0.9, 0.95), 'eps': 1e-10}
    """
    wrong = UserError(
        f"--convention_args {text!r} are not keyword arguments of plain values: "
        'write them as "betas=(0.9, 0.95), eps=1e-10"'
    )
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise wrong
        found = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        raise wrong from None
    if None in found:  # From ``**``.
        raise wrong
    return {str(name): value for name, value in found.items()}


def build(
    name: str,
    text: str,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
    rules: tuple[Rule, ...] | None,
    peak_learning_rate: float,
) -> optax.GradientTransformation:
    """Builds that optimizer from a program's flags.

    Args:
      name: One of ``wdlab.conventions.names()``.
      text: ``--convention_args``.
      learning_rate: Number or schedule.
      weight_decay: In the system's own meaning; 0 where it has none.
      rules: Which parameters decay; None: what the system itself exempts.
      peak_learning_rate: What eta_t = 1 stands for.

    Raises:
      UserError: If the system does not take the arguments.
    """
    arguments = arguments_of(text)
    decays = wdlab.conventions.get(name).decay_argument is not None
    if decays or not isinstance(weight_decay, (int, float)) or weight_decay:
        arguments.setdefault("weight_decay", weight_decay)
    try:
        return wdlab.conventions.build(
            name, learning_rate, rules=rules, peak_learning_rate=peak_learning_rate, **arguments
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"--convention {name}: {error}") from error


def check(name: str, text: str) -> None:
    """Refuses an unknown system, or arguments that it does not have.

    Raises:
      UserError: With the nearest name.
    """
    if text and not name:
        raise UserError("--convention_args needs --convention NAME")
    if name:
        try:
            wdlab.conventions.get(name).complete(arguments_of(text))
        except (TypeError, ValueError) as error:
            raise UserError(f"--convention {name}: {error}") from error


def described(name: str, weight_decay: float) -> str:
    """One line: what the weight decay means to that system."""
    known = wdlab.conventions.get(name)
    return (
        f"{name} ({known.version}): weight decay {weight_decay} times {known.coupling!r}, "
        f"{known.order} the step: {known.equation}"
    )
