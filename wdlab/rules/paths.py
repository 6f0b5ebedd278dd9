"""Names of parameters: one path string per leaf, the same for every container and box.

A leaf of Linen dicts, FrozenDicts, ``nnx.State``, Equinox modules, Haiku's two-level dicts, named
tuples, tuples and lists gets the path that a reader would write: ``blocks/0/attn/query/kernel``. A
box around one array (``flax.linen.Partitioned``, an nnx Variable, haliax's NamedArray) is not a
step of it.
"""

import difflib
import functools
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import optax

PyTree = Any
# By package and class, subclasses included, so that neither Flax nor haliax has to be imported.
_BOXES = {
    ("flax", "AxisMetadata"),
    ("flax", "Variable"),
    ("flax", "VariableState"),
    ("haliax", "NamedArray"),
}


@functools.cache
def _classes(kind: type) -> frozenset[tuple[str, str]]:
    return frozenset((cls.__module__.split(".")[0], cls.__name__) for cls in kind.__mro__)


def _is_box(node: Any) -> bool:
    return not _BOXES.isdisjoint(_classes(type(node)))


def _is_variable(node: Any) -> bool:
    return ("flax", "Variable") in _classes(type(node))


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _is_equinox(node: Any) -> bool:
    return ("equinox", "Module") in _classes(type(node))


def _is_float_array(node: Any) -> bool:
    return jax.numpy.issubdtype(getattr(node, "dtype", bool), jax.numpy.inexact)


def _walk(tree: PyTree, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields key path and leaf, masked nodes included, without the steps into boxes."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda n: _is_box(n) or _is_masked(n))
    for keys, node in flat[0]:
        if not _is_box(node):
            yield above + keys, node
            continue
        inside = jax.tree_util.tree_flatten_with_path(
            node, is_leaf=lambda n, box=node: n is not box
        )
        for step, child in inside[0]:  # With several children it is a container, and no box.
            yield from _walk(child, above + keys + (step if len(inside[0]) > 1 else ()))


def path_string(key_path: tuple[Any, ...]) -> str:
    """Joins a JAX key path with slashes; a tuple as a key, of a flattened dict, is several steps.

    >>> path_string((jax.tree_util.DictKey("mlp"), jax.tree_util.SequenceKey(0)))
    'mlp/0'
    """
    steps = (
        map(jax.tree_util.DictKey, k) if isinstance(k, tuple) else [key]
        for key in key_path
        for k in [getattr(key, "key", None)]
    )
    return jax.tree_util.keystr(tuple(itertools.chain(*steps)), simple=True, separator="/")


def leaves_with_paths(tree: PyTree) -> list[tuple[str, Any]]:
    """Lists ``(path, leaf)`` in the order of ``jax.tree.leaves``.

    Args:
      tree: Any pytree of arrays: parameters, gradients, an optimizer's state.

    Returns:
      One pair per leaf; leaves that Optax has masked out are not listed.

    Raises:
      ValueError: If two leaves have the same path, as ``{"a/b": x, "a": {"b": y}}``.

    >>> leaves_with_paths({"dense": {"kernel": 1.0}, "layers": [2.0]})
    [('dense/kernel', 1.0), ('layers/0', 2.0)]
    """
    found = [(keys, leaf) for keys, leaf in _walk(tree) if not _is_masked(leaf)]
    pairs = [(path_string(keys), leaf) for keys, leaf in found]
    if len({path for path, _ in pairs}) < len(pairs):
        first: dict[str, Any] = {}
        for (path, _), (keys, _) in zip(pairs, found, strict=True):
            if path in first:
                one, two = map(jax.tree_util.keystr, (first[path], keys))
                raise ValueError(
                    f"two leaves have the path {path!r}: tree{one} and tree{two}. Rules, plans and "
                    "checkpoints go by path; rename one of the two."
                )
            first[path] = keys
    return pairs


def masked_paths(tree: PyTree) -> list[str]:
    """Lists the paths that ``optax.masked`` or ``optax.partition`` has taken out of ``tree``.

    >>> masked_paths({"a": optax.MaskedNode(), "b": 1.0})
    ['a']
    """
    return [path_string(keys) for keys, leaf in _walk(tree) if _is_masked(leaf)]


def parameters(tree: PyTree, wrt: Any = None) -> PyTree:
    """Takes out what is no parameter of a model: nnx's statistics and keys, Equinox's functions.

    Args:
      tree: An ``nnx.Module``, an ``nnx.State`` or an Equinox module; every other pytree is returned
        as it is.
      wrt: What is trained, an nnx filter as in ``nnx.Optimizer(..., wrt=)``; None is ``nnx.Param``.

    Returns:
      The tree with ``optax.MaskedNode`` in place of the other Variables; of Equinox, with None in
      place of what is no float array, as ``eqx.filter(tree, eqx.is_inexact_array)``.

    Raises:
      ValueError: If there are Variables and none of them is a parameter.

    >>> parameters({"kernel": 1.0})
    {'kernel': 1.0}
    """
    if any(map(_is_equinox, jax.tree.leaves(tree, is_leaf=_is_equinox))):
        return jax.tree.map(lambda leaf: leaf if _is_float_array(leaf) else None, tree)
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)
    kinds = {type(node).__name__ for _, node in flat if _is_variable(node)}
    if not kinds:
        return tree
    nnx = sys.modules["flax.nnx"]
    is_parameter = nnx.filterlib.to_predicate(nnx.Param if wrt is None else wrt)

    def keep(keys: tuple[Any, ...], node: Any) -> bool:
        names = tuple(
            getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in keys
        )
        return not _is_variable(node) or is_parameter(names, node)

    nodes = [node if keep(keys, node) else optax.MaskedNode() for keys, node in flat]
    if all(map(_is_masked, nodes)):
        raise ValueError(
            f"found Flax Variables ({', '.join(sorted(kinds))}), and none is a parameter, "
            f"{'nnx.Param' if wrt is None else wrt!r}. Say what is trained, e.g. wrt=nnx.Variable."
        )
    return jax.tree.unflatten(treedef, nodes)


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
