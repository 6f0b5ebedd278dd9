"""The roles of a model's leaves, from its loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.rules.paths import leaves_with_paths, parameters
from wdlab.rules.traced_roles.leaf_role import LeafRole, summed_up
from wdlab.rules.traced_roles.marks import NOISE, is_noise
from wdlab.rules.traced_roles.notes import Notes
from wdlab.rules.traced_roles.orthogonality import confirmed
from wdlab.rules.traced_roles.values import Kind, Value, activation, constant, weight
from wdlab.rules.traced_roles.walk import Walk

PyTree = Any


def roles(
    loss_fn: Callable[..., Any], params: PyTree, *batch: Any, wrt: Any = None
) -> dict[str, str]:
    """Returns what each leaf is, read off the traced loss; names play no part.

    Nothing is computed, whether arrays have values or not. :func:`leaf_roles` gives axes and
    evidence as well, and measures invariance.

    Args:
      loss_fn: As in :func:`leaf_roles`.
      params: As there.
      *batch: As there.
      wrt: As there.

    Returns:
      Path -> "matrix", "kernel" (of a convolution), "embedding" (looked up, or a product with
      one-hot rows), "head" (no product with weights comes after it), "bias", "scale" (of a
      normalization), "position", "gate" (multiplies what is not normalized), "unused" or
      "unknown", with further words behind commas: "matrix, scale-invariant", "embedding, head"
      (tied), "scale, before a matrix", "head, no gradient".

    Raises:
      As :func:`leaf_roles`.

    >>> params = {"w": jax.ShapeDtypeStruct((8, 3), "float32"), "b": jnp.zeros(3)}
    >>> x = jax.ShapeDtypeStruct((5, 8), "float32")
    >>> roles(lambda p, x: jnp.mean((x @ p["w"] + p["b"]) ** 2), params, x)
    {'b': 'bias', 'w': 'head'}
    """
    found = leaf_roles(loss_fn, params, *batch, wrt=wrt, measure=False)
    return {leaf.path: str(leaf) for leaf in found}


def leaf_roles(
    loss_fn: Callable[..., Any],
    params: PyTree,
    *batch: Any,
    wrt: Any = None,
    measure: bool = True,
) -> tuple[LeafRole, ...]:
    """Returns the record of each leaf: role, axes, scale invariance, evidence.

    Args:
      loss_fn: ``loss_fn(params, *batch)``, a scalar, or a tuple that begins with one.
      params: Pytree of arrays or of ``jax.ShapeDtypeStruct``, or a Flax nnx model. Leaves that are
        no float arrays are handed on as they are.
      *batch: What the loss takes beside; arrays may be ``jax.ShapeDtypeStruct`` too. Without any,
        the arrays that the loss closes over are the data.
      wrt: What is trained of an nnx model, as in ``nnx.Optimizer(..., wrt=)``; None is
        ``nnx.Param``.
      measure: Whether, where the trace says scale-invariant and all arrays have values, the
        gradient is computed and must be orthogonal to the leaf.

    Returns:
      One :class:`LeafRole` per leaf, in the order of ``jax.tree.leaves``.

    Raises:
      TypeError: If the first result of the loss is no scalar.

    >>> loss = lambda p, x: jnp.mean(x @ p["w"] / jnp.linalg.norm(p["w"]))
    >>> w, x = jnp.arange(24.0).reshape(8, 3), jnp.ones((5, 8))
    >>> [leaf] = leaf_roles(loss, {"w": w}, x)
    >>> leaf.axes.input, leaf.axes.output, leaf.scale_invariant, abs(leaf.cosine.value) < 1e-6
    ((0,), (1,), True, True)
    """
    if not callable(loss_fn):
        raise TypeError(
            f"roles: loss_fn must be a function of params and batch, got {type(loss_fn).__name__}. "
            "Write roles(loss_fn, params, *batch)."
        )
    trained = {path for path, _ in leaves_with_paths(parameters(params, wrt))}
    pairs = leaves_with_paths(params)
    leaves, rebuild = _arrays((params, batch))
    flags = [path in trained and _is_float(leaf) for path, leaf in pairs]
    flags += [False] * (len(jax.tree.leaves((params, batch))) - len(pairs))
    arrays = [n for n, leaf in enumerate(jax.tree.leaves((params, batch))) if _is_array(leaf)]
    is_weight = [flags[n] for n in arrays]
    in_batch = [n >= len(pairs) for n in arrays]

    def program(arrays: list[Any]) -> Any:
        params, batch = rebuild(arrays)
        return _loss_of(loss_fn(params, *batch))

    jaxpr = jax.make_jaxpr(program)(leaves)
    notes, loss = _walked(jaxpr, is_weight, in_batch)
    of_weights = [(*pairs[n], leaf) for leaf, n in enumerate(n for n in arrays if flags[n])]
    found = [summed_up(leaf, path, np.shape(w), notes, loss) for path, w, leaf in of_weights]
    if measure and not any(
        isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer) for leaf in leaves
    ):
        places = [n for n, flag in enumerate(is_weight) if flag]
        found = confirmed(found, program, jaxpr, leaves, places)
    return tuple(found)


def _walked(jaxpr: Any, is_weight: list[bool], in_batch: list[bool]) -> tuple[Notes, Value]:
    """Walks the program; once more, with more taken for data, where no data reached the loss."""
    for constants_are_data in (not any(in_batch), True):
        notes, operands, leaf = Notes(), [], 0
        for aval, trained, given in zip(jaxpr.in_avals, is_weight, in_batch, strict=True):
            if trained:
                operands.append(weight(leaf, len(aval.shape)))
                leaf += 1
            elif _is_key(aval):
                operands.append(activation(len(aval.shape), NOISE))
            else:
                make = activation if given or constants_are_data else constant
                operands.append(make(len(aval.shape)))
        loss = Walk(notes, constants_are_data).run(jaxpr, operands)[0]
        if loss.kind == Kind.ACTIVATION and not is_noise(loss):
            break
    return notes, loss


def _arrays(tree: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree]]:
    """The arrays of a tree, and how to put others in their place; the rest stays as it is."""
    leaves, treedef = jax.tree.flatten(tree)
    places = [n for n, leaf in enumerate(leaves) if _is_array(leaf)]

    def rebuild(arrays: list[Any]) -> PyTree:
        filled = list(leaves)
        for n, array in zip(places, arrays, strict=True):
            filled[n] = array
        return jax.tree.unflatten(treedef, filled)

    return [leaves[n] for n in places], rebuild


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _is_float(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_key(aval: Any) -> bool:
    """A typed key, or the two or four words of one."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return True
    return aval.dtype == jnp.uint32 and 0 < len(aval.shape) < 3 and aval.shape[-1] in (2, 4)


def _loss_of(result: Any) -> Any:
    loss = result[0] if isinstance(result, tuple | list) and result else result
    if np.shape(loss) != () or not hasattr(loss, "dtype"):
        what = type(loss).__name__ if not hasattr(loss, "dtype") else f"shape {np.shape(loss)}"
        raise TypeError(
            f"roles: loss_fn must return a scalar, or a tuple that begins with one, got {what}. "
            "Write loss_fn=lambda params, *batch: your_loss(params, *batch).mean()."
        )
    return loss
