"""The Lanczos method for symmetric maps on pytrees, with full re-orthogonalization.

The basis keeps the parameters' shapes with one axis in front, so that sharded parameters stay
sharded and nothing is flattened.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wdlab.instruments.norms import dot, norm

PyTree = Any


def lanczos(
    product: Callable[[PyTree], PyTree], like: PyTree, key: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
    r"""Ritz values of a symmetric map A, and how far from A's eigenvalues they can be.

    One step is :math:`w = A v_j`, :math:`\alpha_j = v_j \cdot w`, w made orthogonal to all of
    :math:`v_1 \dots v_j` (twice), :math:`\beta_j = |w|`, :math:`v_{j+1} = w / \beta_j`. With T the
    tridiagonal matrix of them and s a unit eigenvector of T, some eigenvalue of A is within
    :math:`\beta_m |s_m|` of s's, since that is the norm of the residual :math:`A x - \theta x`.

    Args:
      product: Maps a pytree like ``like`` to :math:`A v`, linear and symmetric.
      like: Pytree of float arrays of 32 bits or more.
      key: Random key of the start vector.
      steps: m >= 1: products made, and vectors kept. At most the number of entries.

    Returns:
      Ritz values in ascending order, their error bounds, both of shape (steps,).

    >>> diagonal = jnp.array([1.0, 2.0, 5.0])
    >>> find = jax.jit(lambda key: lanczos(lambda v: diagonal * v, diagonal, key, 3))
    >>> values, bounds = find(jax.random.key(0))
    >>> [round(float(value), 4) for value in values]
    [1.0, 2.0, 5.0]

    Source: Saad, Numerical Methods for Large Eigenvalue Problems (2011), Algorithm 6.5 and
    Proposition 6.8.
    """
    zero = jax.tree.map(jnp.zeros_like, like)
    basis = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), like)
    coefficients = jnp.zeros(steps, norm(zero).dtype)

    def step(j: jax.Array, carry: tuple) -> tuple:
        basis, w, alphas, betas = carry
        beta = norm(w)
        # At the start, and where an invariant subspace is exhausted: go on outside of it.
        scale = jnp.maximum(jnp.max(jnp.abs(alphas)), jnp.max(betas))
        begins = beta <= 10 * jnp.finfo(beta.dtype).eps * scale
        fresh_key = jax.random.fold_in(key, j)
        v = jax.lax.cond(begins, lambda: _fresh(basis, like, fresh_key), lambda: _unit(w))
        basis = jax.tree.map(lambda rows, x: rows.at[j].set(x), basis, v)
        w = product(v)
        alphas = alphas.at[j].set(dot(v, w))
        betas = betas.at[j].set(jnp.where(begins, 0.0, beta))
        return basis, _orthogonal(w, basis), alphas, betas

    start = (basis, zero, coefficients, coefficients)
    _, w, alphas, betas = jax.lax.fori_loop(0, steps, step, start)
    t = jnp.diag(alphas) + jnp.diag(betas[1:], 1) + jnp.diag(betas[1:], -1)
    values, vectors = jnp.linalg.eigh(t)
    return values, norm(w) * jnp.abs(vectors[-1])


def _unit(vector: PyTree) -> PyTree:
    size = norm(vector)
    # Outside of a basis of the whole space there is nothing: zero, not NaN.
    factor = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), vector)


def _fresh(basis: PyTree, like: PyTree, key: jax.Array) -> PyTree:
    """A random direction orthogonal to the basis."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    direction = jax.tree.unflatten(structure, draws)
    return _unit(_orthogonal(direction, basis))


def _orthogonal(vector: PyTree, basis: PyTree) -> PyTree:
    """The part of a vector that is orthogonal to all rows of the basis; rows of zeros are none."""

    def once(_: jax.Array, vector: PyTree) -> PyTree:
        shares = sum(
            jnp.tensordot(rows, x, x.ndim)
            for rows, x in zip(jax.tree.leaves(basis), jax.tree.leaves(vector), strict=True)
        )
        return jax.tree.map(lambda x, rows: x - jnp.tensordot(shares, rows, 1), vector, basis)

    # Twice is enough: what the first pass leaves, by rounding, the second one takes.
    return jax.lax.fori_loop(0, 2, once, vector)
