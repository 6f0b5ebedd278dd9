"""What a step is given to go by: a loss that is one number, gradients that fit the parameters."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from wdlab._core.names import first_few
from wdlab.rules import leaves_with_paths

PyTree = Any


def check_gradients(grads: PyTree, params: PyTree) -> None:
    """Raises for gradients of other parameters, and for shapes that would be broadcast.

    One axis more than the parameter has is not refused: a gradient for each example, as
    ``optax.contrib.differentially_private_aggregate`` takes.

    >>> w = jnp.ones((2, 3))
    >>> check_gradients({"w": w}, {"w": w})
    >>> check_gradients({"w": w[0]}, {"w": w})
    Traceback (most recent call last):
        ...
    ValueError: grads/w has shape (3,), params/w (2, 3): ...
    >>> check_gradients({"v": w}, {"w": w})
    Traceback (most recent call last):
        ...
    ValueError: grads has no w and more than params: v. ...
    """
    if isinstance(params, optax.LookaheadParams):
        params = params.fast
    own, given = (dict(leaves_with_paths(tree)) for tree in (params, grads))
    missing, more = [p for p in own if p not in given], [p for p in given if p not in own]
    if missing or more:
        found = [f"no {first_few(missing)}"] * bool(missing)
        found += [f"more than params: {first_few(more)}"] * bool(more)
        raise ValueError(
            f"grads has {' and '.join(found)}. It must be a tree like params, as jax.grad gives."
        )
    for path, leaf in given.items():
        shape, wanted = jnp.shape(leaf), jnp.shape(own[path])
        if shape != wanted and len(shape) <= len(wanted):
            raise ValueError(
                f"grads/{path} has shape {shape}, params/{path} {wanted}: the update would be "
                "broadcast, or fail. Give the gradient of that parameter."
            )


def one_number(loss_fn: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """The loss function, which raises where it gives anything else than ``has_aux`` says.

    >>> one_number(lambda x: (x, {}), has_aux=False)(1.0)
    Traceback (most recent call last):
        ...
    ValueError: loss_fn returns a tuple of 2: for a loss and something beside it write has_aux=True.
    >>> one_number(lambda x: x, has_aux=False)(jnp.ones(8))
    Traceback (most recent call last):
        ...
    ValueError: loss_fn's loss has shape (8,): it must be one number, as loss.mean() is.
    """

    def checked(*arguments: Any) -> Any:
        found = loss_fn(*arguments)
        kind = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
        if has_aux and not (isinstance(found, tuple) and len(found) == 2):
            raise ValueError(f"loss_fn returns {kind}: with has_aux=True it must be (loss, aux).")
        if not has_aux and isinstance(found, tuple):
            raise ValueError(
                f"loss_fn returns {kind}: for a loss and something beside it write has_aux=True."
            )
        loss: Any = found[0] if has_aux else found
        if shape := jnp.shape(loss):
            raise ValueError(
                f"loss_fn's loss has shape {shape}: it must be one number, as loss.mean() is."
            )
        return found

    return checked
