"""The GPT against a float64 NumPy twin, its causality, sizes and initial weights."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.gpt import model
from examples.gpt.config import Config

SMALL = Config(n_layer=2, n_head=2, n_embd=8, block_size=6, bias=True)
VOCAB = 11
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (3, 6))


def with_noise(params, scale=0.3):
    """Weights away from their initial values, so that biases and LayerNorm scales count."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + scale * rng.normal(size=p.shape).astype(np.float32), params)


def numpy_gpt(p, tokens, config):
    """GPT-2 written down again, in float64."""

    def norm(x, ln):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * ln["scale"] + ln["bias"]

    def linear(x, w):
        return x @ w["kernel"] + w["bias"]

    x = p["wte"]["embedding"][tokens] + p["wpe"]["embedding"][: tokens.shape[1]]
    for i in range(config.n_layer):
        block = p["blocks"][i]
        q, k, v = np.split(linear(norm(x, block["ln_1"]), block["attn"]["qkv"]), 3, axis=-1)
        heads = []
        for q_h, k_h, v_h in zip(*(np.split(m, config.n_head, -1) for m in (q, k, v)), strict=True):
            scores = q_h @ k_h.swapaxes(-1, -2) / math.sqrt(q_h.shape[-1])
            weights = np.exp(scores) * np.tril(np.ones(scores.shape[-2:]))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v_h)
        x = x + linear(np.concatenate(heads, -1), block["attn"]["proj"])
        h = linear(norm(x, block["ln_2"]), block["mlp"]["fc"])
        h = h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2
        x = x + linear(h, block["mlp"]["proj"])
    return norm(x, p["ln_f"]) @ p["wte"]["embedding"].T


def test_logits_equal_the_numpy_twin():
    graph, params = model.create(SMALL, VOCAB, seed=0)
    params = with_noise(params)
    expected = numpy_gpt(jax.tree.map(np.float64, params), TOKENS, SMALL)
    logits = jax.jit(lambda params: model.apply(graph, params, TOKENS))(params)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-5)


def test_a_position_sees_itself_and_those_before_it_only():
    graph, params = model.create(SMALL, VOCAB, seed=0)
    params = with_noise(params)

    def logit_sums(wpe):  # One number a position.
        moved = params | {"wpe": {"embedding": wpe}}
        return jnp.square(model.apply(graph, moved, TOKENS)).sum((0, 2))

    sees_LxLxD = jax.jit(jax.jacobian(logit_sums))(params["wpe"]["embedding"])
    sees_LxL = np.abs(sees_LxLxD).sum(-1) > 0
    np.testing.assert_array_equal(sees_LxL, np.tril(np.ones((6, 6), bool)))


@pytest.mark.parametrize(("vocab", "count"), [(50_257, 124_439_808), (50_304, 124_475_904)])
def test_gpt2_small_has_124_million_parameters(vocab, count):
    config = Config(n_layer=12, n_head=12, n_embd=768, block_size=1024, bias=True)
    shapes = model.shapes(config, vocab)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def std(leaf):
    return float(jnp.std(leaf))


def test_initial_weights_have_the_standard_deviations_of_gpt2():
    config = Config(n_layer=2, n_head=2, n_embd=128, block_size=64, bias=True, weight_tying=False)
    _, params = model.create(config, 500, seed=0)
    block = params["blocks"][1]
    plain = [params["wte"]["embedding"], params["wpe"]["embedding"], params["lm_head"]["kernel"]]
    plain += [block["attn"]["qkv"]["kernel"], block["mlp"]["fc"]["kernel"]]
    assert [std(leaf) for leaf in plain] == pytest.approx([0.02] * 5, rel=0.03)
    residual = [block["attn"]["proj"]["kernel"], block["mlp"]["proj"]["kernel"]]
    assert [std(leaf) for leaf in residual] == pytest.approx([0.02 / math.sqrt(4)] * 2, rel=0.03)
    for part in (block["attn"]["qkv"], block["mlp"]["proj"], block["ln_1"]):
        assert not part["bias"].any()
    assert (params["ln_f"]["scale"] == 1).all()


def test_custom_init_scales_by_fan_in():
    config = Config(n_layer=2, n_head=2, n_embd=64, block_size=64, custom_init=True)
    _, params = model.create(config, 500, seed=0)
    block = params["blocks"][0]
    found = [
        params["wte"]["embedding"],
        block["attn"]["qkv"]["kernel"],
        block["attn"]["proj"]["kernel"],
        block["mlp"]["proj"]["kernel"],
    ]
    wanted = [1 / math.sqrt(2 * 64), 1 / 64, 1 / 64, 1 / 256]
    assert [std(leaf) for leaf in found] == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learnable_ln", [True, False])
def test_options_decide_which_parameters_exist(bias, learnable_ln):
    config = dataclasses.replace(SMALL, bias=bias, learnable_ln=learnable_ln)
    flat = jax.tree_util.tree_flatten_with_path(model.shapes(config, VOCAB))[0]
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat}
    assert {"wte/embedding", "wpe/embedding", "blocks/1/mlp/fc/kernel"} <= paths
    assert ("blocks/0/attn/qkv/bias" in paths) == bias
    assert ("ln_f/scale" in paths) == learnable_ln
    assert ("ln_f/bias" in paths) == (bias and learnable_ln)


def test_dropout_needs_a_key_and_follows_it():
    graph, params = model.create(dataclasses.replace(SMALL, dropout=0.5), VOCAB, seed=0)
    params = with_noise(params)
    logits = [model.apply(graph, params, TOKENS, k) for k in (None, jax.random.key(0))]
    again = model.apply(graph, params, TOKENS, jax.random.key(0))
    other = model.apply(graph, params, TOKENS, jax.random.key(1))
    assert (logits[1] == again).all()
    assert not jnp.allclose(logits[0], logits[1])
    assert not jnp.allclose(logits[1], other)


def test_bfloat16_computes_near_float32_with_float32_weights():
    graph, params = model.create(SMALL, VOCAB, seed=0)
    low, low_params = model.create(dataclasses.replace(SMALL, dtype="bfloat16"), VOCAB, seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(low_params)} == {jnp.dtype("float32")}
    logits = model.apply(low, low_params, TOKENS)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, model.apply(graph, params, TOKENS), atol=0.01)
