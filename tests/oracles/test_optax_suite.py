"""What Optax asks of its own optimizers: they reach known optima in several dtypes.

State shapes, one trace, injection and accumulation are in ``tests/test_contract.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wdlab import optimizers, schedules

pytestmark = pytest.mark.oracle
STEPS = 10_000


def parabola(x):
    return jnp.sum(jnp.square(x - jnp.array([1.0, -1.0, 2.0], x.dtype)))


def rosenbrock(x):
    return jnp.square(1 - x[0]) + 100 * jnp.square(x[1] - jnp.square(x[0]))


TARGETS = {
    "parabola": (parabola, [-1.0, 10.0, 1.0], [1.0, -1.0, 2.0]),
    "rosenbrock": (rosenbrock, [0.0, 0.0], [1.0, 1.0]),
}
OPTIMIZERS = {
    "sgd": (optimizers.sgd, 1e-3, {"momentum": 0.9}),
    "adam": (optimizers.adam, 1e-1, {}),
    "adamw": (optimizers.adamw, 1e-1, {"weight_decay": 1e-7, "coupling": "lr"}),
    "radamw": (optimizers.radamw, 1e-2, {}),
    "lionw": (optimizers.lionw, 1e-2, {}),
    "adafactor": (optimizers.adafactor, 2e-2, {}),
    "adams": (optimizers.adams, 1e-1, {"weight_decay": 0.0}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reaches_the_optimum(name, target, dtype):
    factory, rate, arguments = OPTIMIZERS[name]
    loss, start, optimum = TARGETS[target]
    with jax.enable_x64(dtype == "float64"):
        tx = factory(schedules.cosine(rate, decay_steps=STEPS, end=0.0), **arguments)
        params = jnp.array(start, dtype)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS)[0])
        params, _ = run((params, tx.init(params)))
        assert params.dtype == dtype
    np.testing.assert_allclose(params, optimum, rtol=3e-2)
