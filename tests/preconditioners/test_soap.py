"""SOAP with factors on all axes, beside its twin; stacked layers; meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.twins import second_order as twins
from wdlab import conventions
from wdlab.preconditioners import scale_by_soap
from wdlab.rules import Rule

STACKED = (Rule("stacked", 1), Rule(".*", 0))
SHAPES = {
    "tall": (9, 4),
    "wide": (4, 9),
    "square": (5, 5),
    "kernel": (2, 1, 3, 4),
    "stacked": (2, 4, 3),
    "vector": (4,),
}
STEPS, EVERY = 40, 4
H = {
    "betas": (0.9, 0.95),
    "shampoo_beta": 0.8,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "precondition_frequency": EVERY,
    "max_precond_dim": 100,
    "precondition_1d": True,
    "normalize_grads": False,
    "correct_bias": True,
}


def gradients(t):
    rng = np.random.default_rng(t)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def slices(name, array):
    """The matrices of a leaf: layers that are stacked are leaves of their own."""
    return list(array) if name == "stacked" else [np.squeeze(array)]


def bases_of(state, name, layer):
    """Those that ours found, by axis: of a null space any basis is right, and stays in use."""
    found = [np.asarray(tree[name]) for tree in state.bases if not isinstance(tree[name], tuple)]
    return dict(enumerate(basis[layer] if name == "stacked" else basis for basis in found))


def test_factors_on_all_axes_of_tall_wide_square_stacked_and_rank_3(x64):
    tx = scale_by_soap(
        *H["betas"], H["eps"], factor_decay=H["shampoo_beta"], refresh_every=EVERY, vectors=True,
        batch_axes=STACKED,
    )  # fmt: skip
    update, state = jax.jit(tx.update), tx.init(jax.tree.map(jnp.asarray, gradients(0)))
    kept = {name: [{} for _ in slices(name, g)] for name, g in gradients(0).items()}
    for t in range(STEPS):
        grads = gradients(t)
        updates, state = update(jax.tree.map(jnp.asarray, grads), state)
        for name, layers in kept.items():
            ours = slices(name, np.asarray(updates[name]))
            for i, (own, g) in enumerate(zip(layers, slices(name, grads[name]), strict=True)):
                theirs = -twins.soap(np.zeros_like(g), g, own, t + 1, 1.0, H)
                np.testing.assert_allclose(ours[i], theirs, rtol=0, atol=1e-9)
                if t == 0:
                    bases = bases_of(state, name, i)
                    for axis, q in bases.items():
                        np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-14)
                        diagonal = q.T @ own["factors"][axis] @ q
                        expected = np.linalg.eigvalsh(own["factors"][axis])[::-1]
                        np.testing.assert_allclose(diagonal, np.diag(expected), atol=1e-13)
                    own["bases"] = bases


# Of a longer axis the first gradients do not say the basis: it has a null space.
FIRST = {"tall": (4, 3), "wide": (3, 4), "square": (3, 3)}
# The first gradient is diagonal in it: the other entries are rounding over epsilon.
NVIDIA = {
    "decoupled": {},
    "palm": {"nesterov": True, "shampoo_beta": 0.8},
    "independent": {"correct_bias": False, "correct_shampoo_beta_bias": True, "betas": (0.8, 0.9)},
}


@pytest.mark.parametrize("method", NVIDIA)
def test_the_basis_first_at_every_step(method, x64):
    key = "emerging_optimizers.SOAP"
    own = NVIDIA[method] | {"eps": 1e-3, "weight_decay": 0.03, "weight_decay_method": method}
    h = conventions.get(key).complete(own)
    tx = conventions.build(key, lambda count: 0.1 / (1.0 + count), **own)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in FIRST.items()}
    update, kept = jax.jit(tx.update), {name: {} for name in FIRST}
    ours = jax.tree.map(jnp.asarray, params)
    state = tx.init(ours)
    for t in range(25):
        grads = {name: rng.normal(size=shape) for name, shape in FIRST.items()}
        updates, state = update(jax.tree.map(jnp.asarray, grads), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        for name, g in grads.items():
            lr = 0.1 / (1 + t)
            params[name] = twins.nvidia_soap(params[name], g, kept[name], t + 1, lr, h)
            np.testing.assert_allclose(ours[name], params[name], rtol=0, atol=1e-9)


def test_l2_of_the_basis_first_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"'palm', got 'l2'. Of 'l2' .* is not built"):
        conventions.build("emerging_optimizers.SOAP", 0.1, weight_decay_method="l2")


def test_a_batch_axis_that_a_leaf_does_not_have_is_an_error():
    with pytest.raises(ValueError, match=r"batch_axes .* got 2 for 'bias' of rank 1"):
        scale_by_soap(batch_axes=2).init({"bias": jnp.zeros(3)})


def test_long_axes_have_no_factor():
    state = scale_by_soap(max_dim=4).init({"w": jnp.zeros((5, 4)), "b": jnp.zeros(4)})
    assert [leaf.shape for leaf in jax.tree.leaves(state.factors)] == [(4, 4)]
