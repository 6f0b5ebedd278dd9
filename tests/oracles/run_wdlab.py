"""Runs any Optax transformation over a trajectory, in one compiled loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


def run(make, params, grads_per_step, lr_per_step, dtype):
    """Returns the parameters after every step.

    Args:
      make: Learning-rate schedule -> transformation; called inside the dtype's x64 setting.
      params: dict of float64 arrays.
      grads_per_step: List of such dicts.
      lr_per_step: One learning rate per step.
      dtype: numpy.float32 or numpy.float64.
    """
    with jax.enable_x64(dtype is np.float64):
        rates = jnp.asarray(np.asarray(lr_per_step, dtype))
        tx = make(lambda count: rates[count])
        start = {name: jnp.asarray(leaf, dtype) for name, leaf in params.items()}
        stacked = {
            name: jnp.asarray(np.stack([tree[name] for tree in grads_per_step]), dtype)
            for name in params
        }

        def step(carry, grads):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        def loop(carry, xs):
            """Compiling is nearly all of the time: LLVM leaves the statements as they are."""
            return jax.lax.scan(step, carry, xs)

        _, after = loop((start, tx.init(start)), stacked)
        after = jax.tree.map(np.asarray, after)
    return [{name: after[name][i] for name in after} for i in range(len(grads_per_step))]
