"""One system's meaning of an optimizer, as data, and what its builder is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import optax

from wdlab._core.arguments import unknown_argument
from wdlab._core.checks import check_number
from wdlab.rules import ALL, Rule, normalize_rules
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


class _Required:
    """Stands where the original has no default."""

    def __repr__(self) -> str:
        return "<required>"


REQUIRED = _Required()
# What several systems say of their epsilon and their bias correction.
OUTSIDE = "outside: sqrt(v / c2) + eps"
OUTSIDE_ROOT = "outside: sqrt(v / c2 + eps_root) + eps"
HAT = "hat: sqrt(v) + eps, before the correction"
ADDED = "added to g**2"
CORRECTED = "both moments, 1 - b**t"
FACTORED_START = "none: b2_t = 1 - t**-0.8 starts at 0"
# How the shrink of a step at the peak learning rate grows with that learning rate.
_POWERS = dict(schedule=0, constant=0, lr=1, proximal=1, lr2_over_peak=1, lr2=2)
# What says how an original runs and not what it computes.
_MACHINERY = (
    *("foreach", "fused", "capturable", "differentiable", "use_triton", "set_grad_none"),
    *("fp32_optimizer_states", "use_master", "no_deprecation_warning", "name"),
    *("per_var_learning_summary", "use_optax_gradient_transformations"),
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a builder gets: the learning rate, the original's arguments, and what they amount to."""

    name: str
    learning_rate: Any  # Number, schedule, or None where it was not given.
    arguments: Mapping[str, Any]
    given: frozenset[str]  # The arguments that the user wrote.
    weight_decay: Any
    coupling: str
    rules: PyTree
    peak_learning_rate: float | None

    def __getitem__(self, argument: str) -> Any:
        """Returns one of the original's arguments."""
        return self.arguments[argument]


@dataclass(frozen=True, kw_only=True)
class Convention:
    """What one system computes under a name that others use too.

    One step, in words and symbols, is ``equation``; ``build`` of :mod:`wdlab.conventions` makes it.

    Attributes:
      name: "torch.AdamW": the system and its class, as its users write them.
      version: The version that was read, and run where it can be.
      source: File and link.
      equation: One step; lr_t the learning rate of the step, eta_t = lr_t / its peak, ``lambda``
        the ``decay_argument``, s the leaf's scale.
      coupling: What multiplies the decay with default arguments: one of
        :data:`wdlab.schedules.COUPLINGS`, or "parameter_scale" (fairseq's Adafactor),
        "proximal" (Adan: the stepped weight is divided by 1 + lr_t lambda), "trust_ratio" (LAMB),
        "leaf_rate" (LARS), "momentum" (NovoGrad), "lr_by_shape" (nanochat), "lr2_by_shape",
        "averaged" (schedule-free), "d_lr" (Prodigy: d lr_t), "fixed" (Scion), "none".
      order: "before", "joint", "after" the step; "in the gradient" (momentum, trust ratio), "none".
        Before and joint are one where the step does not look at the weights.
      epsilon: Where epsilon is, in words.
      bias_correction: What is corrected for the start at zero.
      learning_rate: The original's default, None where it has none.
      defaults: The other arguments with their defaults, by the original's names.
      decay_argument: Which of them is the weight decay; None where the system has none.
      rules: The parameters that do not decay unless told otherwise.
      traps: What bites those who take the number elsewhere.
      refused: Arguments of the original that are not built, with what to write instead.
      required: Required arguments, with what to write where the original does without.
      make: Builds the transformation.
      coupling_of: The coupling for other arguments than the defaults.
      factor_of: Shrink at the peak over ``lambda lr**power``, where it is not 1.
      power_of: Power of the learning rate in that shrink, where the coupling does not tell.
      l2_shrinks: Whether L2 is decay here, which it is under plain SGD.

    >>> Convention(name="mine.SGD", version="1", source="-", equation="-", coupling="lr",
    ...            order="joint", make=lambda request: optax.identity()).system
    'mine'
    """

    name: str
    version: str
    source: str
    equation: str
    coupling: str
    order: str
    epsilon: str = "none"
    bias_correction: str = "none"
    learning_rate: float | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    decay_argument: str | None = "weight_decay"
    rules: tuple[Rule, ...] = ALL
    traps: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    required: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    make: Callable[[Request], optax.GradientTransformation] = field(repr=False, compare=False)
    coupling_of: Callable[[Mapping[str, Any]], str] | None = field(
        default=None, repr=False, compare=False
    )
    factor_of: Callable[[Mapping[str, Any]], float] | None = field(
        default=None, repr=False, compare=False
    )
    power_of: Callable[[Mapping[str, Any]], float] | None = field(
        default=None, repr=False, compare=False
    )
    l2_shrinks: Callable[[Mapping[str, Any]], bool] | None = field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self):
        for name in ("defaults", "refused", "required"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __str__(self) -> str:
        """What is known of it, as lines of text."""
        lines = {
            "step": self.equation,
            "decay times": self.coupling,
            "order": self.order,
            "epsilon": self.epsilon,
            "bias correction": self.bias_correction,
            "learning rate": self.learning_rate,
            "defaults": ", ".join(f"{name}={value!r}" for name, value in self.defaults.items()),
            "rules": ", ".join(f"{rule.pattern} x {rule.scale:g}" for rule in self.rules),
            "source": self.source,
        }
        rows = [*lines.items(), *(("trap", trap) for trap in self.traps)]
        body = [f"{label:15}  {text}" for label, text in rows]
        return "\n".join([f"{self.name} ({self.version})", *body])

    @property
    def default_decay(self) -> str:
        """The weight decay's argument with its default, as "weight_decay=0.01", or "none"."""
        if self.decay_argument is None:
            return "none"
        value = self.defaults[self.decay_argument]
        number = "required" if value is REQUIRED else "0" if value is None else f"{value:g}"
        return f"{self.decay_argument}={number}"

    @property
    def system(self) -> str:
        """The part of the name before the dot."""
        return self.name.split(".")[0]

    def complete(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """Returns all arguments, the given ones over the defaults; ``weight_decay`` is understood.

        Raises:
          TypeError: For an argument that the original does not have, naming the nearest.
        """
        given = dict(hyperparameters)
        if self.decay_argument is None and "weight_decay" in given:
            raise TypeError(
                f"{self.name}: has no weight decay. {self.traps[0] if self.traps else ''}"
            )
        if "weight_decay" in given and self.decay_argument != "weight_decay":
            if self.decay_argument in given:
                raise TypeError(
                    f"{self.name}: {self.decay_argument} and weight_decay are the same; give one."
                )
            given[str(self.decay_argument)] = given.pop("weight_decay")
        for argument, value in given.items():
            if argument not in self.defaults:
                raise TypeError(self._unknown(argument))
            if isinstance(self.defaults[argument], bool) and not isinstance(value, bool):
                raise TypeError(f"{self.name}: {argument} must be True or False, got {value!r}.")
        return {**self.defaults, **given}

    def _unknown(self, argument: str) -> str:
        if argument in self.refused:
            return f"{self.name}: {argument} is not built. {self.refused[argument]}"
        if argument in _MACHINERY:
            return (
                f"{self.name}: {argument} says how the original runs, not what it computes. "
                "Leave it out."
            )
        known = [*self.defaults, "rules", "peak_learning_rate"]
        return unknown_argument(self.name, argument, known)

    def coupling_for(self, arguments: Mapping[str, Any]) -> str:
        """Returns what multiplies the decay under these (complete) arguments."""
        return self.coupling if self.coupling_of is None else self.coupling_of(arguments)

    def power_for(self, arguments: Mapping[str, Any]) -> float | None:
        """Returns p in ``shrink at peak = factor lambda lr**p``; None where there is no such p."""
        if self.power_of is not None:
            return self.power_of(arguments)
        coupling = self.coupling_for(arguments)
        if coupling == "l2" and self.l2_shrinks is not None and self.l2_shrinks(arguments):
            return 1
        return _POWERS.get(coupling)

    def factor_for(self, arguments: Mapping[str, Any]) -> float:
        """Returns the factor of that formula."""
        return 1.0 if self.factor_of is None else self.factor_of(arguments)

    def request(
        self,
        learning_rate: ScalarOrSchedule | None,
        hyperparameters: Mapping[str, Any],
        *,
        rules: PyTree = None,
        peak_learning_rate: float | None = None,
    ) -> Request:
        """Checks a user's arguments and returns what the builder needs.

        Raises:
          TypeError, ValueError: For an unknown argument, or a required one that is missing.
        """
        arguments = self.complete(hyperparameters)
        missing = [name for name, value in arguments.items() if value is REQUIRED]
        if missing:
            hint = self.required.get(missing[0], "The original has no default for it either.")
            raise TypeError(f"{self.name}: {missing[0]} is required. {hint}")
        if learning_rate is not None:
            check_number("learning_rate", learning_rate, schedule=True)
        decay = None if self.decay_argument is None else arguments[self.decay_argument]
        if decay is not None:
            check_number(f"{self.name}: {self.decay_argument}", decay, schedule=True)
        if peak_learning_rate is not None:
            check_number("peak_learning_rate", peak_learning_rate, low_open=True)
        return Request(
            name=self.name,
            learning_rate=learning_rate,
            arguments=arguments,
            given=frozenset(hyperparameters),
            weight_decay=0.0 if decay is None else decay,
            coupling=self.coupling_for(arguments),
            rules=self.rules if rules is None else normalize_rules(rules),
            peak_learning_rate=peak_learning_rate,
        )
