"""Norms of a whole tree, of its leaves, layers and groups, summed in float32 or wider."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.dtypes import widen
from wdlab.rules import compile_pattern, decisions, leaves_with_paths, nearest_path

PyTree = Any
Scalars = dict[str, jax.Array]


def norm(tree: PyTree) -> jax.Array:
    r"""The Euclidean norm over all entries of all leaves, :math:`\sqrt{\sum_i x_i^2}`.

    Args:
      tree: Pytree of arrays, any shapes; params, gradients or updates.

    Returns:
      A float32 (or wider) array of shape (); 0 for an empty tree.

    >>> float(norm({"a": jnp.array([3.0]), "b": jnp.array(4.0)}))
    5.0
    """
    return optax.tree.norm(widen(tree))


def rms(tree: PyTree) -> jax.Array:
    r"""The root of the mean square over all entries, :math:`\sqrt{\sum_i x_i^2 / n}`.

    Args:
      tree: Pytree of arrays with at least one entry.

    >>> float(rms({"a": jnp.array([1.0, -1.0]), "b": jnp.array([[1.0], [1.0]])}))
    1.0
    """
    return norm(tree) / sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree)) ** 0.5


def largest_entry(tree: PyTree) -> jax.Array:
    r"""The largest absolute entry, :math:`\max_i |x_i|`; NaN if there is one.

    Args:
      tree: Pytree of arrays with at least one entry.

    >>> float(largest_entry({"a": jnp.array([1.0, -3.0]), "b": jnp.array(2.0)}))
    3.0
    """
    largest = [jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(widen(tree))]
    return jnp.max(jnp.stack(largest))


def leaf_norms(tree: PyTree, depth: int | None = None) -> Scalars:
    """The norm of every leaf, or of every layer.

    Args:
      tree: Pytree of arrays.
      depth: Leaves whose paths agree in this many first parts, >= 1, are one layer; None: each
        leaf by itself.

    Returns:
      Path, or its first ``depth`` parts -> norm, in the order of the leaves.

    >>> grads = {"blocks": [{"attn": jnp.array(3.0), "mlp": jnp.array(4.0)}], "wte": jnp.array(1.0)}
    >>> {path: float(value) for path, value in leaf_norms(grads, depth=2).items()}
    {'blocks/0': 5.0, 'wte': 1.0}
    """
    layers: dict[str, list] = {}
    for path, leaf in leaves_with_paths(tree):
        layers.setdefault("/".join(path.split("/")[:depth]), []).append(leaf)
    return {layer: norm(leaves) for layer, leaves in layers.items()}


def group_norms(tree: PyTree, groups: str | Mapping[str, str]) -> Scalars:
    """The norm of groups of leaves, which their paths decide.

    Args:
      tree: Pytree of arrays.
      groups: Words separated by spaces, each a group of the leaves whose path contains it (a word
        that no path contains is left out). Or name -> regular expression, which must match the
        whole path, and some leaf's. A leaf counts in every group it matches.

    Raises:
      ValueError: If a regular expression matches no leaf.

    >>> grads = {"ln_f": {"scale": jnp.array(2.0)}, "wte": {"embedding": jnp.array([3.0, 4.0])}}
    >>> {name: float(value) for name, value in group_norms(grads, "ln wte lm_head").items()}
    {'ln': 2.0, 'wte': 5.0}
    >>> float(group_norms(grads, {"embeddings": "(wte|wpe)/.*"})["embeddings"])
    5.0
    """
    leaves = leaves_with_paths(tree)
    if isinstance(groups, str):
        within = {word: [x for path, x in leaves if word in path] for word in groups.split()}
        return {word: norm(members) for word, members in within.items() if members}
    norms = {}
    for name, pattern in groups.items():
        members = [leaf for path, leaf in leaves if compile_pattern(pattern).fullmatch(path)]
        if not members:
            near = nearest_path(pattern, [path for path, _ in leaves])
            raise ValueError(
                f"group_norms: the pattern {pattern!r} of group {name!r} matches no path; the "
                f"nearest is {near!r}. A pattern must match the whole path."
            )
        norms[name] = norm(members)
    return norms


def decayed_norms(params: PyTree, rules: PyTree) -> Scalars:
    """The norms of the leaves that decay and of those that do not.

    Args:
      params: Pytree of arrays.
      rules: As in :func:`wdlab.decay_scales`.

    Returns:
      ``{"decayed": ..., "exempt": ...}``, 0 where there is no such leaf.

    >>> from wdlab.rules import NO_BIAS_OR_NORM
    >>> params = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array(1.0)}
    >>> {name: float(value) for name, value in decayed_norms(params, NO_BIAS_OR_NORM).items()}
    {'decayed': 5.0, 'exempt': 1.0}
    """
    made = decisions(params, rules)
    return {
        "decayed": norm([decision.leaf for decision in made if decision.scale > 0]),
        "exempt": norm([decision.leaf for decision in made if decision.scale == 0]),
    }


def dot(one: PyTree, two: PyTree) -> jax.Array:
    """The dot product over all leaves, summed in float32 or wider; its real part, if complex.

    >>> float(dot({"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, 4.0])}))
    11.0
    """
    products = jax.tree.map(lambda a, b: jnp.sum(_product(a, b)), widen(one), widen(two))
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.real(jnp.conj(a) * b) if jnp.iscomplexobj(a) or jnp.iscomplexobj(b) else a * b
