"""The Jacobian of a model's outputs with respect to its weights, one row at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from wdlab._core.checks import check_number
from wdlab._core.dtypes import widen
from wdlab.instruments.norms import dot

PyTree = Any
Outputs = Callable[[PyTree, Any], jax.Array]
_SMALL = 2**16  # Numbers. Smaller leaves share one draw: XLA compiles each draw for 0.3 s.


class Estimate(NamedTuple):
    """A mean over random probes."""

    value: jax.Array  # Shape ().
    standard_error: jax.Array  # Shape (): of the value, as far as the probes are concerned.
    probes: jax.Array  # int32, shape (): probes used.


@partial(jax.jit, static_argnums=0, static_argnames="examples_at_once")
def jacobian_norm(
    outputs: Outputs, params: PyTree, examples: PyTree, *, examples_at_once: int = 1
) -> jax.Array:
    r"""The mean over examples of :math:`\lVert \partial f(x) / \partial \theta \rVert_F`, exactly.

    One backward pass for each output of each example; no Jacobian is kept, only one row at a time.

    Args:
      outputs: ``(params, example) -> array``, e.g. the logits of one example, in evaluation mode
        where a batch norm would mix examples.
      params: Pytree of float arrays.
      examples: Pytree with the examples along the leading axis.
      examples_at_once: Examples in one vectorized pass, >= 1; as many gradients are in memory.

    >>> outputs = lambda w, x: w * x
    >>> float(jacobian_norm(outputs, jnp.ones(2), jnp.array([[3.0, 4.0], [0.0, 1.0]])))
    3.0
    """
    params = widen(params)

    def norm_of(example: Any) -> jax.Array:
        out, pullback = jax.vjp(lambda p: outputs(p, example), params)

        def row(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            one_hot = jnp.zeros(out.size, out.dtype).at[i].set(1.0).reshape(out.shape)
            (grads,) = pullback(one_hot)
            return total + dot(grads, grads), None

        zero = jnp.zeros_like(dot(params, params))
        return jnp.sqrt(jax.lax.scan(row, zero, jnp.arange(out.size))[0])

    return jnp.mean(jax.lax.map(norm_of, examples, batch_size=examples_at_once))


def jacobian_norm_estimate(
    outputs: Outputs,
    params: PyTree,
    examples: PyTree,
    key: jax.Array,
    *,
    probes: int = 10,
    examples_at_once: int = 1,
) -> Estimate:
    r"""The same by probing, for many outputs: :math:`\lVert J \rVert_F^2 = E\, |J^T r|^2`.

    The entries of r are +1 or -1. The root of a mean lies below the mean of the root; the leading
    term of it, variance / (8 S^{3/2}) with S the mean square, is added back.

    Args:
      outputs: As in :func:`jacobian_norm`.
      params: Pytree of float arrays.
      examples: Pytree with the examples along the leading axis.
      key: Random key of the probes.
      probes: Backward passes for each example, >= 2.
      examples_at_once: Examples in one vectorized pass, >= 1; as many gradients are in memory.

    Returns:
      The mean over these examples, its standard error over the probes, and the probes in all.

    >>> examples = jnp.array([[3.0, 4.0], [0.0, 1.0]])  # Rows that are orthogonal: no variance.
    >>> found = jacobian_norm_estimate(lambda w, x: w * x, jnp.ones(2), examples, jax.random.key(0))
    >>> float(found.value), float(found.standard_error), int(found.probes)
    (3.0, 0.0, 20)
    """
    check_number("probes", probes, low=2)
    return _estimate(outputs, params, examples, key, probes, examples_at_once)


@partial(jax.jit, static_argnums=(0, 4, 5))
def _estimate(outputs, params, examples, key, probes, examples_at_once) -> Estimate:
    params = widen(params)
    number = len(jax.tree.leaves(examples)[0])

    def norm_of(example_and_key: tuple) -> tuple[jax.Array, jax.Array]:
        example, example_key = example_and_key
        out, pullback = jax.vjp(lambda p: outputs(p, example), params)

        def squared_norm(probe_key: jax.Array) -> jax.Array:
            (grads,) = pullback(jax.random.rademacher(probe_key, out.shape, out.dtype))
            return dot(grads, grads)

        squares = jax.lax.map(squared_norm, jax.random.split(example_key, probes))
        mean, variance = jnp.mean(squares), jnp.var(squares, ddof=1) / probes
        safe = jnp.where(mean > 0, mean, 1.0)
        return jnp.sqrt(mean) + variance / (8 * safe**1.5), variance / (4 * safe)

    pairs = (examples, jax.random.split(key, number))
    norms, variances = jax.lax.map(norm_of, pairs, batch_size=examples_at_once)
    error = jnp.sqrt(jnp.sum(variances)) / number
    return Estimate(jnp.mean(norms), error, jnp.asarray(probes * number, jnp.int32))


def rademacher_like(tree: PyTree, key: jax.Array) -> PyTree:
    """Random signs, +1 or -1, shaped like a tree.

    Args:
      tree: Pytree of float arrays.
      key: Random key.

    >>> jnp.abs(rademacher_like({"w": jnp.zeros(3)}, jax.random.key(0))["w"]).tolist()
    [1.0, 1.0, 1.0]
    """
    leaves, structure = jax.tree.flatten(tree)
    first_key, *keys = jax.random.split(key, 1 + len(leaves))
    together, apart = ravel_pytree([leaf for leaf in leaves if jnp.size(leaf) < _SMALL])
    drawn = iter(apart(jax.random.rademacher(first_key, together.shape, together.dtype)))
    signs = [
        next(drawn)
        if jnp.size(leaf) < _SMALL
        else jax.random.rademacher(k, jnp.shape(leaf), jnp.result_type(leaf))
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, signs)
