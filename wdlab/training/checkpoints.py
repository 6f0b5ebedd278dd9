"""Orbax checkpoints with what Orbax lacks: a checksum per leaf, and fall-back to a good step.

Orbax restores a file with a flipped bit without a word, never falls back to an older step, and
restores into a run whose settings have changed. :class:`Checkpoints` writes with the arrays a JSON
record: what the caller gives (iterator state), the step, its metrics, the run's settings, and the
checksum, shape and dtype of every array. All of it is checked when the step is read.
"""

import atexit
import operator
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from typing import Any, ClassVar, NamedTuple

import jax
import orbax.checkpoint as ocp

from wdlab._core.checks import check_whole
from wdlab._core.names import first_few
from wdlab.training.checksum import described, sealed
from wdlab.training.kept_steps import KeptSteps
from wdlab.training.orbax_io import CheckpointError, as_path, lock, reason, together
from wdlab.training.orbax_manager import Manager, leave_out_errors
from wdlab.training.reading import Check, read_step, set_aside
from wdlab.training.settings import as_json, setting_differences

PyTree = Any


class Restored(NamedTuple):
    """What :meth:`Checkpoints.restore` found."""

    step: int
    state: PyTree  # like the argument
    record: dict[str, Any]  # what was given to save
    damaged: dict[int, str]  # newer steps that could not be used -> why; set aside on disk
    differences: list[str]  # settings that differ from this run's, with check_settings=False
    filled: list[str]  # with partial=True: paths the step does not have, taken from ``like``


class Checkpoints:
    """The checkpoints of one run.

    Use it in a ``with`` block or call ``close``. A program that does neither writes its last step
    when it ends.

    Args:
      directory: Where the steps lie, one folder each.
      settings: What must be equal for a resumed run to be the same run: JSON values, such as
        :func:`wdlab.training.run_settings` gives. Stored in each step and compared by ``restore``.
      keep: How many of the newest steps to keep, >= 1.
      best: A key of the ``metrics`` given to ``save``; the step where it was lowest is kept too.
        NaN is never lowest, nor is a step saved without that key.
      read_only: Whether to leave the folder as it is, which another run may be writing to.

    Raises:
      CheckpointError: If another run writes to the folder, or this process may not.
      TypeError, ValueError: If ``keep`` or the settings cannot be what they are.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
      ...     checkpoints.save(3, {"w": jnp.ones(2)}, record={"next_batch": 4})
      ...     restored = checkpoints.restore({"w": jnp.zeros(2)})
      >>> restored.step, restored.state["w"].tolist(), restored.record
      (3, [1.0, 1.0], {'next_batch': 4})
    """

    _open: ClassVar[list["Checkpoints"]] = []

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        settings: Mapping[str, Any] | None = None,
        keep: int = 2,
        best: str | None = None,
        read_only: bool = False,
    ):
        self.directory = as_path(directory)
        self._settings = as_json(settings or {}, "settings")
        check_whole("keep", keep)
        self._kept = KeptSteps(self.directory, keep, best)
        self._read_only = read_only
        self._process = os.getpid()
        writes = jax.process_index() == 0 and not read_only
        with ExitStack() as held:
            held.enter_context(together(lambda: lock(self.directory) if writes else nullcontext()))
            self._manager = Manager(self.directory, self._kept, read_only)
            held.callback(self._manager.close)
            self._held = held.pop_all()  # Released here where that fails, else by ``close``.
        self._open.append(self)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The finished steps on disk, oldest first."""
        if self._read_only:  # Another run may have saved since.
            self._manager.reload()
        return self._manager.steps()

    def best_step(self) -> int | None:
        """The step where the metric called ``best`` was lowest; None if none has a number."""
        return self._kept.best_of(self.steps())

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        record: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves in the background; a step that is there already is left as it is.

        The arrays are copied before this returns, so they may be donated right after.

        Args:
          step: The number of updates made, >= 0.
          state: Pytree of arrays and numbers: parameters, optimizer state, random keys.
          record: JSON values to give back, such as the data iterator's state.
          metrics: What decides which step is best.

        Raises:
          CheckpointError: If this step cannot be written (disk full ...), or the one before could
            not be; this one is on its way then.
          TypeError, ValueError: If the step or a leaf cannot be saved.
        """
        step = operator.index(step)  # Of an array too.
        check_whole("step", step, least=0)
        if self._read_only or self not in self._open:
            how = "opened with read_only=True" if self._read_only else "closed"
            raise CheckpointError(f"{self.directory} is {how}: step {step} cannot be saved")
        if step in self._manager.steps():
            return
        arrays, leaves = described(state)
        given = {"record": as_json(record or {}, "record")}
        given["metrics"] = as_json(metrics or {}, "metrics")
        body = {"step": step, "settings": self._settings, **given, **leaves}
        self._kept.note(step, given["metrics"])
        items = {"state": ocp.args.StandardSave(arrays)} if arrays else {}
        args = ocp.args.Composite(record=ocp.args.JsonSave(sealed(body)), **items)
        self._manager.save(step, args)

    def restore(
        self,
        like: PyTree,
        *,
        check_settings: bool | Check = True,
        step: int | None = None,
        partial: bool = False,
    ) -> Restored | None:
        """Reads the newest step that is whole; None where there is no step at all.

        Newer steps that are damaged are renamed to ``damaged-<step>`` (never deleted), so that the
        run can write those steps again.

        Args:
          like: Pytree of arrays (or ``jax.ShapeDtypeStruct`` with shardings) to restore into.
            NumPy arrays and Python numbers come back as such.
          check_settings: Whether settings that differ are an error; otherwise they are returned.
            A number that ``inject_hyperparams`` keeps in the state is then the checkpoint's. Or a
            function of the step's settings and this run's that decides where they differ.
          step: Only this one, and nothing is renamed; None: the newest that is whole.
          partial: Whether ``like`` may have other paths than the step. What it lacks is not read;
            what only it has, such as a new moving average, keeps its values.

        Raises:
          CheckpointError: If the settings or the arrays' layout differ, or no step is whole.
        """
        self.wait()
        check = check_settings if callable(check_settings) else lambda *_: not check_settings
        damaged: dict[int, str] = {}
        for number in self._to_try(step):
            folder = self.directory / str(number)
            try:
                state, body, filled = read_step(folder, like, self._settings, check, partial)
            except CheckpointError:
                raise
            except Exception as error:  # noqa: BLE001  Damaged files raise anything.
                damaged[number] = reason(error)
                continue
            if damaged and not self._read_only:
                set_aside(self.directory, damaged)
                self._manager.reload()
            differences = setting_differences(body["settings"], self._settings)
            return Restored(number, state, body["record"], damaged, differences, filled)
        if not damaged:
            return None
        reasons = "; ".join(f"step {number}: {why}" for number, why in damaged.items())
        raise CheckpointError(f"no checkpoint in {self.directory} is whole: {reasons}")

    def wait(self) -> None:
        """Returns when everything saved so far is on disk.

        Raises:
          CheckpointError: If it cannot be written.
        """
        if (failure := self._manager.failure()) is not None:
            raise failure

    def close(self) -> None:
        """Waits for the saves and releases the threads and the folder."""
        if self not in self._open:
            return
        try:
            self.wait()
        finally:
            self._open.remove(self)
            self._held.close()

    @classmethod
    def close_all(cls) -> None:
        """Closes all that this process has open, such as those of a notebook's earlier cells."""
        for checkpoints in list(cls._open):
            if checkpoints._process == os.getpid():  # Not those of a process that forked this one.
                checkpoints.close()

    def _to_try(self, step: int | None) -> list[int]:
        there = self.steps()
        if step is None:
            return there[::-1]
        if step not in there:
            found = f"it has {first_few([str(n) for n in there])}" if there else "it has none"
            raise CheckpointError(f"there is no step {step} in {self.directory}: {found}")
        return [step]


def _close_at_exit() -> None:
    """What cannot be written is one line on stderr."""
    leave_out_errors()  # For good: Orbax's threads may still write.
    try:
        Checkpoints.close_all()
    except CheckpointError as error:
        sys.stderr.write(f"error: {error}\n")
        _close_at_exit()  # The others.


# Not atexit: it comes when concurrent.futures takes no more work, which Orbax needs to finish.
getattr(threading, "_register_atexit", atexit.register)(_close_at_exit)
