"""What must be equal for a resumed run to be the same run, and words for what is not.

Orbax restores the state of one optimizer into another, and grain the position in one data set into
another, without a word. :func:`run_settings` describes both; given to ``Checkpoints``, it is stored
in each step and compared on ``restore``.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from wdlab.instruments import decay_plan, plan_differences

PyTree = Any


def run_settings(
    tx: optax.GradientTransformation,
    params: PyTree,
    *,
    batch_size: int,
    data_length: int,
    data_seed: int,
    data_shards: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """The settings of a run whose batches come from an iterator with a position, such as grain's.

    Args:
      tx: The optimizer: its decay plan is stored row by row, so that a change is named.
      params: Pytree of arrays or of ``jax.ShapeDtypeStruct``.
      batch_size: Examples per batch of the iterator; a position means others with another one.
      data_length: Examples in the data set.
      data_seed: Seed of their order.
      data_shards: Into how many parts (one per process) they are split.
      **more: Other JSON values that decide the numbers: sizes, dropout, a digest of the data.

    Returns:
      JSON values for ``Checkpoints(..., settings=...)``.

    >>> import jax.numpy as jnp
    >>> tx = optax.adamw(1e-3, weight_decay=0.1)
    >>> settings = run_settings(
    ...     tx, {"w": jnp.ones(2)}, batch_size=8, data_length=60_000, data_seed=0)
    >>> list(settings)
    ['batch_size', 'data_length', 'data_seed', 'data_shards', 'decay_plan']
    """
    data = {"batch_size": batch_size, "data_length": data_length, "data_seed": data_seed}
    return {
        **data,
        "data_shards": data_shards,
        "decay_plan": decay_plan(tx, params).as_json(),
    } | more


def setting_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names what differs between two settings, with both values; leaf by leaf in a decay plan.

    Args:
      saved: Those stored in a checkpoint.
      now: Those of this run.

    Returns:
      One line for each difference; empty if there is none.

    >>> setting_differences({"seed": 0, "data": {"files": 3}}, {"seed": 1, "data": {"files": 4}})
    ['seed is 0 in the checkpoint, 1 in this run',
     'data.files is 3 in the checkpoint, 4 in this run']
    """
    lines = []
    for key in {**saved, **now}:
        old, new = saved.get(key, "absent"), now.get(key, "absent")
        if old == new or _as_text(old) == _as_text(new):  # As texts NaN is equal to itself.
            continue
        if _is_plan(old) and _is_plan(new):
            lines += [f"decay plan: {line}" for line in plan_differences(new, old)]
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += [f"{key}.{line}" for line in setting_differences(old, new)]
        else:
            lines.append(f"{key} is {_short(old)} in the checkpoint, {_short(new)} in this run")
    return lines


def as_json(value: Any, name: str) -> Any:
    """The value as JSON gives it back: tuples are lists, NumPy scalars and small arrays numbers.

    Raises:
      TypeError: If it cannot be written as JSON; ``name`` and the place in it are in the message.

    >>> as_json({"lr": np.float32(0.5), "betas": (0.9, 0.95)}, "settings")
    {'lr': 0.5, 'betas': [0.9, 0.95]}
    """
    if isinstance(value, Mapping):
        return {str(key): as_json(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item, f"{name}[{n}]") for n, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return as_json(np.asarray(value).tolist(), name)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}: only what JSON can hold is kept (numbers, "
        "strings, lists, dicts); give a text, or arrays as part of the state"
    )


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _is_plan(value: Any) -> bool:
    return isinstance(value, Mapping) and {"leaves", "optimizer"} <= value.keys()


def _short(value: Any, longest: int = 80) -> str:
    text = str(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."
