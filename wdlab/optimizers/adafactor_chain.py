"""Adafactor in every system's form: the parts in one chain, the decay in every coupling.

The parts stand alone: :mod:`wdlab.preconditioners.factored` (second moments),
:mod:`wdlab.preconditioners.parameter_scale` (parameter scale, decay by it),
:mod:`wdlab.schedules.adafactor` (beta2, relative step).
What each system does with them is in its convention: ``wdlab.conventions.get("t5x.Adafactor")``.
"""

from typing import Any, Literal, get_args

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from wdlab._core.arguments import answers
from wdlab._core.checks import check_choice, check_number, named_errors
from wdlab.decay import add_l2_gradient, decay_then_step, decay_weights
from wdlab.optimizers.assembly import complete, scale_by_learning_rate
from wdlab.preconditioners import (
    ClippingDirection,
    FactoredAxes,
    FactoredEpsilon,
    clipping_divisor,
    decay_weights_by_parameter_scale,
    scale_by_factored_rms,
    scale_by_parameter_scale,
)
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import (
    ScalarOrSchedule,
    beta2_power,
    check_coupling,
    multiplier_of,
    relative_step,
)

PyTree = Any
MomentumOf = Literal["step", "direction"]


@answers
def adafactor(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    peak_learning_rate: float | None = None,
    inverse_sqrt_cap: bool = False,
    beta2_exponent: ArrayLike = 0.8,
    beta2_cap: ArrayLike | None = None,
    beta2_offset: ArrayLike = 0,
    axes: FactoredAxes = "largest",
    min_dim_size_to_factor: int | None = None,
    eps1: ArrayLike | None = 1e-30,
    epsilon: FactoredEpsilon = "added",
    clipping_threshold: ArrayLike | None = 1.0,
    clipping_direction: ClippingDirection = "down",
    parameter_scale: ArrayLike | None = 1e-3,
    max_parameter_scale: ArrayLike | None = None,
    momentum: ArrayLike | None = None,
    momentum_of: MomentumOf = "step",
    momentum_dtype: DTypeLike | None = None,
    decay_first: bool = False,
) -> optax.GradientTransformation:
    r"""Adafactor, with the weight decay of whichever system you name.

    With the factored direction :math:`u_t`, clipped, the rate :math:`\rho_t` (``learning_rate``,
    or its minimum with :math:`1/\sqrt t`) and :math:`\alpha_t = \rho_t \max(\epsilon_2,
    \operatorname{RMS}(\theta_{t-1}))`, one step is :math:`\theta_t = \theta_{t-1} - \alpha_t u_t
    - \kappa_t \lambda s \theta_{t-1}`.

    The same ``weight_decay`` differs by orders of magnitude. Of a leaf with RMS 0.02, with
    lr 1e-2 and 0.1, "constant" (T5X, Optax) takes 10 % in every step, "lr" (torch, Keras) 0.1 %,
    "parameter_scale" (fairseq, Transformers) 0.002 %, "lr2" (PaLM) 0.001 %.

    Args:
      learning_rate: Number or schedule, at least 0. Relative to the parameters' size unless
        ``parameter_scale`` is None. :func:`wdlab.schedules.relative_step` is the paper's.
      weight_decay: :math:`\lambda`, at least 0, number or schedule.
      coupling: One of :data:`wdlab.schedules.COUPLINGS`, with lr_t the ``learning_rate`` as given,
        or "parameter_scale", :math:`\kappa_t = \alpha_t`. Required unless ``weight_decay`` is 0.
      rules: Which leaves decay, and how much; see :func:`wdlab.decay_scales`.
      peak_learning_rate: For "schedule" with a schedule that does not carry its peak.
      inverse_sqrt_cap: Whether the step's rate is at most :math:`1/\sqrt t` (torch, Keras). "lr"
        decays by the uncapped rate as torch does: late in training decay outgrows the step.
      beta2_exponent: As ``exponent`` of :func:`wdlab.schedules.beta2_power`.
      beta2_cap: As ``cap`` there.
      beta2_offset: As ``offset`` there.
      axes: As in :func:`wdlab.preconditioners.scale_by_factored_rms`.
      min_dim_size_to_factor: As there.
      eps1: As ``eps`` there.
      epsilon: As there.
      clipping_threshold: d of :func:`wdlab.clip_by_block_rms`; None: no clipping.
      clipping_direction: As ``direction`` there.
      parameter_scale: :math:`\epsilon_2`, ``minimum`` of
        :func:`wdlab.preconditioners.scale_by_parameter_scale`; None: steps are absolute.
      max_parameter_scale: As ``maximum`` there.
      momentum: Decay rate of an exponential average, in [0, 1), not corrected for its start; None:
        none, and no memory for it.
      momentum_of: What is averaged: the "step", learning rate included (T5X, Optax, fairseq,
        Transformers), or the "direction" (big_vision). They differ while the rate changes.
      momentum_dtype: dtype that keeps the average; None: float32, or float64 for float64 leaves.
      decay_first: Whether the step sees the decayed weights (Keras measures their RMS). Not with
        "l2".

    Raises:
      TypeError: If a number is none.
      ValueError: If a number is out of range, a name unknown, ``coupling`` missing or impossible.

    Example:
      >>> params, grads = {"kernel": jnp.full((2, 2), 4.0)}, {"kernel": jnp.ones((2, 2))}
      >>> tx = adafactor(0.01, weight_decay=0.1, coupling="lr")
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> round(float(updates["kernel"][0, 0]), 6)  # -0.01 * RMS 4 * 1 - 0.01 * 0.1 * 4
      -0.044

    Source: Shazeer & Stern, https://arxiv.org/abs/1804.04235, Algorithms 4 to 6; the systems in
    :mod:`wdlab.conventions`.
    """
    with named_errors("adafactor"):
        check_number("learning_rate", learning_rate, schedule=True)
        rate = relative_step(learning_rate) if inverse_sqrt_cap else learning_rate
        direction = scale_by_adafactor(
            beta2_exponent=beta2_exponent,
            beta2_cap=beta2_cap,
            beta2_offset=beta2_offset,
            axes=axes,
            min_dim_size_to_factor=min_dim_size_to_factor,
            eps1=eps1,
            epsilon=epsilon,
            clipping_threshold=clipping_threshold,
            clipping_direction=clipping_direction,
        )
        size, average = optax.identity(), _average(momentum, momentum_dtype)
        if parameter_scale is not None:
            size = scale_by_parameter_scale(parameter_scale, maximum=max_parameter_scale)
        check_choice("momentum_of", momentum_of, get_args(MomentumOf))
        # The place of the average says what is averaged.
        step = direction, size, scale_by_learning_rate(rate), average
        if momentum_of == "direction":
            step = direction, average, size, scale_by_learning_rate(rate)
        if coupling == "parameter_scale":
            bounds = parameter_scale, max_parameter_scale
            decay = _decay_by_size(weight_decay, rate, bounds, rules)
        else:
            coupling = check_coupling("adafactor", coupling, learning_rate, weight_decay)
            decay = _decay(weight_decay, coupling, rules, learning_rate, peak_learning_rate)
        tx = _ordered(optax.chain(*step), decay, coupling, decay_first)
        return complete("adafactor", tx, rules)


def scale_by_adafactor(
    *,
    beta2_exponent: ArrayLike = 0.8,
    beta2_cap: ArrayLike | None = None,
    beta2_offset: ArrayLike = 0,
    axes: FactoredAxes = "largest",
    min_dim_size_to_factor: int | None = None,
    eps1: ArrayLike | None = 1e-30,
    epsilon: FactoredEpsilon = "added",
    clipping_threshold: ArrayLike | None = 1.0,
    clipping_direction: ClippingDirection = "down",
) -> optax.GradientTransformation:
    """Adafactor's direction: factored second moment and clipping; :func:`adafactor` has the Args.

    >>> gradient = jnp.array([[0.5, -0.5]])
    >>> tx = scale_by_adafactor()
    >>> tx.update(gradient, tx.init(gradient))[0].tolist()
    [[1.0, -1.0]]
    """
    clipping = None
    if clipping_threshold is not None:
        clipping = clipping_divisor(clipping_threshold, direction=clipping_direction)
    direction = scale_by_factored_rms(
        beta2_power(beta2_exponent, cap=beta2_cap, offset=beta2_offset),
        axes=axes,
        min_dim_size_to_factor=min_dim_size_to_factor,
        eps=eps1,
        epsilon=epsilon,
        clipping=clipping,
    )
    # The state of a chain with clip_by_block_rms, which would keep a copy of the direction.
    return direction if clipping is None else optax.chain(direction, optax.identity())


def _average(momentum: ArrayLike | None, dtype: DTypeLike | None) -> optax.GradientTransformation:
    if momentum is None:
        return optax.identity()
    check_number("momentum", momentum, high=1.0, high_open=True)
    kept = None if dtype is None else jnp.dtype(dtype)
    return optax.ema(momentum, debias=False, accumulator_dtype=kept)


def _decay_by_size(
    weight_decay: ScalarOrSchedule,
    rate: ScalarOrSchedule,
    bounds: tuple[ArrayLike | None, ArrayLike | None],
    rules: PyTree,
) -> optax.GradientTransformation:
    minimum, maximum = bounds
    if minimum is None:
        raise ValueError(
            "coupling='parameter_scale' needs parameter_scale, which is None. Without it "
            "fairseq and Transformers decay by the rate alone: coupling='lr'."
        )
    return decay_weights_by_parameter_scale(
        weight_decay, multiplier=rate, minimum=minimum, maximum=maximum, rules=rules
    )


def _decay(
    weight_decay: ScalarOrSchedule,
    coupling: str,
    rules: PyTree,
    learning_rate: ScalarOrSchedule,
    peak: float | None,
) -> optax.GradientTransformation:
    if coupling == "l2":
        return add_l2_gradient(weight_decay, rules=rules)
    multiplier = multiplier_of(coupling, learning_rate, peak)
    return decay_weights(weight_decay, multiplier=multiplier, rules=rules)


def _ordered(
    step: optax.GradientTransformation,
    decay: optax.GradientTransformation,
    coupling: str,
    decay_first: bool,
) -> optax.GradientTransformation:
    """Puts the decay where it belongs: in the gradient, before the step, or after it."""
    if coupling == "l2":
        if decay_first:
            raise ValueError("decay_first is about decoupled decay; leave it False with 'l2'.")
        return optax.chain(decay, step)
    return decay_then_step(decay, step) if decay_first else optax.chain(step, decay)
