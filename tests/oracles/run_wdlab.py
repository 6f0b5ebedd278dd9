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
      params: Tree of float64 arrays.
      grads_per_step: List of such trees.
      lr_per_step: One learning rate per step.
      dtype: numpy.float32 or numpy.float64.
    """
    with jax.enable_x64(dtype is np.float64):
        rates = jnp.asarray(np.asarray(lr_per_step, dtype))
        tx = make(lambda count: rates[count])
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        stacked = jax.tree.map(lambda *each: jnp.asarray(np.stack(each), dtype), *grads_per_step)

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
    return [jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(len(grads_per_step))]


def together(txs):
    """One transformation of a tree with a branch for each: one program in place of many."""

    def update(updates, state, params):
        both = {k: tx.update(updates[k], state[k], params[k]) for k, tx in txs.items()}
        return {k: pair[0] for k, pair in both.items()}, {k: pair[1] for k, pair in both.items()}

    init = lambda params: {k: tx.init(params[k]) for k, tx in txs.items()}  # noqa: E731
    return optax.GradientTransformation(init, update)


def run_each(make, keys, params, grads, rates, dtype):
    """Key -> the parameters after every step of one of the optimizers that ``make`` returns."""
    every = lambda tree: dict.fromkeys(keys, tree)  # noqa: E731
    both = lambda rate: together(make(rate))  # noqa: E731
    after = run(both, every(params), [every(g) for g in grads], rates, dtype)
    return {key: [step[key] for step in after] for key in keys}


def train(tx, params, grads, dtype=np.float64):
    """The parameters after the last of the given gradients."""
    return run(lambda _: tx, params, grads, np.zeros(len(grads)), dtype)[-1]
