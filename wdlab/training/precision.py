"""Keeping decay alive in 16-bit parameters: stochastic rounding, Kahan sums, float32 masters.

A bfloat16 weight has 8 bits: rounded to nearest, it does not move at all when a step is smaller
than 2^-9 of it. A decay of lr * weight_decay = 6e-5 a step is thirty times below that, and is lost
to the last digit. The three wrappers here keep it. Each goes around a whole chain, decay included:

    tx = stochastic_rounding(wdlab.optimizers.adamw(lr, weight_decay=0.1, coupling="lr"))

    wrapper              state per 16-bit parameter     decay that survives
    stochastic_rounding  none (one key)                 in the mean, with the noise of rounding
    kahan                2 bytes                        to about 16 bits
    float32_masters      4 bytes                        all of it

Leaves of 32 and 64 bits pass through all three unchanged. Apply the updates with
``optax.apply_updates`` and nothing between.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, require_params
from wdlab._core.dtypes import is_16_bit, is_fixed, widen, wider
from wdlab._core.transformation import with_extra_args
from wdlab.training.checksum import positions, scramble

PyTree = Any
# (parameter, its memory, step in float32, key) -> (new parameter, new memory)
Store = Callable[[jax.Array, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


class RoundingState(NamedTuple):
    """State of the three wrappers."""

    key: jax.Array  # uint32, shape (2,): a threefry key's data, so that a resumed run is the same
    memory: PyTree  # like params: what is kept beside each 16-bit leaf, None beside the others
    inner: PyTree


def stochastic_rounding(
    inner: optax.GradientTransformation, *, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Rounds 16-bit parameters up or down at random, so that steps survive in the mean.

    One step is :math:`\theta \leftarrow SR(\theta + u)` with the step :math:`u` in float32 and
    :math:`E[SR(x)] = x`: a number between two neighbours goes to each with the probability of its
    nearness (Zamirai et al. 2020, arXiv 2010.06192).

    Args:
      inner: A whole optimizer, its decay included.
      seed: Of the random numbers, >= 0; the key is in the state and goes on with it.

    Raises:
      TypeError, ValueError: If ``seed`` is not a number >= 0; from ``update`` without ``params``.

    >>> tx = stochastic_rounding(optax.sgd(1.0), seed=1)
    >>> params = {"w": jnp.ones(10_000, jnp.bfloat16)}
    >>> grads = {"w": jnp.full(10_000, 2.0**-10)}  # A quarter of the spacing below 1.
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> 0.2 < float((optax.apply_updates(params, updates)["w"] < 1).mean()) < 0.3
    True
    """

    def store(p: jax.Array, memory: Any, step: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        return _round_stochastically(widen(p) + step, p.dtype, key), memory

    return _around("stochastic_rounding", inner, None, store, seed)


def kahan(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Keeps what rounding took from each 16-bit parameter, and adds it to the next step.

    One step is :math:`x = \theta + (u + c)`, :math:`\theta \leftarrow round(x)`,
    :math:`c \leftarrow round(x - \theta)`, sums in float32 (Kahan 1965; in training, Zamirai et
    al. 2020, arXiv 2010.06192).

    Args:
      inner: A whole optimizer, its decay included.

    Raises:
      ValueError: From ``update`` without ``params``.

    >>> tx = kahan(optax.sgd(1.0))
    >>> params = {"w": jnp.ones((), jnp.bfloat16)}
    >>> state = tx.init(params)
    >>> for _ in range(8):
    ...     updates, state = tx.update({"w": jnp.asarray(2.0**-10)}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params["w"]) == 1 - 8 * 2.0**-10
    True
    """

    def store(p: jax.Array, lost: Any, step: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        exact = widen(p) + (step + widen(lost))
        new = exact.astype(p.dtype)
        return new, (exact - widen(new)).astype(p.dtype)

    return _around("kahan", inner, jnp.zeros_like, store)


def float32_masters(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Trains a float32 copy of each 16-bit parameter; the parameter is its rounding.

    One step is :math:`\Theta \leftarrow \Theta + u(\Theta)`, :math:`\theta = round(\Theta)`. The
    optimizer, decay included, sees the masters :math:`\Theta`. An entry that was replaced since
    (:math:`round(\Theta) \ne \theta`: weights loaded after ``init``) is taken as it is. Give it
    float32 gradients: a 16-bit step is rounded, and an entry that it carries across zero keeps that
    error, at most 2^-9 of the step in bfloat16.

    Args:
      inner: A whole optimizer, its decay included.

    Raises:
      ValueError: From ``update`` without ``params``.

    >>> tx = float32_masters(optax.sgd(1.0))
    >>> params = {"w": jnp.ones((), jnp.bfloat16)}
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"w": jnp.asarray(2.0**-10)}, state, params)
    >>> float(state.memory["w"]) == 1 - 2.0**-10
    True
    """

    def store(p: jax.Array, master: Any, step: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        return (master + step).astype(p.dtype), master + step

    return _around("float32_masters", inner, widen, store, masters=True)


def _around(
    name: str,
    inner: optax.GradientTransformation,
    start: Callable[[jax.Array], jax.Array] | None,
    store: Store,
    seed: int = 0,
    masters: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """A wrapper that gives ``inner`` float32 and stores its steps leaf by leaf."""
    check_number("seed", seed)
    inner = with_extra_args(inner)

    def init_fn(params: PyTree) -> RoundingState:
        leaves, treedef = jax.tree.flatten(params)
        memory = [start(p) if start and is_16_bit(p) else None for p in leaves]
        key = jax.random.key_data(jax.random.key(seed))
        return RoundingState(key, treedef.unflatten(memory), inner.init(widen(params)))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, RoundingState]:
        require_params(name, params)
        leaves, treedef = jax.tree.flatten(params)
        memory = treedef.flatten_up_to(state.memory)
        pairs = list(zip(leaves, memory, strict=True))
        if masters:
            pairs = [(p, None if m is None else _current(p, m)) for p, m in pairs]
        seen = [m if masters and m is not None else p for p, m in pairs]
        steps, inner_state = inner.update(
            widen(updates), state.inner, widen(treedef.unflatten(seen)), **extra_args
        )
        key, *keys = jax.random.split(jax.random.wrap_key_data(state.key), len(leaves) + 1)
        grads, updates_def = jax.tree.flatten(updates)
        new, kept = [], []
        rows = zip(grads, pairs, jax.tree.leaves(steps), keys, strict=True)
        for g, (p, m), step, own in rows:
            if is_16_bit(p):
                target, m = store(p, m, step, own)
                step = widen(target) - widen(p)  # Exact where the step is small beside p.
            new.append(step if is_fixed(p) else step.astype(wider(g, p)))
            kept.append(m)
        state = RoundingState(jax.random.key_data(key), treedef.unflatten(kept), inner_state)
        return updates_def.unflatten(new), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _current(p: jax.Array, master: jax.Array) -> jax.Array:
    """The master, or the parameter where that is not its rounding; NaN is its own rounding."""
    rounded = master.astype(p.dtype)
    same = (rounded == p) | (jnp.isnan(rounded) & jnp.isnan(p))
    return jnp.where(same, master, widen(p))


def _round_stochastically(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """Rounds to one of the two neighbours in ``dtype``, unbiased."""
    if dtype == jnp.bfloat16:  # The upper half of x: what is left out may carry.
        x = x.astype(jnp.float32)  # It is wider where the gradient is.
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (_noise_bits(key, x.shape) >> 16)
        upper = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
        return jnp.where(jnp.isfinite(x), upper, x).astype(dtype)
    nearest = x.astype(dtype)
    error = x - widen(nearest)
    away = jnp.where(error > 0, jnp.inf, -jnp.inf).astype(dtype)
    other = jnp.nextafter(nearest, away)
    gap = jnp.abs(widen(other) - widen(nearest))
    crosses = uniform_noise(key, x.shape) * gap < jnp.abs(error)
    return jnp.where(crosses & jnp.isfinite(x), other, nearest)


def uniform_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers in [0, 1) in steps of 2^-24: each entry's position, mixed twice with the key.

    Good enough to round by, and a handful of operations in the loop that writes the parameter:
    ``jax.random.uniform`` takes several times as long as the whole step on a CPU, and as much
    memory as the parameters several times over. The same on any mesh.

    Args:
      key: As ``jax.random.split`` gives them: its first and last word count.
      shape: Of the result; from 2^32 entries on the numbers repeat.

    Returns:
      float32 array.

    >>> noise = uniform_noise(jax.random.key(0), (1000, 100))
    >>> 0.49 < float(noise.mean()) < 0.51 and float(noise.max()) < 1.0
    True
    """
    return (_noise_bits(key, shape) >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def _noise_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    words = jax.random.key_data(key)
    return scramble(scramble(positions(shape) ^ words[0]) + words[-1])
