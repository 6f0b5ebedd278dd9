"""Head and loss by parts of the vocabulary, beside the logits of all tokens at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.gpt import head_loss, model
from examples.gpt.step import losses
from examples.runs.layout import Layout
from examples.runs.mesh import make_mesh
from tests.examples.gpt.test_model import SMALL, VOCAB, with_noise

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (4, 7))


def value_and_grad(config, layout=None):
    graph = model.make_graph(config, VOCAB)
    params = with_noise(model.create(config, VOCAB, seed=0)[1])
    tokens = TOKENS
    if layout is not None:
        params = jax.device_put(params, layout.parameters(params))
        tokens = jax.device_put(TOKENS, layout.batch_sharding(0))
    return jax.jit(jax.value_and_grad(lambda p: losses(graph, p, tokens), has_aux=True))(params)


def close(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found[1], wanted[1]
    )


@pytest.mark.parametrize("untied", [False, True])
def test_loss_error_and_gradient_are_those_of_all_logits_at_once(untied):
    config = dataclasses.replace(SMALL, n_layer=1, weight_tying=not untied)
    chunked = value_and_grad(dataclasses.replace(config, loss_chunks=4))  # 3, 3, 3 and 2 tokens.
    close(chunked, value_and_grad(config))


def test_on_a_mesh_it_is_the_same():
    config = dataclasses.replace(SMALL, n_layer=1)
    layout = Layout(make_mesh(2, 2))
    with layout.active():
        chunked = value_and_grad(dataclasses.replace(config, loss_chunks=2), layout)
    close(chunked, value_and_grad(config))


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("bfloat16", 1e-4)])
def test_it_is_float64_cross_entropy_of_the_logits_in_the_dtype(dtype, rtol):
    rng = np.random.default_rng(1)
    x, head = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((40, 8), (300, 8)))
    targets = rng.integers(0, 300, 40)
    logits = np.asarray(x @ head.T, np.float64)
    exact = np.log(np.exp(logits).sum(1)) - logits[np.arange(40), targets]
    loss, error = head_loss.cross_entropy(x, head, jnp.asarray(targets), 2)  # 256 and 44 tokens.
    np.testing.assert_allclose(loss, exact.mean(), rtol=rtol)  # XLA may not round bfloat16 logits.
    assert error == (logits.argmax(1) != targets).mean()


def test_no_array_of_all_tokens_and_the_whole_vocabulary_is_made():
    x, head = jnp.zeros((40, 8)), jnp.zeros((300, 8))
    loss = lambda *x_head: head_loss.cross_entropy(*x_head, jnp.zeros(40, int), 2)[0]  # noqa: E731
    program = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, head))
    assert "f32[40,256]" in program
    assert "[40,300]" not in program
    assert "[40,512]" not in program


def test_large_logits_do_not_overflow_and_a_nan_shows():
    x = jnp.full((2, 4), 1e4)
    head = jnp.stack([jnp.ones(4), -jnp.ones(4), jnp.zeros(4)])
    assert head_loss.cross_entropy(x, head, jnp.array([0, 2]), 3)[0] == 2e4
    assert jnp.isnan(
        head_loss.cross_entropy(x.at[0, 0].set(jnp.nan), head, jnp.array([0, 2]), 3)[0]
    )


def test_by_default_only_accelerators_take_parts(monkeypatch):
    many, few = 8_192, 4_096
    assert head_loss.parts(None, many, 50_304) == 1
    monkeypatch.setattr(head_loss, "platform", lambda: "tpu")
    assert head_loss.parts(None, many, 50_304) == 25
    assert head_loss.parts(None, few, 50_304) == head_loss.parts(1, many, 50_304) == 1
    with Layout(make_mesh(2, 1)).active():  # The devices share them.
        assert head_loss.parts(None, many, 50_304) == 1


def test_on_accelerators_the_targets_are_picked_without_a_gather(monkeypatch):
    config = dataclasses.replace(SMALL, n_layer=1)
    on_cpu = value_and_grad(config)
    monkeypatch.setattr(head_loss, "platform", lambda: "tpu")
    close(value_and_grad(config), on_cpu)
    program = jax.make_jaxpr(head_loss.of_logits)(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), int))
    assert "gather" not in str(program)
