"""What Orbax leaves to its caller: one writer per folder, reads that fail on all alike."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from wdlab._core.names import first_few
from wdlab.training.checksum import leaf_checksums, named_leaves

try:
    import fcntl
except ImportError:  # Windows: no lock.
    fcntl = None

PyTree = Any
T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, does not fit this run, or of which no step is whole."""


def as_path(directory: str | os.PathLike[str]) -> epath.Path:
    """An absolute path, or one like ``gs://bucket/run`` as it is.

    >>> as_path("gs://bucket/run").name
    'run'
    """
    name = os.fspath(directory)
    return epath.Path(name if "://" in name else os.path.abspath(name))


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
    CheckpointError: another run (process ...) is writing checkpoints to ...
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if fcntl is None or "://" in os.fspath(directory):
            return contextlib.nullcontext()
        file = open(os.path.join(directory, ".lock"), "a+")  # noqa: SIM115  Open until the end.
    except OSError as error:
        raise CheckpointError(
            f"no checkpoints can be written to {os.fspath(directory)}: {error.strerror}. Choose a "
            "folder that this user may write"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read() or "unknown"
        file.close()
        raise CheckpointError(
            f"another run (process {holder}) is writing checkpoints to {os.fspath(directory)}. "
            "Choose another folder, or end that run first"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename}")
    file.flush()
    return file


def make_manager(
    directory: epath.Path, keep: int, best: str | None, read_only: bool
) -> ocp.CheckpointManager:
    """Orbax's manager that keeps the newest steps and the one with the lowest ``best``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_manager(as_path(folder), 1, None, True).all_steps()
    []
    """
    stop_metrics_leak()
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
    return ocp.CheckpointManager(directory, options=options)


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


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a step with the SHA-256 of its JSON form.

    >>> sealed({})["sha256"][:8]
    '44136fa3'
    """
    text = json.dumps(body, sort_keys=True)
    return {"body": body, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def read_record(step_folder: epath.Path) -> dict[str, Any]:
    """Reads the body of the record of a step.

    Raises:
      ValueError, OSError: If it is not what was saved.

    >>> read_record(as_path("/nowhere/10"))
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    found = json.loads((step_folder / "record" / "metadata").read_text())
    if sealed(found["body"])["sha256"] != found["sha256"]:
        raise ValueError("its record does not have the SHA-256 it was saved with")
    return found["body"]


def read_state(step_folder: epath.Path, checksums: Mapping[str, list[int]], like: PyTree) -> PyTree:
    """Reads the arrays of a step and compares their checksums.

    Not by the checkpoint manager, whose barrier a process with a damaged file would never reach.

    Raises:
      Exception: If an array is not what was saved, on all processes alike.

    >>> read_state(as_path("/nowhere/10"), {}, {"w": jax.numpy.ones(2)})
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    # Not by jax.tree.map, which sorts the paths: 'blocks/10' before 'blocks/2'.
    abstract = {n: ocp.utils.to_shape_dtype_struct(x) for n, x in named_leaves(like).items()}
    args = ocp.args.StandardRestore(abstract)
    handler = ocp.StandardCheckpointHandler()
    leaves = together(lambda: handler.restore(step_folder / "state", args=args))
    sums = leaf_checksums({name: leaves[name] for name in abstract})
    wrong = [name for name, pair in sums.items() if pair.tolist() != checksums[name]]
    if wrong:
        raise ValueError(f"{len(wrong)} array(s) fail their checksum: {first_few(wrong)}")
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in abstract])


@contextlib.contextmanager
def without_asyncio_reports() -> Iterator[None]:
    """Keeps failed reads inside Orbax off the user's screen: the caller reports the first one.

    >>> with without_asyncio_reports():
    ...     logging.getLogger("asyncio").error("not shown")
    """
    logger = logging.getLogger("asyncio")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def reason(error: BaseException, longest: int = 200) -> str:
    r"""An error in one line.

    >>> reason(ValueError("two\nlines")), reason(KeyError())
    ('two lines', 'KeyError')
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else text[: longest - 3] + "..."
