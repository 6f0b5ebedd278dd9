"""The compiled functions of the training: the steps of an epoch, evaluation, projection, norms.

Letters: N images, H height and width, S steps of an epoch, B images of a step.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import wdlab
from examples.runs.mesh import along_batch, keep_split, whole_shares

from .augment import augment
from .model import Params, Stats, apply, apply_train

MOMENTUM = 0.1  # Weight of a batch in BatchNorm's running statistics, as in PyTorch.
EVAL_BATCH = 500


class State(NamedTuple):
    """Everything that training changes."""

    params: Params
    stats: Stats  # BatchNorm's running means and variances
    opt_state: Any
    ema: Params  # moving average of params
    loss_sum: jax.Array  # float32, (): of the batches of this epoch


class Images(NamedTuple):
    """Images on the device, on a mesh on every one, and what normalizes them."""

    x: jax.Array  # uint8, (N, H, H, 3)
    y: jax.Array  # int32, (N,)
    mean: jax.Array  # float32, (3,)
    std: jax.Array

    def batch(self, indices_B: jax.Array, key: jax.Array | None = None):
        """Normalized images and labels; a key augments them. Each device of a mesh has a share."""
        pixels = along_batch(self.x[indices_B]).astype(self.mean.dtype)
        if key is not None:
            pixels = augment(key, pixels, self.mean)
        return along_batch((pixels - self.mean) / self.std), along_batch(self.y[indices_B])


def cross_entropy(logits_BxK: jax.Array, y_B: jax.Array) -> jax.Array:
    """Of every image, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxK, y_B)


def one_step(
    graph: nnx.GraphDef, tx: optax.GradientTransformation, ema_decay: float, state: State, x, y
) -> tuple[State, jax.Array, jax.Array]:
    """Gradient, update, running statistics, moving average; also loss and gradient norm."""

    def loss_fn(params):
        logits_BxK, batch_stats = apply_train(graph, params, state.stats, x)
        return cross_entropy(logits_BxK, y).mean(), batch_stats

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = keep_split(grads)  # Each device sums up its part.
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    new = State(
        params=params,
        stats=mix(state.stats, batch_stats, MOMENTUM),
        opt_state=opt_state,
        ema=mix(state.ema, params, 1 - ema_decay),
        loss_sum=state.loss_sum + loss.astype(jnp.float32),
    )
    return new, loss, optax.tree.norm(grads)


def mix(old: Any, new: Any, weight: Any) -> Any:
    """(1 - weight) * old + weight * new, leaf by leaf."""
    return jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, old, new)


@cache  # Runs of one model in one process share their programs.
def make_train_steps(
    graph: nnx.GraphDef,
    make_tx: Callable[..., optax.GradientTransformation],
    ema_decay: float,
    augmented: bool,
    looped: bool,
) -> Callable[..., tuple[State, jax.Array, jax.Array, jax.Array]]:
    """Makes the jitted steps ``first`` to ``last`` (excluded) of an epoch, as one loop.

    ``(state, images, order_SxB, key, rates, first, last) -> (state, next, loss, grad_norm)``, with
    the optimizer ``make_tx(*rates)``. A step whose loss or gradient is not finite changes nothing
    and ends the loop, so that ``next < last``. Rates and bounds are no constants: every part of
    every epoch runs in the same program. Without ``looped`` it is the step ``first`` alone.
    """

    def train_steps(state: State, images: Images, order_SxB, key, rates, first, last):
        tx = make_tx(*rates)

        def step(carry):
            state, i, _, _, _ = carry
            x, y = images.batch(order_SxB[i], jax.random.fold_in(key, i) if augmented else None)
            new, loss, grad_norm = one_step(graph, tx, ema_decay, state, x, y)
            good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
            state = jax.tree.map(lambda n, old: jnp.where(good, n, old), new, state)
            return keep_split(state), i + good, good, loss, grad_norm

        def goes_on(carry):
            _, i, good, _, _ = carry
            return good & (i < last)

        zero = jnp.zeros((), state.params["head"]["kernel"].dtype)
        carry = (state, jnp.asarray(first, jnp.int32), jnp.array(True), zero, zero)
        carry = jax.lax.while_loop(goes_on, step, carry) if looped else step(carry)
        state, i, _, loss, grad_norm = carry
        return state, i, loss, grad_norm

    return jax.jit(train_steps, donate_argnums=0)


@cache
def make_evaluate(graph: nnx.GraphDef) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Makes the jitted ``(params, stats, images) -> (cross-entropy, error)`` over all images."""

    def evaluate(params: Params, stats: Stats, images: Images):
        n = len(images.y)
        size = whole_shares(min(EVAL_BATCH, n))
        count = -(-n // size)

        def add(totals, indices_B):
            x, y = images.batch(indices_B % n)
            logits_BxK = apply(graph, params, stats, x)
            counted = indices_B < n  # The last batch is filled up.
            loss = jnp.where(counted, cross_entropy(logits_BxK, y), 0).sum()
            wrong = jnp.where(counted, logits_BxK.argmax(-1) != y, False).sum()
            return (totals[0] + loss, totals[1] + wrong), None

        zero = (jnp.zeros((), images.mean.dtype), jnp.zeros((), jnp.int32))
        indices = jnp.arange(count * size).reshape(count, size)
        (loss, wrong), _ = jax.lax.scan(add, zero, indices)
        return loss / n, wrong / n

    return jax.jit(evaluate)


@cache
def make_recompute_stats(graph: nnx.GraphDef) -> Callable[..., Stats]:
    """Makes the jitted ``(params, stats, images, order_SxB) -> stats``.

    The mean over the batches of an epoch of their means and unbiased variances, without
    augmentation: the BatchNorm statistics of weights that were never trained with, such as a
    moving average.
    """

    def recompute(params: Params, stats: Stats, images: Images, order_SxB):
        def add(carry, indices_B):
            mean, seen = carry
            _, batch_stats = apply_train(graph, params, stats, images.batch(indices_B)[0])
            return (mix(mean, batch_stats, 1 / (seen + 1)), seen + 1), None

        zero = jnp.zeros((), images.mean.dtype)
        start = (jax.tree.map(jnp.zeros_like, stats), zero)
        (mean, _), _ = jax.lax.scan(add, start, order_SxB)
        return keep_split(mean)

    return jax.jit(recompute)


def new_state(params: Params, stats: Stats, tx: optax.GradientTransformation) -> State:
    """The state before the first step."""
    ema = jax.tree.map(jnp.copy, params)
    # Of a parameter: so that it is on the devices where they are.
    zero = jnp.zeros_like(params["head"]["kernel"][0, 0], jnp.float32)
    return State(params, stats, wdlab.init_opt_state(tx, params), ema, zero)


@jax.jit
def masked_norm(params: Params, weights: Any) -> jax.Array:
    """The root of the sum of ``weight * p^2``: 1 counts a leaf, 0 leaves it out."""
    squares = jax.tree.map(lambda p, w: w * jnp.sum(jnp.square(p)), params, weights)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))


@jax.jit
def project(params: Params, trained: Any, radius: float) -> Params:
    """Scales all trained weights by one factor, so that their norm is ``radius``."""
    factor = radius / masked_norm(params, trained)
    return keep_split(jax.tree.map(lambda p, t: jnp.where(t, p * factor, p), params, trained))
