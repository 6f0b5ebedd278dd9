"""A training run as far as the published scaling rules of weight decay ask about it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from wdlab._core.arguments import unknown_argument
from wdlab._core.checks import check_choice, check_number, check_whole

Optimizer = Literal["adamw", "muon", "muon_rms"]
# What multiplies the decay besides a number: the power of the peak learning rate.
POWERS = {"schedule": 0, "constant": 0, "lr": 1, "lr2": 2}


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One run: what it was trained with.

    Of ``batch_size``, ``steps`` and ``tokens`` two are enough: ``tokens = batch_size * steps``.

    Args:
      learning_rate: At its peak, > 0.
      weight_decay: ``lambda`` > 0; ``coupling`` says what multiplies it.
      coupling: "lr" (torch, Optax), "schedule" (the AdamW paper), "constant" or "lr2".
      batch_size: Tokens or examples in one step, >= 1.
      steps: Number of updates, >= 1.
      tokens: Tokens or examples seen in the whole run, >= 1.
      dataset_size: Tokens or examples in one epoch, >= 1; None for a single pass.
      parameters: Number of parameters, >= 1.
      width: Width of the model, >= 1.
      depth: Number of layers, >= 1.
      optimizer: "adamw"; "muon": its step has the scale ``sqrt(max(1, rows / columns))``, torch's
        "original"; "muon_rms": ``0.2 sqrt(max(rows, columns))``, torch's "match_rms_adamw".

    Raises:
      TypeError, ValueError: If a number is out of range, or three of them contradict each other.

    >>> TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100).tokens
    800
    """

    learning_rate: float
    weight_decay: float
    coupling: str = "lr"
    batch_size: int | None = None
    steps: int | None = None
    tokens: int | None = None
    dataset_size: int | None = None
    parameters: int | None = None
    width: int | None = None
    depth: int | None = None
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low_open=True)
        check_number(
            "weight_decay", self.weight_decay, low_open=True, hint="Without decay nothing scales."
        )
        check_choice(
            "coupling",
            self.coupling,
            POWERS,
            hint="L2 in the gradient has no strength of its own to be carried over.",
        )
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        for name in _WHOLE:
            size = getattr(self, name)
            if isinstance(size, float) and size.is_integer():  # 1e9 tokens.
                size = int(size)
                object.__setattr__(self, name, size)
            if size is not None:
                check_whole(name, size)
        self._complete()

    def _complete(self) -> None:
        batch, steps, tokens = self.batch_size, self.steps, self.tokens
        if batch and steps and tokens and not batch * (steps - 1) < tokens <= batch * (steps + 1):
            raise ValueError(
                f"tokens {tokens} are not batch_size {batch} times steps {steps}, {batch * steps}. "
                "Give two of the three."
            )
        if batch and tokens and tokens < batch:
            raise ValueError(f"tokens {tokens} are less than one step of batch_size {batch}.")
        if batch and steps and not tokens:
            object.__setattr__(self, "tokens", batch * steps)
        if batch and tokens and not steps:
            object.__setattr__(self, "steps", max(1, round(tokens / batch)))
        if steps and tokens and not batch:
            object.__setattr__(self, "batch_size", max(1, round(tokens / steps)))

    @property
    def shrink(self) -> float:
        """The share of an undriven weight that one step takes at the peak."""
        return self.learning_rate ** POWERS[self.coupling] * self.weight_decay

    @property
    def epoch_size(self) -> int | None:
        """Tokens or examples in an epoch; all there are in a single pass."""
        return self.dataset_size or self.tokens

    def changed(self, to: Mapping[str, Any]) -> "TrainingRun":
        """The same run with other values.

        A new batch size keeps the tokens and a new number of steps keeps the batch size, unless
        those are given too. A run of a single pass stays one.

        >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100)
        >>> run.changed({"batch_size": 16}).steps, run.changed({"steps": 200}).tokens
        (50, 1600)
        """
        check_mapping("to", to)
        known = [field.name for field in fields(self)]
        for name in to:
            if name not in known:
                raise TypeError(unknown_argument("transfer: to", name, known))
        gone: dict[str, Any] = {}
        if "steps" in to and "tokens" not in to:
            gone = {"tokens": None}
        elif "steps" not in to and ("tokens" in to or "batch_size" in to):
            gone = {"steps": None}
        elif {"steps", "tokens"} <= to.keys() and "batch_size" not in to:
            gone = {"batch_size": None}
        return replace(self, **(gone | dict(to)))

    def with_shrink(self, shrink: float) -> float:
        """The weight decay, in this run's coupling, that takes this share in a step.

        >>> TrainingRun(learning_rate=1e-3, weight_decay=0.1).with_shrink(2e-4)
        0.2
        """
        return shrink / self.learning_rate ** POWERS[self.coupling]


def check_mapping(name: str, value: Any) -> None:
    """Refuses what is no mapping of a run's fields.

    >>> check_mapping("to", None)
    Traceback (most recent call last):
    TypeError: transfer: to must be a TrainingRun or a mapping of its fields, such as ...
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f"transfer: {name} must be a TrainingRun or a mapping of its fields, such as "
            f"{{'batch_size': 1024}}, got {value!r}."
        )


_WHOLE = ("batch_size", "steps", "tokens", "dataset_size", "parameters", "width", "depth")
