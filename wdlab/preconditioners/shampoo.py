"""Shampoo: gradients between the inverse roots of their own Gram matrices, by blocks."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number, check_whole, concrete, is_zero
from wdlab._core.dtypes import check_real, step_number, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import AdamFormulas
from wdlab.preconditioners.blocks import Blocks, blocks_of
from wdlab.preconditioners.grafting import Grafting
from wdlab.preconditioners.kronecker import (
    PerAxis,
    accumulated,
    act,
    by_leaf,
    inverse_roots,
    layouts_of,
    per_axis,
)
from wdlab.preconditioners.moments import one_minus_power
from wdlab.preconditioners.placement import in_place
from wdlab.rules import normalize_rules

PyTree = Any
Matrices = tuple[jax.Array, ...]  # One for each axis of a block.


class ScaleByShampooState(NamedTuple):
    """State of :func:`scale_by_shampoo`; float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params: average of the gradients; MaskedNode with b1=0.
    nu: PyTree  # Like params: grafting's second moment; MaskedNode where it has none.
    factors: PerAxis  # (*batches, *blocks, n, n) for each axis: Gram matrices.
    roots: PerAxis  # Like factors: their inverse roots.


class _Leaf(NamedTuple):
    mu: Any
    nu: Any
    factors: Matrices
    roots: Matrices


def scale_by_shampoo(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 1.0,
    eps: ArrayLike = 1e-12,
    *,
    b3: ArrayLike | None = None,
    grafting: Grafting | None = None,
    block_size: int = 1024,
    merge_to: int | None = 1,
    refresh_every: int = 1,
    start: int | None = None,
    bias_correction: bool = True,
    batch_axes: PyTree = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns gradients into Shampoo's direction: no learning rate, no sign, no decay.

    For a block G with :math:`L \leftarrow L + G G^T` (:math:`b_2 L + (1-b_2) G G^T` below 1), R
    likewise, and :math:`\bar G` the average of the gradients, one step is
    :math:`U = (L + \epsilon I)^{-1/4}\, \bar G\, (R + \epsilon I)^{-1/4}`, by ``eigh``. A block of
    k axes has k such matrices to the power -1/(2k). With ``grafting`` each block of U gets the
    length of that optimizer's step; before ``start`` its step itself is taken.

    Args:
      b1: Decay rate of the gradient's average, in [0, 1); a plain 0 keeps none.
      b2: Decay rate of the factors, in [0, 1]; 1: their sum.
      eps: :math:`\epsilon`, above 0, in units of the gradient squared. Where rounding makes the
        smallest eigenvalue less, the spectrum is moved up to it. Where a factor has a null space,
        as in the first steps, a small one enlarges what float32 rounds there.
      b3: Decay rate of the average in this step, in [0, 1); None: ``b1``.
      grafting: Whose step length to take; None: Shampoo's own.
      block_size: Longest side of a block, at least 1. Decides the size of the state.
      merge_to: Neighbouring axes are merged up to ``block_size`` as long as more than this many
        are left, so that 1 makes small matrices vectors, with one full matrix. None: never.
      refresh_every: Steps between two computations of the roots, at least 1.
      start: Number of the step that first computes them, at least ``refresh_every``, None: equal.
        Before it, without grafting, the direction is the averaged gradient.
      bias_correction: Whether averages are corrected for their start at zero.
      batch_axes: How many leading axes of a leaf only stack layers, as in :func:`scale_by_soap`.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``init`` for complex leaves.

    >>> gradient = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> tx = scale_by_shampoo(b1=0.0, merge_to=None)
    >>> jnp.round(tx.update(gradient, tx.init(gradient))[0], 4).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Source: Gupta et al. 2018, https://arxiv.org/abs/1802.09568; Shi et al. 2023,
    https://arxiv.org/abs/2309.06497, Algorithm 2; facebookresearch/optimizers f606606.
    """
    start = refresh_every if start is None else start
    sizes = {"block_size": block_size, "refresh_every": refresh_every, "start": start}
    _check(b1, b2, b3, eps, merge_to, **sizes)
    layouts = functools.partial(layouts_of, batch_axes=normalize_rules(batch_axes), max_dim=1)
    moments = _Moments(b1, b3, bias_correction, grafting)

    def cuts_of(tree: PyTree) -> tuple[Blocks, ...]:
        pairs = zip(jax.tree.leaves(tree), layouts(tree), strict=True)
        make = functools.partial(blocks_of, largest=block_size, merge_to=merge_to)
        return tuple(make(jnp.shape(leaf), len(layout.batch)) for leaf, layout in pairs)

    def init_fn(params: PyTree) -> ScaleByShampooState:
        check_real("scale_by_shampoo", params)
        leaves, treedef = jax.tree.flatten(params)
        made = [moments.start(p, cut) for p, cut in zip(leaves, cuts_of(params), strict=True)]
        return _state(jnp.zeros([], jnp.int32), treedef, made)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByShampooState]:
        cuts = cuts_of(updates if params is None else params)
        grads, treedef = jax.tree.flatten(updates)
        count, t = state.count + 1, step_number(state.count)
        leaves, blocks = [], []
        for g, leaf, cut in zip(grads, _leaves(state, treedef), cuts, strict=True):
            g = g.astype(leaf.factors[0].dtype)
            factors = accumulated(cut.cut(g), cut.layout, leaf.factors, b2)
            blocks.append(moments.filtered(g, leaf, t))
            leaves.append(moments.next(g, leaf)._replace(factors=factors))
        correction = jnp.ones([])
        if bias_correction and concrete(b2) != 1.0:
            correction = jnp.where(b2 == 1.0, 1.0, one_minus_power(b2, t))
        due = (count == start) | ((count > start) & (count % refresh_every == 0))
        old = [leaf.factors for leaf in leaves], [leaf.roots for leaf in leaves]
        roots = inverse_roots(
            *old, due, correction, jnp.asarray(eps), always=start == 1 == refresh_every
        )
        new = [leaf._replace(roots=r) for leaf, r in zip(leaves, roots, strict=True)]
        directions = []
        for g, filtered, leaf, cut in zip(grads, blocks, new, cuts, strict=True):
            step = act(cut.cut(filtered), cut.layout, leaf.roots, back=False)
            if grafting is not None:
                other = cut.cut(moments.grafted(filtered, leaf, t))
                step = step * (_norm(other, cut) / (_norm(step, cut) + 1e-16))
                step = step if start == 1 else jnp.where(count < start, other, step)
            directions.append(cut.join(step, g.shape).astype(g.dtype))
        return treedef.unflatten(directions), _state(next_count(state.count), treedef, new)

    return transformation(init_fn, in_place(update_fn))


class _Moments(NamedTuple):
    """The averages by entry: of the gradient, and of its square for grafting."""

    b1: ArrayLike
    b3: ArrayLike | None
    bias_correction: bool
    grafting: Grafting | None

    def start(self, p: jax.Array, cut: Blocks) -> _Leaf:
        dtype, layout = working_dtype(p), cut.layout
        squared = self.grafting is not None and self.grafting.method != "sgd"
        mu, nu = (
            jnp.zeros_like(p, dtype=dtype) if kept else optax.MaskedNode()
            for kept in (not is_zero(self.b1), squared)
        )
        shapes = [layout.factor_shape(axis) for axis in layout.factored]
        factors = tuple(jnp.zeros(shape, dtype) for shape in shapes)
        roots = tuple(jnp.zeros(shape, dtype) + jnp.eye(shape[-1], dtype=dtype) for shape in shapes)
        return _Leaf(mu, nu, factors, roots)

    def next(self, g: jax.Array, leaf: _Leaf) -> _Leaf:
        mu, nu = leaf.mu, leaf.nu
        if not isinstance(mu, optax.MaskedNode):
            mu = AdamFormulas(b1=self.b1, b2=0.0, eps=0.0).next_first(g, mu)
        if self.grafting is not None and not isinstance(nu, optax.MaskedNode):
            nu = self.grafting.formulas.next_second(g, nu)
        return leaf._replace(mu=mu, nu=nu)

    def filtered(self, g: jax.Array, leaf: _Leaf, t: jax.Array) -> jax.Array:
        """The gradient's average that the step takes, from the one before it."""
        if isinstance(leaf.mu, optax.MaskedNode):
            return g
        rate = self.b1 if self.b3 is None else self.b3
        mean = AdamFormulas(b1=rate, b2=0.0, eps=0.0).next_first(g, leaf.mu)
        if not self.bias_correction:
            return mean
        same = one_minus_power(self.b1, t)
        correction = same if self.b3 is None else 1.0 - rate * jnp.power(self.b1, t - 1.0)
        return mean / jnp.asarray(correction, mean.dtype)

    def grafted(self, g: jax.Array, leaf: _Leaf, t: jax.Array) -> jax.Array:
        """The step of the other optimizer."""
        if self.grafting is None or self.grafting.method == "sgd":
            return g
        formulas = self.grafting.formulas
        return formulas.direction(g, g, leaf.nu, formulas.scalars(t, None)[0])


def _norm(x: jax.Array, cut: Blocks) -> jax.Array:
    axes = tuple(range(x.ndim - len(cut.size), x.ndim))
    return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))


def _leaves(state: ScaleByShampooState, treedef: jax.tree_util.PyTreeDef) -> list[_Leaf]:
    moments = map(treedef.flatten_up_to, (state.mu, state.nu))
    matrices = (by_leaf(trees, treedef) for trees in (state.factors, state.roots))
    return [_Leaf(*each) for each in zip(*moments, *matrices, strict=True)]


def _state(
    count: jax.Array, treedef: jax.tree_util.PyTreeDef, leaves: Sequence[_Leaf]
) -> ScaleByShampooState:
    return ScaleByShampooState(
        count,
        treedef.unflatten([leaf.mu for leaf in leaves]),
        treedef.unflatten([leaf.nu for leaf in leaves]),
        per_axis(treedef, [leaf.factors for leaf in leaves]),
        per_axis(treedef, [leaf.roots for leaf in leaves]),
    )


def _check(b1: Any, b2: Any, b3: Any, eps: Any, merge_to: Any, **steps: Any) -> None:
    for name, value in (("b1", b1), ("b3", b3)):
        if value is not None:
            check_number(name, value, high=1.0, high_open=True)
    check_number("b2", b2, high=1.0)
    check_number("eps", eps, low_open=True)
    for name, value in {**steps, "merge_to": merge_to or 1}.items():
        check_whole(name, value)
    if steps["start"] < steps["refresh_every"]:
        raise ValueError(
            f"start must be at least refresh_every={steps['refresh_every']}, got {steps['start']}."
        )
