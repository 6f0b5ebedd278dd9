"""What Orbax leaves to its caller: one writer per folder, reads that fail on all alike."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import type_handlers

from wdlab._core.names import first_few
from wdlab.training.checksum import leaf_checksums

try:
    import fcntl
except ImportError:  # Windows: no lock.
    fcntl = None

PyTree = Any
T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, does not fit this run, or of which no step is whole."""


def as_path(directory: str | os.PathLike[str]) -> epath.Path:
    """An absolute path, ``~`` being the home folder, or one like ``gs://bucket/run`` as it is.

    >>> as_path("gs://bucket/run").name
    'run'
    """
    name = os.fspath(directory)
    return epath.Path(name if "://" in name else os.path.abspath(os.path.expanduser(name)))


def together(act: Callable[[], T]) -> T:
    """Calls it on every process; where it fails on one it fails on all.

    A process that went on alone would wait for the others for ever.

    >>> together(lambda: 3)
    3
    """
    result, error = None, None
    try:
        result = act()
    except Exception as caught:  # noqa: BLE001  Damaged files raise anything.
        error = caught
    failed = np.array([error is not None])
    if jax.process_count() > 1:
        failed = np.ravel(multihost_utils.process_allgather(failed))
    if error is not None:
        raise error
    if failed.any():
        raise ValueError(f"process {int(failed.argmax())} could not read it")
    return result  # pyrefly: ignore[bad-return]


def lock(directory: epath.Path) -> Any:
    """Makes the folder and marks it as written by this process, until it ends or closes the file.

    The mark is the operating system's (``flock``), so a killed process leaves none behind.

    Raises:
      CheckpointError: If another run writes there, or the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, lock(as_path(folder)):
    ...     lock(as_path(folder))
    Traceback (most recent call last):
    CheckpointError: another run (process ..., the same as this one) is writing checkpoints to ...
    """
    where, own = os.fspath(directory), f"{os.getpid()} on {os.uname().nodename}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if fcntl is None or "://" in where:
            return contextlib.nullcontext()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # What a link leads to would be overwritten.
        file = open(os.open(os.path.join(where, ".lock"), flags, 0o666), "r+")  # noqa: SIM115
    except OSError as error:
        why = "its .lock is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise CheckpointError(
            f"no checkpoints can be written to {where}: {why}. Choose a folder that this user may "
            "write"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with file:
            holder = file.read() or "unknown"
        remedy = "Choose another folder, or end that run first"
        if holder == own:
            holder += ", the same as this one"
            remedy = "Close the earlier Checkpoints, or all of them: Checkpoints.close_all()"
        raise CheckpointError(
            f"another run (process {holder}) is writing checkpoints to {where}. {remedy}"
        ) from None
    file.truncate(0)
    file.write(own)
    file.flush()
    return file


def read_arrays(
    step_folder: epath.Path, wanted: Mapping[str, Any], checksums: Mapping[str, list[int]]
) -> dict[str, Any]:
    """Reads arrays of a step and compares their checksums.

    Not by the checkpoint manager, whose barrier a process with a damaged file would never reach.

    Args:
      step_folder: Where the step lies.
      wanted: Path -> ``jax.ShapeDtypeStruct``; one without a sharding is read as a NumPy array.
      checksums: Those of the record.

    Raises:
      Exception: If an array is not what was saved, on all processes alike.

    >>> read_arrays(as_path("/nowhere/10"), {"w": jax.ShapeDtypeStruct((2,), np.float32)}, {})
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    kinds = (
        {name: leaf for name, leaf in wanted.items() if leaf.sharding is not None},
        {name: leaf for name, leaf in wanted.items() if leaf.sharding is None},
    )
    # One handler at a time: see _Patient.
    found = together(lambda: {n: x for k in kinds if k for n, x in _read(step_folder, k).items()})
    sums = leaf_checksums({name: found[name] for name in wanted})
    wrong = [name for name, pair in sums.items() if pair.tolist() != checksums[name]]
    if wrong:
        raise ValueError(f"{len(wrong)} array(s) fail their checksum: {first_few(wrong)}")
    return found


def _read(step_folder: epath.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    kinds: list[Any] = [
        (kind, _Patient(type_handlers.get_type_handler(kind))) for kind in (np.ndarray, jax.Array)
    ]
    registry = type_handlers.create_type_handler_registry(*kinds)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    args = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
    )
    return handler.restore(step_folder / "state", args=args)


class _Patient:
    """A type handler of Orbax of which a failed read ends when all the others have ended.

    Orbax closes the event loop at the first error, and those still under way report to a loop that
    is closed: tracebacks on the screen, coroutines that were never awaited.
    """

    def __init__(self, handler: Any):
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        before = asyncio.all_tasks()
        try:
            return await self._handler.deserialize(infos, args)
        finally:
            await asyncio.gather(*asyncio.all_tasks() - before, return_exceptions=True)


def reason(error: BaseException, longest: int = 200) -> str:
    r"""An error in one line.

    >>> reason(ValueError("two\nlines")), reason(KeyError())
    ('two lines', 'KeyError')
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else text[: longest - 3] + "..."
