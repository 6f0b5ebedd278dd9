"""The Hessian of a loss, by products with vectors: exact trace and top eigenvalues.

See :mod:`wdlab.instruments.curvature` for what a loss is, and its minibatches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import widen
from wdlab.instruments.lanczos import lanczos

PyTree = Any
Loss = Callable[..., jax.Array]


class Eigenvalues(NamedTuple):
    """Eigenvalues found, the wanted end first."""

    values: jax.Array  # Shape (k,).
    error_bounds: jax.Array  # Shape (k,): an eigenvalue is within this of each value.


def hessian_vector_product(
    loss: Loss, params: PyTree, vector: PyTree, batches: PyTree | None = None
) -> PyTree:
    r"""The Hessian times a vector: :math:`\nabla^2 L(\theta)\, v`, forward over reverse.

    Args:
      loss: See the module's docstring.
      params: Pytree of float arrays.
      vector: Like ``params``.
      batches: None, or minibatches along the leading axis.

    Returns:
      Like ``params``; 16-bit leaves as float32.

    >>> loss = lambda p: p["a"] ** 2 * p["b"]
    >>> params, vector = {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 0.0}
    >>> jax.tree.map(float, hessian_vector_product(loss, params, vector))  # (2b, 2a)
    {'a': 4.0, 'b': 2.0}

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    params, vector = widen(params), widen(vector)

    def product(*batch: Any) -> PyTree:
        return jax.jvp(jax.grad(lambda p: loss(p, *batch)), (params,), (vector,))[1]

    return mean_over(product, batches)


@partial(jax.jit, static_argnums=0, static_argnames="probes_at_once")
def hessian_trace_exact(
    loss: Loss, params: PyTree, batches: PyTree | None = None, *, probes_at_once: int = 1
) -> jax.Array:
    r"""The Hessian's trace by one product for each entry: :math:`\sum_i e_i^T \nabla^2 L\, e_i`.

    Args:
      loss: See the module's docstring.
      params: Pytree of float arrays, tiny: n entries cost n Hessian-vector products.
      batches: None, or minibatches along the leading axis.
      probes_at_once: Entries in one vectorized product, >= 1.

    >>> float(hessian_trace_exact(lambda w: 3 * w[0] ** 2 + w[0] * w[1], jnp.ones(2)))
    6.0
    """
    flat, unflatten = ravel_pytree(widen(params))

    def entry(i: jax.Array) -> jax.Array:
        vector = unflatten(jnp.zeros_like(flat).at[i].set(1.0))
        return ravel_pytree(hessian_vector_product(loss, params, vector, batches))[0][i]

    return jnp.sum(jax.lax.map(entry, jnp.arange(flat.size), batch_size=probes_at_once))


def hessian_eigenvalues(
    loss: Loss,
    params: PyTree,
    key: jax.Array,
    batches: PyTree | None = None,
    *,
    k: int = 1,
    steps: int = 40,
    which: Literal["largest", "magnitude"] = "largest",
) -> Eigenvalues:
    """The top eigenvalues of the Hessian, by Lanczos with full re-orthogonalization.

    Args:
      loss: See the module's docstring.
      params: Pytree of float arrays.
      key: Random key of the start vector.
      batches: None, or minibatches along the leading axis.
      k: Number of eigenvalues, >= 1, at most ``steps`` and the number of entries. Of an eigenvalue
        that occurs several times only one is found, unless ``steps`` exhaust the space.
      steps: Hessian-vector products, and vectors like ``params`` in memory. More of them, smaller
        error bounds.
      which: "largest" (sharpness), or largest in "magnitude" (what power iteration finds).

    Raises:
      ValueError: If ``k`` is out of range or ``which`` unknown.

    >>> loss = lambda w: 3 * w[0] ** 2 - 4 * w[1] ** 2 + w[2] ** 2
    >>> top = hessian_eigenvalues(loss, jnp.ones(3), jax.random.key(0), k=2)
    >>> [round(float(value), 4) for value in top.values]
    [6.0, 2.0]

    See :func:`wdlab.instruments.lanczos.lanczos` for the equations.
    """
    steps = min(steps, sum(jnp.size(leaf) for leaf in jax.tree.leaves(params)))
    check_number("k", k, low=1, high=steps)
    check_choice("which", which, ("largest", "magnitude"))
    values, bounds = _ritz_values(loss, params, key, batches, steps)
    order = jnp.argsort(-jnp.abs(values) if which == "magnitude" else -values)[:k]
    return Eigenvalues(values[order], bounds[order])


@partial(jax.jit, static_argnums=(0, 4))
def _ritz_values(loss, params, key, batches, steps) -> tuple[jax.Array, jax.Array]:
    product = partial(hessian_vector_product, loss, params, batches=batches)
    return lanczos(product, widen(params), key, steps)


def mean_over(function: Callable[..., PyTree], batches: PyTree | None) -> PyTree:
    """The mean of ``function(batch)`` over the leading axis, or ``function()`` without batches.

    Args:
      function: Returns a pytree of float arrays.
      batches: None, or a pytree of arrays whose leading axis is scanned.

    >>> float(mean_over(lambda x: x**2, jnp.array([1.0, 3.0])))
    5.0
    """
    if batches is None:
        return function()
    number = len(jax.tree.leaves(batches)[0])
    first = jax.tree.map(lambda x: x[0], batches)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, first))

    def add(total: PyTree, batch: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(batch)), None

    total, _ = jax.lax.scan(add, zeros, batches)
    return jax.tree.map(lambda x: x / number, total)
