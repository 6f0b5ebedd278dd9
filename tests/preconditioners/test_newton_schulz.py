"""What the iteration does to singular values, to orientation and to bad matrices; its 16 bits."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from optax.contrib._muon import orthogonalize_via_newton_schulz

from tests.twins import muon as twins
from wdlab.preconditioners import COEFFICIENTS, newton_schulz
from wdlab.preconditioners.coefficients import coefficients_by_step


def matrix(values, rows=24, columns=40, seed=0):
    """A matrix with these singular values, and its two bases."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    v, _ = np.linalg.qr(rng.normal(size=(columns, rows)))
    return u @ np.diag(values) @ v.T, u, v


# Of singular values from ``low`` to 1: the least and largest that the steps may leave.
BANDS = {
    "jordan": (3e-3, 0.68, 1.21),  # Jordan's post: about [0.7, 1.2], not 1.
    "jiacheng": (3e-3, 0.97, 1.15),
    "polar_express": (1e-3, 0.84, 1.15),  # Optimal from 1e-3 on, arXiv 2505.16932.
    "polar_express_8": (1e-3, 0.999, 1.001),
    "cans": (1e-3, 0.88, 1.13),
    "aol_dion": (1e-2, 0.94, 1.06),
    "deepseek_v4": (1e-4, 0.999, 1.003),  # Condition numbers up to 1e4.
    "cubic5": (7e-3, 0.7, 1.3),  # Its l0.
    "cubic": (2e-2, 0.99, 1.0 + 1e-12),
    "quintic": (1e-3, 0.98, 1.0 + 1e-12),
}


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_bases_stay_and_singular_values_go_through_the_polynomials(x64, name):
    """Condition number 1e4; the oracle is the polynomial of each singular value alone."""
    values = np.geomspace(1.0, 1e-4, 24)
    g, u, v = matrix(values)
    triples, safety = coefficients_by_step(name, None)
    expected = twins.polynomial(values / np.linalg.norm(values) / safety, triples)
    found = newton_schulz(g, coefficients=name, eps=0.0)
    np.testing.assert_allclose(found, u @ np.diag(expected) @ v.T, atol=1e-9)


@pytest.mark.parametrize("name", BANDS)
def test_singular_values_end_in_the_published_band(name):
    low, least, most = BANDS[name]
    triples, safety = coefficients_by_step(name, None)
    ends = twins.polynomial(np.geomspace(low, 1.0, 20_001) / safety, triples)
    assert least <= ends.min()
    assert ends.max() <= most


def test_every_condition_number_up_to_1e4_reaches_1(x64):
    for condition in (1.0, 10.0, 100.0, 1e3, 1e4):
        g, _, _ = matrix(np.geomspace(1.0, 1 / condition, 24))
        found = np.linalg.svd(newton_schulz(g, coefficients="quintic", steps=30), compute_uv=False)
        np.testing.assert_allclose(found, 1.0, rtol=1e-9)


@pytest.mark.parametrize("normalization", ["frobenius", "spectral", "schatten", "aol"])
def test_normalizations_equal_optax(x64, normalization):
    for shape in ((6, 9), (9, 6)):
        g = jnp.asarray(np.random.default_rng(1).normal(size=shape))
        theirs = orthogonalize_via_newton_schulz(
            g, jnp.asarray(COEFFICIENTS["jordan"].triples[0]), 5, normalization, eps=1e-8
        )
        ours = newton_schulz(g, normalization=normalization, eps=1e-8, epsilon="added")
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transposes_stacks_and_scales_commute_with_it(dtype):
    """Equivariance: NS(X^T) = NS(X)^T, NS of a stack is the stack, NS(s X) = NS(X)."""
    g = jnp.asarray(np.random.default_rng(2).normal(size=(3, 16, 24)), jnp.float32)
    run = jax.jit(lambda x: newton_schulz(x, dtype=dtype))
    stacked = run(g)
    tolerance = 1e-5 if dtype == "float32" else 0.03
    np.testing.assert_allclose(
        run(jnp.swapaxes(g, 1, 2)), jnp.swapaxes(stacked, 1, 2), atol=tolerance
    )
    one_by_one = jnp.stack([newton_schulz(x, dtype=dtype) for x in g])
    np.testing.assert_allclose(one_by_one, stacked, atol=tolerance)
    np.testing.assert_allclose(run(1024.0 * g), stacked, atol=1e-6)  # A power of 2.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zero_rank_one_tiny_and_huge_matrices_stay_finite(dtype):
    u, v = np.linspace(1, 2, 8), np.linspace(-1, 1, 12)
    rank_one = np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    given = jnp.asarray(
        [np.zeros((8, 12)), rank_one, 1e-30 * rank_one, 1e15 * rank_one], jnp.float32
    )
    for name in COEFFICIENTS:
        zero, one, tiny, huge = newton_schulz(given, coefficients=name, dtype=dtype)
        assert not zero.any()
        assert jnp.linalg.norm(tiny) < 1e-15  # Far below eps, and finite.
        np.testing.assert_allclose(huge, one, atol=0.02)
        assert name == "aol" or 0.65 < jnp.sum(one * rank_one) < 1.35, name


def test_emerging_optimizers_aol_coefficients_turn_a_single_direction_round():
    """a + b + c is -0.59 in their first step: a gradient of rank 1 would be climbed."""
    rank_one = jnp.zeros((4, 6)).at[0, 0].set(1.0)
    assert newton_schulz(rank_one, coefficients="aol")[0, 0] < -0.9


def test_16_bit_products_are_rounded_once_and_this_far_from_exact(x64):
    """NumPy's bfloat16 with float32 sums; 1.1 % of the norm from float64 (stated in the docs)."""
    g = np.random.default_rng(3).normal(size=(96, 128)).astype(np.float32)
    rounded = lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32)  # noqa: E731
    z = rounded(g / np.linalg.norm(g))
    for a, b, c in np.float32(twins.JORDAN):
        gram = rounded(z @ z.T)
        inner = rounded(b * gram + c * (gram @ gram))
        z = rounded(a * z + inner @ z)
    exact = twins.newton_schulz(g.astype(np.float64))
    size = np.linalg.norm(exact)
    found = np.asarray(newton_schulz(jnp.asarray(g), dtype="bfloat16"), np.float64)
    assert np.linalg.norm(found - z) / size < 0.01
    assert 0.002 < np.linalg.norm(found - exact) / size < 0.015
    single = np.asarray(newton_schulz(jnp.asarray(g), dtype="float32"), np.float64)
    assert np.linalg.norm(single - exact) / size < 2e-6


def test_more_triples_than_steps_and_fewer():
    assert len(coefficients_by_step("polar_express", 7)[0]) == 7
    assert (
        coefficients_by_step("polar_express", 7)[0][-1]
        == (COEFFICIENTS["polar_express"].triples[-1])
    )
    jiacheng = COEFFICIENTS["jiacheng"].triples
    assert coefficients_by_step("jiacheng", 6)[0] == (*jiacheng, jiacheng[0])
    with pytest.raises(ValueError, match="2 triples for 3 steps"):
        newton_schulz(jnp.ones((2, 2)), coefficients=((1, 0, 0), (2, 0, 0)), steps=3)


def test_vectors_and_complex_numbers_are_refused():
    with pytest.raises(ValueError, match="shape"):
        newton_schulz(jnp.ones(3))
    with pytest.raises(TypeError, match="real"):
        newton_schulz(jnp.ones((2, 2), jnp.complex64))
