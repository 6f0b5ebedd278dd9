"""What an optimizer does to each leaf, measured: it is traced once and run on uniform arrays."""

from wdlab.instruments.plans.comparison import plan_differences
from wdlab.instruments.plans.measured_decay import Measured, measure, shares
from wdlab.instruments.plans.one_leaf import measured_alone, one_leaf
from wdlab.instruments.plans.plan import DecayPlan, LeafPlan, decay_plan
from wdlab.instruments.plans.pruned_programs import with_results
from wdlab.instruments.plans.step_curves import GRID, find_jumps
from wdlab.instruments.plans.traced_optimizer import TracedOptimizer
from wdlab.instruments.plans.traced_update import gradients_of, trace_update
from wdlab.instruments.plans.uniform_arrays import ELEMENTWISE, of_kind

__all__ = [
    "ELEMENTWISE",
    "GRID",
    "DecayPlan",
    "LeafPlan",
    "Measured",
    "TracedOptimizer",
    "decay_plan",
    "find_jumps",
    "gradients_of",
    "measure",
    "measured_alone",
    "of_kind",
    "one_leaf",
    "plan_differences",
    "shares",
    "trace_update",
    "with_results",
]
