"""The Newton-Schulz iteration: a matrix's singular values are brought to 1 by products alone."""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import working_dtype
from wdlab.preconditioners.coefficients import Coefficients, Triple, coefficients_by_step
from wdlab.preconditioners.matrix_sharding import Layout, MeshAxes, layout_of

Normalization = Literal["frobenius", "spectral", "schatten", "aol"]
NormEpsilon = Literal["clamped", "added"]
_AFTER_THE_GRAM = ("schatten", "aol")


def newton_schulz(
    x: ArrayLike,
    *,
    coefficients: Coefficients = "jordan",
    steps: int | None = None,
    normalization: Normalization = "frobenius",
    eps: ArrayLike = 1e-7,
    epsilon: NormEpsilon = "clamped",
    safety: float | None = None,
    dtype: DTypeLike | None = None,
    sharded_over: MeshAxes = None,
) -> jax.Array:
    r"""Returns :math:`U S' V^T` for :math:`x = U S V^T`, with all of :math:`S'` near 1.

    :math:`X_0 = x / \|x\|`, then :math:`X_{k+1} = a X_k + (b A_k + c A_k^2) X_k` with
    :math:`A_k = X_k X_k^T`; for more rows than columns :math:`A_k = X_k^T X_k` from the right, the
    same matrix from smaller products. Each step maps every singular value by
    :math:`s \mapsto a s + b s^3 + c s^5`. Jordan's coefficients do not converge: they lift small
    values fast, and after five steps those from 3e-3 on are in [0.68, 1.21].

    Args:
      x: Shape (..., rows, columns), real, any float dtype; leading axes are a batch.
      coefficients: Name of a set in :data:`wdlab.preconditioners.COEFFICIENTS`, or triples
        (a, b, c), one for all steps or one a step.
      steps: Number of steps, at least 1; None: as many as the set's authors take, for triples
        their number, for a single one 5.
      normalization: The norm of :math:`X_0`. "frobenius"; "spectral": the largest singular value
        itself, from a decomposition; "schatten": Schatten-4, :math:`\|A\|_F^{1/2}`; "aol": of each
        row by its sum in :math:`|A|`, no single norm. The last two come with the first product.
      eps: At least 0, in units of ``x`` (squared for "schatten" and "aol").
      epsilon: "clamped": the norm is at least ``eps`` (torch, Emerging-Optimizers); "added": to it
        (Jordan, Optax, dion). The last two normalizations are always clamped.
      safety: What the norm is multiplied by first, at least 1, where rounding could leave the
        interval of the polynomials; None: the set's own.
      dtype: Of the products' operands, bfloat16 or float32 or wider; None: that of ``x``, at least
        float32. Norms, sums and additions are in float32 or wider; each product is rounded once.

      sharded_over: Mesh axes that the longer side is sharded over during the iteration, or a stack
        they divide; for meshes with "auto" axes, inside ``jax.set_mesh``. Needed where leaves are
        sharded along their shorter side, which gathers them in every step otherwise. On explicit
        meshes the matrix's own axes move to the longer side and back.

    Returns:
      An array like ``x``, in its dtype.

    Raises:
      TypeError: If ``x`` is complex or a number is none.
      ValueError: If a name is unknown, a number out of range, or ``x`` has rank 0 or 1.

    >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, -0.5, 0.0]])
    >>> jnp.round(newton_schulz(x, coefficients="quintic"), 4).tolist()
    [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]

    Source: Kovarik 1970; Bjorck & Bowie 1971; Jordan, https://kellerjordan.github.io/posts/muon/;
    optax 0.2.8, contrib/_muon.py for the normalizations.
    """
    x = jnp.asarray(x)
    triples, safety = check_iteration(
        coefficients, steps, normalization, eps, epsilon, safety, dtype
    )
    if jnp.iscomplexobj(x):
        raise TypeError(f"newton_schulz needs real numbers, got {x.dtype}.")
    if x.ndim < 2:
        raise ValueError(f"newton_schulz needs shape (..., rows, columns), got {x.shape}.")
    wide = x.astype(working_dtype(x))
    kept = iteration_dtype(dtype, wide.dtype)
    left = x.shape[-2] <= x.shape[-1]
    if normalization not in _AFTER_THE_GRAM:
        norm = safety * _norm(wide, normalization)
        eps = jnp.asarray(eps, wide.dtype)
        wide = wide / (norm + eps if epsilon == "added" else jnp.maximum(norm, eps))
    layout = layout_of(wide, left, sharded_over)
    z = layout.place(wide.astype(kept), layout.during)
    for k, triple in enumerate(triples):
        axes = "...ik,...jk->...ij" if left else "...ki,...kj->...ij"
        gram = layout.place(_product(axes, z, z, layout.result(layout.whole)), layout.whole)
        if k == 0 and normalization in _AFTER_THE_GRAM:
            z, gram = _rescaled(z, gram, left, normalization, eps, safety)
        z = _step(z, gram.astype(kept), triple, left, layout)
    # The last product too is told where it lies, before it goes where the update is.
    return layout.place(layout.place(z, layout.during), layout.own).astype(x.dtype)


def check_iteration(
    coefficients: Coefficients,
    steps: int | None,
    normalization: str,
    eps: ArrayLike,
    epsilon: str,
    safety: float | None,
    dtype: DTypeLike | None,
) -> tuple[tuple[Triple, ...], float]:
    """Checks the arguments of :func:`newton_schulz`; returns one triple a step and the safety.

    >>> check_iteration("cubic", 1, "frobenius", 0.0, "added", None, None)
    (((1.5, -0.5, 0.0),), 1.0)
    """
    check_choice("normalization", normalization, get_args(Normalization))
    check_choice("epsilon", epsilon, get_args(NormEpsilon))
    check_number("eps", eps)
    triples, own_safety = coefficients_by_step(coefficients, steps)
    safety = own_safety if safety is None else safety
    check_number("safety", safety, low=1.0)
    iteration_dtype(dtype, jnp.float32)
    return triples, safety


def iteration_dtype(dtype: DTypeLike | None, own: DTypeLike) -> jnp.dtype:
    """Returns the dtype of the products: as asked for, or the leaf's own.

    >>> iteration_dtype("bfloat16", "float32"), iteration_dtype(None, "float32")
    (dtype(bfloat16), dtype('float32'))
    """
    kept = jnp.dtype(own if dtype is None else dtype)
    if kept != jnp.bfloat16 and kept not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"dtype must be bfloat16, float32, float64 or None, got {kept}: float16 has too few "
            "exponents for the squares of small singular values."
        )
    return kept


def _norm(x: jax.Array, normalization: Normalization) -> jax.Array:
    if normalization == "spectral":
        return jnp.linalg.norm(x, ord=2, axis=(-2, -1), keepdims=True)
    return jnp.sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True))


def _rescaled(
    z: jax.Array, gram: jax.Array, left: bool, normalization: Normalization, eps: Any, safety: float
) -> tuple[jax.Array, jax.Array]:
    """X and its Gram matrix over the norm that the Gram matrix tells."""
    least = jnp.asarray(eps, gram.dtype)
    if normalization == "schatten":
        square = jnp.sqrt(jnp.sum(gram * gram, axis=(-2, -1), keepdims=True))
        scale = jax.lax.rsqrt(jnp.maximum(square, least)) / safety
        return (z * scale).astype(z.dtype), gram * scale * scale
    sums = jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.maximum(sums, least)) / safety
    across = jnp.swapaxes(scale, -1, -2)
    return (z * (scale if left else across)).astype(z.dtype), gram * scale * across


def _step(z: jax.Array, gram: jax.Array, triple: Triple, left: bool, layout: Layout) -> jax.Array:
    a, b, c = triple
    inner, weight = gram, b
    if c:
        square = _product("...ij,...jk->...ik", gram, gram, layout.result(layout.parts))
        square, part = layout.place(square, layout.parts), layout.place(gram, layout.parts)
        inner, weight = (b * part.astype(square.dtype) + c * square).astype(z.dtype), 1.0
        inner = layout.place(layout.place(inner, layout.parts), layout.whole)
    operands = (inner, z) if left else (z, inner)
    product = _product("...ij,...jk->...ik", *operands, layout.result(layout.during))
    return (a * z.astype(product.dtype) + weight * product).astype(z.dtype)


# Traced once for each shape, not for each matrix of a model.
@functools.partial(jax.jit, static_argnames=("axes", "spec"), inline=True)
def _product(axes: str, one: jax.Array, other: jax.Array, spec: Any) -> jax.Array:
    """A product of 16-bit operands is kept in float32; of wider ones it has all their digits.

    CPUs multiply bfloat16 at 0.6 times the speed of the same numbers in float32.
    """
    wide = jnp.promote_types(one.dtype, jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    how = dict(preferred_element_type=wide, out_sharding=spec)
    if one.dtype != jnp.bfloat16:
        return jnp.einsum(axes, one, other, precision=exact, **how)

    def widened(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.einsum(axes, one.astype(wide), other.astype(wide), precision=exact, **how)

    def plain(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.einsum(axes, one, other, **how)

    return jax.lax.platform_dependent(one, other, cpu=widened, default=plain)
