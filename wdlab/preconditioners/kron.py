"""PSGD Kron: gradients whitened by a Kronecker product that is learned from random probes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number, check_whole
from wdlab._core.dtypes import check_real, step_number, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.kron_leaf import Diagonals, KronLayout, direction, kron_layouts, learned
from wdlab.preconditioners.leaf_states import as_before, widened, zeros_for
from wdlab.preconditioners.moments import one_minus_power
from wdlab.preconditioners.placement import in_place
from wdlab.rules import normalize_rules
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any
Factors = tuple[jax.Array, ...]  # One for each axis of the leaf as it is seen.


class ScaleByKronState(NamedTuple):
    """State of :func:`scale_by_kron`; float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    waited: jax.Array  # int32, shape (): updates since the factors last learned.
    mu: PyTree  # Like params: average of the gradients.
    first: PyTree  # Q of the first axis, (*batches, n, n) upper triangular or (*batches, n).
    second: PyTree  # Q of the second axis; ``optax.MaskedNode`` where a leaf has none.


def kron_update_share(count: ArrayLike) -> jax.Array:
    r"""Returns the published share of the steps at which Kron learns: 1, from step 500 on less.

    :math:`p_t = \max(0.03, \min(1, e^{-0.001 (t - 500)}))`, in float32.

    Args:
      count: Updates made before.

    >>> [round(float(kron_update_share(t)), 3) for t in (0, 500, 1500, 9000)]
    [1.0, 1.0, 0.368, 0.03]
    """
    share = jnp.exp(-0.001 * (jnp.asarray(count, jnp.float32) - 500.0))
    return jnp.clip(share, 0.03, 1.0)


def scale_by_kron(
    b1: ArrayLike = 0.9,
    *,
    step_size: ArrayLike = 0.1,
    update_share: ScalarOrSchedule = kron_update_share,
    learns_from: Literal["momentum", "gradient"] = "momentum",
    damp_direction: bool = False,
    max_dim: int = 8192,
    diagonals: Diagonals = "vectors",
    initial_scale: float = 1.0,
    batch_axes: PyTree = 0,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns gradients into PSGD Kron's direction: no learning rate, no sign, no decay.

    With :math:`M \leftarrow b_1 M + (1-b_1) G` and :math:`\hat M = M / (1 - b_1^t)`, one step of a
    matrix is :math:`U = Q_L^T Q_L \hat M Q_R^T Q_R`, divided so that its root mean square is at
    most 1.1. Before it the factors learn from a normal probe V and
    :math:`\tilde M = \hat M + 2^{-11.5}\, \mathrm{mean}|\hat M|\, V`: with
    :math:`A = Q_L \tilde M Q_R^T` and :math:`B = Q_L^{-T} V Q_R^{-1}`,
    :math:`Q_L \leftarrow Q_L - \mu\, \mathrm{triu}(A A^T - B B^T) Q_L / \|A A^T + B B^T\|`,
    :math:`Q_R` likewise. The norm is a lower bound of the spectral one; of a diagonal Q all is
    diagonal and the norm is the largest entry. Then both are brought to the same largest entry,
    which leaves their product as it is.

    A leaf of rank 3 or more is seen as a matrix of all axes but the last by the last.

    Args:
      b1: Decay rate of the average, in [0, 1).
      step_size: :math:`\mu`, of the factors, at least 0.
      update_share: Share p of the steps at which the factors learn, above 0; number or schedule.
        They do where 1/p steps have gone by since they last did.
      learns_from: Whether they learn from :math:`\hat M` or from G.
      damp_direction: Whether U is of :math:`\tilde M` at the steps at which the factors learn from
        it, as ``kron_torch``, which adds the probe in place; ``psgd_jax`` does not.
      max_dim: Longer axes have a diagonal Q.
      diagonals: Further axes that have one: those of "vectors", also the "longest" axis of every
        leaf (the last of equals), the "longer" one (none of equals), "all", or "none".
      initial_scale: Of the identities that a leaf's factors start as, their product, above 0.
      batch_axes: Leading axes of a leaf that only stack layers, as in :func:`scale_by_soap`.
      seed: Of the probes: that of leaf i is ``normal(fold_in(fold_in(key(seed), i), count))``.

    Raises:
      TypeError, ValueError: If a number is out of range; from ``init`` for complex leaves.

    Example:
      >>> gradient = jnp.array([[30.0, 0.0], [0.0, 0.01]])
      >>> tx = scale_by_kron()
      >>> direction, state = tx.update(gradient, tx.init(gradient))
      >>> round(float(jnp.sqrt(jnp.mean(direction**2))), 3)
      1.1

    Source: Li 2018, https://arxiv.org/abs/1512.04202; Pooladzandi & Li 2024,
    https://arxiv.org/abs/2402.04553; https://github.com/evanatyourservice/psgd_jax (be95524) and
    kron_torch 0.3.3.
    """
    check_number("b1", b1, high=1.0, high_open=True)
    check_number("step_size", step_size)
    check_number("update_share", update_share, low_open=True, high=1.0, schedule=True)
    check_choice("learns_from", learns_from, ("momentum", "gradient"))
    check_choice("diagonals", diagonals, ("vectors", "longest", "longer", "all", "none"))
    check_number("initial_scale", initial_scale, low_open=True)
    check_whole("max_dim", max_dim)
    layouts = functools.partial(
        kron_layouts, batch_axes=normalize_rules(batch_axes), max_dim=max_dim, diagonals=diagonals
    )

    def init_fn(params: PyTree) -> ScaleByKronState:
        check_real("scale_by_kron", params)
        leaves, treedef = jax.tree.flatten(params)
        pairs = zip(leaves, layouts(params), strict=True)
        made = [seen.identities(initial_scale, working_dtype(p)) for p, seen in pairs]
        count, waited = (jnp.zeros([], jnp.int32) for _ in range(2))
        return ScaleByKronState(count, waited, zeros_for(params), *_trees(treedef, made))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByKronState]:
        seen = layouts(updates if params is None else params)
        grads = widened(updates, state.mu)
        mu = jax.tree.map(lambda g, m: b1 * m + (1.0 - b1) * g, grads, state.mu)
        correction = one_minus_power(b1, step_number(state.count))
        mean = as_before(jax.tree.map(lambda m: m / correction, mu), grads)
        waited = next_count(state.waited)
        due = waited >= 1.0 / value_at(update_share, state.count)

        means, treedef = jax.tree.flatten(mean)
        sources = means if learns_from == "momentum" else jax.tree.leaves(grads)
        damped = damp_direction and learns_from == "momentum"
        factors = _by_leaf(treedef, state.first, state.second)
        probe = functools.partial(_probe, seed, state.count)
        args = (sources, means, factors)
        means, factors = _learned(*args, due, step_size, seen, probe, damped=damped)
        triples = zip(means, factors, seen, strict=True)
        out = treedef.unflatten([direction(m, q, layout) for m, q, layout in triples])
        new = ScaleByKronState(
            next_count(state.count), jnp.where(due, 0, waited), as_before(mu, state.mu),
            *_trees(treedef, factors),
        )  # fmt: skip
        return as_before(out, updates), new

    return transformation(init_fn, in_place(update_fn))


def _learned(
    sources: Sequence[jax.Array],
    means: Sequence[jax.Array],
    factors: Sequence[Factors],
    due: jax.Array,
    step_size: ArrayLike,
    layouts: Sequence[KronLayout],
    probe: Callable[..., jax.Array],
    *,
    damped: bool,
) -> tuple[list[jax.Array], list[Factors]]:
    """What the direction is of, and the factors, which have learned where it is time."""

    def after() -> tuple[list[jax.Array], list[Factors]]:
        new, noisy = [], []
        for i, (g, q, seen) in enumerate(zip(sources, factors, layouts, strict=True)):
            v = probe(i, seen.shape, g.dtype)
            source, q = learned(g, v, q, seen, step_size)
            noisy.append(source)
            new.append(q)
        return (noisy if damped else list(means)), new

    return jax.lax.cond(due, after, lambda: (list(means), list(factors)))


def _probe(seed: int, count: jax.Array, leaf: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), leaf), count)
    return jax.random.normal(key, shape, dtype)


def _trees(treedef: jax.tree_util.PyTreeDef, factors: Sequence[Factors]) -> tuple[PyTree, PyTree]:
    filled = [(*q, *[optax.MaskedNode()] * 2)[:2] for q in factors]
    first, second = (treedef.unflatten([q[axis] for q in filled]) for axis in range(2))
    return first, second


def _by_leaf(treedef: jax.tree_util.PyTreeDef, first: PyTree, second: PyTree) -> list[Factors]:
    pairs = zip(*map(treedef.flatten_up_to, (first, second)), strict=True)
    return [tuple(q for q in pair if not isinstance(q, optax.MaskedNode)) for pair in pairs]
