"""Leaves cut into blocks of bounded size, each with matrices of its own."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wdlab.preconditioners.kronecker import MOST_FACTORS, Layout


class Blocks(NamedTuple):
    """How a leaf is cut; blocks at an end are filled up with zeros."""

    batch: tuple[int, ...]
    merged: tuple[int, ...]  # Axes of the leaf after small neighbours are merged.
    size: tuple[int, ...]  # Of a block, along each of them.

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(-(-n // size) for n, size in zip(self.merged, self.size, strict=True))

    @property
    def layout(self) -> Layout:
        """The layout of all blocks together: which block it is counts as a batch axis."""
        axes = tuple(range(len(self.size)))[-MOST_FACTORS:]
        return Layout((*self.batch, *self.counts), self.size, axes)

    def cut(self, x: jax.Array) -> jax.Array:
        """Returns the blocks of a leaf: batch axes, number along each axis, entries.

        >>> blocks_of((3, 2), 0, largest=2, merge_to=None).cut(jnp.arange(6.0))[1, 0].tolist()
        [[4.0, 5.0], [0.0, 0.0]]
        """
        batches, axes = len(self.batch), range(len(self.merged))
        x = x.reshape(self.batch + self.merged)
        pairs = zip(self.counts, self.size, self.merged, strict=True)
        missing = [(0, count * size - n) for count, size, n in pairs]
        if any(end for _, end in missing):
            x = jnp.pad(x, [(0, 0)] * batches + missing)
        split = [n for pair in zip(self.counts, self.size, strict=True) for n in pair]
        order = [*(batches + 2 * i for i in axes), *(batches + 2 * i + 1 for i in axes)]
        return x.reshape(*self.batch, *split).transpose(*range(batches), *order)

    def join(self, x: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Puts the blocks together again, in the leaf's shape.

        >>> blocks = blocks_of((3, 2), 0, largest=2, merge_to=None)
        >>> blocks.join(blocks.cut(jnp.arange(6.0)), (6,)).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        """
        batches, rank = len(self.batch), len(self.merged)
        order = [batches + i + of for i in range(rank) for of in (0, rank)]
        x = x.transpose(*range(batches), *order)
        full = [count * size for count, size in zip(self.counts, self.size, strict=True)]
        x = x.reshape(*self.batch, *full)
        x = x[(..., *(slice(n) for n in self.merged))]
        return x.reshape(tuple(shape))


def blocks_of(
    shape: Sequence[int], batch_axes: int, *, largest: int, merge_to: int | None
) -> Blocks:
    """Returns how a leaf is cut.

    Axes of size 1 are left out. From the last axis on, neighbours are merged as long as their
    product is at most ``largest`` and more than ``merge_to`` axes are left; then each axis is cut
    into pieces of ``largest``.

    Args:
      shape: Of the leaf.
      batch_axes: How many leading axes stack leaves.
      largest: Longest side of a block, at least 1.
      merge_to: Least number of axes to merge down to; None: nothing is merged.

    >>> blocks_of((32, 3, 64, 64), 0, largest=8192, merge_to=1).merged
    (96, 4096)
    >>> blocks_of((12, 768, 2048), 1, largest=512, merge_to=1).counts
    (2, 4)
    """
    batch = tuple(shape[:batch_axes])
    *others, last = [n for n in shape[batch_axes:] if n != 1] or [1]
    merged = [last]
    for left, n in zip(range(len(others), 0, -1), reversed(others), strict=True):
        more = merge_to is not None and len(merged) + left > merge_to
        if more and merged[0] * n <= largest:
            merged[0] *= n
        else:
            merged.insert(0, n)
    if math.prod(merged) == 0:
        merged = [0]
    sizes = tuple(max(1, min(n, largest)) for n in merged)
    return Blocks(batch, tuple(merged), sizes)
