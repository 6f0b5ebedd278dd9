"""Whether a run that is resumed with other settings still has its checkpoint's optimizer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

import wdlab
from wdlab.training import CheckpointError, setting_differences

from .errors import UserError
from .settings import Settings

Optimizers = Sequence[optax.GradientTransformation]


def same_optimizer(
    config: Settings,
    params: Any,
    build: Callable[[Any], Optimizers],
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    otherwise: str = "",
) -> str:
    """Compares the optimizers that a checkpoint's settings and this run's describe.

    Args:
      config: This run's settings.
      params: Its parameters.
      build: Settings -> the optimizers of the run, in order.
      saved: The settings that the checkpoint was made with.
      now: Those that this run would keep there.
      otherwise: How to take the other optimizer on purpose.

    Returns:
      One line for the user, with how it is known, where the two are the same; empty where other
      settings than the optimizer's differ, or the code that reads them, and nothing can be said.

    Raises:
      CheckpointError: If they are not: with the first update that differs, and what to write.
    """
    changed = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    flags = [name for name in changed if name != "decay_plan"]
    known = saved.keys() & now.keys() & set(config.OPTIMIZER)
    if not flags or not set(flags) <= known:
        return ""
    earlier = {name: saved[name] for name in flags}
    lines = setting_differences(earlier, {name: now[name] for name in flags})
    try:
        pairs = zip(build(dataclasses.replace(config, **earlier)), build(config), strict=True)
        answers = [wdlab.equivalent(one, two, params) for one, two in pairs]
    except (UserError, TypeError, ValueError):  # Of a version that knew other names.
        return ""
    for answer in answers:
        if not answer:
            flags = [f"--{name}={value!r}" for name, value in earlier.items()]
            raise CheckpointError(
                f"the checkpoint's optimizer is not this run's ({', '.join(lines)}): "
                + " ".join(str(answer).partition(": ")[2].split())
                + f" (the first is the checkpoint's). Write {' '.join(flags)} to go on with the run"
                + (f", or {otherwise}" if otherwise else "")
            )
    return f"{', '.join(lines)}: {answers[0]}"
