"""Step -> number: learning rates that know their peak, what multiplies the decay, decay strengths.

A schedule is a function of the number of updates made before this one (Optax's 0-based count).
"""

from wdlab._core.probing import ScheduleWarning
from wdlab.schedules.adafactor import beta2_power, relative_step
from wdlab.schedules.couplings import COUPLINGS, check_coupling, multiplier_of
from wdlab.schedules.schedule import (
    ScalarOrSchedule,
    Schedule,
    largest_product,
    peak_of,
    peak_value,
    relative_to,
    schedule_multiplier,
    squared,
    value_at,
    with_peak,
)
from wdlab.schedules.shapes import (
    constant,
    cosine,
    warmed_up,
    warmup_constant,
    warmup_cosine,
    warmup_inverse_sqrt,
    warmup_linear,
)
from wdlab.schedules.strengths import (
    cosine_between,
    cosine_restarts,
    normalized_weight_decay,
    restarts_weight_decay,
    timescale_of,
    weight_decay_from_timescale,
)
from wdlab.schedules.tied_decay import decay_with_rate, nanochat_weight_decay

__all__ = [
    "COUPLINGS",
    "ScalarOrSchedule",
    "Schedule",
    "ScheduleWarning",
    "beta2_power",
    "check_coupling",
    "constant",
    "cosine",
    "cosine_between",
    "cosine_restarts",
    "decay_with_rate",
    "largest_product",
    "multiplier_of",
    "nanochat_weight_decay",
    "normalized_weight_decay",
    "peak_of",
    "peak_value",
    "relative_step",
    "relative_to",
    "restarts_weight_decay",
    "schedule_multiplier",
    "squared",
    "timescale_of",
    "value_at",
    "warmed_up",
    "warmup_constant",
    "warmup_cosine",
    "warmup_inverse_sqrt",
    "warmup_linear",
    "weight_decay_from_timescale",
    "with_peak",
]
