"""The forms of attention: which is used where, and that the kernels agree with the plain one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from examples.gpt import attention, kernels, model
from examples.gpt.config import Config
from examples.gpt.flags import parse
from examples.runs.errors import UserError
from examples.runs.mesh import AXES, make_mesh
from examples.runs.slices import devices_of

CONFIG = Config(n_layer=1, n_head=2, n_embd=128, block_size=128, dtype="bfloat16")
bfloat16 = jnp.dtype(jnp.bfloat16)


def heads(length=128, n=4, groups=2, width=16, batch=1, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(batch, length, g, width) for g in (n, groups, groups)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    "form",
    [
        lambda *q_k_v: kernels.splash_attention(*q_k_v, interpret=True),
        lambda *q_k_v: jax.nn.dot_product_attention(*q_k_v, is_causal=True, implementation="xla"),
    ],
    ids=["splash", "dot_product_attention"],
)
def test_the_kernels_agree_with_the_plain_form_and_its_gradient(form):
    q_k_v = heads()
    weight = np.random.default_rng(1).normal(size=q_k_v[0].shape)

    def value_and_grad(form):
        loss = lambda *q_k_v: (form(*q_k_v) * weight).sum()  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(*q_k_v)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(close, value_and_grad(form), value_and_grad(attention.plain))


@pytest.fixture
def used(monkeypatch):
    """Which kernels were called, on platforms that are not here."""
    calls = []

    def kernel(name):
        def run(q, k, v, **_):
            calls.append(name)
            return attention.plain(q, k, v)

        return run

    monkeypatch.setattr(kernels, "splash_attention", kernel("splash"))
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel("cudnn"))
    monkeypatch.setattr(kernels, "_gpu_obstacle", lambda: "")
    return calls


def on(monkeypatch, name):
    model._abstract.cache_clear()  # A model is traced once, and refused then.
    for module in (attention, kernels):
        monkeypatch.setattr(module, "platform", lambda: name)


@pytest.mark.parametrize(
    ("platform", "change", "expected"),
    [
        ("tpu", {}, ["splash"]),
        ("tpu", {"dtype": "float32"}, ["splash"]),
        ("tpu", {"block_size": 130}, []),
        ("tpu", {"attention": "plain"}, []),
        ("tpu", {"attention": "flash"}, ["splash"]),
        ("gpu", {}, ["cudnn"]),
        ("gpu", {"block_size": 130}, ["cudnn"]),
        ("gpu", {"dtype": "float32"}, []),
        ("gpu", {"n_head": 32}, []),
        ("cpu", {}, []),
    ],
)
def test_auto_takes_the_kernel_of_the_platform_where_it_can(
    platform, change, expected, used, monkeypatch
):
    on(monkeypatch, platform)
    config = dataclasses.replace(CONFIG, **change)
    shapes = model.shapes(config, 11)
    tokens = jax.ShapeDtypeStruct((1, config.block_size), jnp.int32)
    jax.eval_shape(lambda p, t: model.apply(model.make_graph(config, 11), p, t), shapes, tokens)
    assert used == expected


def test_dropout_and_a_cache_take_the_plain_form(used, monkeypatch):
    on(monkeypatch, "tpu")
    config = dataclasses.replace(CONFIG, dropout=0.1)
    model_of = lambda p: model.merge(model.make_graph(config, 11), p)  # noqa: E731
    shapes, tokens = model.shapes(config, 11), jnp.zeros((1, 128), jnp.int32)
    jax.eval_shape(lambda p: model_of(p)(tokens, jax.random.key(0)), shapes)
    jax.eval_shape(
        lambda p: model_of(p).features(tokens, None, model_of(p).empty_caches(1)), shapes
    )
    assert used == []
    jax.eval_shape(lambda p: model_of(p)(tokens), shapes)
    assert used == ["splash"]


@pytest.mark.parametrize(
    ("platform", "change", "reason"),
    [
        ("cpu", {}, "there is no flash kernel for a cpu; write --attention auto"),
        ("tpu", {"block_size": 1000}, "a sequence of 1000 tokens is no multiple of 128"),
        ("tpu", {"dtype": "float16"}, "splash attention has no float16"),
        ("tpu", {"dropout": 0.1}, "it has no --dropout (0.1)"),
        ("gpu", {"dtype": "float32"}, "cuDNN's kernel has no float32"),
        ("gpu", {"n_head": 32}, "a multiple of 8 and at most 128, not 4"),
    ],
)
def test_a_kernel_that_is_not_there_is_refused_by_name(platform, change, reason, monkeypatch):
    on(monkeypatch, platform)
    config = dataclasses.replace(CONFIG, attention="flash", **change)
    with pytest.raises(UserError) as error:
        model.shapes(config, 11)
    assert str(error.value).startswith("--attention flash: ")
    assert reason in str(error.value)


def test_an_unknown_form_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="flash") as error:
        parse(["tiny", "--attention", "splash"])
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("tpu_compiler")
def test_on_a_mesh_of_tpus_each_chip_attends_to_its_own_sequences():
    pytest.importorskip("libtpu")
    mesh = make_mesh(1, 4, devices_of("v5e:2x2"))
    where = NamedSharding(mesh, PartitionSpec(AXES))
    q_k_v = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        for x in heads(batch=8, width=64, dtype=bfloat16)
    ]
    with jax.set_mesh(mesh):
        assert kernels.obstacle("tpu", 128, 64, bfloat16) == ""
        program = jax.jit(lambda *x: attention.causal(*x, "auto")).trace(*q_k_v).lower().as_text()
    kernel = next(line for line in program.splitlines() if "tpu_custom_call" in line)
    assert "tensor<2x4x" in kernel  # Two of the eight sequences.
