"""Damages one file of a run's newest checkpoint, and looks at what is restored."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from wdlab.training import CheckpointError, Checkpoints
from wdlab.training.checksum import named_leaves
from wdlab.training.orbax_io import as_path

PyTree = Any
OLDER, NEWER = 10, 20


def make_state(scale: float = 1.0) -> PyTree:
    """Arrays of several kinds whose values tell the step."""
    return {
        "kernel": scale * jax.random.normal(jax.random.key(0), (64, 32), jnp.float32),
        "half": jnp.full((40,), scale, jnp.bfloat16),
        "count": jnp.int32(7 * scale),
        "key": jax.random.key(3),
        "nested": [jnp.arange(5.0) * scale, (jnp.array([True, False]),)],
    }


def save_two_steps(folder: Path) -> None:
    """A run with two whole steps of different values."""
    with Checkpoints(folder) as checkpoints:
        for step in (OLDER, NEWER):
            checkpoints.save(step, make_state(step), record={"iterator": step})


def flip_bit(path: Path, rng: random.Random) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    """Cuts the file off at a random place."""
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def delete(path: Path, rng: random.Random) -> None:
    """Removes the file."""
    del rng
    path.unlink()


def zero(path: Path, rng: random.Random) -> None:
    """Keeps the length and sets all bytes to 0, as some file systems do when power fails."""
    del rng
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "one bit flipped": flip_bit,
    "truncated": truncate,
    "deleted": delete,
    "zeroed": zero,
}


def files_of(folder: Path, step: int) -> list[Path]:
    """The files of a step that hold something, relative to the folder."""
    found = sorted(p for p in (folder / str(step)).rglob("*") if p.is_file() and p.stat().st_size)
    return [path.relative_to(folder) for path in found]


def draw(pristine: Path, trials: int, by_size: bool, rng: random.Random) -> list[Path]:
    """Every file of the newer step once as far as that goes, then by chance."""
    files = files_of(pristine, NEWER)
    sizes = [(pristine / f).stat().st_size if by_size else 1 for f in files]
    # A bit flips where there are many: mostly in the arrays.
    return [*files, *rng.choices(files, sizes, k=trials)][-trials if by_size else 0 :][:trials]


def copy_of(pristine: Path, folder: Path) -> None:
    """Makes ``folder`` the undamaged run again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)


def restore_outcome(folder: Path) -> str:
    """What :class:`Checkpoints` makes of it."""
    with Checkpoints(folder) as checkpoints:
        try:
            restored = checkpoints.restore(make_state(1.0))
        except CheckpointError:
            return "refused"
    if restored is None:
        return "nothing found"
    right = equal(restored.state, make_state(restored.step))
    if not right or restored.record != {"iterator": restored.step}:
        return "wrong"
    if restored.step == NEWER:
        return "newest, right"
    named = restored.damaged.get(NEWER)
    return "older, right" if named else "older, unnamed"


def orbax_outcome(folder: Path) -> str:
    """What Orbax alone makes of the newest step."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, named_leaves(make_state(1.0)))
    handler, where = ocp.StandardCheckpointHandler(), as_path(folder / str(NEWER) / "state")
    try:
        state = handler.restore(where, args=ocp.args.StandardRestore(abstract))
    except Exception:  # noqa: BLE001  Damaged files raise anything.
        return "Orbax: error"
    return "Orbax: right" if equal(state, named_leaves(make_state(NEWER))) else "Orbax: wrong"


def equal(a: PyTree, b: PyTree) -> bool:
    """Bit for bit, NaN included."""
    return all(
        np.array_equal(_bytes(x), _bytes(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _bytes(leaf: jax.Array) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.frombuffer(np.asarray(leaf).tobytes(), np.uint8)


def trial_outcomes(
    kind: str, trials: int, scratch: Path, *, seed: int = 0, orbax: bool = False
) -> Counter[str]:
    """How often each outcome came of damaging one file, ``trials`` times."""
    rng = random.Random(seed)
    pristine, folder = scratch / "pristine", scratch / "run"
    if not pristine.exists():
        save_two_steps(pristine)
    outcomes: Counter[str] = Counter()
    for path in draw(pristine, trials, kind == "one bit flipped", rng):
        copy_of(pristine, folder)
        DAMAGES[kind](folder / path, rng)
        if orbax:
            outcomes[orbax_outcome(folder)] += 1
        outcomes[restore_outcome(folder)] += 1
    return outcomes
