"""Preconditioners by matrices on 8 devices: the same steps, states where they were born."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import wdlab
from wdlab import optimizers
from wdlab.preconditioners import scale_by_apollo, scale_by_kron
from wdlab.rules import Rule, leaves_with_paths

SHAPES = {
    "tall": ((32, 8), ("data", "model")),
    "scan": ((2, 16, 4), (None, "data", "model")),
    "same": ((32, 8), ("model", "data")),  # Shaped as another leaf, and split differently.
    "bias": ((64,), ("model",)),
}
STACKED = (Rule("scan", 1), Rule(".*", 0))
SHARED = {"weight_decay": 0.1, "coupling": "lr", "refresh_every": 2, "batch_axes": STACKED}
MAKERS = {
    # Of longer axes the basis of the null space is free: it differs by rounding.
    "soap": lambda: optimizers.soap(0.1, max_dim=8, **SHARED),
    "shampoo": lambda: optimizers.shampoo(0.1, eps=1e-2, block_size=16, **SHARED),
    "kron": lambda: scale_by_kron(batch_axes=STACKED),
    "apollo": lambda: scale_by_apollo(2, refresh_every=2, projection="svd", batch_axes=STACKED),
}
STEPS = 3


def arrays(seed, mesh=None):
    """Of rank and size as above; on the mesh, or on one device."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(size=shape).astype(np.float32) for name, (shape, _) in SHAPES.items()}
    if mesh is None:
        return jax.tree.map(jnp.asarray, made)
    spec = {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, (_, spec) in SHAPES.items()}
    return jax.device_put(made, spec)


def trained(make, mesh=None):
    tx, params = make(), arrays(0, mesh)
    state = wdlab.init_opt_state(tx, params)
    born = {path: leaf.sharding for path, leaf in leaves_with_paths(state)}
    update = wdlab.make_update(tx)
    for t in range(STEPS):  # One at a time: CPUs have few threads for 8 devices.
        params, state = jax.block_until_ready(update(params, state, arrays(1 + t, mesh)))
    return params, {path: leaf.sharding for path, leaf in leaves_with_paths(state)}, born, update


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_same_step_and_the_same_places(name, axis_type):
    types = (getattr(AxisType, axis_type),) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types, devices=jax.devices()[:8])
    expected = trained(MAKERS[name])[0]
    with jax.set_mesh(mesh):
        params, after, born, update = trained(MAKERS[name], mesh)
    jax.tree.map(
        lambda ours, alone: np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-5),
        params,
        expected,
    )
    ranks = {path: 5 for path in born}  # Of a spec alone, which is not longer than the rank.
    assert all(after[path].is_equivalent_to(born[path], ranks[path]) for path in born)
    assert update._cache_size() == 1
