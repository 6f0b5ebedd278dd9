"""What an optimizer does to each leaf, measured: it is traced once and run on uniform arrays."""

from wdlab.instruments.plans.comparison import plan_differences
from wdlab.instruments.plans.plan import DecayPlan, LeafPlan, decay_plan

__all__ = ["DecayPlan", "LeafPlan", "decay_plan", "plan_differences"]
