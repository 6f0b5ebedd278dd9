"""Small versions of programs that others have published: their modules, names, numbers.

Written here after reading them: the same tree of modules, the same kinds of leaves, the same loss
and the same optimizer with its settings; narrower, and of two layers. Read at: nanodo 10aefde
(model.py, optimizer.py, configs/default.py), Flax 18f8f31 (examples/lm1b, examples/mnist,
docs_nnx/mnist_tutorial, docs_nnx/examples/minigpt), dm-haiku f4d858a (examples/transformer),
Equinox 9336d82 (docs/examples/mnist).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

cross_entropy = optax.softmax_cross_entropy_with_integer_labels
BEFORE, AFTER = "scale, before a matrix", "scale, after a matrix"
VOCABULARY, LENGTH, WIDTH, HEADS = 10, 6, 8, 2


class Program(NamedTuple):
    """A program as the instruments are given it."""

    tx: Any
    params: Any
    steps: int
    loss: Callable[..., Any]
    batch: tuple[Any, ...]
    roles: tuple[tuple[str, str], ...]  # Pattern of a path -> role; the first that matches.


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def rsqrt(learning_rate, warmup):
    """Flax's schedule of the Transformers: linear, then one over the square root."""
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, learning_rate, warmup),
            lambda count: learning_rate * (count + warmup) ** -0.5 * warmup**0.5,
        ],
        [warmup],
    )


class CausalAttn(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.xavier_uniform(), ("data", None, None))
        dense = functools.partial(
            nn.DenseGeneral, kernel_init=init, use_bias=False, dtype=jnp.bfloat16
        )
        q, k, v = (dense((HEADS, 4), name=name)(x) for name in ("query", "key", "value"))
        scores = jnp.einsum("...qhd,...khd->...hqk", q / 2.0, k).astype(jnp.float32)
        lower = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(lower, scores, jnp.finfo(jnp.bfloat16).min)
        weights = jax.nn.softmax(scores).astype(jnp.bfloat16)
        out = jnp.einsum("...hqk,...khd->...qhd", weights, v)
        return dense(WIDTH, axis=(-2, -1), name="attn_out_proj")(out)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = functools.partial(nn.Dense, use_bias=False, dtype=jnp.bfloat16)
        return dense(WIDTH)(jax.nn.gelu(dense(4 * WIDTH)(x)))


class TBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.LayerNorm, use_bias=False, dtype=jnp.bfloat16)
        x += CausalAttn()(norm()(x))
        return x + Mlp()(norm()(x))


class TransformerDo(nn.Module):
    def setup(self):
        init = nn.with_partitioning(nn.initializers.normal(), (None, "data"))
        self.embed = nn.Embed(VOCABULARY, WIDTH, embedding_init=init)
        self.pos_embed = nn.Embed(LENGTH, WIDTH, embedding_init=init)
        self.blocks = [TBlock() for _ in range(2)]
        self.out_ln = nn.LayerNorm(use_bias=False, dtype=jnp.bfloat16)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.pos_embed(jnp.arange(tokens.shape[1])[None])
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.out_ln(x).astype(jnp.float32))


def nanodo():
    """Boxed parameters, a mask that is a function and exempts nothing, MultiSteps of 1."""
    model = TransformerDo()
    params = jax.eval_shape(model.init, jax.random.key(0), ints(2, LENGTH))
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.00016, 0.0016, 1000),
            optax.cosine_decay_schedule(0.0016, 99_000, alpha=0.1),
        ],
        [1000],
    )
    tx = optax.adamw(
        rate,
        b1=0.9,
        b2=0.98,
        eps=1e-9,
        weight_decay=0.1,
        mask=lambda params: jax.tree_util.tree_map_with_path(lambda *_: True, params),
    )

    def loss(params, x, y):
        return cross_entropy(model.apply(params, x), y).mean()

    roles = (
        (".*/pos_embed/embedding", "position"),
        (".*/embed/embedding", "embedding, head"),
        (".*/scale", BEFORE),
        (".*/kernel", "matrix"),
    )
    batch = ints(2, LENGTH), ints(2, LENGTH)
    return Program(optax.MultiSteps(tx, 1), params, 100_000, loss, batch, roles)


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH)(nn.Dropout(0.1, deterministic=False)(nn.relu(nn.Dense(16)(x))))


class EncoderDecoder1DBlock(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        attention = nn.MultiHeadDotProductAttention(
            HEADS, use_bias=False, broadcast_dropout=False, dropout_rate=0.1, deterministic=False
        )
        x += nn.Dropout(0.1, deterministic=False)(attention(nn.LayerNorm()(x), mask=mask))
        return x + MlpBlock()(nn.LayerNorm()(x))


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        mask = nn.combine_masks(
            nn.make_attention_mask(tokens > 0, tokens > 0), nn.make_causal_mask(tokens)
        )
        shifted = jnp.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        x = nn.Embed(VOCABULARY, WIDTH, embedding_init=init)(shifted)
        angles = np.arange(tokens.shape[1])[:, None] / 10_000 ** (np.arange(4) / 4)
        x += jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)[None]
        for layer in range(2):
            x = EncoderDecoder1DBlock(name=f"encoderdecoderblock_{layer}")(x, mask)
        x = nn.LayerNorm(name="encoderdecoder_norm")(x)
        return nn.Dense(VOCABULARY, name="logitdense")(x)


class TransformerLM(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return Decoder(name="decoder")(tokens)


def lm1b():
    """Sinusoidal positions, dropout, a bias at the head; everything decays."""
    model = TransformerLM()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.eval_shape(model.init, keys, ints(2, LENGTH))["params"]
    tx = optax.adamw(rsqrt(0.0016, 1000), b1=0.9, b2=0.98, eps=1e-9, weight_decay=0.1)

    def loss(params, tokens, key):
        logits = model.apply({"params": params}, tokens, rngs={"dropout": key})
        weights = (tokens > 0).astype(jnp.float32)
        return (cross_entropy(logits, tokens) * weights).sum() / weights.sum()

    roles = (
        (".*/Embed_0/embedding", "embedding"),
        (".*/logitdense/kernel", "head"),
        (".*/bias", "bias"),
        (".*/scale", BEFORE),
        (".*/kernel", "matrix"),
    )
    return Program(tx, params, 500_000, loss, (ints(2, LENGTH), jax.random.key(0)), roles)


class CNN(nnx.Module):
    """Dropout stands before the first BatchNorm, so the first kernel is not scale-invariant."""

    def __init__(self, *, rngs):
        self.conv1 = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(4, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025)
        self.conv2 = nnx.Conv(4, 8, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(8, rngs=rngs)
        self.avg_pool = functools.partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(392, 16, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025)
        self.linear2 = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x, rngs):
        x = self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))
        x = self.avg_pool(nnx.relu(x))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = nnx.relu(self.dropout2(self.linear1(x.reshape(len(x), -1)), rngs=rngs))
        return self.linear2(x)


def flax_mnist(tx, steps):
    """A whole nnx model: statistics and keys stand beside the parameters."""
    model = nnx.eval_shape(lambda: CNN(rngs=nnx.Rngs(0)))

    def loss(model, x, y, key):
        model = nnx.view(model, deterministic=False, use_running_average=False)
        return cross_entropy(model(x, nnx.Rngs(key)), y).mean()

    roles = (
        ("conv2/bias", "bias, scale-invariant"),
        (".*/bias", "bias"),
        (".*/scale", AFTER),
        ("conv1/kernel", "kernel"),
        ("conv2/kernel", "kernel, scale-invariant"),
        ("linear1/kernel", "matrix"),
        ("linear2/kernel", "head"),
    )
    batch = floats(2, 28, 28, 1), ints(2), jax.random.key(0)
    return Program(tx, model, steps, loss, batch, roles)


class TransformerBlock(nnx.Module):
    def __init__(self, *, rngs):
        self.mha = nnx.MultiHeadAttention(num_heads=HEADS, in_features=WIDTH, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.1, rngs=rngs)
        self.layer_norm1 = nnx.LayerNorm(epsilon=1e-6, num_features=WIDTH, rngs=rngs)
        self.mlp = nnx.Sequential(
            nnx.Linear(WIDTH, WIDTH, rngs=rngs),
            nnx.relu,
            nnx.Linear(WIDTH, WIDTH, rngs=rngs),
            nnx.Dropout(rate=0.1, rngs=rngs),
        )
        self.layer_norm2 = nnx.LayerNorm(epsilon=1e-6, num_features=WIDTH, rngs=rngs)

    def __call__(self, x):
        attention = self.mha(inputs_q=x, is_causal=True, decode=False)
        x = self.layer_norm1(x + self.dropout1(attention))
        return self.layer_norm2(x + self.mlp(x))


class TokenAndPositionEmbedding(nnx.Module):
    def __init__(self, *, rngs):
        self.token_emb = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.pos_emb = nnx.Embed(LENGTH, WIDTH, rngs=rngs)

    def __call__(self, tokens):
        return self.token_emb(tokens) + self.pos_emb(jnp.arange(tokens.shape[1])[None])


class MiniGPT(nnx.Module):
    """Norms after the sums, and a head with a bias."""

    def __init__(self, *, rngs):
        self.embedding_layer = TokenAndPositionEmbedding(rngs=rngs)
        self.transformer_blocks = nnx.Sequential(*[TransformerBlock(rngs=rngs) for _ in range(2)])
        self.output_layer = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        return self.output_layer(self.transformer_blocks(self.embedding_layer(tokens)))


def mini_gpt():
    """Adam alone. The length of the run is that of its data: here 15,000 steps."""
    model = nnx.eval_shape(lambda: MiniGPT(rngs=nnx.Rngs(0)))

    def loss(model, x, y):
        return cross_entropy(model(x), y).mean()

    roles = (
        (".*/token_emb/embedding", "embedding"),
        (".*/pos_emb/embedding", "position"),
        ("output_layer/kernel", "head"),
        (".*/bias", "bias"),
        (".*/scale", BEFORE),
        (".*/kernel", "matrix"),
    )
    batch = ints(2, LENGTH), ints(2, LENGTH)
    return Program(optax.adam(1e-3), model, 15_000, loss, batch, roles)


def haiku_transformer():
    """A position table that is a parameter of the outermost module; dropout; no decay."""

    def norm(x):
        return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(x)

    def forward(tokens):
        init = hk.initializers.TruncatedNormal(stddev=0.02)
        x = hk.Embed(VOCABULARY, WIDTH, w_init=init)(tokens)
        x += hk.get_parameter("positional_embeddings", [LENGTH, WIDTH], init=init)
        mask = (tokens != 0)[:, None, None, :] * np.tril(np.ones((1, 1, LENGTH, LENGTH)))
        init = hk.initializers.VarianceScaling(2 / 2)
        for _ in range(2):
            attention = hk.MultiHeadAttention(HEADS, 4, model_size=WIDTH, w_init=init)
            y = norm(x)
            x += hk.dropout(hk.next_rng_key(), 0.1, attention(y, y, y, mask=mask))
            wide, narrow = hk.Linear(4 * WIDTH, w_init=init), hk.Linear(WIDTH, w_init=init)
            y = hk.Sequential([wide, jax.nn.gelu, narrow])(norm(x))
            x += hk.dropout(hk.next_rng_key(), 0.1, y)
        return hk.Linear(VOCABULARY)(norm(x))

    class LanguageModel(hk.Module):
        def __call__(self, tokens):
            return forward(tokens)

    model = hk.transform(lambda tokens: LanguageModel()(tokens))
    params = jax.eval_shape(model.init, jax.random.key(0), ints(2, LENGTH))

    def loss(params, key, x, y):
        logits = jax.nn.log_softmax(model.apply(params, key, x))
        chosen = jnp.sum(jax.nn.one_hot(y, VOCABULARY) * logits, axis=-1)
        mask = jnp.not_equal(x, 0)
        return -jnp.sum(chosen * mask) / jnp.sum(mask)

    tx = optax.chain(optax.clip_by_global_norm(1), optax.adam(3e-4, b1=0.9, b2=0.99))
    roles = (
        (".*/positional_embeddings", "position"),
        (".*/embed/embeddings", "embedding"),
        ("language_model/linear_4/w", "head"),
        (".*/(b|offset)", "bias"),
        (".*/scale", BEFORE),
        (".*/w", "matrix"),
    )
    batch = jax.random.key(0), ints(2, LENGTH), ints(2, LENGTH)
    return Program(tx, params, 10**6, loss, batch, roles)


class EquinoxCNN(eqx.Module):
    """Functions stand between the layers, as leaves."""

    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 3, kernel_size=4, key=keys[0]),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(1728, 16, key=keys[1]),
            jax.nn.sigmoid,
            eqx.nn.Linear(16, 8, key=keys[2]),
            jax.nn.relu,
            eqx.nn.Linear(8, 10, key=keys[3]),
            jax.nn.log_softmax,
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def equinox_mnist():
    """The model itself is given, and not what eqx.filter leaves of it."""
    model = eqx.filter_eval_shape(EquinoxCNN, jax.random.key(0))

    def loss(model, x, y):
        return -jnp.mean(jnp.take_along_axis(jax.vmap(model)(x), y[:, None], axis=1))

    roles = (
        ("layers/8/weight", "head"),
        ("layers/0/weight", "kernel"),
        (".*/weight", "matrix"),
        (".*/bias", "bias"),
    )
    batch = floats(2, 1, 28, 28), ints(2)
    return Program(optax.adamw(3e-4), model, 300, loss, batch, roles)


OF_NNX = {
    "flax mnist": lambda: flax_mnist(optax.sgd(0.1, 0.9), 4680),
    "flax mnist tutorial": lambda: flax_mnist(optax.adamw(0.005, 0.9), 1200),
    "flax miniGPT": mini_gpt,
}
PROGRAMS = {
    "nanodo": nanodo,
    "flax lm1b": lm1b,
    **(OF_NNX if hasattr(nnx, "view") else {}),  # Flax 0.12.0 has not what they call.
    "haiku transformer": haiku_transformer,
    "equinox mnist": equinox_mnist,
}
