"""NovoGrad: the second moment is one number a leaf, of its gradient's norm."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import check_real, step_number, working_dtype
from wdlab._core.transformation import transformation, with_extra_args
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import like
from wdlab.preconditioners.leaf_states import as_before, widened
from wdlab.preconditioners.moments import one_minus_power

PyTree = Any
LeafNorm = Literal["l2", "max"]


class ScaleByLeafNormsState(NamedTuple):
    """State of :func:`scale_by_leaf_norms`; all numbers float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    moment: PyTree  # Tree like params of shape (): average of the norms, or of their squares.
    largest: PyTree  # Like moment: its maximum; None without AMSGrad.
    numerator: PyTree  # State of what is divided.


def scale_by_leaf_norms(
    b2: ArrayLike = 0.98,
    eps: ArrayLike = 1e-8,
    *,
    norm: LeafNorm = "l2",
    start_at_zero: bool = False,
    bias_correction: bool = False,
    amsgrad: bool = False,
    numerator: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    r"""Divides each leaf by the running norm of its gradients: NovoGrad's normalization.

    With :math:`v_t = b_2 v_{t-1} + (1-b_2)\lVert g_t\rVert^2`, :math:`v_t = \lVert g_t\rVert^2`
    while the average is 0, one step is :math:`u_t = f(g_t) / (\sqrt{v_t} + \epsilon)`. With
    ``norm="max"`` the average is of the largest entry itself, without squares or root. NovoGrad is
    this, then the decay, then a momentum: ``optax.chain(scale_by_leaf_norms(0.98),
    wdlab.add_l2_gradient(1e-3), optax.trace(0.95))``; its decay is kept by the momentum.

    Args:
      b2: Decay rate of the moment, in [0, 1).
      eps: At least 0, in units of the gradient.
      norm: "l2" or "max".
      start_at_zero: Whether the average starts at 0 and not at the first norm.
      bias_correction: Whether :math:`v_t` is divided by :math:`1 - b_2^t` (its root for "max"),
        as apex does with either start.
      amsgrad: Whether the largest :math:`v` so far is taken.
      numerator: ``f``, such as ``optax.ema(0.9)`` for the average of the gradients themselves
        (apex' default); None: the gradient.

    Raises:
      TypeError, ValueError: If a number is out of range or ``norm`` is unknown.

    >>> tx = scale_by_leaf_norms(eps=0.0)
    >>> gradient = jnp.array([3.0, 4.0])
    >>> [round(float(x), 4) for x in tx.update(gradient, tx.init(gradient))[0]]
    [0.6, 0.8]

    Source: Ginsburg et al. 2019, arXiv 1905.11286, Algorithm 1; timm 1.0.31,
    timm/optim/nvnovograd.py; apex 6424da3b, csrc/multi_tensor_novograd.cu.
    """
    check_number("b2", b2, high=1.0, high_open=True)
    check_number("eps", eps)
    check_choice("norm", norm, get_args(LeafNorm))
    inner = with_extra_args(optax.identity() if numerator is None else numerator)

    def init_fn(params: PyTree) -> ScaleByLeafNormsState:
        check_real("scale_by_leaf_norms", params)
        zeros = lambda: jax.tree.map(lambda p: jnp.zeros([], working_dtype(p)), params)  # noqa: E731
        largest = zeros() if amsgrad else None
        return ScaleByLeafNormsState(jnp.zeros([], jnp.int32), zeros(), largest, inner.init(params))

    def next_moment(g: jax.Array, v: jax.Array) -> jax.Array:
        size = jnp.sum(g * g) if norm == "l2" else jnp.max(jnp.abs(g), initial=0)
        mean = like(b2, v) * v + like(1.0 - b2, v) * size
        return mean if start_at_zero else jnp.where(v == 0, size, mean)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, ScaleByLeafNormsState]:
        moment = jax.tree.map(next_moment, widened(updates, state.moment), state.moment)
        largest = jax.tree.map(jnp.maximum, moment, state.largest) if amsgrad else None
        correction = one_minus_power(b2, step_number(state.count)) if bias_correction else 1.0

        def divide(u: jax.Array, v: jax.Array) -> jax.Array:
            of = like(correction, v)
            root = jnp.sqrt(v / of) if norm == "l2" else v / jnp.sqrt(of)
            root = root + like(eps, v)
            return (u / jnp.where(root > 0, root, 1)).astype(u.dtype)

        steps, new = inner.update(updates, state.numerator, params, **extra_args)
        steps = jax.tree.map(divide, steps, largest if amsgrad else moment)
        kept = ScaleByLeafNormsState(next_count(state.count), moment, largest, state.numerator)
        return steps, as_before(kept, state)._replace(numerator=new)

    return transformation(init_fn, update_fn)
