"""Norms held instead of weights decayed: hyperball, and a plain projection.

A norm here is the Frobenius norm of one leaf. Where a leaf stacks the matrices of many layers
(``nn.scan``) it is the norm of the stack: give such layers their own leaves, or ``jax.vmap`` the
transformation over the stack.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number
from wdlab._core.dtypes import cast, is_fixed, on_values, squares, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay.leafwise import check_leaves, map_decayed, next_count
from wdlab.rules import decay_scales, normalize_rules
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class HyperballState(NamedTuple):
    """State of :func:`hyperball` and :func:`keep_initial_norm`."""

    count: jax.Array  # int32, shape (): number of updates made
    radius: PyTree  # structured like params, shapes (), float32 or wider: norms seen by init


def hyperball(learning_rate: ScalarOrSchedule, *, rules: PyTree) -> optax.GradientTransformation:
    r"""Turns a direction into a step on the sphere of the initial norm; takes no decay.

    With the direction :math:`u_t` of e.g. ``wdlab.preconditioners.scale_by_adam`` or Muon (no
    learning rate, no sign), :math:`R = \lVert W_0\rVert_F` and
    :math:`N(x) = x/\lVert x\rVert_F`, one step is
    :math:`W_t = R\,N(W_{t-1} - lr_t R\,N(u_t))`. Put it last, in the place of
    ``optax.scale_by_learning_rate``. R is kept in the state and comes back in every step, so that
    rounding does not add up: measured again from :math:`W_{t-1}` it would drift.

    Leaves that ``rules`` exempt, and leaves that start at zero and so have no sphere, take the
    plain step :math:`W_t = W_{t-1} - lr_t u_t`. They usually want another learning rate: use
    ``optax.partition``. A direction of zero leaves the weights as they are.

    Args:
      learning_rate: ``lr_t``, number >= 0 or schedule: the step's length relative to the radius.
      rules: Leaves with a scale above 0 are held on their spheres; the paper takes the matrices
        inside the blocks. There is no default.

    Raises:
      TypeError, ValueError: At construction for wrong arguments; from ``init`` for a leaf that
        no rule decides or that is not a float; from ``update`` without ``params``.

    >>> tx = hyperball(1.0, rules=1.0)
    >>> params, direction = jnp.array([3.0, 4.0]), jnp.array([-0.1, 0.0])
    >>> new = optax.apply_updates(params, tx.update(direction, tx.init(params), params)[0])
    >>> [round(x, 3) for x in new.tolist()]  # [8, 4], back on the circle of radius 5
    [4.472, 2.236]

    Source: Wen et al. 2026, arXiv 2606.16899 (AdamH, MuonH).
    """
    check_number("learning_rate", learning_rate, schedule=True)

    def move(w: jax.Array, u: jax.Array, radius: jax.Array, rate: jax.Array) -> jax.Array:
        norm, held = _norm(u), radius > 0
        # The direction once, for both kinds of leaves: one that is read twice would be kept.
        step = rate * jnp.where(held, radius, 1.0) * _divide(u, jnp.where(held, norm, 1.0))
        on_sphere = _onto(w - step, radius, w) - w
        return jnp.where(norm > 0, jnp.where(held, on_sphere, -step), 0.0)

    def rest(updates: PyTree, scales: PyTree, rate: Any) -> PyTree:
        def step(u: jax.Array, scale: float) -> jax.Array:
            if scale > 0 or is_fixed(u):
                return u
            return (-rate * jnp.asarray(u, working_dtype(u))).astype(u.dtype)

        return jax.tree.map(step, updates, scales)

    return _on_spheres("hyperball", move, rest, learning_rate, rules)


def keep_initial_norm(*, rules: PyTree) -> optax.GradientTransformation:
    r"""Projects the stepped weights back to their initial norm; put it last in any chain.

    With the finished step :math:`u_t` and :math:`R = \lVert W_0\rVert_F` of the state, one step is
    :math:`W_t = R\,(W_{t-1} + u_t)/\lVert W_{t-1} + u_t\rVert_F`. Decay before it has no effect
    but on the step's relative size. :func:`hyperball` normalizes the step as well. Leaves that
    start at zero, or are exempt, take their step as it is.

    Args:
      rules: Leaves with a scale above 0 are projected. There is no default.

    Raises:
      TypeError, ValueError: As :func:`hyperball`.

    >>> tx = optax.chain(optax.sgd(1.0), keep_initial_norm(rules=1.0))
    >>> params, grads = jnp.array([3.0, 4.0]), jnp.array([-5.0, 4.0])
    >>> optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0]).tolist()
    [5.0, 0.0]
    """

    def project(w: jax.Array, u: jax.Array, radius: jax.Array, _: jax.Array) -> jax.Array:
        return jnp.where(radius > 0, _onto(w + u, radius, w) - w, u)

    return _on_spheres("keep_initial_norm", project, lambda u, scales, rate: u, 1.0, rules)


def _on_spheres(
    name: str,
    move: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array],
    rest: Callable[[PyTree, PyTree, Any], PyTree],
    rate: ScalarOrSchedule,
    rules: PyTree,
) -> optax.GradientTransformation:
    """``move(w, u, radius, rate)`` for the leaves on spheres, ``rest`` for the others."""
    rules = normalize_rules(rules)

    def init_fn(params: PyTree) -> HyperballState:
        check_leaves(params, rules, needs=name)
        radius = jax.tree.map(_radius, params)
        return HyperballState(jnp.zeros([], jnp.int32), radius)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, HyperballState]:
        def apply(u: jax.Array, _: jax.Array, p: jax.Array, radius: jax.Array) -> jax.Array:
            return move(p, u, radius, jnp.asarray(now, p.dtype))

        now = value_at(rate, state.count)
        moved = map_decayed(name, apply, updates, params, rules, jnp.ones([]), state.radius)
        moved = rest(moved, _like(moved, decay_scales(params, rules)), now)
        return moved, HyperballState(next_count(state.count), state.radius)

    return transformation(init_fn, update_fn)


def _like(tree: PyTree, scales: PyTree) -> PyTree:
    """``scales`` in the containers of ``tree``, which may be other ones with the same leaves."""
    return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(scales))


def _radius(param: Any) -> Any:
    if is_fixed(param):
        return jnp.zeros([])
    return on_values(_norm, cast(param, working_dtype(param)))


def _norm(x: jax.Array) -> jax.Array:
    """Frobenius norm, of the entries divided by the largest, so that no square over- or underflows.

    A Frobenius norm's square needs twice the exponent: 1e-30 has none in float32.
    """
    largest = jnp.max(jnp.abs(x), initial=0.0)
    return largest * jnp.sqrt(jnp.sum(squares(_divide(x, largest))))


def _divide(x: jax.Array, by: jax.Array) -> jax.Array:
    """The quotient, and x where ``by`` is 0."""
    return x / jnp.where(by > 0, by, 1.0)


def _onto(x: jax.Array, radius: jax.Array, otherwise: jax.Array) -> jax.Array:
    """The point of the sphere that is nearest to x; at the centre, where there is none, ``w``."""
    norm = _norm(x)
    return jnp.where(norm > 0, _divide(x, norm) * radius, otherwise)
