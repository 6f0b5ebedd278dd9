"""GaLore and APOLLO: projections that change, random ones, stacked matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.twins import second_order as twins
from wdlab.preconditioners import scale_by_apollo, scale_by_galore
from wdlab.rules import Rule

SHAPES = {
    "tall": (6, 4),
    "wide": (4, 6),
    "square": (4, 4),
    "stacked": (2, 4, 3),
    "kernel": (2,) * 4,
}
STACKED = (Rule("stacked", 1), Rule(".*", 0))
STEPS, EVERY = 12, 4
SHARED = {"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0, "correct_bias": True, "rank": 2}
HYPERPARAMETERS = {
    "galore": SHARED | {"update_proj_gap": EVERY, "scale": 0.25, "proj_type": "std"},
    "apollo": SHARED
    | {"update_proj_gap": EVERY, "scale": 4.0, "proj_type": "std"}
    | {"scale_type": "channel", "scale_front": False, "disable_nl": False},
}
OURS = {"galore": scale_by_galore, "apollo": scale_by_apollo}


def gradients(t):
    rng = np.random.default_rng(t)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def layers(name, array):
    return list(array) if name == "stacked" else [array]


@pytest.mark.parametrize("name", OURS)
def test_equals_the_twin_with_our_projections_over_several_of_them(name, x64, monkeypatch):
    """A singular vector's sign is free, a random matrix is JAX's: the twin is given ours."""
    h = HYPERPARAMETERS[name]
    tx = OURS[name](
        2, *h["betas"], h["eps"], refresh_every=EVERY, scale=h["scale"], batch_axes=STACKED
    )
    update, state = jax.jit(tx.update), tx.init(jax.tree.map(jnp.asarray, gradients(0)))
    kept = {leaf: [{} for _ in layers(leaf, g)] for leaf, g in gradients(0).items()}
    by_svd = twins.singular_vectors
    for t in range(STEPS):
        grads = gradients(t)
        updates, state = update(jax.tree.map(jnp.asarray, grads), state)
        for leaf, own in kept.items():
            for i, (mine, g) in enumerate(zip(own, layers(leaf, grads[leaf]), strict=True)):
                if g.ndim == 2:
                    p = layers(leaf, np.asarray(state.projections[leaf]))[i]
                    monkeypatch.setattr(twins, "singular_vectors", lambda *_, p=p: p)
                    if name == "galore" and t % EVERY == 0:
                        right = leaf != "wide"
                        aligned = by_svd(g, 2, right).T @ p
                        np.testing.assert_allclose(np.abs(aligned), np.eye(2), atol=1e-12)
                step = getattr(twins, name)(np.zeros_like(g), g, mine, t + 1, 1.0, h)
                ours = layers(leaf, np.asarray(updates[leaf]))[i]
                np.testing.assert_allclose(ours, -step, rtol=0, atol=1e-10)


def test_random_projections_have_unit_columns_on_average_and_differ():
    tx = scale_by_apollo(4, refresh_every=1)
    zeros = {"a": jnp.zeros((2000, 8)), "b": jnp.zeros((8, 2000))}
    _, state = jax.jit(tx.update)(zeros, tx.init(zeros))
    _, later = jax.jit(tx.update)(zeros, state)
    found = [np.asarray(s.projections[leaf]) for s in (state, later) for leaf in "ab"]
    assert [p.shape for p in found] == [(8, 4)] * 4
    assert len({float(p[0, 0]) for p in found}) == 4
    np.testing.assert_allclose(np.var(found) * 4, 1.0, atol=0.35)  # Of 128 draws: 2.8 deviations.
    assert scale_by_apollo(4, side="left").init(zeros).projections["a"].shape == (2000, 4)
