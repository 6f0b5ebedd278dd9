"""Constrained parameter regularization: decay only while a leaf's norm is above its bound.

The norm is that of one leaf; for stacked layers see :mod:`wdlab.decay.spheres`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_number, check_whole
from wdlab._core.dtypes import is_fixed, on_values, squares, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay.leafwise import check_leaves, map_decayed, next_count
from wdlab.rules import ALL, normalize_rules
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any
METHODS = ("uniform", "dependent", "warm_start", "inflection")


class LeafConstraint(NamedTuple):
    """What :func:`constrain_norms` knows of the leaves: trees like params.

    Their leaves have shape () and are float32 or wider. The formulas below are of one leaf.
    """

    bound: PyTree  # kappa, on the squared norm; infinite until it is set
    multiplier: PyTree  # mu >= 0, the Lagrange multiplier
    norm_ema: PyTree  # moving average of the norm, for "inflection"
    last_ema: PyTree  # the average at the sample before
    last_growth: PyTree  # relative growth between the two samples before


class ConstrainNormsState(NamedTuple):
    """State of :func:`constrain_norms`."""

    count: jax.Array  # int32, shape (): number of updates made
    leaves: LeafConstraint


def constrain_norms(
    method: str = "inflection",
    value: float | None = None,
    *,
    update_rate: float = 1.0,
    multiplier: ScalarOrSchedule | None = None,
    rules: PyTree = ALL,
    sample_steps: int = 200,
    ema_rate: float = 0.99,
    min_growth: float = 0.01,
) -> optax.GradientTransformation:
    r"""CPR: a decay per leaf that grows while the leaf's squared norm exceeds its bound.

    With the finished step :math:`u_t`, :math:`z = \theta_{t-1} + u_t` of n entries, the bound
    :math:`B` and the Lagrange multiplier :math:`\mu_0 = 0`, one step is
    :math:`\mu_t = \max(0, \mu_{t-1} + \frac{\rho}{n}(\lVert z\rVert^2 - B))`, then
    :math:`\theta_t = z - 2\mu_t\kappa_t s z`. No decay happens until the bound is set. As in the
    paper nothing caps :math:`2\mu_t`: a bound far below the norm overshoots. Put it last in a
    chain; with Adam before it, it is AdamCPR.

    Args:
      method: How each leaf gets its bound: "uniform": ``value`` itself, for every leaf;
        "dependent": ``value`` times its squared norm at ``init``; "warm_start": its squared norm
        after ``value`` updates; "inflection": its squared norm when its growth slows down, found
        at every ``sample_steps``-th update from the fourth sample on, where the moving average of
        the norm grew by more than ``min_growth`` of itself, but less than in the sample before.
      value: As ``method`` says: a squared norm > 0, a factor > 0, a number of updates >= 1, or
        None for "inflection".
      update_rate: ``rho`` > 0: how fast the multiplier follows the violation.
      multiplier: ``kappa_t``, number >= 0 or schedule; None is 1, the authors' default; the
        learning rate is their ``reg_by_lr``.
      rules: Leaves with a scale above 0 are constrained, see :func:`wdlab.decay_scales`; the
        authors take the weights of linear layers.
      sample_steps: Updates between two samples, >= 1.
      ema_rate: Of the moving average, per update, in [0, 1).
      min_growth: Least growth between two samples that counts, >= 0; 0 is the paper's rule.

    Raises:
      TypeError, ValueError: At construction for wrong arguments; from ``init`` for a leaf that
        no rule decides or that is not a float; from ``update`` without ``params``.

    >>> tx = constrain_norms("uniform", 15.5)
    >>> params = jnp.array([4.0, 0.0])
    >>> updates, state = tx.update(jnp.zeros(2), tx.init(params), params)
    >>> float(state.leaves.multiplier), updates.tolist()  # 0.5 / 2, -2 * 0.25 * 4
    (0.25, [-2.0, 0.0])

    Source: Franke et al. 2023, arXiv 2311.09058, Algorithm 1; sampling as in pytorch-cpr 0.3.1.
    """
    _check_method(method, value)
    check_whole("sample_steps", sample_steps)
    check_number("update_rate", update_rate, low_open=True)
    check_number("ema_rate", ema_rate, high=1.0, high_open=True)
    check_number("min_growth", min_growth)
    kappa = 1.0 if multiplier is None else multiplier
    check_number("multiplier", kappa, schedule=True)
    rules = normalize_rules(rules)

    def set_bound(leaf: LeafConstraint, squared: jax.Array, count: jax.Array) -> LeafConstraint:
        if method == "warm_start":
            return _set(leaf, jnp.equal(count, value or 0), squared)
        return _sample(leaf, squared, count, (sample_steps, ema_rate, min_growth))

    def init_fn(params: PyTree) -> ConstrainNormsState:
        check_leaves(params, rules, needs="constrain_norms")
        leaves = [_start(leaf, method, value) for leaf in jax.tree.leaves(params)]
        return ConstrainNormsState(jnp.zeros([], jnp.int32), _like(params, leaves))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ConstrainNormsState]:
        def pull(u: jax.Array, strength: jax.Array, p: jax.Array, mu: jax.Array) -> jax.Array:
            return u - 2 * mu * strength * (p + u)

        count = next_count(state.count)
        fields = map(jax.tree.leaves, state.leaves)
        each = [LeafConstraint(*leaf) for leaf in zip(*fields, strict=True)]
        known = [
            leaf._replace(multiplier=_multiplier(leaf, squared, size, update_rate))
            for leaf, (squared, size) in zip(each, _norms(params, updates), strict=False)
        ]
        mus = [leaf.multiplier for leaf in known]
        strength = jnp.asarray(value_at(kappa, state.count))
        updates = map_decayed("constrain_norms", pull, updates, params, rules, strength, mus)
        if method in ("warm_start", "inflection"):
            now = [squared for squared, _ in _norms(params, updates)]
            known = [set_bound(*pair, count) for pair in zip(known, now, strict=True)]
        return updates, ConstrainNormsState(count, _like(state.leaves.bound, known))

    return transformation(init_fn, update_fn)


def _like(tree: PyTree, leaves: list[LeafConstraint]) -> LeafConstraint:
    """The fields of all leaves, each as a tree."""
    structure = jax.tree.structure(tree)
    fields = zip(*leaves, strict=True) if leaves else [()] * len(LeafConstraint._fields)
    return LeafConstraint(*(jax.tree.unflatten(structure, field) for field in fields))


def _norms(params: PyTree | None, updates: PyTree) -> list[tuple[jax.Array, int]]:
    """Squared norm and size of every stepped leaf; nothing where params are missing."""

    def squared(p: jax.Array, u: jax.Array) -> tuple[jax.Array, int]:
        if is_fixed(p):
            return jnp.zeros([]), 1
        z = jnp.asarray(p, working_dtype(p)) + jnp.asarray(u, working_dtype(u))
        return jnp.sum(squares(z)), max(1, z.size)

    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=False)
    return [squared(p, u) for p, u in pairs]


def _start(leaf: Any, method: str, value: float | None) -> LeafConstraint:
    dtype = jnp.dtype(jnp.float32) if is_fixed(leaf) else jnp.finfo(working_dtype(leaf)).dtype
    bound = jnp.asarray(jnp.inf, dtype)
    if method == "uniform":
        bound = jnp.asarray(value, dtype)
    if method == "dependent" and not is_fixed(leaf):
        factor = jnp.asarray(value, dtype)
        bound = on_values(lambda x: factor * jnp.sum(squares(x)), leaf)
    zeros = [jnp.zeros([], dtype) for _ in range(4)]  # Own buffers: one twice cannot be donated.
    return LeafConstraint(bound, *zeros)


def _multiplier(leaf: LeafConstraint, squared: jax.Array, size: int, rate: float) -> jax.Array:
    """The next multiplier; it stays as it is, at zero, until the bound is set."""
    excess = squared - jnp.where(jnp.isinf(leaf.bound), 0.0, leaf.bound)
    moved = jnp.maximum(0.0, leaf.multiplier + jnp.asarray(rate, excess.dtype) / size * excess)
    new = jnp.where(jnp.isinf(leaf.bound), leaf.multiplier, moved)
    return new.astype(leaf.multiplier.dtype)


def _set(leaf: LeafConstraint, when: jax.Array, squared: jax.Array) -> LeafConstraint:
    bound = jnp.where(when & jnp.isinf(leaf.bound), squared.astype(leaf.bound.dtype), leaf.bound)
    return leaf._replace(bound=bound)


def _sample(
    leaf: LeafConstraint, squared: jax.Array, count: jax.Array, sampling: tuple[int, float, float]
) -> LeafConstraint:
    """Averages the norm, and at every sample compares its growth with the one before."""
    steps, rate, least = sampling
    norm = jnp.sqrt(squared).astype(leaf.norm_ema.dtype)
    ema = jnp.where(count >= steps, rate * leaf.norm_ema + (1 - rate) * norm, norm)
    sampled = (count % steps == 0) & (count > steps)
    growth = (ema - leaf.last_ema) / jnp.where(ema > 0, ema, 1.0)
    slower = (leaf.last_growth > growth) & (growth > least)
    leaf = _set(leaf, sampled & slower, squared)
    return leaf._replace(
        norm_ema=ema,
        last_ema=jnp.where(sampled, ema, leaf.last_ema),
        # The first sample's growth, from nothing, counts for nothing: none can be slower than 0.
        last_growth=jnp.where(sampled & (count > 2 * steps), growth, leaf.last_growth),
    )


def _check_method(method: str, value: float | None) -> None:
    check_choice("method", method, METHODS)
    if method == "inflection":
        if value is not None:
            raise ValueError(f"value must be None for 'inflection', got {value!r}.")
    elif method == "warm_start":
        check_whole("value", value)
    else:
        check_number("value", value, low_open=True)
