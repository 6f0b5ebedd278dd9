"""Which part of an ``optax.partition`` trains each leaf, read from the shapes of its state."""

from typing import Any

import jax
import numpy as np
import optax

from wdlab.rules import leaves_with_paths

PyTree = Any


def branches_in(state: PyTree, params: PyTree) -> tuple[str, ...]:
    """Returns the label of each leaf; empty where the optimizer has no parts with state.

    Args:
      state: Of the optimizer, arrays or their shapes.
      params: Pytree of arrays or of shapes.

    >>> params = {"a": np.ones(2), "b": np.ones(2)}
    >>> tx = optax.partition({"x": optax.adam(1.0), "y": optax.sgd(1.0)}, {"a": "x", "b": "y"})
    >>> branches_in(jax.eval_shape(tx.init, params), params)
    ('x', '')
    """
    is_part = lambda node: isinstance(node, optax.transforms.PartitionState)  # noqa: E731
    parts = [node for node in jax.tree.leaves(state, is_leaf=is_part) if is_part(node)]
    wanted = {path: tuple(np.shape(leaf)) for path, leaf in leaves_with_paths(params)}
    found: dict[str, str] = {}
    for part in parts:
        for label, inner in part.inner_states.items():
            for path, leaf in leaves_with_paths(inner):
                ends = (path[n:] for n in _starts(path) if path[n:] in wanted)
                own = next(ends, None)  # The longest.
                if own is not None and wanted[own] == tuple(np.shape(leaf)):
                    found.setdefault(own, str(label))
    return tuple(found.get(path, "") for path in wanted) if found else ()


def _starts(path: str) -> list[int]:
    """Where the names in a path begin."""
    return [0, *(n + 1 for n, letter in enumerate(path) if letter == "/")]
