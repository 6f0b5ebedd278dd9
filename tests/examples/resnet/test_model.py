"""The image models: shapes, BatchNorm, scale invariance, the compiled step."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import conv_general_dilated as lax_conv

import wdlab
from examples.resnet import layers, model, optim, sharpness, step
from examples.resnet.config import Config
from examples.resnet.layers import BatchNorm, convolve

RNG = np.random.default_rng(0)
PIXELS = 16


@pytest.mark.parametrize("name", model.MODELS)
def test_every_model_has_logits_and_its_stats_come_back_in_their_place(name):
    config = Config(model=name, width=2, batch_norm=True)
    size = 32 if name == "vgg16" else PIXELS

    graph, params, stats = model.shapes(config, 7, size)
    x = jax.ShapeDtypeStruct((3, size, size, 3), jnp.float32)
    logits = jax.eval_shape(lambda p, s, x: model.apply(graph, p, s, x), params, stats, x)
    assert logits.shape == (3, 7)
    logits, new = jax.eval_shape(
        lambda p, s, x: model.apply_train(graph, p, s, x), params, stats, x
    )
    assert logits.shape == (3, 7)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, stats, new))


def test_batch_norm_is_the_formula_with_an_unbiased_running_variance(x64):
    x = RNG.normal(3, 2, (4, 5, 5, 2))
    layer = BatchNorm(2, affine=True)
    layer.scale[...], layer.bias[...] = jnp.array([2.0, 3.0]), jnp.array([0.5, -1.0])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    wanted = (x - mean) / np.sqrt(var + 1e-5) * [2, 3] + [0.5, -1]
    np.testing.assert_allclose(layer(jnp.asarray(x), True), wanted, rtol=1e-6)
    np.testing.assert_allclose(layer.mean[...], mean, rtol=1e-6)
    np.testing.assert_allclose(layer.var[...], x.var((0, 1, 2), ddof=1), rtol=1e-6)
    kept = (x - mean) / np.sqrt(x.var((0, 1, 2), ddof=1) + 1e-5) * [2, 3] + [0.5, -1]
    np.testing.assert_allclose(layer(jnp.asarray(x), False), kept, rtol=1e-6)


@pytest.mark.parametrize("batch", [48, 10])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_s_gradients_in_parts_are_jax_s_own(x64, batch, stride):
    """Of first and second order, for a batch that 16 divides and one that it does not.

    Images and kernel are arguments: of constants jaxlib 0.7.1 folds wrong gradients, JAX's own too.
    """
    x, kernel = RNG.normal(size=(batch, 6, 6, 2)), RNG.normal(size=(3, 3, 2, 3))

    def derivatives(conv, x, kernel):
        def loss(x, k):
            args = (stride, stride), [(1, 1), (1, 1)]
            return jnp.sum(jnp.sin(conv(x, k, *args, dimension_numbers=("NHWC", "HWIO", "NHWC"))))

        gradient = jax.grad(loss, argnums=(0, 1))
        return gradient(x, kernel), jax.jvp(gradient, (x, kernel), (x, kernel))[1]

    compiled = jax.jit(derivatives, static_argnums=0)
    ours, theirs = (compiled(conv, x, kernel) for conv in (convolve, lax_conv))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, theirs
    )


def test_running_statistics_take_a_tenth_of_every_batch():
    mixed = step.mix({"mean": jnp.array(1.0)}, {"mean": jnp.array(11.0)}, step.MOMENTUM)
    assert float(mixed["mean"]) == pytest.approx(2.0)


@pytest.mark.slow
@pytest.mark.parametrize("radius", [None, 1.0])
@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_scale_invariant_models_do_not_see_the_size_of_their_weights(name, radius, monkeypatch):
    """float32: the gradient is orthogonal to the weights, and three times them change nothing.

    But for what is added to the variances, which is less here.
    """
    monkeypatch.setattr(layers, "EPSILON", 1e-12)
    config = Config(model=name, width=2, batch_norm=True, scale_inv=True)
    size = 32 if name == "vgg16" else PIXELS
    graph, params, stats = model.create(config, 10, size, 0)
    trained = optim.is_trained(config, params)
    if radius is not None:
        params = step.project(params, trained, radius)
        assert float(step.masked_norm(params, trained)) == pytest.approx(radius, rel=1e-5)
    x, y = RNG.normal(size=(32, size, size, 3)).astype(np.float32), np.arange(32) % 10

    @jax.jit
    def loss_and_grads(params):
        def loss(params):
            logits, _ = model.apply_train(graph, params, stats, x)
            return step.cross_entropy(logits, y).mean()

        return jax.value_and_grad(loss)(params)

    loss, grads = loss_and_grads(params)
    grown = jax.tree.map(lambda p, t: 3 * p if t else p, params, trained)
    assert abs(float(loss_and_grads(grown)[0]) - float(loss)) < 1e-5
    pairs = [
        (np.asarray(g, np.float64), np.asarray(p, np.float64))
        for g, p, t in zip(*map(jax.tree.leaves, (grads, params, trained)), strict=True)
        if t
    ]
    product = sum((g * p).sum() for g, p in pairs)
    sizes = [np.sqrt(sum((a**2).sum() for a in side)) for side in zip(*pairs, strict=True)]
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads["head"]))  # It counts nowhere.
    assert sizes[0] > 0
    assert abs(product) / np.prod(sizes) < 1e-5


def test_the_frozen_layer_neither_moves_nor_decays():
    config = Config(model="resnet_tiny", width=2, batch_norm=True, scale_inv=True, wd=0.1)
    params = model.shapes(config, 10, PIXELS)[1]
    params = jax.tree.map(lambda p: jnp.ones(p.shape), params)
    tx = optim.make_optimizer(config, 0.1, 0.1)
    updates, _ = tx.update(params, tx.init(params), params)
    moved = {name: any(bool(u.any()) for u in jax.tree.leaves(u)) for name, u in updates.items()}
    assert moved == {name: name != "head" for name in params}
    scales = wdlab.decay_scales(params, optim.decay_rules(config))
    assert not any(jax.tree.leaves(scales["head"]))


def test_a_convention_takes_the_place_of_sgd_and_leaves_the_frozen_layer():
    named = {"convention": "torch.AdamW", "rules": "convention", "scale_inv": True}
    config = Config(model="resnet_tiny", width=2, batch_norm=True, wd=0.1, **named)
    params = {"stem": {"kernel": jnp.full((3, 2), 2.0)}, "head": {"kernel": jnp.ones((2, 2))}}
    tx = optim.make_optimizer_of_rates(config)(jnp.float32(0.1), jnp.float32(0.5))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["stem"]["kernel"], -0.1 - 0.1 * 0.5 * 2, rtol=1e-5)
    assert not updates["head"]["kernel"].any()


def small_steps(**changes):
    config = dataclasses.replace(Config(model="linear", lr=0.1, momentum=0.5, wd=0.1), **changes)
    graph, params, stats = model.create(config, 10, 16, 0)
    x = RNG.integers(0, 256, (24, 16, 16, 3), np.uint8)
    images = step.Images(jnp.asarray(x), jnp.arange(24) % 10, jnp.full(3, 128.0), jnp.full(3, 50.0))

    def make_tx(lr, wd):
        return optim.make_optimizer(config, lr, wd)

    state = step.new_state(params, stats, make_tx(0.1, 0.1))
    order = jnp.arange(24).reshape(6, 4)
    return (
        state,
        images,
        order,
        lambda looped: step.make_train_steps(graph, make_tx, 0.9, augmented=True, looped=looped),
    )


def test_a_loop_on_the_device_is_the_same_steps():
    state, images, order, make = small_steps()
    key, rates = jax.random.key(0), (0.1, 0.1)
    alone = jax.tree.map(jnp.copy, state)
    one = make(looped=False)
    for i in range(5):
        alone, reached, loss, _ = one(alone, images, order, key, rates, i, i + 1)
        assert int(reached) == i + 1
    looped, reached, last_loss, _ = make(looped=True)(state, images, order, key, rates, 0, 5)
    assert int(reached) == 5
    np.testing.assert_allclose(loss, last_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), alone, looped)


@pytest.mark.parametrize("looped", [False, True])
def test_a_step_that_is_not_finite_changes_nothing_and_ends_the_loop(looped):
    state, images, order, make = small_steps()
    images = images._replace(std=jnp.zeros(3))
    before = jax.tree.map(np.array, state)
    after, reached, loss, _ = make(looped)(
        state, images, order, jax.random.key(0), (0.1, 0.1), 0, 5 if looped else 1
    )
    assert int(reached) == 0
    assert not np.isfinite(loss)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


def test_evaluation_counts_every_image_once(monkeypatch):
    monkeypatch.setattr(step, "EVAL_BATCH", 10)  # 24 images: the last batch is filled up.
    state, images, _, _ = small_steps()
    graph = model.create(Config(model="linear"), 10, 16, 0)[0]
    loss, error = step.make_evaluate(graph)(state.params, state.stats, images)
    x, y = images.batch(jnp.arange(24))
    logits = np.asarray(x.reshape(24, -1) @ state.params["head"]["kernel"], np.float64)
    chosen = logits[np.arange(24), np.asarray(y)]
    wanted = (np.log(np.exp(logits).sum(1)) - chosen).mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(error, (logits.argmax(1) != np.asarray(y)).mean(), rtol=1e-6)


def test_sharpness_is_the_trace_and_the_norm_of_a_model_that_is_linear():
    """For softmax regression: tr H = sum_k p_k (1 - p_k) |x|^2, and |J|_F^2 = K |x|^2."""
    _, images, _, _ = small_steps()
    graph, params, stats = model.create(Config(model="linear"), 10, 16, 0)
    y = np.asarray(images.y)
    data = SimpleNamespace(y_train=y, n_classes=10)
    found = sharpness.Sharpness(graph, data, images, 20, seed=0)
    x = np.asarray(found.x, np.float64).reshape(20, -1)
    logits = x @ np.asarray(params["head"]["kernel"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    squares = (x**2).sum(1)
    trace, error, probes = map(float, found.trace(params, stats, lambda: False))
    assert 10 <= probes <= 100
    assert abs(trace - ((p * (1 - p)).sum(1) * squares).mean()) < 4 * error
    np.testing.assert_allclose(
        found.jacobian_norm(params, stats), np.sqrt(10 * squares).mean(), rtol=1e-4
    )
    assert found.top_eigenvalue(params, stats) > 0
    stops = iter([False] * 11 + [True])
    assert found.trace(params, stats, lambda: next(stops)).probes == 11
