"""Muon's direction and NorMuon's second moment against float64 loops; axes, splits, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.twins import muon as twins
from wdlab import preconditioners as pre
from wdlab.preconditioners import MatrixAxes, MatrixRule

TALL, WIDE = (6, 4), (3, 5)  # torch's: rows, columns.


def gradients(shape, count=4):
    rng = np.random.default_rng(sum(shape))
    return [rng.normal(size=shape) for _ in range(count)]


def directions_of(tx, grads):
    state, out = tx.init(grads[0]), []
    for g in grads:
        u, state = tx.update(g, state)
        out.append(u)
    return out


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("average", ["ema", "sum", "corrected"])
def test_momentum_iteration_and_scaling_equal_the_twin(x64, average, nesterov):
    scalings = ("original", "rms", "spectral", "none")
    for shape, scaling in zip([TALL, WIDE, TALL, WIDE], scalings, strict=True):
        grads = gradients(shape)
        ahead = twins.momentum(grads, nesterov=nesterov, average=average)
        expected = [twins.factor(scaling, *shape) * twins.newton_schulz(n) for n in ahead]
        made = {"average": average, "nesterov": nesterov, "scaling": scaling, "dtype": None}
        torchs = directions_of(pre.orthogonalize(axes=pre.TORCH_AXES, **made), grads)
        flaxs = directions_of(pre.orthogonalize(**made), [g.T for g in grads])
        np.testing.assert_allclose(torchs, expected, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose([u.T for u in flaxs], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("per", ["row", "longer"])
@pytest.mark.parametrize("epsilon", ["added", "clamped"])
def test_neurons_equal_the_twin(x64, per, epsilon):
    for shape in (TALL, WIDE):
        given = gradients(shape)
        tx = pre.scale_by_neuron_rms(0.9, per=per, epsilon=epsilon, eps=1e-3, axes=pre.TORCH_AXES)
        expected = twins.normuon(given, 0.9, 1e-3, per, clamped=epsilon == "clamped")
        np.testing.assert_allclose(directions_of(tx, given), expected, rtol=1e-12)


def test_each_block_stack_and_head_is_a_matrix_by_itself(x64):
    rng = np.random.default_rng(0)
    exact = {"dtype": None, "scaling": "spectral", "momentum": None}
    alone = lambda g: np.asarray(  # noqa: E731  in, out.
        pre.orthogonalize(**exact).update(g, pre.orthogonalize(**exact).init(g))[0]
    )
    fused, grouped = rng.normal(size=(4, 10)), rng.normal(size=(2, 4, 10))
    q = rng.normal(size=(4, 2, 3))
    rules = (
        MatrixRule("fused", rows=-1, columns=-2, split=(6, 2, 2)),
        MatrixRule("grouped", rows=-1, columns=-2, split=(3, 1, 1)),
        *pre.FLAX_ATTENTION,
    )
    tx = pre.orthogonalize(axes=MatrixAxes(rules=rules), **exact)
    given = {"fused": fused, "grouped": grouped, "query": {"kernel": q}}
    out, _ = tx.update(given, tx.init(given))
    for start, end in ((0, 6), (6, 8), (8, 10)):
        np.testing.assert_allclose(out["fused"][:, start:end], alone(fused[:, start:end]))
    for layer in range(2):
        for rows in ([0, 1, 2, 5, 6, 7], [3, 8], [4, 9]):  # Two groups of (3, 1, 1).
            part = grouped[layer][:, rows]
            np.testing.assert_allclose(out["grouped"][layer][:, rows], alone(part))
    np.testing.assert_allclose(out["query"]["kernel"].reshape(4, 6), alone(q.reshape(4, 6)))


def test_convolutions_are_one_matrix_or_one_a_position(x64):
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(2, 2, 3, 5))  # Flax: positions, in, out.
    exact = {"dtype": None, "momentum": None}
    flat = pre.orthogonalize(axes=MatrixAxes(kernels="flatten"), **exact)
    out, _ = flat.update(kernel, flat.init(kernel))
    expected = twins.newton_schulz(kernel.reshape(12, 5))
    np.testing.assert_allclose(out.reshape(12, 5), expected, rtol=1e-10)
    moved = kernel.transpose(3, 2, 0, 1)  # torch: out, in, positions; the same matrix but a factor.
    torchs = pre.orthogonalize(axes=pre.TORCH_AXES, **exact)
    again = torchs.update(moved, torchs.init(moved))[0].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(again, out, rtol=1e-10)
    each = pre.orthogonalize(axes=MatrixAxes(kernels="batch"), **exact)
    position = each.update(kernel, each.init(kernel))[0][1, 0]
    scale = twins.factor("original", 5, 3)
    np.testing.assert_allclose(position, scale * twins.newton_schulz(kernel[1, 0]), rtol=1e-10)


def test_nanochats_equilibration_and_renormalization(x64):
    g = gradients(TALL, 1)[0]
    tx = pre.orthogonalize(
        None, equilibrate=True, renormalize=True, scaling="none", dtype=None, axes=pre.TORCH_AXES,
        coefficients="polar_express", epsilon="added", eps=1e-6, safety=1.01,
    )  # fmt: skip
    target = np.linalg.norm(g) / 6**0.5
    balanced = g * target / np.linalg.norm(g, axis=1, keepdims=True)
    triples = pre.COEFFICIENTS["polar_express"].triples
    u = twins.newton_schulz(balanced, triples, eps=1e-6, added=True, safety=1.01)
    expected = u * 4**0.5 / np.linalg.norm(u)
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0], expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("shape", "axes", "says"),
    [
        ((3,), MatrixAxes(), "which is no matrix"),
        ((2, 2, 3, 4), MatrixAxes(), r"kernels='flatten'\) for convolutions"),
        ((2, 3), MatrixAxes(rules=(MatrixRule(".*", rows=-1, columns=1),)), "twice"),
        ((2, 3), MatrixAxes(rules=(MatrixRule(".*", rows=-1, columns=-3),)), "does not have"),
        ((2, 3), MatrixAxes(rules=(MatrixRule(".*", rows=1, columns=0, split=(2,)),)), "multiple"),
    ],
)
def test_leaves_that_nothing_makes_a_matrix_are_refused(shape, axes, says):
    with pytest.raises(ValueError, match=says):
        pre.orthogonalize(axes=axes).init({"w": jnp.zeros(shape)})


def test_heads_or_a_stack_must_be_said():
    params = {"query": {"kernel": jnp.zeros((4, 2, 3))}}
    with pytest.raises(ValueError, match="rules=FLAX_ATTENTION"):
        pre.orthogonalize().init(params)


@pytest.mark.parametrize(
    "bad",
    [
        {"momentum": 1.0}, {"average": "mean"}, {"scaling": "spectral_norm"}, {"rms": 0.0},
        {"coefficients": "jordon"}, {"coefficients": ((1.0, 2.0),)}, {"steps": 0},
        {"coefficients": ((1.0, 0.0, 0.0),) * 2, "steps": 3}, {"dtype": "float16"},
        {"normalization": "nuclear"}, {"epsilon": "inside"}, {"eps": -1.0}, {"safety": 0.5},
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        pre.orthogonalize(**bad)


def test_complex_leaves_are_refused():
    for tx in (pre.orthogonalize(), pre.scale_by_neuron_rms()):
        with pytest.raises(TypeError, match="needs real numbers"):
            tx.init({"w": jnp.zeros((2, 2), jnp.complex64)})


def test_a_schedule_of_momentum_counts_updates(x64):
    grads = gradients(TALL, 3)
    tx = pre.orthogonalize(
        lambda count: jnp.minimum(0.5 + 0.1 * count, 0.9), dtype=None, axes=pre.TORCH_AXES
    )
    m = 0.0
    for t, (g, u) in enumerate(zip(grads, directions_of(tx, grads), strict=True)):
        mu = 0.5 + 0.1 * t
        m = mu * m + (1 - mu) * g
        n = (1 - mu) * g + mu * m
        expected = twins.factor("original", *TALL) * twins.newton_schulz(n)
        np.testing.assert_allclose(u, expected, rtol=1e-10)


def test_16_bit_leaves_keep_their_dtype_and_a_float32_momentum():
    params = {"w": jnp.ones((4, 3), jnp.bfloat16)}
    tx = pre.orthogonalize()
    updates, state = jax.jit(tx.update)(params, tx.init(params))
    assert updates["w"].dtype == jnp.bfloat16
    assert state.mu["w"].dtype == jnp.float32
