"""``--opt_type muon | soap | schedule_free``, for any of the programs that train."""

from typing import Any, Literal

import jax
import optax

import wdlab
from wdlab.optimizers import ScheduleFreeState, schedule_free_eval_params
from wdlab.preconditioners import MatrixAxes
from wdlab.rules import Rule
from wdlab.schedules import ScalarOrSchedule

Coupling = Literal["schedule", "lr", "lr2", "lr2_over_peak", "constant", "l2"]
NAMES = ("muon", "soap", "schedule_free")


def build(
    name: str,
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule,
    coupling: str,
    rules: tuple[Rule, ...],
    peak_learning_rate: float,
    b1: float,
    b2: float,
    axes: MatrixAxes,
) -> optax.GradientTransformation:
    """Builds one of ``NAMES``; the decay is part of it.

    Args:
      name: Which one.
      learning_rate: Number or schedule; Muon's two parts share it, at AdamW's RMS of the step.
      weight_decay: lambda.
      coupling: What multiplies it.
      rules: Which parameters decay.
      peak_learning_rate: What eta_t = 1 stands for.
      b1: Of Adam's first moment; Muon's momentum keeps its own default, 0.95.
      b2: Of Adam's second moment.
      axes: Which axes of a leaf are a matrix, for Muon.
    """
    decay: dict[str, Any] = {"weight_decay": weight_decay, "coupling": coupling, "rules": rules}
    decay["peak_learning_rate"] = peak_learning_rate
    if name == "muon":
        return wdlab.optimizers.muon(learning_rate, axes=axes, adam_b1=b1, adam_b2=b2, **decay)
    make = {"soap": wdlab.optimizers.soap, "schedule_free": wdlab.optimizers.schedule_free_adamw}
    return make[name](learning_rate, b1=b1, b2=b2, **decay)


def evaluated(params: Any, opt_state: Any) -> Any:
    """The weights to evaluate: schedule-free's average, else those that are trained.

    >>> tx = optax.sgd(0.1)
    >>> evaluated({"w": 1.0}, tx.init({"w": 1.0}))
    {'w': 1.0}
    """
    return schedule_free_eval_params(opt_state, params) if averages(opt_state) else params


def averages(opt_state: Any) -> bool:
    """Whether the optimizer keeps an average that is meant to be evaluated."""
    is_average = lambda node: isinstance(node, ScheduleFreeState)  # noqa: E731
    return any(map(is_average, jax.tree.leaves(opt_state, is_leaf=is_average)))
