"""PSGD Kron with the same probes as its twin: leaves of every rank, stacked layers, diagonals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.twins import second_order as twins
from wdlab.preconditioners import kron_update_share, scale_by_kron
from wdlab.rules import Rule

STACKED = (Rule("stacked", 1), Rule(".*", 0))
SHAPES = {
    "tall": (5, 3),
    "wide": (3, 6),
    "square": (3, 3),
    "row": (1, 4),
    "kernel": (2, 2, 3, 4),
    "stacked": (2, 3, 4),
    "vector": (4,),
    "scalar": (),
}
# Ours, and the original's arguments for the same.
MODES = {
    None: ({"damp_direction": True}, {}),
    "smart_one_diag": (
        {"learns_from": "gradient", "diagonals": "longer", "update_share": 0.4},
        {"momentum_into_precond_update": False, "preconditioner_update_probability": 0.4},
    ),
    "one_diag": (
        {"diagonals": "longest", "initial_scale": 2.0, "max_dim": 5},
        {"precond_init_scale": 2.0, "max_size_triangular": 5, "damp_direction": False},
    ),
}
DEFAULTS = {
    "b1": 0.9,
    "weight_decay": 0.0,
    "preconditioner_update_probability": None,
    "max_size_triangular": 8192,
    "memory_save_mode": None,
    "momentum_into_precond_update": True,
    "precond_lr": 0.1,
    "precond_init_scale": 1.0,
}
STEPS = 30


def gradients(t):
    rng, sizes = np.random.default_rng(t), 10.0 ** np.linspace(-2, 2, 6)
    columns = {name: sizes[: shape[-1]] if shape else 1.0 for name, shape in SHAPES.items()}
    return {n: np.asarray(rng.normal(size=shape) * columns[n]) for n, shape in SHAPES.items()}


def layers(name, array):
    """The leaves in a leaf: layers that are stacked are leaves of their own."""
    return list(array) if name == "stacked" else [array]


@jax.jit
def probes(t):
    """Of all leaves, as the documentation says that the transformation draws them."""
    seen = SHAPES | {"kernel": (12, 4)}
    keys = {name: jax.random.fold_in(jax.random.key(0), i) for i, name in enumerate(sorted(seen))}
    keys = {name: jax.random.fold_in(key, t) for name, key in keys.items()}
    return {name: jax.random.normal(keys[name], seen[name], jnp.float64) for name in seen}


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_twin_with_the_same_probes(mode, x64):
    own, theirs = MODES[mode]
    h = DEFAULTS | theirs | {"memory_save_mode": mode}
    tx = scale_by_kron(batch_axes=STACKED, **own)
    update, state = jax.jit(tx.update), tx.init(jax.tree.map(jnp.asarray, gradients(0)))
    kept = {name: [{} for _ in layers(name, g)] for name, g in gradients(0).items()}
    for t in range(STEPS):
        grads, drawn = gradients(t), jax.device_get(probes(t))
        updates, state = update(jax.tree.map(jnp.asarray, grads), state)
        for name in SHAPES:
            trees = (np.asarray(updates[name]), grads[name], drawn[name])
            each = zip(kept[name], *(layers(name, x) for x in trees), strict=True)
            for mine, ours, g, v in each:
                mine["probe"] = v.reshape
                expected = -twins.kron(np.zeros_like(g), g, mine, t + 1, 1.0, h)
                np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


def test_zero_gradients_and_empty_leaves_give_zeros():
    zeros = {"w": jnp.zeros((3, 2)), "empty": jnp.zeros((0, 2)), "none": {}}
    tx = scale_by_kron()
    updates, state = jax.jit(tx.update)(zeros, tx.init(zeros))
    assert not updates["w"].any()
    assert updates["empty"].shape == (0, 2)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_the_published_share_learns_at_every_step_first_and_then_at_every_34th():
    shares = np.asarray(kron_update_share(np.array([0, 500, 501, 4007, 9000])))
    assert np.ceil(1 / shares).tolist() == [1, 1, 2, 34, 34]
