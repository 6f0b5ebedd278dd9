"""What the training programs share: how a command ends, and how a run does."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax

from wdlab.training import CheckpointError, Checkpoints

from . import processes
from .display import Display
from .errors import UserError
from .records import Records
from .stop import StopRequest

_P = ParamSpec("_P")


def command(main: Callable[_P, int]) -> Callable[_P, int]:
    """Makes users' mistakes, full disks and lost processes one line on stderr and exit code 1.

    Example:
      >>> @command
      ... def main() -> int:
      ...     raise UserError("--lr must be positive")
      >>> main()
      1
    """

    @functools.wraps(main)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except (UserError, CheckpointError, OSError) as error:
            return processes.fail(error)
        except jax.errors.JaxRuntimeError as error:
            if not processes.is_alone(error):
                raise
            return processes.fail(error)

    return guarded


def train(
    trainer: Any, checkpoints: Checkpoints, records: Records, display: Display, stop: StopRequest
) -> int | None:
    """Trains; None at the end of the run, or the exit code to leave with. All is on disk then."""
    try:
        with display:
            code = trainer.train(checkpoints, records, display, stop)
        checkpoints.wait()
        return code
    finally:
        records.close()
