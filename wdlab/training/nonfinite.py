"""Steps whose gradient or loss is not finite are left out whole, decay included, and counted.

    tx = skip_nonfinite(optax.chain(wdlab.clip_by_global_norm(1.0), wdlab.optimizers.adamw(...)))

                      optax.apply_if_finite(tx, n)           skip_nonfinite(tx)
    n + 1 in a row    applies the bad step: weights are NaN  goes on skipping; ``check`` stops
    loss is NaN       not looked at                          skipped, where ``value=`` is given
    AdamW on a TPU    13 words per parameter (alone: 7)      8 words, no copy of the parameters
    AdamW on a CPU    14 words (alone: 10), 1 copy           16 words, 2 copies

Put it outermost: ``skip_nonfinite(optax.MultiSteps(tx, k))`` keeps a bad micro-batch out of the
mean. Inside, the mean of ``MultiSteps`` stays NaN from the first bad micro-batch on, and so does
any average of gradients that comes before it in a chain: no later step would be made. What is
checked is the gradient that comes in, not what the optimizer makes of it: the square of 1e20 is
infinite in float32, and stays in Adam's second moment; clip the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number
from wdlab._core.dtypes import working_dtype
from wdlab._core.transformation import with_extra_args
from wdlab.rules import leaves_with_paths

PyTree = Any
OUTERMOST = "Write it around the whole optimizer: skip_nonfinite(optax.MultiSteps(tx, k))."


class SkipNonfiniteState(NamedTuple):
    """State of :func:`skip_nonfinite`."""

    skipped: jax.Array  # int32, shape (): steps left out since the start
    in_a_row: jax.Array  # int32, shape (): steps left out since the last one that was made
    inner: PyTree


class SkippedSteps(NamedTuple):
    """What :func:`skipped_steps` reads; arrays, or numbers outside ``jit``."""

    skipped: Any  # int32, shape ()
    in_a_row: Any  # int32, shape ()


class NonfiniteError(ArithmeticError):
    """Too many steps in a row were not finite."""


def skip_nonfinite(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes no step where the gradient or the loss is NaN or infinite: not even the decay's.

    One step is :math:`(u, s) \leftarrow inner(g, s, \theta)` if every entry of :math:`g` is finite,
    and :math:`u = 0`, with :math:`s` as it was, if not.

    Args:
      inner: A whole optimizer, its decay included. Extra arguments of ``update`` are passed on;
        a ``value=`` or ``loss=`` among them (scalar) must be finite too.

    Returns:
      The transformation. Its state counts the skipped steps: :func:`skipped_steps` reads them, and
      :func:`check_skipped_steps` stops a run that skips too many in a row.

    >>> tx = skip_nonfinite(optax.chain(optax.sgd(1.0), optax.add_decayed_weights(-0.5)))
    >>> params, state = {"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)})
    >>> updates, state = tx.update({"w": jnp.array([1.0, jnp.nan])}, state, params)
    >>> updates["w"].tolist(), int(skipped_steps(state).skipped)
    ([0.0, 0.0], 1)
    """
    inner = with_extra_args(inner)

    def init_fn(params: PyTree) -> SkipNonfiniteState:
        return SkipNonfiniteState(jnp.int32(0), jnp.int32(0), inner.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, SkipNonfiniteState]:
        losses = [extra_args[name] for name in ("value", "loss") if name in extra_args]
        good = _all_finite([*jax.tree.leaves(updates), *losses])
        new, inner_state = inner.update(updates, state.inner, params, **extra_args)
        new = jax.tree.map(lambda u: jnp.where(good, u, jnp.zeros_like(u)), new)
        inner_state = jax.tree.map(lambda n, o: jnp.where(good, n, o), inner_state, state.inner)
        bad = jnp.int32(~good)
        kept = SkipNonfiniteState(state.skipped + bad, (state.in_a_row + 1) * bad, inner_state)
        return new, kept

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def skipped_steps(opt_state: PyTree) -> SkippedSteps:
    """Reads the counters of every :func:`skip_nonfinite` in an optimizer state.

    Args:
      opt_state: The state of a transformation that contains at least one.

    Returns:
      The most steps ``skipped`` since the start and ``in_a_row`` until now, as arrays: it may be
      used under ``jit``, and outside it nothing waits for the device before they are read.

    Raises:
      ValueError: If there is none in the state.

    >>> state = optax.chain(optax.identity(), skip_nonfinite(optax.sgd(1.0))).init({})
    >>> [int(count) for count in skipped_steps(state)]
    [0, 0]
    """
    found = _skips(opt_state)
    if not found:
        raise ValueError(
            "nothing counts skipped steps in this optimizer state. Write "
            "tx = wdlab.skip_nonfinite(tx) around the optimizer, and call tx.init again."
        )
    skipped, in_a_row = found[0].skipped, found[0].in_a_row
    for other in found[1:]:
        skipped = jnp.maximum(skipped, other.skipped)
        in_a_row = jnp.maximum(in_a_row, other.in_a_row)
    return SkippedSteps(skipped, in_a_row)


def check_skipped_steps(opt_state: PyTree, most_in_a_row: int) -> SkippedSteps:
    """Stops a run in which nothing is finite any more, with a message.

    Args:
      opt_state: As for :func:`skipped_steps`.
      most_in_a_row: How many skipped steps in a row are borne, >= 0. It does not matter how often
        this is called; each call waits for the device.

    Returns:
      The counters as Python ints, to be logged.

    Raises:
      NonfiniteError: If more were skipped, or if a transformation outside :func:`skip_nonfinite`
        holds a NaN, so that no later step will be made.
      TypeError, ValueError: If ``most_in_a_row`` is not a number >= 0, or nothing counts.

    >>> state = skip_nonfinite(optax.sgd(1.0)).init({})
    >>> check_skipped_steps(state, most_in_a_row=10)
    SkippedSteps(skipped=0, in_a_row=0)
    """
    check_number("most_in_a_row", most_in_a_row)
    skipped, in_a_row = (int(count) for count in jax.device_get(skipped_steps(opt_state)))
    if in_a_row and (path := _nan_outside(opt_state)):
        raise NonfiniteError(
            f"opt_state/{path} holds a NaN, outside of skip_nonfinite: no later step will be made. "
            f"{OUTERMOST}"
        )
    if in_a_row > most_in_a_row:
        raise NonfiniteError(
            f"the last {in_a_row} steps had a gradient or loss that is NaN or infinite "
            f"({skipped} since the start, at most {most_in_a_row} in a row are borne); the "
            "parameters are those before them. Try a lower learning rate, a longer warm-up, "
            "clipping, or float32."
        )
    return SkippedSteps(skipped, in_a_row)


def check_skips_outside(opt_state: PyTree) -> None:
    """Raises for ``MultiSteps(skip_nonfinite(...))``, which makes no step after one NaN.

    >>> check_skips_outside(optax.MultiSteps(skip_nonfinite(optax.sgd(0.1)), 2).init({}))
    Traceback (most recent call last):
    ValueError: skip_nonfinite is inside of optax.MultiSteps, whose mean stays NaN after one ...
    """
    is_multi_steps = lambda x: isinstance(x, optax.MultiStepsState)  # noqa: E731
    for state in filter(is_multi_steps, jax.tree.leaves(opt_state, is_leaf=is_multi_steps)):
        # With a skip_state MultiSteps leaves out bad micro-batches by itself.
        if state.skip_state == () and _skips(state.inner_opt_state):
            raise ValueError(
                "skip_nonfinite is inside of optax.MultiSteps, whose mean stays NaN after one bad "
                f"micro-batch. {OUTERMOST} Or give MultiSteps "
                "should_skip_update_fn=optax.skip_not_finite."
            )


def _skips(opt_state: PyTree) -> list[SkipNonfiniteState]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, SkipNonfiniteState))
    return [leaf for leaf in leaves if isinstance(leaf, SkipNonfiniteState)]


def _nan_outside(opt_state: PyTree) -> str:
    """The path of the first NaN in the state of other transformations; empty if there is none."""
    others = jax.tree.map(
        lambda x: None if isinstance(x, SkipNonfiniteState) else x,
        opt_state,
        is_leaf=lambda x: isinstance(x, SkipNonfiniteState),
    )
    pairs = ((p, x) for p, x in leaves_with_paths(others) if jnp.issubdtype(x.dtype, jnp.inexact))
    return next((path for path, leaf in pairs if jnp.isnan(leaf).any()), "")


def _all_finite(leaves: list[Any]) -> jax.Array:
    """Whether no entry is NaN or infinite, in one pass: x - x is 0 only where x is finite."""
    inexact = [x for x in leaves if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    # jnp.isfinite would write a boolean for each entry, on a CPU; a maximum loses a NaN there.
    wide = [jnp.asarray(x, working_dtype(x)) for x in inexact]
    zeros = [jnp.sum(x - x) for x in wide]
    return jnp.all(jnp.array([zero == 0 for zero in zeros])) if zeros else jnp.bool_(True)
