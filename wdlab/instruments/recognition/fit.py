"""A convention with numbers, and how well it explains the steps of a leaf."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from wdlab.conventions import get
from wdlab.instruments.recognition.candidates import CLIP, NO_CLIP, Program, build_convention

Array = Any
EXACT = 2e-7
# Decay terms that are a share of the weights, whatever the gradients: seen beside the step.
DECOUPLED = {"lr", "schedule", "constant", "lr2", "lr2_over_peak", "proximal", "none"}


@dataclass(frozen=True)
class Fit:
    """A convention with numbers, against a leaf's steps.

    >>> import jax
    >>> from wdlab.instruments.recognition.candidates import program
    >>> from wdlab.instruments.recognition.fitting import first_guess
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> tried = try_leaf(optax.sgd(0.5), [jax.ShapeDtypeStruct((5,), "float32")], 0, 1)
    >>> fit = first_guess(tried, program("torch.SGD", tried.shape, ()), l2=False)
    >>> fit.exact, fit.arguments_at(0.5), fit.clip, fit.is_after
    (True, {}, None, False)
    >>> fit.transformation(0.5, 0.5).init(tried.problems[0].weights[0]) is None
    False
    """

    program: Program
    values: tuple[float, ...]
    error: float  # Mean of the relative errors of the updates, in [0, 1].
    rates: Array  # The learning rates of the first problem's updates.
    shares: Array  # What is taken of the weights beside the convention's own.
    errors: Array  # Of each update, problem after problem.

    @property
    def direction(self) -> float:
        """The error of the updates where learning rate and decay may be any."""
        return float(np.mean(self.errors))

    @property
    def exact(self) -> bool:
        """Whether the steps are the same."""
        return self.error < EXACT

    @property
    def decoupled(self) -> bool:
        """Whether the convention's decay shows in ``shares``."""
        return self.coupling in DECOUPLED

    @property
    def coupling(self) -> str:
        """What multiplies the decay."""
        known = get(self.program.name)
        return known.coupling_for({**known.defaults, **self.arguments})

    @property
    def arguments(self) -> dict[str, Any]:
        """The original's arguments that are not its defaults."""
        return self.program.arguments(self.values)

    @property
    def clip(self) -> float | None:
        """The norm to which gradients are clipped before; None where they are not."""
        slots = [slot.argument for slot in self.program.slots]
        value = self.values[slots.index(CLIP)]
        return None if value >= NO_CLIP else value

    @property
    def is_after(self) -> bool:
        """Whether the decay is a share of the weights after the step, so of the step too."""
        return get(self.program.name).order == "after" or self.coupling == "proximal"

    def arguments_at(self, peak: float) -> dict[str, Any]:
        """The arguments for a learning rate of this peak; ``arguments`` are for a peak of 1."""
        decay, found = get(self.program.name).decay_argument, self.arguments
        if decay in found and self.coupling in ("schedule", "lr2_over_peak"):
            found[decay] = float(f"{found[decay] * peak:.6g}")
        return found

    def transformation(self, rate: Any, peak: float) -> optax.GradientTransformation:
        """The convention at this learning rate, a number or a schedule, of this peak."""
        settings = self.arguments_at(peak), self.clip or NO_CLIP, peak
        return build_convention(self.program.name, rate, *settings)
