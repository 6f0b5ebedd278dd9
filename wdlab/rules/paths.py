"""Names of parameters: one path string per leaf, the same for every container.

A leaf of Linen dicts, FrozenDicts, ``nnx.State`` (with Variables or without), Equinox modules,
Haiku's two-level dicts, named tuples, tuples and lists gets the path that a reader would write:
``blocks/0/attn/query/kernel``.
"""

import difflib
from typing import Any

import jax
import optax

PyTree = Any


def path_string(key_path: tuple[Any, ...]) -> str:
    """Joins a JAX key path with slashes.

    >>> path_string((jax.tree_util.DictKey("mlp"), jax.tree_util.SequenceKey(0)))
    'mlp/0'
    """
    return "/".join(_key_string(key) for key in key_path)


def _key_string(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _is_variable(node: Any) -> bool:
    """Whether ``node`` is a Flax nnx Variable, told by its class so that Flax stays unimported."""
    return any(
        cls.__name__ == "Variable" and cls.__module__.startswith("flax.nnx")
        for cls in type(node).__mro__
    )


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def leaves_with_paths(tree: PyTree) -> list[tuple[str, Any]]:
    """Lists ``(path, leaf)`` in the order of ``jax.tree.leaves``.

    An nnx Variable is a leaf to a reader and a node with one child ``.value`` to JAX (and only
    sometimes: ``nnx.Optimizer`` passes Variables to ``init`` and plain arrays to ``update``), so
    that step is left out of the path.

    Args:
      tree: Any pytree of arrays.

    Returns:
      One pair per leaf; leaves that Optax has masked out are not listed.

    >>> leaves_with_paths({"dense": {"kernel": 1.0}, "layers": [2.0]})
    [('dense/kernel', 1.0), ('layers/0', 2.0)]
    """
    pairs = []
    for key_path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)[0]:
        path = path_string(key_path)
        if not _is_variable(node):
            pairs.append((path, node))
            continue
        for inner_path, leaf in jax.tree_util.tree_flatten_with_path(node)[0]:
            inner = path_string(inner_path[1:])  # The first step is the Variable's own '.value'.
            pairs.append((f"{path}/{inner}" if inner else path, leaf))
    return pairs


def masked_paths(tree: PyTree) -> list[str]:
    """Lists the paths that ``optax.masked`` or ``optax.partition`` has taken out of ``tree``.

    >>> masked_paths({"a": optax.MaskedNode(), "b": 1.0})
    ['a']
    """
    nodes = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_masked)[0]
    return [path_string(key_path) for key_path, node in nodes if _is_masked(node)]


def nearest_path(wanted: str, paths: list[str]) -> str | None:
    """Returns the path most like ``wanted``, a path or a pattern; None if there are no paths.

    >>> nearest_path("(.*/)?bais", ["dense/kernel", "dense/bias"])
    'dense/bias'
    """

    def likeness(path: str) -> float:
        last = path.rsplit("/", 1)[-1]
        pattern_last = wanted.replace("\\", "").replace("?", "").rsplit("/", 1)[-1].strip(")(^$*.")
        whole = difflib.SequenceMatcher(None, wanted.lower(), path.lower()).ratio()
        return whole + difflib.SequenceMatcher(None, pattern_last.lower(), last.lower()).ratio()

    return max(paths, key=likeness) if paths else None
