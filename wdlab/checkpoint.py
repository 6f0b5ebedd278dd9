"""Orbax checkpoints with what Orbax lacks: a checksum per leaf, and fall-back to a good step.

Orbax restores a file with a flipped bit without a word, never falls back to an older step, and
restores into a run whose settings have changed. :class:`Checkpoints` writes three things into each
Orbax step: the arrays, under their paths; a JSON record of the caller (iterator state, metadata);
and in the same record the checksum, shape and dtype of every array and the run's settings. All of
it is checked when the step is read.
"""

import contextlib
import gc
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from wdlab.checksum import layout, leaf_checksum, named_leaves

PyTree = Any
_MOST_NAMED = 5  # Leaves or settings named in one message.


class CheckpointError(ValueError):
    """A checkpoint that does not fit this run, or of which no step is whole."""


class Restored(NamedTuple):
    """What :meth:`Checkpoints.restore` found."""

    step: int
    state: PyTree  # like the argument
    record: dict[str, Any]  # what was given to save
    damaged: dict[int, str]  # newer steps that could not be used -> why; set aside on disk


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: Where the steps lie, one folder each.
      settings: What must be equal for a resumed run to be the same run: JSON values such as sizes,
        data, seed, the decay plan's digest. Stored in each step and compared by ``restore``.
      keep: How many of the newest steps to keep.
      best: A key of the ``metrics`` given to ``save``; the step where it was lowest is kept too.
      read_only: Whether to leave the folder as it is, which another run may be writing to.

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
        self.directory = Path(directory).absolute()
        self._settings = json.loads(json.dumps(dict(settings or {})))
        kept: list = [policies.LatestN(keep)]
        if best is not None:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    reverse=True,  # The last of the sorted list is kept: the lowest.
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=not read_only,  # Left by a process killed inside a save.
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

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
        """
        if step in self._manager.all_steps():
            return
        leaves = named_leaves(state)
        sums = jax.device_get({name: leaf_checksum(leaf) for name, leaf in leaves.items()})
        body = {
            "record": dict(record or {}),
            "settings": self._settings,
            "layout": {name: layout(leaf) for name, leaf in leaves.items()},
            "checksums": {name: [int(word) for word in pair] for name, pair in sums.items()},
        }
        sealed = {"body": body, "sha256": _seal(body)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), record=ocp.args.JsonSave(sealed)
        )
        self._manager.save(step, args=args, metrics=dict(metrics) if metrics else None, force=True)

    def restore(
        self, like: PyTree, *, check_settings: bool = True, step: int | None = None
    ) -> Restored | None:
        """Reads the newest step that is whole; None where there is no step at all.

        Newer steps that are damaged are renamed to ``damaged-<step>`` (never deleted), so that the
        run can write those steps again.

        Args:
          like: Pytree of arrays (or ``jax.ShapeDtypeStruct`` with shardings) to restore into.
          check_settings: Whether settings that differ are an error.
          step: Only this one, and nothing is renamed; None: the newest that is whole.

        Raises:
          CheckpointError: If the settings or the arrays' layout differ, or no step is whole.
        """
        self.wait()
        damaged: dict[int, str] = {}
        for number in reversed(self.steps()) if step is None else [step]:
            found = None
            with _without_asyncio_reports():
                try:
                    found = self._read(number, like, check_settings)
                except CheckpointError:
                    raise
                except Exception as error:  # noqa: BLE001  Damaged files raise anything.
                    damaged[number] = _reason(error)
                if found is None:
                    gc.collect()  # asyncio reports a failed task when it is collected: now.
            if found is not None:
                self._set_aside(damaged)
                return Restored(number, *found, damaged)
        if damaged:
            why = "; ".join(f"step {number}: {reason}" for number, reason in damaged.items())
            raise CheckpointError(f"no checkpoint in {self.directory} is whole: {why}")
        return None

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the saves and releases the threads."""
        self._manager.close()

    def _read(self, step: int, like: PyTree, check_settings: bool) -> tuple[PyTree, dict]:
        body = self._read_record(step)
        self._check_fit(step, body, like, check_settings)
        return self._read_state(step, body, like), body["record"]

    def _read_record(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        sealed = self._manager.restore(step, args=args)["record"]
        if _seal(sealed["body"]) != sealed["sha256"]:
            raise ValueError("its record does not have the SHA-256 it was saved with")
        return sealed["body"]

    def _check_fit(self, step: int, body: dict, like: PyTree, check_settings: bool) -> None:
        """Tells another run's checkpoint from this one's."""
        where = f"checkpoint {self.directory / str(step)}"
        if check_settings and (changes := _differences(body["settings"], self._settings)):
            raise CheckpointError(f"{where} was made with other settings: {changes}")
        here = {name: layout(leaf) for name, leaf in named_leaves(like).items()}
        if changes := _differences(body["layout"], here):
            raise CheckpointError(f"{where} holds other arrays: {changes}")

    def _read_state(self, step: int, body: dict, like: PyTree) -> PyTree:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, named_leaves(like))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        leaves = self._manager.restore(step, args=args)["state"]
        sums = jax.device_get({name: leaf_checksum(leaves[name]) for name in abstract})
        wrong = [n for n, pair in sums.items() if pair.tolist() != body["checksums"][n]]
        if wrong:
            raise ValueError(f"{len(wrong)} array(s) fail their checksum: {_first(wrong)}")
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in abstract])

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        for step in damaged if jax.process_index() == 0 else ():
            earlier = len(list(self.directory.glob(f"damaged-{step}*")))
            name = f"damaged-{step}-{earlier + 1}" if earlier else f"damaged-{step}"
            os.rename(self.directory / str(step), self.directory / name)
        self._manager.reload()


@contextlib.contextmanager
def _without_asyncio_reports() -> Iterator[None]:
    """Keeps failed reads inside Orbax off the user's screen: the caller reports the first one."""
    logger = logging.getLogger("asyncio")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names what differs, both values beside it; empty where nothing does."""
    absent = object()
    changed = [
        f"{key} is {saved.get(key, 'absent')} there, {now.get(key, 'absent')} here"
        for key in {**saved, **now}
        if saved.get(key, absent) != now.get(key, absent)
    ]
    return _first(changed)


def _first(items: list[str]) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(items[:_MOST_NAMED]) + more


def _reason(error: Exception, longest: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else text[: longest - 3] + "..."
