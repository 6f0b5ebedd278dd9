"""The GPT in Flax nnx: embeddings, blocks (see ``blocks.py``), a head.

Letters in names are shapes: B sequences, L tokens, D width, V vocabulary. The parameters' paths
read ``wte/embedding``, ``blocks/0/attn/qkv/kernel``, ``blocks/0/mlp/fc/bias``, ``ln_f/scale``: the
names that decay rules speak about. With ``scan_layers`` the blocks are one stack, every leaf with
a first axis over the layers, ``blocks/attn/qkv/kernel``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from examples.runs.layout import Layout
from examples.runs.mesh import along_batch

from . import attention
from .blocks import Block, Cache, Key, dtypes, initial_std, make_norm, normalize, split_key
from .config import Config
from .lora import freeze_base

Params = dict  # nested: module name -> ... -> array


class GPT(nnx.Module):
    """Token (and in GPT-2 position) embeddings, blocks, a final norm, a head."""

    def __init__(self, config: Config, vocab_size: int, rngs: nnx.Rngs):
        init = nnx.initializers.normal(initial_std(config, "embedding"))
        form: dict[str, Any] = {"embedding_init": init, "rngs": rngs, **dtypes(config)}
        attention.check(config)
        self.config = config
        self.wte = nnx.Embed(vocab_size, config.n_embd, **form)
        if config.block == "gpt2":
            self.wpe = nnx.Embed(config.block_size, config.n_embd, **form)
        self.dropout = nnx.Dropout(config.dropout)
        if config.scan_layers:
            make = nnx.split_rngs(splits=config.n_layer)(nnx.vmap(lambda r: Block(config, r)))
            self.blocks: Any = make(rngs)
        else:
            self.blocks = nnx.List([Block(config, rngs) for _ in range(config.n_layer)])
        self.ln_f = make_norm(config, rngs)
        if not config.weight_tying:
            std = config.n_embd**-0.5 if config.custom_init else config.init_scale
            init = nnx.initializers.normal(std)
            form = {"use_bias": False, "kernel_init": init, "rngs": rngs, **dtypes(config)}
            self.lm_head = nnx.Linear(config.n_embd, vocab_size, **form)

    def __call__(self, tokens_BxL: jax.Array, key: Key = None) -> jax.Array:
        """Logits of the next token at every position; a key turns dropout on."""
        return self.logits(self.features(tokens_BxL, key)[0])

    def features(self, tokens_BxL, key: Key = None, caches: Any = None, start=0):
        """What the head sees, and the caches with these tokens; their positions begin at start."""
        embed_key, *block_keys = split_key(key, 1 + self.config.n_layer)
        with jax.named_scope("embedding"):
            x_BxLxD = self.wte(tokens_BxL)
            if self.config.block == "gpt2":
                x_BxLxD += self.wpe(start + jnp.arange(tokens_BxL.shape[1]))
            x_BxLxD = along_batch(x_BxLxD)
        x_BxLxD = self.dropout(x_BxLxD, rngs=embed_key, deterministic=key is None)
        through = self._scan_blocks if self.config.scan_layers else self._unrolled_blocks
        x_BxLxD, caches = through(x_BxLxD, block_keys, caches, start)
        return normalize(self.ln_f, along_batch(x_BxLxD)), caches

    def head(self) -> jax.Array:
        """The matrix of the logits, (D, V): the tokens' embedding where they are tied."""
        tied = self.config.weight_tying
        head_DxV = self.wte.embedding[...].T if tied else self.lm_head.kernel[...]
        return head_DxV.astype(self.config.dtype)

    @jax.named_scope("head")
    def logits(self, x_BxLxD: jax.Array) -> jax.Array:
        """Logits of what the head sees, in float32 or wider."""
        logits_NxV = x_BxLxD.reshape(-1, x_BxLxD.shape[-1]) @ self.head()
        wide = jnp.promote_types(logits_NxV.dtype, jnp.float32)
        return along_batch(logits_NxV.astype(wide).reshape(*x_BxLxD.shape[:-1], -1))

    def empty_caches(self, batch: int) -> Any:
        """Room for the keys and values of block_size tokens in every block."""
        config = self.config
        shape = (batch, config.block_size, config.kv_heads, config.n_embd // config.n_head)
        if config.scan_layers:
            return Cache(*[jnp.zeros((config.n_layer, *shape), config.dtype)] * 2)
        return [Cache(*[jnp.zeros(shape, config.dtype)] * 2)] * config.n_layer

    def _block(self, graph: nnx.GraphDef, start) -> Any:
        """A block as a function of (x, (weights, key, cache))."""

        def run(x_BxLxD, inputs):
            weights, key, cache = inputs
            return nnx.merge(graph, weights)(along_batch(x_BxLxD), key, cache, start)

        return run if self.config.remat == "none" else jax.checkpoint(run, policy=self._kept())

    def _kept(self) -> Any:
        """What is kept of a block for its backward pass; None: only what went into it."""
        policies = jax.checkpoint_policies
        return {
            "full": None,
            "dots": policies.dots_saveable,
            "dots_no_batch": policies.dots_with_no_batch_dims_saveable,
        }[self.config.remat]

    def _unrolled_blocks(self, x_BxLxD, keys, caches, start):
        new_caches = []
        for i, block in enumerate(self.blocks):
            graph, weights = nnx.split(block)
            cache = None if caches is None else caches[i]
            x_BxLxD, cache = self._block(graph, start)(x_BxLxD, (weights, keys[i], cache))
            new_caches.append(cache)
        return x_BxLxD, new_caches

    def _scan_blocks(self, x_BxLxD, keys, caches, start):
        graph, weights = nnx.split(self.blocks)
        keys = None if keys[0] is None else jnp.stack(keys)
        return jax.lax.scan(self._block(graph, start), x_BxLxD, (weights, keys, caches))


def create(
    config: Config, vocab_size: int, seed: int, layout: Layout | None = None
) -> tuple[nnx.GraphDef, Params]:
    """A freshly initialized model: how to compute (static), and a plain dict of arrays.

    With a layout the arrays are born where it says.
    """

    def build() -> Params:
        return nnx.to_pure_dict(nnx.state(GPT(config, vocab_size, nnx.Rngs(seed)), nnx.Param))

    where = layout.parameters(shapes(config, vocab_size)) if layout else None
    params = jax.jit(build, out_shardings=where)()  # One program.
    return make_graph(config, vocab_size), params


def make_graph(config: Config, vocab_size: int) -> nnx.GraphDef:
    """How the model computes, without its weights."""
    return _abstract(config, vocab_size)[0]


def shapes(config: Config, vocab_size: int) -> Params:
    """The parameters' shapes and dtypes, without computing them."""
    return nnx.to_pure_dict(_abstract(config, vocab_size)[1])


@functools.cache
def _abstract(config: Config, vocab_size: int) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: GPT(config, vocab_size, nnx.Rngs(0))), nnx.Param)


def merge(graph: nnx.GraphDef, params: Params) -> GPT:
    """The model whose weights are ``params``; beside adapters the other weights are constants."""
    return nnx.merge(graph, freeze_base(params))


def apply(graph: nnx.GraphDef, params: Params, tokens_BxL: jax.Array, key: Key = None):
    """Logits of the model whose weights are ``params``."""
    return merge(graph, params)(tokens_BxL, key)
