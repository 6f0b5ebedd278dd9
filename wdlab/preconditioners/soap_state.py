"""What SOAP keeps: the moments in the basis of each leaf, its factors and their eigenvectors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wdlab._core.dtypes import working_dtype
from wdlab.preconditioners.kronecker import Layout, PerAxis, by_leaf, per_axis

PyTree = Any
Matrices = tuple[jax.Array, ...]  # One for each factored axis.


class ScaleBySoapState(NamedTuple):
    """State of :func:`scale_by_soap`; float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params: first moment, in the basis.
    nu: PyTree  # Like params: second moment, in the basis.
    factors: PerAxis  # (*batches, n, n) for each factored axis: averages of g g^T.
    bases: PerAxis  # Like factors: their eigenvectors, as columns.


class SoapLeaf(NamedTuple):
    """What SOAP keeps of one leaf."""

    mu: jax.Array
    nu: jax.Array
    factors: Matrices
    bases: Matrices


def eigenvectors(factor: jax.Array) -> jax.Array:
    """Returns the eigenvectors as columns, that of the largest eigenvalue first.

    >>> abs(eigenvectors(jnp.diag(jnp.array([1.0, 2.0])))).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return jnp.flip(jnp.linalg.eigh(factor)[1], axis=-1)


def zeros_of(p: jax.Array, layout: Layout) -> SoapLeaf:
    """Returns what is kept of a leaf at the start.

    >>> zeros_of(jnp.ones((2, 3)), Layout((), (2, 3), (0,))).bases[0].shape
    (2, 2)
    """
    like = jnp.zeros_like(p, dtype=working_dtype(p))
    factors, bases = (
        tuple(jnp.zeros(layout.factor_shape(axis), like.dtype) for axis in layout.factored)
        for _ in range(2)
    )
    return SoapLeaf(like, jnp.zeros_like(like), factors, bases)


def leaves_of(state: ScaleBySoapState, treedef: jax.tree_util.PyTreeDef) -> list[SoapLeaf]:
    """Returns what the state keeps, by leaf.

    >>> empty = jax.tree.structure({})
    >>> leaves_of(state_of(jnp.zeros([], jnp.int32), empty, []), empty)
    []
    """
    moments = map(treedef.flatten_up_to, (state.mu, state.nu))
    matrices = (by_leaf(trees, treedef) for trees in (state.factors, state.bases))
    return [SoapLeaf(*each) for each in zip(*moments, *matrices, strict=True)]


def state_of(
    count: jax.Array, treedef: jax.tree_util.PyTreeDef, leaves: Sequence[SoapLeaf]
) -> ScaleBySoapState:
    """Returns the state of leaves; the inverse of :func:`leaves_of`.

    >>> state_of(jnp.zeros([], jnp.int32), jax.tree.structure({}), []).mu
    {}
    """
    return ScaleBySoapState(
        count,
        treedef.unflatten([leaf.mu for leaf in leaves]),
        treedef.unflatten([leaf.nu for leaf in leaves]),
        per_axis(treedef, [leaf.factors for leaf in leaves]),
        per_axis(treedef, [leaf.bases for leaf in leaves]),
    )
