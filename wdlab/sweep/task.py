"""Ready-made ``train`` functions for :func:`wdlab.sweep.sweep`: model, data, optimizer factory."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab._core.checks import check_whole
from wdlab._core.dtypes import in_float32
from wdlab.decay import add_l2_gradient, decay_weights
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import COUPLINGS, ScalarOrSchedule, value_at
from wdlab.sweep.program import Train

PyTree = Any
Optimizer = Callable[[Mapping[str, Any]], optax.GradientTransformation]


def train_function(
    init: Callable[[jax.Array], PyTree],
    loss: Callable[[PyTree, PyTree], Any],
    data: PyTree,
    optimizer: Optimizer,
    *,
    steps: int,
    batch_size: int,
    held_out: PyTree | None = None,
    metrics: Callable[[PyTree], Mapping[str, Any]] | None = None,
) -> Train:
    """Makes ``train(hyperparameters, key) -> metrics`` from a model, data and an optimizer.

    One step is a batch of examples drawn with replacement, the gradient of ``loss``, the
    optimizer's update. The key decides the initial weights and the batches, the hyper-parameters
    nothing but the optimizer, so that runs of equal seed see the same data.

    Args:
      init: ``key -> params``.
      loss: ``(params, batch) -> mean loss of the batch``, a scalar.
      data: Pytree of arrays whose first axis is examples; a batch is the same pytree, that axis
        of ``batch_size``. (Of a text: the windows' first positions, with the tokens in ``loss``.)
      optimizer: ``hyperparameters -> optax.GradientTransformation``, with traced numbers.
      steps: Updates in a run, >= 1.
      batch_size: Examples per update, >= 1.
      held_out: Like ``data``, for the loss at the end; None leaves ``val_loss`` to ``metrics``.
      metrics: ``params -> dict`` of further metrics at the end.

    Returns:
      A function whose metrics are ``train_loss``, the mean loss of the last tenth of the batches;
      ``val_loss``, that of ``held_out``; and those of ``metrics``.

    >>> data = jnp.linspace(-1.0, 1.0, 8)
    >>> train = train_function(
    ...     lambda key: {"kernel": jax.random.normal(key)},
    ...     lambda params, x: jnp.mean((params["kernel"] * x - 2 * x) ** 2),
    ...     data,
    ...     lambda h: optax.sgd(h["learning_rate"]),
    ...     steps=50, batch_size=4, held_out=data,
    ... )
    >>> bool(train({"learning_rate": 0.5}, jax.random.key(0))["val_loss"] < 1e-3)
    True
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        check_whole(name, value)
    data = jax.tree.map(np.asarray, data)
    sizes = {len(leaf) for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"data must be arrays of equal first axis, at least 1, got {sizes}.")
    examples = sizes.pop()

    def train(hyperparameters: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
        tx = optimizer(hyperparameters)
        init_key, data_key = jax.random.split(key)
        params = init(init_key)
        # All at once: random numbers inside the loop would cost as much as a small model.
        picked_SxB = jax.random.randint(data_key, (steps, batch_size), 0, examples)

        def step(carry: Any, picked_B: jax.Array) -> tuple[Any, jax.Array]:
            params, opt_state = carry
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[picked_B], data)
            value, grads = jax.value_and_grad(loss)(params, batch)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, _), losses_S = jax.lax.scan(step, (params, tx.init(params)), picked_SxB)
        ends = {"train_loss": losses_S[-max(1, steps // 10) :].mean()}
        if held_out is not None:
            ends["val_loss"] = loss(params, held_out)
        return ends | dict({} if metrics is None else metrics(params))

    return train


def adam_of(
    hyperparameters: Mapping[str, Any],
    *,
    schedule: ScalarOrSchedule = 1.0,
    rules: PyTree = NO_BIAS_OR_NORM,
) -> optax.GradientTransformation:
    r"""Adam whose coupling is a traced choice: one program for L2 and decoupled decay alike.

    With the schedule :math:`\eta_t` of peak 1 and the peak :math:`\alpha` it is
    ``wdlab.optimizers.adamw(lr_t, weight_decay=, coupling=)`` with :math:`lr_t = \alpha\eta_t`:
    the decay's strength in the gradient is :math:`l = \lambda [l2]`, and decoupled
    :math:`\kappa_t = \eta_t [schedule] + \alpha\eta_t [lr] + (\alpha\eta_t)^2 [lr2] +
    \alpha\eta_t^2 [lr2\_over\_peak] + [constant]`,
    a bracket 1 for the coupling that is chosen and 0 for the others.

    Args:
      hyperparameters: "learning_rate" (the peak), and where they are in the grid "weight_decay"
        with "coupling" (name -> 0 or 1, a subset of :data:`wdlab.schedules.COUPLINGS`), "b1",
        "b2", "eps".
      schedule: Number or function of the step count, of peak 1.
      rules: Which leaves decay, and how much.

    Raises:
      ValueError: If there is a weight decay without a coupling, or an unknown one.

    >>> h = {"learning_rate": 0.5, "weight_decay": 0.25, "coupling": {"lr": 0.0, "schedule": 1.0}}
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> tx = adam_of(h)
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4)  # -0.5 - 0.25 * 4
    -1.5
    """
    chosen = hyperparameters.get("coupling", {})
    unknown = [name for name in chosen if name not in COUPLINGS]
    if unknown or ("weight_decay" in hyperparameters and not chosen):
        found = f"coupling {unknown[0]!r} is unknown" if unknown else "coupling is missing"
        raise ValueError(f"{found}; there are {', '.join(COUPLINGS)}.")
    alpha = hyperparameters["learning_rate"]
    weight_decay = hyperparameters.get("weight_decay", 0.0)

    def lr(count: Any) -> Any:
        return jnp.asarray(alpha * value_at(schedule, count))

    def kappa(count: Any) -> Any:
        eta, lr_t = value_at(schedule, count), lr(count)
        factors = {"schedule": eta, "lr": lr_t, "lr2": lr_t * lr_t, "lr2_over_peak": lr_t * eta}
        factors |= {"constant": 1.0, "l2": 0.0}
        return jnp.asarray(sum(factors[name] * on for name, on in chosen.items()))

    rates = {name: hyperparameters[name] for name in ("b1", "b2", "eps") if name in hyperparameters}
    l2 = [add_l2_gradient(weight_decay * chosen["l2"], rules=rules)] if "l2" in chosen else []
    step = [scale_by_adam(**rates), optax.scale_by_schedule(lambda count: -lr(count))]
    decoupled = chosen.keys() - {"l2"}
    decay = [decay_weights(weight_decay, multiplier=kappa, rules=rules)] if decoupled else []
    return in_float32(optax.chain(*l2, *step, *decay))
