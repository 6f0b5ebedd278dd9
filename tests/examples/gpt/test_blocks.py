"""LLaMA's and Qwen's blocks against a float64 NumPy twin, layers by scan, remat, adapters."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wdlab
from examples.gpt import lora, model
from examples.gpt.config import Config
from examples.gpt.step import losses
from examples.runs.errors import UserError
from examples.runs.hlo import matmul_flops
from tests.examples.gpt.test_model import TOKENS, VOCAB
from wdlab.rules import leaves_with_paths

LLAMA = Config(
    block="llama", n_layer=2, n_head=4, n_kv_head=2, n_embd=16, n_inner=24, block_size=6,
    weight_tying=False,
)  # fmt: skip
GPT2 = Config(n_layer=2, n_head=2, n_embd=8, block_size=6, bias=True)
QWEN = dataclasses.replace(LLAMA, block="qwen", weight_tying=True)

# Half the time to compile, or a quarter with dropout; the programs run for a millisecond.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_params(config):
    """Weights away from their initial values, so that biases, norms and adapters count."""
    rng = np.random.default_rng(1)
    dtype = np.promote_types(np.float32, config.dtype)
    return jax.tree.map(
        lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(dtype) + (leaf.ndim == 1),
        model.shapes(config, VOCAB),
    )


def logits_of(config, params):
    graph = model.make_graph(config, VOCAB)
    return jit(lambda params: model.apply(graph, params, TOKENS))(params)


def numpy_llama(p, tokens, config):
    """LLaMA (and Qwen2) written down again, head by head, in float64."""
    width, share = config.n_embd // config.n_head, config.n_head // config.kv_heads

    def norm(x, ln):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * ln["scale"]

    def rotate(x):  # Pairs as complex numbers, turned.
        x = x[..., : width // 2] + 1j * x[..., width // 2 :]
        frequency = config.rope_theta ** (-2 * np.arange(width // 2) / width)
        x = x * np.exp(1j * np.arange(x.shape[1])[:, None] * frequency)
        return np.concatenate([x.real, x.imag], -1)

    x = p["wte"]["embedding"][tokens]
    for i in range(config.n_layer):
        attn, mlp = p["blocks"][i]["attn"], p["blocks"][i]["mlp"]
        qkv = norm(x, p["blocks"][i]["ln_1"]) @ attn["qkv"]["kernel"] + attn["qkv"].get("bias", 0)
        parts = np.split(qkv, config.n_head + 2 * config.kv_heads, -1)
        keys, values = parts[config.n_head : -config.kv_heads], parts[-config.kv_heads :]
        heads = []
        for h, q in enumerate(parts[: config.n_head]):
            scores = rotate(q) @ rotate(keys[h // share]).swapaxes(-1, -2) / math.sqrt(width)
            weights = np.exp(scores) * np.tril(np.ones(scores.shape[-2:]))
            heads.append(weights / weights.sum(-1, keepdims=True) @ values[h // share])
        x = x + np.concatenate(heads, -1) @ attn["proj"]["kernel"]
        h = norm(x, p["blocks"][i]["ln_2"])
        gate = h @ mlp["gate"]["kernel"]
        x = x + gate / (1 + np.exp(-gate)) * (h @ mlp["fc"]["kernel"]) @ mlp["proj"]["kernel"]
    head = p["wte"]["embedding"].T if config.weight_tying else p["lm_head"]["kernel"]
    return norm(x, p["ln_f"]) @ head


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=lambda c: c.block)
def test_logits_equal_the_numpy_twin(config, x64):
    config = dataclasses.replace(config, dtype="float64")  # And float64 weights with it.
    params = random_params(config)
    expected = numpy_llama(params, TOKENS, config)
    np.testing.assert_allclose(logits_of(config, params), expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("config", "biases"),
    [(LLAMA, set()), (QWEN, {f"blocks/{i}/attn/qkv/bias" for i in range(2)})],
    ids=["llama", "qwen"],
)
def test_the_default_rules_exempt_norms_and_biases(config, biases):
    shapes = model.shapes(config, VOCAB)
    decided = wdlab.rules.decisions(shapes, wdlab.rules.NO_BIAS_OR_NORM)
    norms = {f"blocks/{i}/ln_{j}/scale" for i in range(2) for j in (1, 2)} | {"ln_f/scale"}
    assert {d.path for d in decided if not d.scale} == norms | biases
    include = wdlab.rules.containing(Config().wd_substrings_include)
    assert {d.path for d in wdlab.rules.decisions(shapes, include) if not d.scale} == norms


def test_llama_7b_has_its_size():
    from examples.gpt.configs import CONFIGS

    shapes = model.shapes(CONFIGS["llama_7b"](), 32_000)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 6_738_415_616


def stacked(params):
    """The params of a model with scan_layers, from those of one without."""
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"].values())
    return params | {"blocks": blocks}


def test_scan_and_remat_change_neither_loss_nor_gradient():
    config = dataclasses.replace(QWEN, dropout=0.1)
    params = random_params(config)

    def value_and_grad(params, **change):
        graph = model.make_graph(dataclasses.replace(config, **change), VOCAB)
        loss = lambda p: losses(graph, p, TOKENS, jax.random.key(0))[0]  # noqa: E731
        return jit(jax.value_and_grad(loss))(params)

    loss, grads = value_and_grad(params)
    again = value_and_grad(params, remat="dots")
    by_scan = value_and_grad(stacked(params), remat="full", scan_layers=True)
    for found, wanted in ((again, (loss, grads)), (by_scan, (loss, stacked(grads)))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)


def test_remat_computes_again_what_its_name_says():
    def flops(remat):
        config = dataclasses.replace(GPT2, remat=remat)
        loss = lambda p: losses(model.make_graph(config, VOCAB), p, TOKENS)[0]  # noqa: E731
        return matmul_flops(jax.make_jaxpr(jax.grad(loss))(model.shapes(config, VOCAB)).jaxpr)

    assert flops("none") == flops("dots") < flops("dots_no_batch") < flops("full")
    assert flops(True) == flops("full")
    assert flops(False) == flops("none")


def test_scanned_blocks_are_initialized_one_by_one_and_decay_as_before():
    config = dataclasses.replace(GPT2, scan_layers=True)
    _, params = model.create(config, VOCAB, seed=0)
    kernel = params["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.shape == (2, 8, 24)
    assert not jnp.allclose(kernel[0], kernel[1])
    for rules in (wdlab.rules.NO_BIAS_OR_NORM, wdlab.rules.NANOGPT, wdlab.rules.MINGPT):
        scales = dict(leaves_with_paths(wdlab.decay_scales(params, rules)))
        assert scales["blocks/attn/qkv/kernel"] == 1
        assert scales["blocks/attn/qkv/bias"] == scales["blocks/ln_1/scale"] == 0
    with pytest.raises(UserError, match="NANOGPT"):
        dataclasses.replace(config, rules="MATRICES_ONLY").check()


def test_adapters_start_at_zero():
    _, params = model.create(dataclasses.replace(GPT2, n_layer=1, lora_rank=2), VOCAB, seed=0)
    adapters = {p: x for p, x in leaves_with_paths(params) if "lora" in p}
    assert len(adapters) == 8
    assert all(bool(x.any()) == ("lora_a" in path) for path, x in adapters.items())


@pytest.mark.parametrize("scan", [False, True])
def test_adapters_train_alone_and_merge(scan):
    config = dataclasses.replace(LLAMA, n_layer=1, lora_rank=2, lora_alpha=6.0, scan_layers=scan)
    graph, params = model.make_graph(config, VOCAB), random_params(config)
    grads = jit(jax.grad(lambda p: losses(graph, p, TOKENS)[0]))(params)
    for path, grad in leaves_with_paths(grads):
        assert bool(grad.any()) == ("lora" in path), path

    plain = dataclasses.replace(config, lora_rank=0)
    merged = lora.merge_adapters(params, scale=3.0)
    assert jax.tree.structure(merged) == jax.tree.structure(model.shapes(plain, VOCAB))
    expected = logits_of(config, params)
    np.testing.assert_allclose(logits_of(plain, merged), expected, rtol=1e-3, atol=1e-4)
    without = logits_of(plain, lora.merge_adapters(params, scale=0.0))
    assert not np.allclose(without, expected, atol=0.1)


def test_every_rule_takes_adapters_for_matrices_and_the_lora_groups_find_them():
    shapes = model.shapes(dataclasses.replace(QWEN, lora_rank=2), VOCAB)
    for rules in (wdlab.rules.NO_BIAS_OR_NORM, wdlab.rules.KERNELS_ONLY, wdlab.rules.MINGPT):
        scales = dict(leaves_with_paths(wdlab.decay_scales(shapes, rules)))
        assert {scale for path, scale in scales.items() if "lora" in path} == {1.0}
    assigned = wdlab.groups.assign_groups(shapes, wdlab.groups.lora(1e-3))
    assert all(group.frozen != ("lora" in path) for path, _, group in assigned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": True}, "--block llama has no biases: add --bias=False"),
        ({"n_kv_head": 3}, "--n_head 4 is not divisible by --n_kv_head 3"),
        ({"n_head": 16, "n_kv_head": None}, "must be even for rotary positions"),
        ({"lora_rank": -1}, "--lora_rank must be at least 0"),
        ({"n_inner": 0}, "--n_inner must be positive"),
    ],
)
def test_wrong_models_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(LLAMA, **change).check()
