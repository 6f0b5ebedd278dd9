"""The update step, 16-bit weights, steps that are not finite, checkpoints with checksums."""

from typing import TYPE_CHECKING, Any

from wdlab.training.nonfinite import (
    NonfiniteError,
    SkipNonfiniteState,
    check_skipped_steps,
    skip_nonfinite,
    skipped_steps,
)
from wdlab.training.precision import (
    RoundingState,
    float32_masters,
    kahan,
    stochastic_rounding,
)
from wdlab.training.settings import run_settings, setting_differences
from wdlab.training.steps import init_opt_state, make_train_step, make_update, opt_state_shardings

if TYPE_CHECKING:
    from wdlab.training.checkpoints import CheckpointError, Checkpoints, Restored

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "NonfiniteError",
    "Restored",
    "RoundingState",
    "SkipNonfiniteState",
    "check_skipped_steps",
    "float32_masters",
    "init_opt_state",
    "kahan",
    "make_train_step",
    "make_update",
    "opt_state_shardings",
    "run_settings",
    "setting_differences",
    "skip_nonfinite",
    "skipped_steps",
    "stochastic_rounding",
]


def __getattr__(name: str) -> Any:
    """Imports Orbax, a fifth of the time of ``import wdlab``, when checkpoints are asked for."""
    if name in ("CheckpointError", "Checkpoints", "Restored"):
        from wdlab.training import checkpoints

        return getattr(checkpoints, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
