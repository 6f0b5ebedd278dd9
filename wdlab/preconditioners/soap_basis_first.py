"""SOAP with a new basis before every step: that of NVIDIA's Emerging-Optimizers."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number
from wdlab._core.dtypes import check_real, step_number
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import AdamFormulas, StepScalars, like
from wdlab.preconditioners.kronecker import Layout, act, gram, layouts_of
from wdlab.preconditioners.moments import one_minus_power
from wdlab.preconditioners.placement import in_place
from wdlab.preconditioners.soap_state import (
    Matrices,
    ScaleBySoapState,
    SoapLeaf,
    eigenvectors,
    leaves_of,
    state_of,
    zeros_of,
)
from wdlab.rules import normalize_rules

PyTree = Any


def scale_by_soap_basis_first(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    *,
    factor_decay: ArrayLike = 0.95,
    nesterov: bool = False,
    bias_correction: bool = True,
    factor_correction: bool = True,
    max_dim: int = 10_000,
    batch_axes: PyTree = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns gradients into the direction of SOAP whose basis is renewed before every step.

    For a matrix G, first :math:`L \leftarrow L + w_t (G G^T - L)`, R likewise of :math:`G^T G`,
    with :math:`w_t = (1-\beta_s) / (1-\beta_s^t)`; then :math:`Q_L \leftarrow \mathrm{qr}(L Q_L)`,
    its columns sorted by :math:`\mathrm{diag}(Q_L^T L Q_L)`, in the first step ``eigh``; then
    :math:`U = Q_L\, \mathrm{Adam}(Q_L^T G Q_R)\, Q_R^T`. The first moment is turned into the new
    basis, the second is left as it is. :func:`scale_by_soap` steps first, and not at all in its
    first step.

    The first gradient is diagonal in its own basis; the other entries are rounding errors, which
    Adam makes steps of full size where ``eps`` is below them: in float32, of gradients around 1,
    below about 1e-6. Entries in a factor's null space likewise, for as long as it has one.

    Args:
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      eps: Epsilon outside the root, at least 0, in units of the gradient.
      factor_decay: :math:`\beta_s`, in [0, 1).
      nesterov: Whether Adam's numerator looks ahead, as in :func:`scale_by_adam`.
      bias_correction: Whether both moments are corrected for their start at zero.
      factor_correction: Whether the factors are; if not, :math:`w_t = 1-\beta_s`.
      max_dim: Longer axes have no factor.
      batch_axes: Leading axes of a leaf that only stack layers, as in :func:`scale_by_soap`.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``init`` for complex leaves.

    Example:
      >>> gradient = jnp.array([[3.0, 0.0], [4.0, 0.0]])  # Rank 1: in its basis one entry.
      >>> tx = scale_by_soap_basis_first()
      >>> first, state = tx.update(gradient, tx.init(gradient))
      >>> [round(x, 3) for x in first[:, 0].tolist()]
      [0.6, 0.8]

    Source: https://github.com/NVIDIA-NeMo/Emerging-Optimizers/blob/fd77292/emerging_optimizers/
    legacy_soap/soap.py; Vyas et al. 2024, https://arxiv.org/abs/2409.11321.
    """
    check_number("factor_decay", factor_decay, high=1.0, high_open=True)
    moment = "nesterov" if nesterov else "ema"
    adam = AdamFormulas(b1=b1, b2=b2, eps=eps, bias_correction=bias_correction, first_moment=moment)
    layouts = functools.partial(layouts_of, batch_axes=normalize_rules(batch_axes), max_dim=max_dim)

    def init_fn(params: PyTree) -> ScaleBySoapState:
        check_real("scale_by_soap_basis_first", params)
        leaves, treedef = jax.tree.flatten(params)
        made = list(map(zeros_of, leaves, layouts(params)))
        return state_of(jnp.zeros([], jnp.int32), treedef, made)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleBySoapState]:
        seen = layouts(updates if params is None else params)
        grads, treedef = jax.tree.flatten(updates)
        t = step_number(state.count)
        weight = 1.0 - factor_decay
        if factor_correction:
            weight = weight / one_minus_power(factor_decay, t)
        wide = [
            g.astype(leaf.nu.dtype)
            for g, leaf in zip(grads, leaves_of(state, treedef), strict=True)
        ]
        triples = zip(wide, leaves_of(state, treedef), seen, strict=True)
        leaves = _renewed([_taken_in(*each, weight) for each in triples], seen, state.count == 0)
        step = _Step(adam, adam.scalars(t, None)[0])
        done = list(itertools.starmap(step, zip(wide, leaves, seen, strict=True)))
        directions = [u.astype(g.dtype) for (u, _), g in zip(done, grads, strict=True)]
        new = state_of(next_count(state.count), treedef, [leaf for _, leaf in done])
        return treedef.unflatten(directions), new

    return transformation(init_fn, in_place(update_fn))


class _Step(NamedTuple):
    """Adam in the new basis."""

    adam: AdamFormulas
    scalars: StepScalars

    def __call__(self, grad: jax.Array, leaf: SoapLeaf, layout: Layout) -> tuple[Any, SoapLeaf]:
        inside = _turned(grad, layout, leaf.bases, back=False)
        mu, nu = self.adam.next_first(inside, leaf.mu), self.adam.next_second(inside, leaf.nu)
        direction = self.adam.direction(inside, mu, nu, self.scalars)
        return _turned(direction, layout, leaf.bases, back=True), leaf._replace(mu=mu, nu=nu)


def _turned(x: jax.Array, layout: Layout, bases: Matrices, *, back: bool) -> jax.Array:
    return act(x.reshape(layout.shape), layout, bases, back=back).reshape(x.shape)


def _taken_in(grad: jax.Array, leaf: SoapLeaf, layout: Layout, weight: ArrayLike) -> SoapLeaf:
    seen = grad.reshape(layout.shape)
    pairs = zip(leaf.factors, layout.factored, strict=True)
    factors = tuple(f + like(weight, f) * (gram(seen, layout, axis) - f) for f, axis in pairs)
    return leaf._replace(factors=factors)


def _renewed(
    leaves: Sequence[SoapLeaf], layouts: Sequence[Layout], first: jax.Array
) -> list[SoapLeaf]:
    """The leaves in their new bases, in one branch for all."""
    if not any(leaf.factors for leaf in leaves):
        return list(leaves)

    def at_first() -> list[tuple[jax.Array, Matrices]]:
        return [(leaf.mu, tuple(map(eigenvectors, leaf.factors))) for leaf in leaves]

    def later() -> list[tuple[jax.Array, Matrices]]:
        out = []
        for leaf, layout in zip(leaves, layouts, strict=True):
            bases = tuple(map(_iterated, leaf.factors, leaf.bases))
            mu = _turned(leaf.mu, layout, leaf.bases, back=True)
            out.append((_turned(mu, layout, bases, back=False), bases))
        return out

    moved = jax.lax.cond(first, at_first, later)
    return [
        leaf._replace(mu=mu, bases=bases) for leaf, (mu, bases) in zip(leaves, moved, strict=True)
    ]


def _iterated(factor: jax.Array, basis: jax.Array) -> jax.Array:
    """One power iteration; the columns sorted by the new Rayleigh quotients."""
    new = jnp.linalg.qr(jnp.matmul(factor, basis, precision="highest"))[0]
    power = jnp.matmul(factor, new, precision="highest")
    order = jnp.argsort(jnp.sum(new * power, axis=-2), axis=-1, descending=True)
    return jnp.take_along_axis(new, order[..., None, :], axis=-1)
