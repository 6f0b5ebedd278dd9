"""Text from a trained model, token by token, with a cache of keys and values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .config import Config
from .data import Dataset
from .model import Params, merge

_END_OF_TEXT = 50_256  # The last of GPT-2's tokens: those above it pad the vocabulary.


def generate(
    graph: nnx.GraphDef, params: Params, data: Dataset, config: Config, prompt: str = ""
) -> str:
    """Draws ``sample_tokens`` tokens one by one, after a line's (or document's) start or a prompt.

    Raises:
      UserError: If the model has no tokens for the prompt.
    """
    start, vocabulary = _END_OF_TEXT, _END_OF_TEXT + 1
    if data.characters is not None:
        start = data.characters.index("\n") if "\n" in data.characters else 0
        vocabulary = len(data.characters)
    tokens = draw(
        graph, params, np.array(data.encode(prompt) or [start], np.int32),
        jax.random.key(config.random_seed), config.temperature, count=config.sample_tokens,
        context=config.block_size, vocabulary=vocabulary, top_k=config.top_k,
    )  # fmt: skip
    return data.decode(np.asarray(tokens))


@functools.partial(jax.jit, static_argnames=("graph", "count", "context", "vocabulary", "top_k"))
def draw(
    graph: nnx.GraphDef,
    params: Params,
    prompt_P: jax.Array,
    key: jax.Array,
    temperature: float,
    *,
    count: int,
    context: int,
    vocabulary: int,
    top_k: int | None = None,
) -> jax.Array:
    """Draws tokens that follow a prompt, each from softmax(logits / temperature).

    Up to ``context`` tokens each one costs one position, with the keys and values of those before
    it at hand. Beyond, all positions move with every token, and the whole window is computed.

    Args:
      graph: How the model computes.
      params: Its weights.
      prompt_P: int32, at least one token; the last ``context`` of them count.
      key: Of the random draws.
      temperature: Above 0.
      count: How many tokens.
      context: The model's block_size.
      vocabulary: Tokens from here on are never drawn.
      top_k: Draw among the k likeliest; None for all.

    Returns:
      int32, shape (count,).
    """
    model = merge(graph, params)
    prompt_P = prompt_P[-context:]

    def pick(logits_V: jax.Array, key: jax.Array) -> jax.Array:
        logits_V = logits_V[:vocabulary]
        if top_k is not None:
            least = jax.lax.top_k(logits_V, min(top_k, logits_V.size))[0][-1]
            logits_V = jnp.where(logits_V < least, -jnp.inf, logits_V)
        return jax.random.categorical(key, logits_V / temperature).astype(jnp.int32)

    def next_cached(carry, key):
        last_D, caches, position = carry
        token = pick(model.logits(last_D), key)
        x_1xLxD, caches = model.features(token[None, None], None, caches, position)
        return (x_1xLxD[0, -1], caches, position + 1), token

    def next_in_window(window_L, key):
        token = pick(model.logits(model.features(window_L[None])[0][0, -1]), key)
        return jnp.append(window_L[1:], token), token

    # The last token of the first part lies outside the context: what is computed for it is unused.
    keys, fitting = jax.random.split(key, count), context - len(prompt_P) + 1
    x_1xPxD, caches = model.features(prompt_P[None], None, model.empty_caches(1))
    carry = (x_1xPxD[0, -1], caches, jnp.int32(len(prompt_P)))
    _, first = jax.lax.scan(next_cached, carry, keys[:fitting])
    if count <= fitting:
        return first
    window_L = jnp.concatenate([prompt_P, first])[-context:]
    return jnp.append(first, jax.lax.scan(next_in_window, window_L, keys[fitting:])[1])
