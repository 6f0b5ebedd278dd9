"""One leaf as matrices, and back."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class MatrixView(NamedTuple):
    """One leaf's axes, counted from the front, and what turns it into matrices and back."""

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    split: tuple[int, ...] = ()

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes that are neither rows nor columns."""
        taken = self.rows + self.columns
        return tuple(axis for axis in range(len(self.shape)) if axis not in taken)

    @property
    def row_count(self) -> int:
        """Fan-out, of all blocks together."""
        return math.prod(self.shape[axis] for axis in self.rows)

    @property
    def column_count(self) -> int:
        """Fan-in: with a convolution's positions."""
        return math.prod(self.shape[axis] for axis in self.columns)

    @property
    def row_axis(self) -> int:
        """Where the rows of the blocks are, -2 or -1: no axes are exchanged without need."""
        return -2 if self.rows[0] < self.columns[0] else -1

    def sizes_of(self, block: jax.Array) -> tuple[int, int]:
        """Returns a block's numbers of rows and columns.

        >>> MatrixView((2, 6), rows=(1,), columns=(0,)).sizes_of(jnp.ones((2, 6)))
        (6, 2)
        """
        first, second = block.shape[-2:]
        return (first, second) if self.row_axis == -2 else (second, first)

    def blocks(self, x: jax.Array) -> list[jax.Array]:
        """Returns the matrices of a leaf, shape (batch..., rows, columns), or columns first.

        >>> view = MatrixView((2, 6), rows=(1,), columns=(0,), split=(4, 2))
        >>> [block.shape for block in view.blocks(jnp.ones((2, 6)))]
        [(2, 4), (2, 2)]
        """
        first, second = self._order()
        sizes = [math.prod(self.shape[axis] for axis in axes) for axes in (first, second)]
        moved = jnp.transpose(x, self.batch + first + second)
        whole = moved.reshape(*(self.shape[axis] for axis in self.batch), *sizes)
        if not self.split:
            return [whole]
        grouped = self._grouped(whole)
        ends = [sum(self.split[: n + 1]) for n in range(len(self.split))]
        parts = (
            jax.lax.slice_in_dim(grouped, end - size, end, axis=self.row_axis)
            for size, end in zip(self.split, ends, strict=True)
        )
        return [self._with_rows(part, -1) for part in parts]

    def join(self, blocks: list[jax.Array]) -> jax.Array:
        """Puts the matrices back into a leaf of the same shape: the inverse of :meth:`blocks`.

        >>> view = MatrixView((2, 6), rows=(1,), columns=(0,), split=(2, 1))
        >>> x = jnp.arange(12.0).reshape(2, 6)
        >>> bool((view.join(view.blocks(x)) == x).all())
        True
        """
        (whole, *more) = blocks
        if more:
            joined = [
                self._grouped(block, size) for block, size in zip(blocks, self.split, strict=True)
            ]
            whole = self._with_rows(jnp.concatenate(joined, axis=self.row_axis), self.row_count)
        first, second = self._order()
        order = self.batch + first + second
        moved = whole.reshape(tuple(self.shape[axis] for axis in order))
        return jnp.transpose(moved, tuple(order.index(axis) for axis in range(len(order))))

    def _order(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.rows, self.columns) if self.row_axis == -2 else (self.columns, self.rows)

    def _grouped(self, whole: jax.Array, size: int | None = None) -> jax.Array:
        """Rows as (groups, size): the axis of groups stands right before that of rows."""
        size = sum(self.split) if size is None else size
        groups = self.row_count // sum(self.split)
        *batch, first, second = whole.shape
        if self.row_axis == -2:
            return whole.reshape(*batch, groups, size, second)
        return whole.reshape(*batch, first, groups, size)

    def _with_rows(self, grouped: jax.Array, count: int) -> jax.Array:
        """The inverse: groups and size are one axis of rows again."""
        if self.row_axis == -2:
            return grouped.reshape(*grouped.shape[:-3], count, grouped.shape[-1])
        return grouped.reshape(*grouped.shape[:-2], count)
