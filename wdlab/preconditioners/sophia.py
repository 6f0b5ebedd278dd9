"""Sophia: momentum over an estimate of the Hessian's diagonal, clipped entry by entry."""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number, check_whole, require_params
from wdlab._core.dtypes import check_real, step_number
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import AdamFormulas
from wdlab.preconditioners.leaf_states import as_before, widened, zeros_for
from wdlab.preconditioners.moments import one_minus_power

PyTree = Any
Estimator = Literal["gauss_newton_bartlett", "hutchinson"]
SophiaEpsilon = Literal["added", "floor"]


class ScaleBySophiaState(NamedTuple):
    """State of :func:`scale_by_sophia`; float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params: average of the gradients.
    nu: PyTree  # Like params: average of the estimates of the Hessian's diagonal.


def scale_by_sophia(
    b1: ArrayLike = 0.965,
    b2: ArrayLike = 0.99,
    gamma: ArrayLike = 0.05,
    eps: ArrayLike = 1e-15,
    *,
    estimator: Estimator = "gauss_newton_bartlett",
    every: int = 10,
    epsilon: SophiaEpsilon = "added",
    bias_correction: bool = False,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Turns gradients into Sophia's direction: no learning rate, no sign, no decay.

    With :math:`m_t = b_1 m_{t-1} + (1-b_1) g_t`, one step is
    :math:`u_t = \mathrm{clip}(m_t / (\gamma h + \epsilon), -1, 1)`; after it, where an estimate
    :math:`\hat h` of the Hessian's diagonal comes in,
    :math:`h \leftarrow b_2 h + (1-b_2) \hat h`. Until the first one every entry moves by 1.

    Estimates come from keyword arguments of ``update``; without them h stays as it is:

    - "gauss_newton_bartlett", Sophia-G: ``sampled_gradient``, the gradient :math:`\hat g` of the
      same mean loss with labels drawn from the model's own prediction; :math:`\hat h = \hat g^2`.
      The paper's estimate is B times that, B the number of terms in the mean: give
      ``gamma=rho * B``. A tree is taken in at once; a function ``(params, key) -> tree`` is called
      every ``every`` steps.
    - "hutchinson", Sophia-H: :math:`\hat h = v \odot H v` with random signs v, every ``every``
      steps. ``hvp``, a function ``(params, v) -> H v``; or ``value_fn``, params -> loss, which
      :func:`wdlab.make_train_step` gives.

    Functions see the batch of a step that is compiled with it; :func:`wdlab.make_update` takes
    trees.

    Args:
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the curvature, in [0, 1), per estimate.
      gamma: At least 0; the paper tunes it until 10 to 50% of the entries are not clipped.
      eps: At least 0, in units of the curvature.
      estimator: As above.
      every: Steps between two calls of a function, the first after the first step; at least 1.
      epsilon: "added": as above (Sophia-G's code). "floor": :math:`\max(\gamma h, \epsilon)`, as
        the paper and Optax: a negative curvature is none.
      bias_correction: Whether the first moment is corrected for its start at zero (Optax).
      seed: Of the keys and the random signs; each step has its own.

    Raises:
      TypeError, ValueError: If a number is out of range or a name unknown; from ``init`` for
        complex leaves; from ``update`` if a function is given without params.

    >>> gradient = {"w": jnp.array([0.5, -3.0])}
    >>> tx = scale_by_sophia(b1=0.0, b2=0.0, gamma=1.0, eps=0.0)
    >>> _, state = tx.update(gradient, tx.init(gradient), sampled_gradient={"w": jnp.full(2, 2.0)})
    >>> tx.update(gradient, state)[0]["w"].tolist()  # Over 2**2.
    [0.125, -0.75]

    Source: Liu et al. 2023, https://arxiv.org/abs/2305.14342, Algorithms 1 to 3;
    https://github.com/Liuhong99/Sophia/blob/a7e1572/sophia.py.
    """
    check_number("gamma", gamma)
    check_choice("estimator", estimator, get_args(Estimator))
    check_choice("epsilon", epsilon, get_args(SophiaEpsilon))
    check_whole("every", every)
    check_whole("seed", seed, least=0)
    adam = AdamFormulas(b1=b1, b2=b2, eps=eps)

    def init_fn(params: PyTree) -> ScaleBySophiaState:
        check_real("scale_by_sophia", params)
        return ScaleBySophiaState(jnp.zeros([], jnp.int32), zeros_for(params), zeros_for(params))

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        sampled_gradient: Any = None,
        hvp: Any = None,
        value_fn: Any = None,
    ) -> tuple[PyTree, ScaleBySophiaState]:
        mu = jax.tree.map(adam.next_first, widened(updates, state.mu), state.mu)
        correction = one_minus_power(b1, step_number(state.count)) if bias_correction else 1.0
        divisor = functools.partial(_divisor, gamma=gamma, eps=eps, epsilon=epsilon)
        step = lambda m, h: _clipped(m, divisor(h.astype(m.dtype)), correction)  # noqa: E731
        directions = jax.tree.map(step, mu, state.nu)

        def estimated() -> PyTree:
            key = jax.random.fold_in(jax.random.key(seed), state.count)
            if estimator == "gauss_newton_bartlett":
                estimate = _squares(sampled_gradient(params, key))
            else:
                estimate = _hutchinson(key, params, hvp, value_fn)
            return _averaged(b2, estimate, state.nu)

        given = sampled_gradient if estimator == "gauss_newton_bartlett" else hvp or value_fn
        nu = state.nu
        if callable(given):
            require_params("scale_by_sophia", params)
            nu = jax.lax.cond(state.count % every == 0, estimated, lambda: state.nu)
        elif given is not None:
            nu = _averaged(b2, _squares(given), state.nu)
        new = ScaleBySophiaState(next_count(state.count), as_before(mu, state.mu), nu)
        return as_before(directions, updates), new

    return transformation(init_fn, update_fn)


def _divisor(h: jax.Array, gamma: ArrayLike, eps: ArrayLike, epsilon: str) -> jax.Array:
    small, curved = jnp.asarray(eps, h.dtype), jnp.asarray(gamma, h.dtype) * h
    return jnp.maximum(curved, small) if epsilon == "floor" else curved + small


def _clipped(m: jax.Array, divisor: jax.Array, correction: ArrayLike) -> jax.Array:
    still = (m == 0) & (divisor == 0)  # 0/0 without an epsilon.
    m = m / jnp.asarray(correction, m.dtype)
    return jnp.where(still, 0.0, jnp.clip(m / divisor, -1.0, 1.0))


def _averaged(b2: ArrayLike, estimate: PyTree, nu: PyTree) -> PyTree:
    rate = lambda h: jnp.asarray(b2, h.dtype)  # noqa: E731
    new = jax.tree.map(lambda x, h: rate(h) * h + (1 - rate(h)) * x, widened(estimate, nu), nu)
    return as_before(new, nu)


def _squares(gradient: PyTree) -> PyTree:
    wide = widened(gradient, gradient)
    return jax.tree.map(lambda g: g * g, wide)


def _hutchinson(key: jax.Array, params: PyTree, hvp: Any, value_fn: Any) -> PyTree:
    """The signs times the Hessian's product with them."""
    signs = optax.tree.random_like(key, params, sampler=jax.random.rademacher)
    signs = jax.tree.map(lambda v, p: v.astype(p.dtype), signs, params)
    if hvp is None:
        products = jax.jvp(jax.grad(value_fn), (params,), (signs,))[1]
    else:
        products = hvp(params, signs)
    return jax.tree.map(jnp.multiply, signs, products)
