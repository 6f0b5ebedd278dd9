"""Models of several libraries, and what each of their leaves is: by the names that they give.

A case is (loss, abstract parameters, abstract batch, patterns): the first pattern that matches a
path says its role. The roles are found without names; here names are the answer.
"""

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from examples.gpt import config as gpt_config
from examples.gpt import model as gpt_model
from examples.gpt import step as gpt_step
from examples.resnet import config as resnet_config
from examples.resnet import model as resnet_model
from tests.public_programs import PROGRAMS, floats, ints

cross_entropy = optax.softmax_cross_entropy_with_integer_labels
BEFORE, AFTER = "scale, before a matrix", "scale, after a matrix"
GPT = (
    ("wte/embedding", "embedding, head"),
    ("wpe/embedding", "position"),
    ("lm_head/kernel", "head"),
    (".*/bias", "bias"),
    (".*scale", BEFORE),
    (".*/kernel", "matrix"),
)


def gpt(patterns=GPT, **settings):
    """Our GPT."""
    small = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 6}
    config = gpt_config.Config(**small | settings)
    graph = gpt_model.make_graph(config, 10)

    def loss(params, tokens, key):
        return gpt_step.losses(graph, params, tokens, key if config.dropout else None)

    return loss, gpt_model.shapes(config, 10), (ints(3, 7), jax.random.key(0)), patterns


def resnet(name, patterns, train=True, **settings):
    """The image models, in training unless said otherwise."""
    config = resnet_config.Config(model=name, width=4, **settings)
    graph, params, stats = resnet_model.shapes(config, 5, 32)

    def loss(params, stats, x, y):
        if train:
            return cross_entropy(resnet_model.apply_train(graph, params, stats, x)[0], y).mean()
        return cross_entropy(resnet_model.apply(graph, params, stats, x), y).mean()

    return loss, params, (stats, floats(8, 32, 32, 3), ints(8)), patterns


class LinenBlock(nn.Module):
    """Post- and pre-norm attention with grouped dimensions, as Flax writes it."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm(name="ln_1")(x)
        gate = self.param("layer_scale", nn.initializers.ones, (8,))
        x += gate * nn.MultiHeadDotProductAttention(2, name="attn", normalize_qk=True)(y)
        y = nn.gelu(nn.Dense(16, name="fc")(nn.RMSNorm(name="ln_2")(x)))
        y = nn.Dense(8, name="proj", use_bias=False)(y)
        return x + nn.LayerNorm(name="post", use_bias=False)(y), None


class LinenTransformer(nn.Module):
    """Two blocks under nn.scan, a learned position embedding, a token in front."""

    scan: bool
    vit: bool

    @nn.compact
    def __call__(self, x):
        if self.vit:
            x = nn.Conv(8, (4, 4), strides=(4, 4), name="patches")(x)
            x = x.reshape(len(x), -1, 8)
            token = self.param("cls", nn.initializers.zeros, (1, 1, 8))
            x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
            x += self.param("position", nn.initializers.normal(), (1, x.shape[1], 8))
        else:
            embed = nn.Embed(10, 8, name="embed")
            x = embed(x) + nn.Embed(6, 8, name="position")(jnp.arange(x.shape[1]))
        if self.scan:
            split = {"params": True}
            make = nn.scan(LinenBlock, {"params": 0}, split_rngs=split, length=2)
            x, _ = make(name="blocks")(x)
        else:
            for i in range(2):
                x, _ = LinenBlock(name=f"blocks_{i}")(x)
        x = nn.LayerNorm(name="ln_f")(x)
        return nn.Dense(5, name="head")(x[:, 0] if self.vit else x)


LINEN = (
    ("position(/embedding)?", "position"),
    ("embed/embedding", "embedding"),
    ("cls", "embedding, token"),
    ("patches/kernel", "kernel"),
    ("head/kernel", "head"),
    (".*layer_scale", "gate"),
    (".*(query|key)_ln/scale", AFTER),
    (".*post/scale", AFTER),
    (".*proj/kernel", "matrix, scale-invariant"),
    (".*bias", "bias"),
    (".*scale", BEFORE),
    (".*/kernel", "matrix"),
)


def linen(scan, vit):
    model = LinenTransformer(scan, vit)
    x = floats(3, 8, 8, 3) if vit else ints(3, 6)
    y = ints(3) if vit else ints(3, 6)
    params = jax.eval_shape(model.init, jax.random.key(0), x)

    def loss(params, x, y):
        return cross_entropy(model.apply(params, x), y).mean()

    return loss, params, (x, y), tuple((f"params/{p}", role) for p, role in LINEN)


class ViT(eqx.Module):
    """A ViT of one example at a time, as Equinox's tutorial writes it."""

    patches: eqx.nn.Linear
    position: jax.Array
    cls: jax.Array
    norms: list
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.patches = eqx.nn.Linear(48, 8, key=keys[0])
        self.position, self.cls = jnp.zeros((5, 8)), jnp.zeros((1, 8))
        self.norms = [eqx.nn.LayerNorm(8), eqx.nn.LayerNorm(8), eqx.nn.RMSNorm(8)]
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=keys[1])
        self.mlp = eqx.nn.MLP(8, 8, 16, 1, activation=jax.nn.gelu, key=keys[2])
        self.head = eqx.nn.Linear(8, 5, key=keys[3])

    def __call__(self, x):
        x = x.reshape(2, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, 48)
        x = jnp.concatenate([self.cls, jax.vmap(self.patches)(x)]) + self.position
        y = jax.vmap(self.norms[0])(x)
        x += self.attention(y, y, y)
        x += jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))
        return self.head(self.norms[2](x[0]))


def equinox_vit():
    model = eqx.filter_eval_shape(ViT, jax.random.key(0))

    def loss(model, x, y):
        return cross_entropy(jax.vmap(model)(x), y).mean()

    patterns = (
        ("position", "position"),
        ("cls", "embedding, token"),
        ("norms/./bias", "bias"),
        ("norms/./weight", BEFORE),
        ("head/weight", "head"),
        (".*/weight", "matrix"),
        (".*/bias", "bias"),
    )
    return loss, model, (floats(3, 8, 8, 3), ints(3)), patterns


def equinox_mlp():
    model = eqx.filter_eval_shape(lambda key: eqx.nn.MLP(4, 1, 8, 2, key=key), jax.random.key(0))

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    patterns = (("layers/2/weight", "head"), (".*/weight", "matrix"), (".*/bias", "bias"))
    return loss, model, (floats(3, 4), floats(3, 1)), patterns


def haiku():
    """Convolution, BatchNorm, LSTM over time, Linear."""

    def forward(x, y):
        x = hk.Conv2D(8, 3, name="conv")(x)
        x = hk.BatchNorm(True, True, 0.9, name="batch_norm")(x, True)
        x = jax.nn.relu(x).mean(1)
        lstm = hk.LSTM(4, name="lstm")
        x, _ = hk.dynamic_unroll(lstm, x, lstm.initial_state(len(x)), time_major=False)
        x = hk.LayerNorm(-1, True, True, name="layer_norm")(x[:, -1])
        return cross_entropy(hk.Linear(5, name="logits")(x), y).mean()

    model = hk.transform_with_state(forward)
    batch = floats(3, 4, 6, 3), ints(3)
    params, state = jax.eval_shape(model.init, jax.random.key(0), *batch)

    def loss(params, state, x, y):
        return model.apply(params, state, None, x, y)

    patterns = (
        ("conv/w", "kernel, scale-invariant"),
        ("batch_norm/scale", AFTER),
        ("conv/b", "bias, scale-invariant"),
        (".*/(b|offset)", "bias"),
        ("layer_norm/scale", BEFORE),
        ("lstm/.*/w", "matrix"),
        ("logits/w", "head"),
    )
    return loss, params, (state, *batch), patterns


PLAIN_RESNET = (
    (".*norm.*/bias|head/bias", "bias"),
    ("head/kernel", "head"),
    (".*/scale", AFTER),
    (".*/kernel", "kernel, scale-invariant"),
)
PREACT = (
    (".*bias", "bias"),
    ("head/kernel", "head"),
    # In a block the second norm comes after the first convolution, which it makes invariant.
    (".*norm2/scale|stages/0/0/norm1/scale", AFTER),
    ("norm_in/scale", BEFORE),
    (".*scale", "scale"),
    (".*conv1/kernel", "kernel, scale-invariant"),
    (".*/kernel", "kernel"),
)
# BatchNorm subtracts the bias before it: neither it nor the kernel's size matters.
VGG = (
    ("convs/.*bias", "bias, scale-invariant"),
    (".*bias", "bias"),
    ("head/kernel", "head"),
    (".*/scale", AFTER),
    ("convs/.*", "kernel, scale-invariant"),
    ("linears/.*", "matrix"),
)
INVARIANT_VGG = (
    ("head/kernel", "head, no gradient"),
    ("head/bias", "bias, no gradient"),
    (".*/bias", "bias, scale-invariant"),
    ("convs/.*", "kernel, scale-invariant"),
    ("linears/.*", "matrix, scale-invariant"),
)


def public(make):
    program = make()
    return program.loss, program.params, program.batch, program.roles


CASES = {
    "GPT": gpt,
    "GPT, biases, dropout, scan": lambda: gpt(bias=True, dropout=0.1, scan_layers=True),
    "GPT, untied, remat": lambda: gpt(
        (("wte/.*", "embedding"), *GPT), weight_tying=False, remat="full", dtype="bfloat16"
    ),
    "LLaMA": lambda: gpt(block="llama", n_kv_head=1),
    "Qwen, scan": lambda: gpt(block="qwen", scan_layers=True),
    "LoRA": lambda: gpt(
        (
            (".*/lora_[ab]/kernel", "matrix"),
            *((pattern, f"{role}, no gradient") for pattern, role in GPT),
        ),
        lora_rank=2,
    ),
    "ResNet, pre-activation": lambda: resnet("resnet_tiny", PREACT),
    "ResNet, plain": lambda: resnet("resnet18_plain", PLAIN_RESNET),
    "ResNet, evaluated": lambda: resnet(
        "resnet18_plain",
        # Statistics that are given divide nothing by the size of the weights.
        ((".*/scale", "scale"), *PLAIN_RESNET[:2], (".*/kernel", "kernel")),
        train=False,
    ),
    "VGG": lambda: resnet("vgg16", VGG, batch_norm=True),
    "VGG, scale-invariant": lambda: resnet("vgg16", INVARIANT_VGG, batch_norm=True, scale_inv=True),
    "Linen": lambda: linen(scan=False, vit=False),
    "Linen, scan": lambda: linen(scan=True, vit=False),
    "Linen ViT": lambda: linen(scan=True, vit=True),
    "Equinox MLP": equinox_mlp,
    "Equinox ViT": equinox_vit,
    "Haiku": haiku,
    **{name: functools.partial(public, make) for name, make in PROGRAMS.items()},
}
