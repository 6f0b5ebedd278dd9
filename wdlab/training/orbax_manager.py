"""Orbax's checkpoint manager, which stays usable and quiet after a save that failed."""

import contextlib
import functools
import logging
import os
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from wdlab.training.kept_steps import KeptSteps
from wdlab.training.orbax_io import CheckpointError, reason

_LOGGERS = ("absl", "asyncio")  # Where Orbax and its coroutines tell of errors.


class Manager:
    """Saves steps in the background and deletes those that are not kept.

    Args:
      directory: Where the steps lie.
      kept: A preservation policy.
      read_only: Whether to leave the folder as it is.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     Manager(epath.Path(folder), KeptSteps(epath.Path(folder), 1, None), True).steps()
      []
    """

    def __init__(self, directory: epath.Path, kept: KeptSteps, read_only: bool):
        self._directory = directory
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            cleanup_tmp_directories=not read_only,  # Left by a process killed inside a save.
            create=not read_only,
        )
        stop_metrics_leak()
        leave_out_late_writes()
        self._start = functools.partial(ocp.CheckpointManager, directory, options=options)
        self._quiet = leave_out_errors()
        self._started: ocp.CheckpointManager | None = self._start()
        self._saving: int | None = None

    @property
    def _orbax(self) -> ocp.CheckpointManager:
        """Orbax's manager; after a save has failed, a new one at its next use."""
        if self._started is None:
            self._started = self._start()
        return self._started

    def steps(self) -> list[int]:
        """Those on disk when this was made or ``reload`` called, and those saved since."""
        return sorted(self._orbax.all_steps())

    def reload(self) -> None:
        """Looks again at what is on disk."""
        self._orbax.reload()

    def save(self, step: int, args: ocp.args.Composite) -> None:
        """Begins to save; raises what kept this step from it, or else what was wrong with the last.

        Raises:
          CheckpointError: See above.
        """
        earlier = self.failure()
        self._saving = step
        try:
            self._orbax.save(step, args=args, force=True)
        except Exception as error:
            raise self._unsaved(error) from error
        if earlier is not None:
            raise earlier

    def failure(self) -> CheckpointError | None:
        """Waits for the save under way; its error, given once."""
        try:
            if self._started is not None:
                self._started.wait_until_finished()
        except Exception as error:  # noqa: BLE001  Whatever writing files raises.
            return self._unsaved(error)
        return None

    def close(self) -> None:
        """Releases the threads."""
        try:
            if self._started is not None:
                self._started.close()
        finally:
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(self._quiet)

    def _unsaved(self, error: Exception) -> CheckpointError:
        """The error of the failed save; Orbax's manager is replaced, it would raise it again."""
        if jax.process_count() > 1:  # A new manager is made by all processes together or by none.
            self._orbax.reload()
        else:
            with contextlib.suppress(Exception):
                self._orbax.close()
            self._started = None
        whole = {*ocp.utils.checkpoint_steps(self._directory)} - {self._saving}
        kept = f"step {max(whole)} is the newest one" if whole else "no other step is there"
        what = f"step {self._saving} could not be saved in {os.fspath(self._directory)}"
        failure = CheckpointError(f"{what} ({kept}): {reason(error)}")
        failure.__cause__ = error
        return failure


def leave_out_errors() -> logging.Filter:
    """Keeps Orbax's errors out of the log until the filter that this returns is removed.

    >>> type(leave_out_errors()).__name__
    '_OrbaxErrors'
    """
    quiet = _OrbaxErrors()
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(quiet)
    return quiet


class _OrbaxErrors(logging.Filter):
    """Keeps out of the log the tracebacks of errors that the caller gets as exceptions."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.pathname + record.getMessage()  # asyncio's names the coroutine and its file.
        return record.levelno < logging.ERROR or "orbax" not in text


def leave_out_late_writes() -> None:
    """Keeps "Event loop is closed" off the screen, once for each write after a save has failed.

    Orbax closes the event loop at the first write that fails, and TensorStore reports the others
    to it: each time Python prints a traceback that no one can catch. The error itself is raised.

    >>> leave_out_late_writes()
    """
    shown = sys.unraisablehook
    if getattr(shown, "_late_writes", False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    hook._late_writes = True  # pyrefly: ignore[missing-attribute]
    sys.unraisablehook = hook


def stop_metrics_leak() -> None:
    """Answers 0 where Orbax asks TensorStore how many bytes it has moved, in this whole process.

    TensorStore (0.1.86) never frees the lists in its answer: 20 KB stay behind with every save, 200
    MB after 10,000. All that changes is that Orbax logs and reports no raw throughput. The test
    ``test_tensorstore_still_leaks_its_metrics`` fails once this can be deleted.

    >>> stop_metrics_leak()
    """
    with contextlib.suppress(ImportError):  # Another version of Orbax, with other insides.
        from orbax.checkpoint._src.serialization import tensorstore_utils

        tensorstore_utils.get_tensorstore_raw_bytes = lambda direction=None: 0
