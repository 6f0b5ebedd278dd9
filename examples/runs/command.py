"""How a command of the examples ends: an exit code, and one line for what went wrong."""

import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

import jax

from wdlab.training import CheckpointError

from . import processes
from .errors import UserError

_P = ParamSpec("_P")


def leave(code: int) -> NoReturn:
    """Ends the process; after an error at once: threads of a save that failed may wait for long."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
    sys.exit(code)


def command(main: Callable[_P, int]) -> Callable[_P, int]:
    """Makes users' mistakes, full disks, full memory and lost processes one line on stderr, exit 1.

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
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if processes.is_alone(error):
                return processes.fail(error)
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return processes.fail(
                UserError(f"out of memory: {error}. Try a smaller --batch_size or a smaller model")
            )

    return guarded
