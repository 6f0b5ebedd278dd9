"""SOAP: Adam in the eigenbasis of Shampoo's factors."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number, check_whole
from wdlab._core.dtypes import check_real, step_number
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import AdamFormulas, StepScalars
from wdlab.preconditioners.kronecker import (
    Layout,
    accumulated,
    act,
    layouts_of,
)
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


def scale_by_soap(
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    *,
    factor_decay: ArrayLike | None = None,
    refresh_every: int = 10,
    max_dim: int = 10_000,
    vectors: bool = False,
    batch_axes: PyTree = 0,
    epsilon: Literal["hat", "outside"] = "hat",
    bias_correction: bool = True,
    normalize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns gradients into SOAP's direction: no learning rate, no sign, no decay.

    For a matrix G with :math:`L \leftarrow \beta_s L + (1-\beta_s) G G^T`, R likewise of
    :math:`G^T G`, and their eigenvectors :math:`Q_L, Q_R` as columns, one step is
    :math:`U = Q_L\, \mathrm{Adam}(Q_L^T G Q_R)\, Q_R^T`. The factors take the gradient in after the
    step. The first step makes the factors and their bases (``eigh``) and moves nothing. Every
    ``refresh_every`` steps the bases are refreshed by one power iteration,
    :math:`Q \leftarrow \mathrm{qr}(L Q)`, columns sorted by :math:`\mathrm{diag}(Q^T L Q)`; the
    first moment is turned into the new basis, the second is only sorted.

    A leaf of rank 3 or 4 has a factor for each axis. Axes of size 1 count for nothing. Leaves
    without a factor (scalars, vectors) get Adam, one step late as the others.

    Args:
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      eps: Epsilon, at least 0, in units of the gradient.
      factor_decay: :math:`\beta_s`, in [0, 1); None: ``b2``.
      refresh_every: Steps between two refreshes, at least 1.
      max_dim: Axes that are longer have no factor: theirs would have ``max_dim**2`` entries. Of
        more than four axes the last four can have one.
      vectors: Whether vectors have one.
      batch_axes: How many leading axes of a leaf only stack layers, each of which has its own
        factors: a whole number for all leaves, a tree of them, or rules:
        ``(Rule("blocks/.*", 1), Rule(".*", 0))``.
      epsilon: "hat": before the bias correction, as the original; "outside": after it. See
        :func:`scale_by_adam`.
      bias_correction: Whether both moments are corrected for their start at zero.
      normalize: Whether the direction of each leaf is divided by its root mean square.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``init`` for complex leaves.

    Example:
      >>> gradient = jnp.array([[3.0, 0.0], [4.0, 0.0]])  # Rank 1: in its basis one entry.
      >>> tx = scale_by_soap()
      >>> first, state = tx.update(gradient, tx.init(gradient))
      >>> second, state = tx.update(gradient, state)
      >>> first.any().item(), [round(x, 3) for x in second[:, 0].tolist()]
      (False, [0.6, 0.8])

    Source: Vyas et al. 2024, https://arxiv.org/abs/2409.11321, Algorithm 3;
    https://github.com/nikhilvyas/SOAP/blob/a1e5535/soap.py.
    """
    check_whole("refresh_every", refresh_every)
    check_whole("max_dim", max_dim)
    check_choice("epsilon", epsilon, ("hat", "outside"))
    if factor_decay is not None:
        check_number("factor_decay", factor_decay, high=1.0, high_open=True)
    adam = AdamFormulas(b1=b1, b2=b2, eps=eps, epsilon=epsilon, bias_correction=bias_correction)
    rate = b2 if factor_decay is None else factor_decay

    layouts = functools.partial(
        layouts_of, batch_axes=normalize_rules(batch_axes), max_dim=max_dim, vectors=vectors
    )

    def init_fn(params: PyTree) -> ScaleBySoapState:
        check_real("scale_by_soap", params)
        leaves, treedef = jax.tree.flatten(params)
        made = list(map(zeros_of, leaves, layouts(params)))
        return state_of(jnp.zeros([], jnp.int32), treedef, made)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleBySoapState]:
        seen = layouts(updates if params is None else params)
        grads, treedef = jax.tree.flatten(updates)
        t = jnp.maximum(step_number(state.count) - 1.0, 1.0)  # The first step is none of Adam's.
        step = _Step(adam, adam.scalars(t, None)[0], rate, state.count > 0, normalize)
        both = zip(grads, leaves_of(state, treedef), seen, strict=True)
        directions, leaves = zip(*itertools.starmap(step, both), strict=True) if grads else ((), ())
        turned = _turned(leaves, state.count, layouts=seen, every=refresh_every)
        new = state_of(next_count(state.count), treedef, turned)
        return treedef.unflatten(directions), new

    return transformation(init_fn, in_place(update_fn))


class _Step(NamedTuple):
    """What one step is made of, beside a leaf."""

    adam: AdamFormulas
    scalars: StepScalars
    factor_decay: ArrayLike
    started: jax.Array  # bool, shape ().
    normalize: bool

    def __call__(self, gradient: jax.Array, leaf: SoapLeaf, layout: Layout) -> tuple[Any, SoapLeaf]:
        """Returns the direction, and the leaf after it in the old basis."""
        grad = gradient.astype(leaf.nu.dtype).reshape(layout.shape)
        inside = act(grad, layout, leaf.bases, back=False).reshape(gradient.shape)
        mu, nu = self.adam.next_first(inside, leaf.mu), self.adam.next_second(inside, leaf.nu)
        # In the very first step there is no basis yet, and Adam does not see the gradient.
        mu, nu = jnp.where(self.started, mu, leaf.mu), jnp.where(self.started, nu, leaf.nu)
        direction = self.adam.direction(inside, mu, nu, self.scalars).reshape(layout.shape)
        direction = act(direction, layout, leaf.bases, back=True)
        if self.normalize:
            axes = tuple(range(len(layout.batch), direction.ndim))
            rms = jnp.sqrt(jnp.mean(direction * direction, axis=axes, keepdims=True))
            direction = direction / (rms + 1e-30)
        direction = jnp.where(self.started, direction, 0.0).astype(gradient.dtype)
        factors = accumulated(grad, layout, leaf.factors, self.factor_decay)
        return direction.reshape(gradient.shape), SoapLeaf(mu, nu, factors, leaf.bases)


@functools.partial(jax.jit, static_argnames=("layouts", "every"), inline=True)
def _turned(
    leaves: Sequence[SoapLeaf], count: jax.Array, *, layouts: tuple[Layout, ...], every: int
) -> list[SoapLeaf]:
    """Gives the leaves their first bases, refreshed ones where it is time, or the old ones.

    One branch for all leaves: no step computes what it does not need.
    """
    pairs = list(zip(leaves, layouts, strict=True))
    if not any(leaf.factors for leaf in leaves):
        return list(leaves)
    branches = (
        lambda: [(leaf.mu, leaf.nu, leaf.bases) for leaf in leaves],
        lambda: [_refreshed(*pair) for pair in pairs],
        lambda: [(leaf.mu, leaf.nu, tuple(map(eigenvectors, leaf.factors))) for leaf in leaves],
    )
    branch = jnp.where(count == 0, 2, (count % every == 0).astype(jnp.int32))
    moved = jax.lax.switch(branch, branches)
    both = zip(moved, leaves, strict=True)
    return [SoapLeaf(mu, nu, leaf.factors, bases) for (mu, nu, bases), leaf in both]


def _refreshed(leaf: SoapLeaf, layout: Layout) -> tuple[jax.Array, jax.Array, Matrices]:
    """One power iteration: the moments and the bases after it."""
    shape = leaf.mu.shape
    mu = act(leaf.mu.reshape(layout.shape), layout, leaf.bases, back=True)
    nu, bases = leaf.nu.reshape(layout.shape), []
    for axis, factor, basis in zip(layout.factored, leaf.factors, leaf.bases, strict=True):
        power = jnp.matmul(factor, basis, precision="highest")
        order = jnp.argsort(jnp.sum(basis * power, axis=-2), axis=-1, descending=True)
        power = jnp.take_along_axis(power, order[..., None, :], axis=-1)
        bases.append(jnp.linalg.qr(power)[0])
        place = len(layout.batch) + axis
        others = (1,) * axis, (1,) * (nu.ndim - place - 1)
        nu = jnp.take_along_axis(
            nu, order.reshape(*layout.batch, *others[0], -1, *others[1]), axis=place
        )
    mu = act(mu, layout, bases, back=False)
    return mu.reshape(shape), nu.reshape(shape), tuple(bases)
