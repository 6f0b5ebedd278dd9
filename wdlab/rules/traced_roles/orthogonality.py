"""Scale invariance, measured: the gradient of such a leaf is orthogonal to it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.rules.traced_roles.leaf_role import SCALE_INVARIANT, Cosine, LeafRole

# A normalization's epsilon breaks the invariance; it counts FACTOR**2 times less for weights that
# are so many times larger, while rounding, and a loss that is not invariant, count as before.
FACTOR = 8.0
_COPIES = 6
_TELLS_NOTHING = 0.01  # An error as large as a cosine of any leaf can be.


def confirmed(
    found: Sequence[LeafRole],
    loss: Callable[[list[Any]], Any],
    jaxpr: Any,
    arrays: Sequence[Any],
    places: Sequence[int],
) -> list[LeafRole]:
    """The records, with the cosine of gradient and weight where the trace says invariant.

    The invariant leaves are multiplied by ``FACTOR``, which changes nothing if the trace is right,
    and every weight is rounded up or down at random, ``_COPIES`` times: the spread is the error.

    Args:
      found: One record per weight.
      loss: Of all arrays.
      jaxpr: Its trace, for the coarsest dtype in it.
      arrays: All arrays.
      places: Where the weights are among them.

    >>> confirmed([], lambda arrays: arrays[0], None, [], [])
    []
    """
    if not any(leaf.scale_invariant for leaf in found):
        return list(found)
    step = _coarsest(jaxpr)
    weights = [jnp.asarray(arrays[place]) for place in places]
    scales = [FACTOR if leaf.scale_invariant else 1.0 for leaf in found]

    def of_weights(weights: list[Any], others: list[Any]) -> Any:
        filled = list(others)
        for place, value in zip(places, weights, strict=True):
            filled[place] = value
        return loss(filled).real

    @jax.jit
    def cosines(key: jax.Array, weights: list[Any], others: list[Any]) -> jax.Array:
        keys = jax.random.split(key, len(weights))
        moved = [
            (w * s * (1 + step * jax.random.rademacher(k, w.shape, jnp.float32))).astype(w.dtype)
            for w, s, k in zip(weights, scales, keys, strict=True)
        ]
        grads = jax.grad(of_weights)(moved, others)
        return jnp.stack([_cosine(w, g) for w, g in zip(moved, grads, strict=True)])

    rows = [cosines(jax.random.key(n), weights, list(arrays)) for n in range(_COPIES)]
    table = np.asarray(rows, np.float64)
    means, spreads = table.mean(0), table.std(0, ddof=1)
    errors = 3 * np.maximum(spreads, step)
    return [_judged(*each) for each in zip(found, means, errors, strict=True)]


def _judged(leaf: LeafRole, mean: float, error: float) -> LeafRole:
    if not leaf.scale_invariant:
        return leaf
    cosine = Cosine(float(mean), float(error))
    if error > _TELLS_NOTHING:
        evidence = f"gradient too small to tell: cosine {mean:.1e} +- {error:.1e}"
        return replace(leaf, cosine=cosine, evidence=(*leaf.evidence, evidence))
    # A few times the spread under rounding: sums of many terms round worse than one weight does.
    if abs(mean) <= 10 * error:
        evidence = f"gradient orthogonal to it: cosine {mean:.1e} +- {error:.1e}"
        return replace(leaf, cosine=cosine, evidence=(*leaf.evidence, evidence))
    evidence = f"gradient not orthogonal to it: cosine {mean:.1e} +- {error:.1e}"
    words = tuple(word for word in leaf.words if word != SCALE_INVARIANT)
    return replace(
        leaf,
        cosine=cosine,
        words=words,
        scale_invariant=None,
        evidence=(*leaf.evidence, evidence),
    )


def _cosine(w: jax.Array, g: jax.Array) -> jax.Array:
    w, g = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (w, g))
    sizes = jnp.linalg.norm(w) * jnp.linalg.norm(g)
    return jnp.vdot(w, g).real / jnp.where(sizes > 0, sizes, 1.0)


def _coarsest(jaxpr: Any) -> float:
    """The largest rounding step of the floats that the program computes with."""
    dtypes = {
        atom.aval.dtype
        for eqn in jaxpr.jaxpr.eqns
        for atom in eqn.outvars
        if jnp.issubdtype(getattr(atom.aval, "dtype", int), jnp.floating)
    }
    return max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=2.0**-23)
