"""Reads one step of a run: whether it belongs to this run, whether it is whole, and its arrays."""

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from wdlab._core.names import first_few
from wdlab.training.checksum import as_in, layout, named_leaves, read_record, same_layout, to_read
from wdlab.training.orbax_io import CheckpointError, read_arrays, together
from wdlab.training.settings import setting_differences

PyTree = Any
Check = Callable[[dict[str, Any], dict[str, Any]], bool]


def read_step(
    folder: epath.Path, like: PyTree, settings: dict[str, Any], check: Check, partial: bool
) -> tuple[PyTree, dict[str, Any], list[str]]:
    """The state, the record's body, and the paths that keep the values of ``like``.

    Args:
      folder: That of the step; its name is the step's number.
      like: As in :meth:`Checkpoints.restore`.
      settings: This run's.
      check: Whether the step is taken where it was made with others, given those and this run's.
      partial: As in :meth:`Checkpoints.restore`.

    Raises:
      CheckpointError: If the step is another run's, or was renamed.
      Exception: If it is damaged.

    >>> read_step(epath.Path("/nowhere/10"), {}, {}, lambda *_: False, False)
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    body = together(lambda: read_record(folder))
    where = f"checkpoint {os.fspath(folder)}"
    if str(body.get("step", folder.name)) != folder.name:
        raise CheckpointError(
            f"{where} holds step {body['step']}: its folder was renamed. Give it that name again, "
            "or move it elsewhere"
        )
    changes = setting_differences(body["settings"], settings)
    if changes and not _goes_on(check, body["settings"], settings):
        raise CheckpointError(f"{where} was made with other settings: {first_few(changes)}")
    saved, leaves = body["layout"], named_leaves(like)
    _check_layout(where, saved, {name: layout(leaf) for name, leaf in leaves.items()}, partial)
    wanted = {
        name: to_read(leaf, saved[name])
        for name, leaf in leaves.items()
        if name in saved and math.prod(np.shape(leaf))
    }
    found = read_arrays(folder, wanted, body["checksums"]) if wanted else {}
    values = [
        as_in(leaf, found[name]) if name in found else _kept(where, name, leaf)
        for name, leaf in leaves.items()
    ]
    filled = [name for name in leaves if name not in saved]
    return jax.tree.unflatten(jax.tree.structure(like), values), body, filled


def _goes_on(check: Check, *settings: dict[str, Any]) -> bool:
    """The function's answer; an error in the function does not mean that the step is damaged."""
    try:
        return check(*settings)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"check_settings: {type(error).__name__}: {error}") from error


def _check_layout(where: str, saved: dict[str, str], wanted: dict[str, str], partial: bool) -> None:
    both = saved.keys() & wanted.keys()
    if partial and saved and not both:
        raise CheckpointError(
            f"{where} has nothing of what is wanted: it has {first_few(list(saved))}; wanted "
            f"{'is' if len(wanted) == 1 else 'are'} {first_few(list(wanted))}"
        )
    same = {name for name in both if same_layout(saved[name], wanted[name])}
    left_out = same | ((saved.keys() ^ wanted.keys()) if partial else set())
    changes = setting_differences(
        {name: text for name, text in saved.items() if name not in left_out},
        {name: text for name, text in wanted.items() if name not in left_out},
    )
    if changes:
        raise CheckpointError(f"{where} holds other arrays: {first_few(changes)}")


def _kept(where: str, name: str, leaf: Any) -> Any:
    """The leaf of ``like``: the step has none, or it has no entries."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if not math.prod(leaf.shape):
        return jnp.zeros(leaf.shape, leaf.dtype)
    raise CheckpointError(f"{where} has no {name}: give an array with its first values in `like`")


def set_aside(directory: epath.Path, damaged: Iterable[int]) -> None:
    """Renames damaged steps, on the first process; the others wait for it.

    >>> set_aside(epath.Path("/nowhere"), [])
    """
    first = jax.process_index() == 0
    together(lambda: [_rename(directory, step) for step in damaged] if first else None)


def _rename(directory: epath.Path, step: int) -> None:
    earlier = len(list(directory.glob(f"damaged-{step}*")))
    name = f"damaged-{step}-{earlier + 1}" if earlier else f"damaged-{step}"
    (directory / str(step)).rename(directory / name)
