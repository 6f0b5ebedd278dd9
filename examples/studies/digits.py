"""A small network on scikit-learn's digits, trained for many seeds and settings in one program.

The optimizer studies share it: 1,437 training and 360 test images of 8x8, an MLP with ReLU. Names
of the parameters are ``layers/0/kernel``, ``layers/0/bias``, ``layers/0/norm/scale`` and so on, so
that decay rules apply.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

Params = dict[str, Any]
PIXELS, CLASSES, TRAIN = 64, 10, 1_437


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images in [-1, 1], float32, and labels, int32, in an order of their own: train, then test."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = (pixels[order] / 8 - 1).astype(np.float32)
    y = labels[order].astype(np.int32)
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def init(key: jax.Array, hidden: tuple[int, ...] = (64,), *, norm: bool = False) -> Params:
    """He-initialized layers; with ``norm`` an RMS norm with a scale after each hidden layer."""
    widths = (PIXELS, *hidden, CLASSES)
    layers = []
    for i, layer_key in enumerate(jax.random.split(key, len(hidden) + 1)):
        shape = widths[i : i + 2]
        layer: Params = {"kernel": jax.random.normal(layer_key, shape) * (2 / widths[i]) ** 0.5}
        if norm and i < len(hidden):
            layer["norm"] = {"scale": jnp.ones(widths[i + 1])}
        layers.append(layer | {"bias": jnp.zeros(widths[i + 1])})
    return {"layers": layers}


def logits(params: Params, x_BxD: jax.Array) -> jax.Array:
    """The network; computed in float32 whatever the parameters' dtype."""
    *hidden, last = jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, "float32")), params)[
        "layers"
    ]
    for layer in hidden:
        x_BxD = x_BxD @ layer["kernel"]
        if "norm" in layer:
            x_BxD *= jax.lax.rsqrt(jnp.square(x_BxD).mean(-1, keepdims=True) + 1e-6)
            x_BxD *= layer["norm"]["scale"]
        x_BxD = jax.nn.relu(x_BxD + layer["bias"])
    return x_BxD @ last["kernel"] + last["bias"]


def loss(params: Params, x_BxD: jax.Array, y_B: jax.Array) -> jax.Array:
    """Mean cross-entropy, nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x_BxD), y_B).mean()


def evaluate(params: Params) -> dict[str, jax.Array]:
    """Cross-entropy and error rate on both splits."""
    x, y, x_test, y_test = map(jnp.asarray, data())
    return {
        "train_loss": loss(params, x, y),
        "test_loss": loss(params, x_test, y_test),
        "train_error": (logits(params, x).argmax(-1) != y).mean(),
        "test_error": (logits(params, x_test).argmax(-1) != y_test).mean(),
    }


def train(
    tx: optax.GradientTransformation,
    params: Params,
    key: jax.Array,
    *,
    steps: int,
    batch_size: int = 64,
    examples: int = TRAIN,
    noise: float = 0.0,
    observe: Callable[..., Any] | None = None,
) -> tuple[Params, Any, Any]:
    """Trains on batches drawn with replacement from the first ``examples``; traceable.

    ``noise`` is the standard deviation of what each step adds to its images: it keeps gradients
    from vanishing once everything is learnt.

    Returns the parameters, the optimizer state, and ``observe(params, updates, grads, state)``,
    params those before the update, stacked over the steps (the batch's loss by default).
    """
    x, y, *_ = map(jnp.asarray, data())

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        batch_key, noise_key = jax.random.split(key)
        batch_B = jax.random.randint(batch_key, (batch_size,), 0, examples)
        x_BxD = x[batch_B]
        if noise:
            x_BxD += noise * jax.random.normal(noise_key, x_BxD.shape)
        value, grads = jax.value_and_grad(loss)(params, x_BxD, y[batch_B])
        updates, state = tx.update(grads, state, params)
        seen = observe(params, updates, grads, state) if observe else {"batch_loss": value}
        return (optax.apply_updates(params, updates), state), seen

    start = (params, tx.init(params))
    (params, state), seen = jax.lax.scan(step, start, jax.random.split(key, steps))
    return params, state, seen


def over_seeds(run: Callable[..., Any], seeds: int, *columns: Any) -> Any:
    """``run(key)`` for each seed, one compiled program; results as NumPy, seeds first.

    With columns of numbers, ``run(key, *row)`` for each of their rows: the second axis. A function
    that comes again with as many rows is not compiled again.
    """
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return jax.tree.map(np.asarray, _program(run)(keys, tuple(map(jnp.array, columns))))


@functools.lru_cache(maxsize=1)
def _program(run: Callable[..., Any]) -> Callable[..., Any]:
    def of_seed(key: jax.Array, rows: tuple[jax.Array, ...]) -> Any:
        return jax.lax.map(lambda row: run(key, *row), rows) if rows else run(key)

    return jax.jit(lambda keys, rows: jax.lax.map(lambda key: of_seed(key, rows), keys))


def of_rows(product: Callable[..., jax.Array], x_XxD: jax.Array, kernel_DxE: jax.Array):
    """The product, with all but the last axis as rows: with three axes XLA's gradient is slower."""
    y_NxE = product(x_XxD.reshape(-1, x_XxD.shape[-1]), kernel_DxE)
    return y_NxE.reshape(*x_XxD.shape[:-1], -1)


@jax.jit
def drawn_anew(params: Any, key: jax.Array) -> Any:
    """Other initial weights: every matrix and kernel normal, with its own standard deviation."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(k, x.shape) * x.std() if x.ndim > 1 else x
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, drawn)
