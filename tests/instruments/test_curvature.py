"""Curvature against dense Hessians and Jacobians of small nets, in float64."""

import functools
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from wdlab import instruments
from wdlab.instruments.jacobians import rademacher_like
from wdlab.instruments.lanczos import lanczos

SIZES = (5, 6, 4)  # Of a net with one hidden layer: 54 weights.


def outputs(params, x_D):
    return jnp.tanh(x_D @ params["a"]) @ params["b"]


def loss(params, batch):
    x_BxD, y_BxC = batch
    return jnp.mean(jnp.square(jax.vmap(partial(outputs, params))(x_BxD) - y_BxC))


@functools.cache
def net_and_hessian():
    rng = np.random.default_rng(0)
    d, h, c = SIZES
    params = {"a": rng.normal(size=(d, h)), "b": rng.normal(size=(h, c))}
    batches = rng.normal(size=(3, 7, d)), rng.normal(size=(3, 7, c))  # Three of seven examples.
    params, batches = jax.tree.map(jnp.asarray, (params, batches))
    flat, unflatten = ravel_pytree(params)
    whole = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batches)
    hessian = jax.jit(jax.hessian(lambda w: loss(unflatten(w), whole)))(flat)
    return (params, batches), np.asarray(hessian)


@pytest.fixture
def net(x64):
    return net_and_hessian()[0]


@pytest.fixture
def dense(x64):
    return net_and_hessian()[1]


def test_products_with_the_hessian(net, dense):
    params, batches = net
    vector = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    product = jax.jit(partial(instruments.hessian_vector_product, loss))
    expected = dense @ np.asarray(ravel_pytree(vector)[0])
    got = ravel_pytree(product(params, vector, batches))[0]
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)


def test_exact_trace(net, dense):
    got = instruments.hessian_trace_exact(loss, *net, probes_at_once=10)  # Of 54: a rest of 4.
    np.testing.assert_allclose(got, np.trace(dense), rtol=1e-12)


def test_trace_is_within_its_error_bars_for_all_of_twenty_seeds(net, dense):
    keys = jax.random.split(jax.random.key(0), 20)
    runs = [instruments.hessian_trace(loss, net[0], key, net[1]) for key in keys]
    found = instruments.Estimate(*np.transpose(runs))
    errors = (found.value - np.trace(dense)) / found.standard_error
    assert np.all(np.abs(errors) < 4)
    assert 0.4 < np.std(errors) < 2.0  # The bars are neither too long nor too short.
    assert np.all((found.probes >= 10) & (found.probes <= 100))
    # The variance of one probe is known: twice the squares off the diagonal.
    off_diagonal = dense - np.diag(np.diag(dense))
    expected = np.sqrt(2 * np.sum(off_diagonal**2) / found.probes)
    np.testing.assert_allclose(np.mean(found.standard_error / expected), 1.0, atol=0.2)


def test_probes_at_once_and_a_tolerance_that_stops_in_one_program(x64):
    matrix = jnp.cos(jnp.arange(25.0).reshape(5, 5))
    traces = []

    def quadratic(w):
        traces.append(1)
        return w @ matrix @ w / 2

    trace = partial(instruments.hessian_trace, quadratic, jnp.ones(5), jax.random.key(1))
    many = trace(tolerance=0.0, max_probes=90, probes_at_once=20)
    assert many.probes == 100  # Rounded up.
    assert abs(many.value - np.trace(matrix)) < 4 * many.standard_error
    before = len(traces)
    assert trace(tolerance=1e9, min_probes=21, probes_at_once=20).probes == 40
    assert len(traces) == before


def twin_of_trace(hessian, probes, tolerance):
    """PyHessian's loop (min_probes=2) in NumPy."""
    values, mean = [], 0.0
    for v in probes:
        values.append(v @ hessian @ v)
        before, mean = mean, np.mean(values)
        if len(values) >= 2 and abs(mean - before) / (abs(before) + 1e-6) < tolerance:
            break
    return mean, np.std(values, ddof=1) / np.sqrt(len(values)), len(values)


def test_the_loop_is_pyhessians(net, dense):
    key = jax.random.key(3)

    @jax.jit
    @jax.vmap
    def probe(n):
        probe_key = jax.random.split(jax.random.fold_in(key, n), 1)[0]
        return ravel_pytree(rademacher_like(net[0], probe_key))[0]

    found = instruments.hessian_trace(loss, net[0], key, net[1], tolerance=1e-2, min_probes=2)
    expected = twin_of_trace(dense, np.asarray(probe(jnp.arange(100))), 1e-2)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(2, 3, 2), (2**16, 3, 2**16, 3), (2**16,)])
def test_signs_of_every_leaf_are_its_own(sizes):
    """Small leaves are cut from one draw, large ones have one each."""
    leaves = [
        jnp.zeros((size, 8), dtype)
        for size, dtype in zip(sizes, ["float32", "bfloat16"] * 2, strict=False)
    ]
    signs = rademacher_like(leaves, jax.random.key(0))
    assert [(x.shape, x.dtype) for x in signs] == [(x.shape, x.dtype) for x in leaves]
    drawn = np.concatenate([np.ravel(x) for x in signs])
    assert set(drawn) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 4 / len(drawn) ** 0.5
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(signs, 2))


def test_the_loop_on_the_host_is_the_same_and_can_be_stopped(net):
    trace = partial(instruments.hessian_trace, loss, net[0], jax.random.key(3), net[1])
    asked = []
    found = trace(tolerance=1e-2, stopped=lambda: asked.append(1))
    np.testing.assert_allclose(found, trace(tolerance=1e-2), rtol=1e-9)
    stops = iter([False] * (len(asked) - 1) + [True])  # In the last probe, which is then left out.
    assert trace(tolerance=1e-2, stopped=lambda: next(stops)).probes == found.probes - 1
    whole = partial(
        instruments.hessian_trace, lambda w: jnp.sum(w**3), jnp.ones(3), jax.random.key(0)
    )
    assert whole(stopped=lambda: False).value == whole().value == 18


@pytest.mark.parametrize("which", ["largest", "magnitude"])
def test_top_eigenvalues(which, net, dense):
    spectrum = np.linalg.eigvalsh(dense)
    order = np.argsort(-np.abs(spectrum) if which == "magnitude" else -spectrum)
    key = jax.random.key(0)
    top = instruments.hessian_eigenvalues(loss, *net[:1], key, net[1], k=5, steps=40, which=which)
    np.testing.assert_allclose(top.values, spectrum[order[:5]], rtol=1e-6)
    assert np.all(top.error_bounds < 1e-6)


@jax.jit
def nine_steps(matrix):
    return lanczos(lambda v: matrix @ v, matrix[0], jax.random.key(0), 9)


def with_spectrum(spectrum):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(len(spectrum),) * 2))[0]
    return jnp.asarray(rotation * spectrum @ rotation.T)


def test_few_steps_stay_within_their_error_bounds(x64):
    spectrum = np.arange(1.0, 31.0) ** 2
    values, bounds = nine_steps(with_spectrum(spectrum))
    nearest = np.abs(np.asarray(values)[:, None] - spectrum).min(axis=1)
    assert np.all(nearest <= bounds)
    assert 1.0 < bounds.max() < 900.0  # A bound that says something.


def test_where_a_subspace_is_exhausted_it_goes_on_outside(x64):
    """Three distinct eigenvalues: every third step ends an invariant subspace."""
    values, bounds = nine_steps(with_spectrum(np.repeat([4.0, 1.0, -2.0], 10)))
    np.testing.assert_allclose(values, np.repeat([-2.0, 1.0, 4.0], 3), atol=1e-12)
    assert np.all(bounds < 1e-12)


def test_jacobian_norm_and_its_estimate(net):
    params, (x_NxBxD, _) = net
    examples = x_NxBxD.reshape(-1, SIZES[0])
    rows = jax.jit(jax.vmap(jax.jacrev(outputs), (None, 0)))(params, examples)
    squares = sum(np.sum(np.square(leaf.reshape(21, -1)), 1) for leaf in jax.tree.leaves(rows))
    expected = np.mean(np.sqrt(squares))
    exact = instruments.jacobian_norm(outputs, params, examples, examples_at_once=4)  # Of 21.
    np.testing.assert_allclose(exact, expected, rtol=1e-12)
    keys = jax.random.split(jax.random.key(0), 20)
    runs = [instruments.jacobian_norm_estimate(outputs, params, examples, key) for key in keys]
    found = instruments.Estimate(*np.transpose(runs))
    errors = (found.value - expected) / found.standard_error
    assert np.all(np.abs(errors) < 4)
    assert 0.4 < np.std(errors) < 2.0
    assert abs(np.mean(errors)) < 4 / 20**0.5  # The bias of the root is taken out.


def test_scale_invariance_is_seen_and_its_absence_too():
    """Float32 as a model is trained: columns normalized, so that each may be rescaled."""
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
    }
    batches = jnp.asarray(rng.normal(size=(3, 5, 6)), jnp.float32)

    def normalized(params, x_BxD):
        kernel = params["kernel"] / jnp.linalg.norm(params["kernel"], axis=0)
        return jnp.mean(jnp.square(jnp.tanh(x_BxD @ kernel + params["bias"]) - 0.5))

    cosines = instruments.gradient_weight_cosines(normalized, params, batches)
    grads = np.mean(jax.jit(jax.vmap(jax.grad(normalized), (None, 0)))(params, batches)["bias"], 0)
    bias = np.asarray(params["bias"])
    expected = abs(grads @ bias) / np.linalg.norm(grads) / np.linalg.norm(bias)
    np.testing.assert_allclose(cosines["bias"], expected, rtol=1e-5)
    assert cosines["kernel"] < 1e-5
    assert instruments.rescaling_error(
        normalized, params, batches, rules={"kernel": 1, "bias": 0}
    ) < (1e-6)
    tripled = jax.tree.map(lambda p: 3 * p, params)
    values = jax.jit(jax.vmap(normalized, (None, 0)))
    change = np.mean(values(tripled, batches) - values(params, batches))
    got = instruments.rescaling_error(normalized, params, batches)
    np.testing.assert_allclose(got, abs(change), rtol=1e-5)


def test_a_zero_leaf_has_cosine_zero():
    cosines = instruments.gradient_weight_cosines(lambda w: jnp.sum(w), jnp.zeros(3))
    assert list(cosines.values()) == [0.0]


def test_sixteen_bit_parameters_are_taken_as_float32():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    product = instruments.hessian_vector_product(lambda p: jnp.sum(p["w"] ** 3), params, params)
    assert product["w"].dtype == jnp.float32
    trace = instruments.hessian_trace_exact(lambda p: jnp.sum(p["w"] ** 3), params)
    assert (float(trace), trace.dtype) == (18.0, jnp.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a number in"),
        ({"k": 9}, "k must be a number in"),
        ({"which": "smallest"}, "which must be"),
    ],
)
def test_wrong_eigenvalue_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        instruments.hessian_eigenvalues(jnp.sum, jnp.ones(3), jax.random.key(0), **arguments)


@pytest.mark.parametrize("bad", [{"min_probes": 1}, {"max_probes": 5}, {"tolerance": -1.0}])
def test_wrong_trace_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        instruments.hessian_trace(jnp.sum, jnp.ones(3), jax.random.key(0), **bad)
