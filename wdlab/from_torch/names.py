"""Which torch tensor is which leaf, and how its axes move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from wdlab.rules import nearest_path

# Torch's (out, in, ...) to Flax's (..., in, out); pass them as Leaf(path, axes=LINEAR).
LINEAR = (1, 0)
CONV1D = (2, 1, 0)
CONV2D = (2, 3, 1, 0)
CONV3D = (2, 3, 4, 1, 0)


@dataclass(frozen=True)
class Leaf:
    """Where a torch tensor goes: leaf = transpose(tensor, axes).

    Args:
      path: Of the leaf here, as :func:`wdlab.inspect_decay` prints it.
      axes: Permutation as for ``numpy.transpose``; None leaves the axes. :data:`LINEAR` for
        torch.nn.Linear to Flax's Dense, :data:`CONV2D` for Conv2d to Conv. Embeddings need none.
      reshape: Whether the result may be cut to the leaf's shape, in C order: attention's
        (d, d) to Flax's (d, heads, d / heads).

    >>> Leaf("dense/kernel", axes=LINEAR)
    Leaf(path='dense/kernel', axes=(1, 0), reshape=False)
    """

    path: str
    axes: tuple[int, ...] | None = None
    reshape: bool = False

    def __post_init__(self):
        if not isinstance(self.path, str):
            raise TypeError(f"Leaf: path must be a string, got {self.path!r}.")
        if self.axes is None:
            return
        object.__setattr__(self, "axes", tuple(self.axes))
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(
                f"Leaf({self.path!r}): axes must be a permutation of 0, 1, ..., got {self.axes}."
            )


NameMap = Mapping[str, str | Leaf | None]


class Source(NamedTuple):
    """The torch tensor of a leaf."""

    name: str
    leaf: Leaf


def resolve_names(
    names: NameMap, found: Sequence[str], paths: Sequence[str], *, all_paths: bool = True
) -> dict[str, Source]:
    """Returns path -> tensor, or says which name or path has no counterpart.

    Args:
      names: Torch name -> path, Leaf, or None to leave the tensor out.
      found: Torch names that there are.
      paths: Of the leaves here.
      all_paths: Whether every leaf must have a tensor.

    Raises:
      TypeError: If an entry is none of the three.
      ValueError: If a name or path is unknown, missing, or used twice.

    >>> resolve_names({"w": "dense/w"}, ["w"], ["dense/w"])["dense/w"].name
    'w'
    """
    sources: dict[str, Source] = {}
    for name, target in names.items():
        if target is None:
            continue
        if not isinstance(target, str | Leaf):
            raise TypeError(f"names[{name!r}] must be a path, a Leaf or None, got {target!r}.")
        leaf = Leaf(target) if isinstance(target, str) else target
        if name not in found:
            raise ValueError(f"names: torch has no {name!r}; the nearest is {_near(name, found)}.")
        if leaf.path not in paths:
            raise ValueError(
                f"names[{name!r}]: there is no parameter {leaf.path!r} here; the nearest is "
                f"{_near(leaf.path, paths)}."
            )
        if leaf.path in sources:
            raise ValueError(
                f"names: {sources[leaf.path].name!r} and {name!r} both go to {leaf.path!r}. If "
                f"torch ties them, write names[{name!r}] = None."
            )
        sources[leaf.path] = Source(name, leaf)
    missing = [path for path in paths if path not in sources] if all_paths else []
    spare = [name for name in found if name not in names]
    if missing:
        near = _near(missing[0], spare) if spare else "none: all torch names are taken"
        raise ValueError(
            f"names: nothing goes to {len(missing)} parameter(s), {missing[0]!r} the first; the "
            f"nearest free torch name is {near}. Write names[...] = {missing[0]!r}."
        )
    if spare:
        raise ValueError(
            f"names: {len(spare)} torch name(s) are not in it, {spare[0]!r} the first. Say where "
            f"it goes, or names[{spare[0]!r}] = None to leave it out."
        )
    return sources


def laid_out(source: Source, tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the tensor in the leaf's layout, or says which axes would do.

    >>> laid_out(Source("w", Leaf("w", axes=LINEAR)), np.ones((3, 2)), (2, 3)).shape
    (2, 3)
    """
    array = as_numpy(tensor)
    leaf = source.leaf
    if leaf.axes is not None:
        if len(leaf.axes) != array.ndim:
            raise ValueError(
                f"{source.name!r} has shape {array.shape}, and Leaf({leaf.path!r}) permutes "
                f"{len(leaf.axes)} axes, {leaf.axes}."
            )
        array = array.transpose(leaf.axes)
    if array.shape == tuple(shape):
        return array
    if leaf.reshape and array.size == np.prod(shape):
        return array.reshape(shape)
    hint = ""
    for axes in (LINEAR, CONV1D, CONV2D, CONV3D):
        original = as_numpy(tensor)
        if original.ndim == len(axes) and original.transpose(axes).shape == tuple(shape):
            hint = f" Write Leaf({leaf.path!r}, axes={axes})."
    raise ValueError(
        f"{source.name!r} gives {leaf.path!r} the shape {array.shape}, and it has {tuple(shape)}."
        + hint
    )


def as_numpy(tensor: Any) -> np.ndarray:
    """Returns a tensor of torch, or anything like an array, as a NumPy array.

    >>> as_numpy([1.0, 2.0]).shape
    (2,)
    """
    if hasattr(tensor, "full_tensor"):  # A DTensor's shards, of all processes.
        tensor = tensor.full_tensor()
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none; float32 holds it exactly.
            tensor = tensor.float()
    return np.asarray(tensor)


def _near(wanted: str, choices: Sequence[str]) -> str:
    """The choice most like ``wanted``, quoted; dots and slashes count as the same."""
    by_path = {choice.replace(".", "/"): choice for choice in choices}
    near = nearest_path(wanted.replace(".", "/"), list(by_path))
    return "none" if near is None else repr(by_path[near])
