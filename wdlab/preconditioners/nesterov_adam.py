"""NAdamW of timm and MLCommons: Adam with a plain look-ahead, in a state of its own."""

from typing import Any, NamedTuple, cast

import jax
import optax
from jax.typing import ArrayLike

from wdlab._core.transformation import transformation
from wdlab.preconditioners.adam import ScaleByAdamState, scale_by_adam

PyTree = Any


class NesterovAdamState(NamedTuple):
    """State of :func:`scale_by_nesterov_adam`."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params, float32 or wider: first moment.
    nu: PyTree  # Like params, real, float32 or wider: second moment.


def scale_by_nesterov_adam(
    b1: ArrayLike = 0.9, b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8
) -> optax.GradientTransformation:
    r"""NAdamW of timm and MLCommons: the look-ahead is corrected by this step's factor.

    One step is :math:`u_t = \frac{b_1 m_t + (1-b_1) g_t}{1-b_1^t} / (\sqrt{v_t/(1-b_2^t)} +
    \epsilon)`: :func:`scale_by_adam` with ``first_moment="nesterov_plain"`` (its Args), in a state
    of its own.

    >>> import jax.numpy as jnp
    >>> tx = scale_by_nesterov_adam(0.5, 0.5, 0.0)
    >>> round(float(tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)))[0]), 5)  # (1/2 + 1) / 1
    1.5
    """
    adam = scale_by_adam(b1, b2, eps, first_moment="nesterov_plain")

    def init_fn(params: PyTree) -> NesterovAdamState:
        return _shorter(adam.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, NesterovAdamState]:
        full = ScaleByAdamState(state.count, state.mu, state.nu, nu_max=None, mu_product=None)
        updates, new = adam.update(updates, cast(Any, full), params)
        return updates, _shorter(new)

    return transformation(init_fn, update_fn)


def _shorter(state: Any) -> NesterovAdamState:
    return NesterovAdamState(state.count, state.mu, state.nu)
