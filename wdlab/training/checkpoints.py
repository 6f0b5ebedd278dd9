"""Orbax checkpoints with what Orbax lacks: a checksum per leaf, and fall-back to a good step.

Orbax restores a file with a flipped bit without a word, never falls back to an older step, and
restores into a run whose settings have changed. :class:`Checkpoints` writes three things into each
Orbax step: the arrays, under their paths; a JSON record of the caller (iterator state, metadata);
and in the same record the checksum, shape and dtype of every array and the run's settings. All of
it is checked when the step is read.
"""

import gc
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from wdlab._core.names import first_few
from wdlab.training.checksum import layout, leaf_checksums, named_leaves
from wdlab.training.orbax_io import (
    CheckpointError,
    as_path,
    lock,
    make_manager,
    read_record,
    read_state,
    reason,
    sealed,
    together,
    without_asyncio_reports,
)
from wdlab.training.settings import setting_differences

PyTree = Any


class Restored(NamedTuple):
    """What :meth:`Checkpoints.restore` found."""

    step: int
    state: PyTree  # like the argument
    record: dict[str, Any]  # what was given to save
    damaged: dict[int, str]  # newer steps that could not be used -> why; set aside on disk
    differences: list[str]  # settings that are others than here, with check_settings=False


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: Where the steps lie, one folder each.
      settings: What must be equal for a resumed run to be the same run: JSON values, such as
        :func:`wdlab.training.run_settings` gives. Stored in each step and compared by ``restore``.
      keep: How many of the newest steps to keep.
      best: A key of the ``metrics`` given to ``save``; the step where it was lowest is kept too.
      read_only: Whether to leave the folder as it is, which another run may be writing to.

    Raises:
      CheckpointError: If another run writes to the folder, or this process may not.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
      ...     checkpoints.save(3, {"w": jnp.ones(2)}, record={"next_batch": 4})
      ...     restored = checkpoints.restore({"w": jnp.zeros(2)})
      >>> restored.step, restored.state["w"].tolist(), restored.record
      (3, [1.0, 1.0], {'next_batch': 4})
    """

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
        self._settings = json.loads(json.dumps(dict(settings or {})))
        self._read_only = read_only
        self._saving: int | None = None
        writes = jax.process_index() == 0 and not read_only
        self._lock = together(lambda: lock(self.directory) if writes else None)
        self._manager = make_manager(self.directory, keep, best, read_only)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The finished steps on disk, oldest first."""
        return sorted(self._manager.all_steps())

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
          step: The number of updates made.
          state: Pytree of arrays: parameters, optimizer state, random keys.
          record: JSON values to give back, such as the data iterator's state.
          metrics: What decides which step is best.

        Raises:
          CheckpointError: If this step or the one before cannot be written (disk full ...).
        """
        if self._read_only:
            raise CheckpointError(f"{self._where} was opened with read_only=True")
        if step in self._manager.all_steps():
            return
        leaves = named_leaves(state)
        sums = leaf_checksums(leaves)
        body = {
            "record": dict(record or {}),
            "settings": self._settings,
            "layout": {name: layout(leaf) for name, leaf in leaves.items()},
            "checksums": {name: [int(word) for word in pair] for name, pair in sums.items()},
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), record=ocp.args.JsonSave(sealed(body))
        )
        self.wait()
        self._saving = step
        chosen = dict(metrics) if metrics else None
        try:
            self._manager.save(step, args=args, metrics=chosen, force=True)
        except Exception as error:
            raise self._unsaved(error) from error

    def restore(
        self, like: PyTree, *, check_settings: bool = True, step: int | None = None
    ) -> Restored | None:
        """Reads the newest step that is whole; None where there is no step at all.

        Newer steps that are damaged are renamed to ``damaged-<step>`` (never deleted), so that the
        run can write those steps again.

        Args:
          like: Pytree of arrays (or ``jax.ShapeDtypeStruct`` with shardings) to restore into.
          check_settings: Whether settings that differ are an error; otherwise they are returned.
            A number that ``inject_hyperparams`` keeps in the state is then the checkpoint's.
          step: Only this one, and nothing is renamed; None: the newest that is whole.

        Raises:
          CheckpointError: If the settings or the arrays' layout differ, or no step is whole.
        """
        self.wait()
        damaged: dict[int, str] = {}
        for number in reversed(self.steps()) if step is None else [step]:
            found = None
            with without_asyncio_reports():
                try:
                    found = self._read(number, like, check_settings)
                except CheckpointError:
                    raise
                except Exception as error:  # noqa: BLE001  Damaged files raise anything.
                    damaged[number] = reason(error)
                if found is None:
                    gc.collect()  # asyncio reports a failed task when it is collected: now.
            if found is not None:
                self._set_aside(damaged)
                state, body = found
                differences = setting_differences(body["settings"], self._settings)
                return Restored(number, state, body["record"], damaged, differences)
        if damaged:
            reasons = "; ".join(f"step {number}: {why}" for number, why in damaged.items())
            raise CheckpointError(f"no checkpoint in {self._where} is whole: {reasons}")
        return None

    def wait(self) -> None:
        """Returns when everything saved so far is on disk.

        Raises:
          CheckpointError: If it cannot be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unsaved(error) from error

    def close(self) -> None:
        """Waits for the saves and releases the threads and the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()
            if self._lock is not None:
                self._lock.__exit__(None, None, None)

    @property
    def _where(self) -> str:
        return os.fspath(self.directory)

    def _unsaved(self, error: Exception) -> CheckpointError:
        whole = [step for step in self.steps() if step != self._saving]
        kept = f"step {whole[-1]} is the newest there" if whole else "there is no other step there"
        what = f"step {self._saving} could not be saved in {self._where}"
        return CheckpointError(f"{what} ({kept}): {reason(error)}")

    def _read(self, step: int, like: PyTree, check_settings: bool) -> tuple[PyTree, dict]:
        folder = self.directory / str(step)
        body = together(lambda: read_record(folder))
        self._check_fit(step, body, like, check_settings)
        return read_state(folder, body["checksums"], like), body

    def _check_fit(self, step: int, body: dict, like: PyTree, check_settings: bool) -> None:
        """Tells another run's checkpoint from this one's."""
        where = f"checkpoint {self._where}/{step}"
        changes = setting_differences(body["settings"], self._settings) if check_settings else []
        if changes:
            raise CheckpointError(f"{where} was made with other settings: {first_few(changes)}")
        here = {name: layout(leaf) for name, leaf in named_leaves(like).items()}
        if changes := setting_differences(body["layout"], here):
            raise CheckpointError(f"{where} holds other arrays: {first_few(changes)}")

    def _set_aside(self, damaged: Iterable[int]) -> None:
        """Renames damaged steps, on the first process; the others wait for it."""
        if not damaged or self._read_only:
            return
        first = jax.process_index() == 0
        together(lambda: [self._rename(step) for step in damaged] if first else None)
        self._manager.reload()

    def _rename(self, step: int) -> None:
        earlier = len(list(self.directory.glob(f"damaged-{step}*")))
        name = f"damaged-{step}-{earlier + 1}" if earlier else f"damaged-{step}"
        (self.directory / str(step)).rename(self.directory / name)
