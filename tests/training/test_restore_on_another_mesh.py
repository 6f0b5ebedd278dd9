"""What one mesh saved, another restores, bit for bit, each leaf in its new sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import wdlab
from wdlab.training import Checkpoints

FSDP, REPLICATED = PartitionSpec("data", "fsdp"), PartitionSpec()
TX = wdlab.optimizers.adamw(0.01, weight_decay=0.1, coupling="lr")


def state_on(shape, spec):
    """Parameters and Adam's state on a mesh of that shape, after a step."""
    axes = ("data", "fsdp")
    count = int(np.prod(shape))
    mesh = jax.make_mesh(shape, axes, (AxisType.Auto,) * 2, devices=jax.devices()[:count])
    values = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    params = {"w": jax.device_put(values, NamedSharding(mesh, spec))}
    return {"params": params, "opt_state": wdlab.init_opt_state(TX, params)}


def train(state):
    grads = jax.tree.map(jnp.sin, state["params"])
    params, opt_state = wdlab.make_update(TX)(state["params"], state["opt_state"], grads)
    return {"params": params, "opt_state": opt_state}


@pytest.mark.parametrize("saved_as", [FSDP, REPLICATED], ids=["fsdp", "dp"])
def test_another_mesh_restores_the_same_bits(saved_as, tmp_path):
    state = train(state_on((2, 2), saved_as))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        after = train(state)  # Donates it: the values that were saved are compared by the next.
        for shape in ((2, 2), (4, 1), (1, 4), (1, 1)):
            like = state_on(shape, FSDP)
            restored = checkpoints.restore(like).state
            again = train(jax.tree.map(jnp.copy, restored))
            for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
                assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
            for leaf, wanted in zip(jax.tree.leaves(again), jax.tree.leaves(after), strict=True):
                np.testing.assert_array_equal(np.asarray(leaf), np.asarray(wanted))
