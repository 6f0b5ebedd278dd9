"""One published recipe, and its weight decay in any convention."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from wdlab.conventions.conversion import convert


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one published model was trained, as far as weight decay and its optimizer go.

    Attributes:
      name: Of the model.
      source: Paper or file, with its link.
      convention: Key of :mod:`wdlab.conventions`; None where the optimizer is not stated.
      assumed: Why that key, where the source does not say what multiplies the decay.
      learning_rate: At its peak; None where not stated.
      schedule: Shape of the learning rate, in words.
      hyperparameters: By the convention's names; None where not stated.
      weight_decay: In the convention's unit, without one as it is printed; None where not stated.
      clip_norm: Global norm that gradients are clipped to; None where not stated.
      notes: What else to know.

    >>> from wdlab.conventions import recipes
    >>> recipes.get("nanoGPT").weight_decay
    0.1
    """

    name: str
    source: str
    convention: str | None
    assumed: str = ""
    learning_rate: float | None
    schedule: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weight_decay: float | None
    clip_norm: float | None = None
    notes: str = ""

    def __post_init__(self):
        object.__setattr__(self, "hyperparameters", MappingProxyType(dict(self.hyperparameters)))

    def __str__(self) -> str:
        """All that is stated, as lines of text."""
        lines = {
            "convention": stated(self.convention),
            "assumed": self.assumed,
            "learning rate": f"{stated(self.learning_rate)}; {self.schedule}",
            **{name: stated(value) for name, value in self.hyperparameters.items()},
            "weight decay": stated(self.weight_decay),
            "clip norm": stated(self.clip_norm),
            "source": self.source,
            "notes": self.notes,
        }
        body = [f"{label:13}  {text}" for label, text in lines.items() if text]
        return "\n".join([self.name, *body])

    def weight_decay_in(self, convention: str) -> float:
        """Returns the decay as another convention's number, for the same shrink at the peak.

        Raises:
          ValueError: Where the source does not state the decay, or no number is equal.
        """
        if self.weight_decay is None or self.convention is None or self.learning_rate is None:
            missing = "weight decay" if self.weight_decay is None else "optimizer"
            raise ValueError(f"{self.name}: its source does not state the {missing}.")
        return convert(
            self.weight_decay,
            learning_rate=self.learning_rate,
            source=self.convention,
            target=convention,
        )


def stated(value: object) -> str:
    """A value of a recipe in words.

    >>> stated(0.1), stated(None)
    ('0.1', 'not stated')
    """
    return "not stated" if value is None else str(value)
