"""Muon for the hidden matrices, AdamW for the rest, as one optimizer with one decay policy."""

from typing import Any

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from wdlab._core.arguments import answers
from wdlab._core.checks import check_number, named_errors
from wdlab.decay import add_l2_gradient, decay_weights
from wdlab.optimizers.assembly import complete, scale_by_learning_rate
from wdlab.preconditioners import (
    FLAX_AXES,
    MatrixAxes,
    MatrixScaling,
    orthogonalize,
    scale_by_adam,
    scale_by_matrix_shape,
    scale_by_neuron_rms,
)
from wdlab.rules import HIDDEN_MATRICES, NO_BIAS_OR_NORM, decisions, normalize_rules
from wdlab.schedules import ScalarOrSchedule, check_coupling, multiplier_of

PyTree = Any


@answers
def muon(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    hidden: PyTree = HIDDEN_MATRICES,
    axes: MatrixAxes = FLAX_AXES,
    momentum: ScalarOrSchedule = 0.95,
    nesterov: bool = True,
    coefficients: Any = "jordan",
    steps: int | None = None,
    scaling: MatrixScaling = "rms",
    rms: float = 0.2,
    dtype: DTypeLike | None = "bfloat16",
    neuron_b2: ArrayLike | None = None,
    sharded_over: str | tuple[str, ...] | None = None,
    cautious: bool = False,
    adam_learning_rate: ScalarOrSchedule | None = None,
    adam_weight_decay: ScalarOrSchedule | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_eps: ArrayLike = 1e-8,
    peak_learning_rate: float | None = None,
    adam_peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Muon over the hidden matrices, AdamW over all else; one optimizer, decay by path in both.

    With :math:`n_t` the momentum with look-ahead and NS the Newton-Schulz iteration, one step of a
    hidden matrix is :math:`\theta \leftarrow \theta - lr_t f\, NS(n_t) - \kappa_t \lambda s
    \theta`, of any other leaf :math:`\theta \leftarrow \theta - lr'_t \hat m / (\sqrt{\hat v} +
    \epsilon) - \kappa'_t \lambda' s \theta`, with :math:`\kappa'_t` made of its own rate. With the
    default f the direction's root mean square is 0.2, about AdamW's: one learning rate and one
    decay serve both, and those tuned for AdamW can be kept (:func:`muon_from_adamw`).
    ``optax.contrib.muon`` differs: its rest is NAdamW, its decay mask holds for matrices alone.

    Args:
      learning_rate: Of the matrices: number >= 0 or schedule of the step count.
      weight_decay: ``lambda`` >= 0, number or schedule; its unit depends on ``coupling``.
      coupling: One of :data:`wdlab.schedules.COUPLINGS`; required unless ``weight_decay`` is 0.
        "lr" in torch, Moonlight and Optax. "l2" is orthogonalized with the gradient.
      rules: Which leaves decay, and how much; see :func:`wdlab.decay_scales`.
      hidden: Which leaves Muon trains: rules, a scale above 0 says yes, or a pytree of bools. By
        default those of rank 2 or more that are not named like embeddings, positions, heads,
        biases or norms: look at :func:`branches_of` once.
      axes: Which of their axes are fan-out and fan-in, as in
        :class:`wdlab.preconditioners.MatrixAxes`.
      momentum: In [0, 1), number or schedule.
      nesterov: Whether the direction looks ahead by the gradient.
      coefficients: As in :func:`wdlab.preconditioners.newton_schulz`.
      steps: As there.
      scaling: f; as in :func:`wdlab.preconditioners.orthogonalize`.
      rms: As there.
      dtype: As there, of the iteration's products.
      neuron_b2: Rate of NorMuon's second moment, in [0, 1); None: none.
      sharded_over: Mesh axes for the matrices' longer sides, as there.
      cautious: Decay only the entries that the step moves toward zero as well.
      adam_learning_rate: Of the rest; None: ``learning_rate``.
      adam_weight_decay: Of the rest; None: ``weight_decay``.
      adam_b1: Decay of AdamW's first moment, in [0, 1).
      adam_b2: Of its second moment, in [0, 1).
      adam_eps: Added to its root, >= 0.
      peak_learning_rate: For "schedule" and "lr2_over_peak" with a schedule that does not carry its
        peak.
      adam_peak_learning_rate: Of ``adam_learning_rate``; None: ``peak_learning_rate`` where that
        is None too.

    Raises:
      TypeError, ValueError: At construction for numbers out of range, unknown names or a missing
        coupling; from ``init`` for hidden leaves that are no matrices or nothing says how, and
        leaves that are no floats or that no rule decides.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": {"kernel": 4 * jnp.eye(2)}, "ln": {"scale": jnp.ones(2)}}
    >>> tx = muon(0.5, weight_decay=0.25, coupling="lr", coefficients="quintic", dtype="float32")
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> round(float(updates["mlp"]["kernel"][0, 0]), 4)  # -0.5 * 0.2 * 2**0.5 - 0.5 * 0.25 * 4
    -0.6414
    >>> jnp.round(updates["ln"]["scale"], 4).tolist()  # AdamW; norms do not decay
    [-0.5, -0.5]

    Source: Liu et al., https://arxiv.org/abs/2502.16982 (Moonlight); Jordan et al.,
    https://kellerjordan.github.io/posts/muon/; Li et al., https://arxiv.org/abs/2510.05491
    (``neuron_b2``).
    """
    with named_errors("muon"):
        check_number("learning_rate", learning_rate, schedule=True)
        check_number("weight_decay", weight_decay, schedule=True)
        decay = weight_decay, coupling, rules, cautious
        directions = _matrix_direction(
            scaling, rms, axes, neuron_b2,
            momentum=momentum, nesterov=nesterov, coefficients=coefficients, steps=steps,
            dtype=dtype, sharded_over=sharded_over,
        )  # fmt: skip
        matrices = _branch(directions, learning_rate, peak_learning_rate, *decay)
        own = adam_learning_rate is not None
        rate = adam_learning_rate if own else learning_rate
        peak = adam_peak_learning_rate if own else adam_peak_learning_rate or peak_learning_rate
        rest_decay = weight_decay if adam_weight_decay is None else adam_weight_decay
        check_number("adam_learning_rate", rate, schedule=True)
        check_number("adam_weight_decay", rest_decay, schedule=True)
        check_number("adam_b1", adam_b1, high=1.0, high_open=True)
        adam = scale_by_adam(adam_b1, adam_b2, adam_eps)
        rest = _branch(adam, rate, peak, rest_decay, *decay[1:])
        hidden = normalize_rules(hidden)
    both = optax.partition(
        {"muon": matrices, "adamw": rest}, lambda params: branches_of(params, hidden)
    )
    return complete("muon", both, rules)


def branches_of(params: PyTree, hidden: PyTree = HIDDEN_MATRICES) -> PyTree:
    """Returns which optimizer trains each leaf in :func:`muon`: "muon" or "adamw".

    Args:
      params: Pytree of arrays, or of anything with a shape.
      hidden: As in :func:`muon`.

    Returns:
      A pytree of strings like ``params``.

    Raises:
      ValueError: If no rule decides a leaf.

    >>> import numpy as np
    >>> branches_of({"wte": {"embedding": np.ones((9, 4))}, "fc": {"kernel": np.ones((4, 4))}})
    {'fc': {'kernel': 'muon'}, 'wte': {'embedding': 'adamw'}}
    """
    names = ["muon" if made.scale > 0 else "adamw" for made in decisions(params, hidden)]
    return jax.tree.unflatten(jax.tree.structure(params), names)


def _matrix_direction(
    scaling: MatrixScaling,
    rms: float,
    axes: MatrixAxes,
    neuron_b2: ArrayLike | None,
    **iteration: Any,
) -> optax.GradientTransformation:
    """Muon's direction; the neurons' second moment stands before the shape's factor."""
    if neuron_b2 is None:
        return orthogonalize(scaling=scaling, rms=rms, axes=axes, **iteration)
    return optax.chain(
        orthogonalize(scaling="none", axes=axes, **iteration),
        scale_by_neuron_rms(neuron_b2, axes=axes),
        scale_by_matrix_shape(scaling, rms=rms, axes=axes),
    )


def _branch(
    direction: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    peak: float | None,
    weight_decay: ScalarOrSchedule,
    coupling: str | None,
    rules: PyTree,
    cautious: bool,
) -> optax.GradientTransformation:
    """Direction, rate and decay of one branch, the decay where its coupling says."""
    coupling = check_coupling("muon", coupling, learning_rate, weight_decay)
    step = scale_by_learning_rate(learning_rate)
    if coupling == "l2":
        if cautious:
            raise ValueError("cautious is about decoupled decay; leave it False with 'l2'.")
        return optax.chain(add_l2_gradient(weight_decay, rules=rules), direction, step)
    multiplier = multiplier_of(coupling, learning_rate, peak)
    decay = decay_weights(weight_decay, multiplier=multiplier, rules=rules, cautious=cautious)
    return optax.chain(direction, step, decay)
