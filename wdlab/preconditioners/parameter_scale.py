"""Adafactor's parts besides the second moment and clipping: parameter scale, and decay by it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number, is_zero, require_params
from wdlab._core.dtypes import is_fixed, untouched, wider
from wdlab._core.transformation import transformation
from wdlab.decay import decay_weights
from wdlab.preconditioners.clipping import root_mean_square
from wdlab.rules import ALL
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


class DecayByParameterScaleState(NamedTuple):
    """State of :func:`decay_weights_by_parameter_scale`."""

    decay: PyTree  # State of the decay alone.
    scale: PyTree  # State of the parameter scale, which is empty.


def scale_by_parameter_scale(
    minimum: ArrayLike = 1e-3, *, maximum: ArrayLike | None = None
) -> optax.GradientTransformation:
    r"""Makes updates relative to the size of their leaf.

    One step is :math:`u \leftarrow u \max(\epsilon_2, \operatorname{RMS}(\theta_{t-1}))`. A bias
    that starts at zero moves by :math:`\epsilon_2` times the learning rate. Keras measures the
    weights after its decay, everyone else before; see :func:`wdlab.decay.decay_then_step`.

    Args:
      minimum: :math:`\epsilon_2`, at least 0, in the unit of the parameters.
      maximum: Largest scale (T5X ``max_parameter_scale``), above 0; None: none.

    Raises:
      TypeError: If an argument is not a number.
      ValueError: If a number is out of range; from ``update`` without ``params``.

    Example:
      >>> params = {"kernel": jnp.array([4.0, -4.0]), "bias": jnp.zeros(2)}
      >>> tx = scale_by_parameter_scale(0.5)
      >>> updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
      >>> updates["kernel"].tolist(), updates["bias"].tolist()
      ([4.0, 4.0], [0.5, 0.5])

    Source: Shazeer & Stern, https://arxiv.org/abs/1804.04235, section 8.
    """
    check_number("minimum", minimum)
    if maximum is not None:
        check_number("maximum", maximum, low_open=True)

    def scale(u: jax.Array, p: jax.Array) -> jax.Array:
        if is_fixed(p):
            return untouched(u, p)
        size = root_mean_square(p)
        size = jnp.maximum(size, jnp.asarray(minimum, size.dtype))
        if maximum is not None:
            size = jnp.minimum(size, jnp.asarray(maximum, size.dtype))
        return (u * size).astype(wider(u, p))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        require_params("scale_by_parameter_scale", params)
        return jax.tree.map(scale, updates, params), state

    return transformation(optax.init_empty_state, update_fn)


def decay_weights_by_parameter_scale(
    weight_decay: ScalarOrSchedule,
    *,
    multiplier: ScalarOrSchedule | None = None,
    minimum: ArrayLike = 1e-3,
    maximum: ArrayLike | None = None,
    rules: PyTree = ALL,
) -> optax.GradientTransformation:
    r"""Decay that grows with the leaf it decays: Adafactor's in fairseq and Transformers.

    One step is :math:`u \leftarrow u - \kappa_t \lambda s \max(\epsilon_2,
    \operatorname{RMS}(\theta)) \theta`, so the pull is quadratic in the weights and a small leaf
    barely decays: with RMS 0.02, lr 1e-2 and 0.1, 2e-5 per step against 1e-3 with the learning
    rate alone and 1e-1 in T5X and Optax.

    Args:
      weight_decay: :math:`\lambda`, at least 0, number or schedule.
      multiplier: :math:`\kappa_t`, the relative step or learning rate; None is 1.
      minimum: :math:`\epsilon_2`, as in :func:`scale_by_parameter_scale`.
      maximum: Largest scale, as there.
      rules: Which leaves, and how much; see :func:`wdlab.decay_scales`.

    Raises:
      TypeError: As :func:`wdlab.decay_weights` and :func:`scale_by_parameter_scale`.
      ValueError: As these.

    Example:
      >>> theta = jnp.array([2.0, -2.0])
      >>> tx = decay_weights_by_parameter_scale(0.1)
      >>> tx.update(jnp.zeros(2), tx.init(theta), theta)[0].tolist()  # -0.1 * 2 * theta
      [-0.4..., 0.4...]

    Source: transformers 5.23, optimization.py, ``Adafactor.step``; fairseq 3d262bb2,
    fairseq/optim/adafactor.py. fairseq writes the scaled rate back into its parameter group: with
    ``relative_step=False`` the next leaf's scale multiplies this one's, an effect of the order of
    the parameters that is not reproduced.
    """
    decay = decay_weights(weight_decay, multiplier=multiplier, rules=rules)
    scale = scale_by_parameter_scale(minimum, maximum=maximum)

    def init_fn(params: PyTree) -> PyTree:
        return DecayByParameterScaleState(decay.init(params), scale.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        if is_zero(weight_decay):
            _, decay_state = decay.update(updates, state.decay)
            return updates, state._replace(decay=decay_state)
        require_params("decay_weights_by_parameter_scale", params)
        updates = jax.tree.map(untouched, updates, params)
        zeros = jax.tree.map(jnp.zeros_like, updates)
        shrink, decay_state = decay.update(zeros, state.decay, params)
        shrink, scale_state = scale.update(shrink, state.scale, params)
        state = DecayByParameterScaleState(decay_state, scale_state)
        return jax.tree.map(jnp.add, updates, shrink), state

    return transformation(init_fn, update_fn)
