"""Runs Optax's own optimizers by name."""

import operator

import optax

from tests.oracles import run_wdlab


def run(name, hyperparameters, params, grads_per_step, lr_per_step, dtype):
    """Returns the parameters after every step.

    Args:
      name: "optax.adamw", "optax.contrib.sophia".
      hyperparameters: The function's own arguments besides ``learning_rate``.
      params: dict of arrays.
      grads_per_step: List of such dicts.
      lr_per_step: One learning rate per step.
      dtype: numpy.float32 or numpy.float64.
    """
    make = operator.attrgetter(name.partition(".")[2])(optax)
    return run_wdlab.run(
        lambda rate: make(learning_rate=rate, **hyperparameters),
        params,
        grads_per_step,
        lr_per_step,
        dtype,
    )
