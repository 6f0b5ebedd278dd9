"""Transformer blocks: GPT-2's, and LLaMA's and Qwen's (RMSNorm, SwiGLU, rotary positions).

Letters in names are shapes: B sequences, L new tokens, M tokens attended to, D width, H heads,
G heads of keys and values (each serves R = H / G heads of queries), K width of a head. The paths
of the parameters are the same in all kinds, ``ln_1/scale``, ``attn/qkv/kernel``,
``mlp/proj/kernel``, so that decay rules speak about all of them.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from . import attention
from .config import Config

Key = jax.Array | None  # None: no dropout


class Cache(NamedTuple):
    """Keys and values of the tokens so far, in front of room for those to come."""

    k_BxMxGxK: jax.Array
    v_BxMxGxK: jax.Array


def split_key(key: Key, n: int) -> list:
    """Keys for n parts; without a key, none for any of them."""
    return [None] * n if key is None else list(jax.random.split(key, n))


def dtypes(config: Config) -> dict[str, Any]:
    """Of the computation, and of the weights: float32, or wider if the computation is."""
    dtype = jnp.dtype(config.dtype)
    return {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}


def initial_std(config: Config, kind: str) -> float:
    """Standard deviation of the initial weights of one kind of matrix.

    Kinds: ``embedding``, ``inner`` (inside attention and MLP), ``residual`` (the inner
    projections that end a branch, fan-in ``n_embd``), ``mlp_residual`` (fan-in ``inner_width``).
    """
    if config.custom_init:
        fan_in = config.inner_width if kind == "mlp_residual" else config.n_embd
        return 1 / math.sqrt(2 * fan_in) if kind == "embedding" else 1 / fan_in
    residual = kind in ("residual", "mlp_residual")
    return config.init_scale / (math.sqrt(2 * config.n_layer) if residual else 1)


class Linear(nnx.Linear):
    """A matrix of one kind, and a low-rank adapter beside it where ``lora_rank`` asks for one.

    The leading axes are flattened, since XLA multiplies plain matrices faster on CPUs. The adapter
    adds ``lora_alpha / lora_rank * x @ lora_a @ lora_b`` and starts at zero (Hu et al. 2021,
    https://arxiv.org/abs/2106.09685, section 4.1).
    """

    def __init__(self, config: Config, n_in, n_out, kind: str, bias: bool, rngs: nnx.Rngs):
        init = nnx.initializers.normal(initial_std(config, kind))
        super().__init__(n_in, n_out, use_bias=bias, kernel_init=init, rngs=rngs, **dtypes(config))
        self.lora_scale = config.lora_alpha / config.lora_rank if config.lora_rank else None
        if config.lora_rank:
            form: dict[str, Any] = {"use_bias": False, "rngs": rngs, **dtypes(config)}
            zero = nnx.initializers.zeros
            self.lora_a = nnx.Linear(n_in, config.lora_rank, **form)
            self.lora_b = nnx.Linear(config.lora_rank, n_out, kernel_init=zero, **form)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiplies the last axis."""
        rows_NxI = x.reshape(-1, x.shape[-1])
        y_NxO = super().__call__(rows_NxI)
        if self.lora_scale is not None:
            y_NxO += self.lora_scale * self.lora_b(self.lora_a(rows_NxI))
        return y_NxO.reshape(*x.shape[:-1], -1)


def make_norm(config: Config, rngs: nnx.Rngs) -> nnx.Module:
    """GPT-2's LayerNorm, or the RMSNorm of the others."""
    form: dict[str, Any] = {"epsilon": config.norm_eps, "use_scale": config.learnable_ln}
    form |= {"use_fast_variance": False, "rngs": rngs, **dtypes(config)}
    if config.block != "gpt2":
        return nnx.RMSNorm(config.n_embd, **form)
    return nnx.LayerNorm(config.n_embd, use_bias=config.learnable_ln and config.bias, **form)


@jax.named_scope("norm")
def normalize(norm: Any, x: jax.Array) -> jax.Array:
    """Calls a norm, under a name that the compiled program keeps (see ``compile_tpu``)."""
    return norm(x)


def rotate(x_BxLxHxK: jax.Array, position_L: jax.Array, theta: float) -> jax.Array:
    """Turns the pairs (x_i, x_{i + K/2}) by the angle ``position * theta ** (-2 i / K)``.

    Scores of rotated queries and keys depend on the distance of their positions alone (Su et al.
    2021, https://arxiv.org/abs/2104.09864, equation 34; the pairs lie as in transformers' LLaMA).
    """
    half = x_BxLxHxK.shape[-1] // 2
    dtype = jnp.promote_types(x_BxLxHxK.dtype, jnp.float32)
    frequency_I = theta ** (-jnp.arange(half, dtype=dtype) / half)
    angle_Lx1xI = (position_L[:, None] * frequency_I)[:, None]
    cos_Lx1xI, sin_Lx1xI = jnp.cos(angle_Lx1xI), jnp.sin(angle_Lx1xI)
    a, b = jnp.split(x_BxLxHxK, 2, axis=-1)
    rotated = [a * cos_Lx1xI - b * sin_Lx1xI, b * cos_Lx1xI + a * sin_Lx1xI]
    return jnp.concatenate(rotated, axis=-1).astype(x_BxLxHxK.dtype)


class Attention(nnx.Module):
    """Causal self-attention."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.heads = (config.n_head, config.kv_heads)
        self.head_width = config.n_embd // config.n_head
        self.form = config.attention
        self.rope_theta = None if config.block == "gpt2" else config.rope_theta
        width = (config.n_head + 2 * config.kv_heads) * self.head_width
        qkv_bias = config.bias or config.block == "qwen"
        self.qkv = Linear(config, config.n_embd, width, "inner", qkv_bias, rngs)
        self.proj = Linear(config, config.n_embd, config.n_embd, "residual", config.bias, rngs)
        self.dropout = nnx.Dropout(config.dropout)

    @jax.named_scope("attention")
    def __call__(self, x_BxLxD, key: Key = None, cache: Cache | None = None, start=0):
        """Mixes each position with those before it; the new tokens' positions begin at start."""
        attention_key, output_key = split_key(key, 2)
        q, k, v = self._heads(x_BxLxD, start)
        if cache is not None:
            pairs = zip(cache, (k, v), strict=True)
            cache = Cache(*(jax.lax.dynamic_update_slice_in_dim(*p, start, axis=1) for p in pairs))
            y = attention.plain(q, *cache, start=start)
        elif attention_key is None:
            y = attention.causal(q, k, v, self.form)
        else:
            drop = functools.partial(self.dropout, rngs=attention_key, deterministic=False)
            y = attention.plain(q, k, v, drop=drop)
        y_BxLxD = self.proj(y.reshape(x_BxLxD.shape))
        return self.dropout(y_BxLxD, rngs=output_key, deterministic=key is None), cache

    def _heads(self, x_BxLxD: jax.Array, start) -> tuple[jax.Array, jax.Array, jax.Array]:
        n_head, n_kv = self.heads
        heads = self.qkv(x_BxLxD).reshape(*x_BxLxD.shape[:2], n_head + 2 * n_kv, self.head_width)
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK = jnp.split(heads, (n_head, n_head + n_kv), axis=2)
        if self.rope_theta is not None:
            position_L = start + jnp.arange(x_BxLxD.shape[1])
            q_BxLxHxK = rotate(q_BxLxHxK, position_L, self.rope_theta)
            k_BxLxGxK = rotate(k_BxLxGxK, position_L, self.rope_theta)
        return q_BxLxHxK, k_BxLxGxK, v_BxLxGxK


class MLP(nnx.Module):
    """Two linear layers with a GELU between them, or SwiGLU: three, the first two multiplied.

    SwiGLU is ``proj(silu(gate(x)) * fc(x))`` (Shazeer 2020, https://arxiv.org/abs/2002.05202,
    equation 6).
    """

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width, inner, bias = config.n_embd, config.inner_width, config.bias
        self.gated = config.block != "gpt2"
        self.approximate = config.gelu == "tanh"
        self.fc = Linear(config, width, inner, "inner", bias, rngs)
        if self.gated:
            self.gate = Linear(config, width, inner, "inner", bias, rngs)
        self.proj = Linear(config, inner, width, "mlp_residual", bias, rngs)
        self.dropout = nnx.Dropout(config.dropout)

    @jax.named_scope("mlp")
    def __call__(self, x_BxLxD: jax.Array, key: Key = None) -> jax.Array:
        """Transforms each position by itself."""
        inner = self.fc(x_BxLxD)
        if self.gated:
            inner = inner * jax.nn.silu(self.gate(x_BxLxD))
        else:
            inner = jax.nn.gelu(inner, approximate=self.approximate)
        return self.dropout(self.proj(inner), rngs=key, deterministic=key is None)


class Block(nnx.Module):
    """One transformer block, normalizing before each branch."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.ln_1 = make_norm(config, rngs)
        self.attn = Attention(config, rngs)
        self.ln_2 = make_norm(config, rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x_BxLxD, key: Key = None, cache: Cache | None = None, start=0):
        """Adds what attention and MLP say to the residual stream."""
        attn_key, mlp_key = split_key(key, 2)
        y_BxLxD, cache = self.attn(normalize(self.ln_1, x_BxLxD), attn_key, cache, start)
        x_BxLxD = x_BxLxD + y_BxLxD
        return x_BxLxD + self.mlp(normalize(self.ln_2, x_BxLxD), mlp_key), cache
