"""Every framework's meaning of an optimizer and its weight decay, by name.

    tx = wdlab.conventions.build("composer.DecoupledAdamW", schedule, weight_decay=1e-5)

The key is the system and its class as its users write them, the arguments are the original's own;
``weight_decay=`` is understood where the original calls it otherwise. What the original excludes
from decay by default is the default of ``rules``. Each family has a module in ``families``.
"""

from typing import Any

import optax

from wdlab._core.checks import named_errors
from wdlab._core.names import nearest
from wdlab.conventions.convention import Convention
from wdlab.conventions.families import FAMILIES
from wdlab.schedules import ScalarOrSchedule

PyTree = Any
_REGISTRY = {known.name: known for family in FAMILIES for known in family.CONVENTIONS}


def names() -> tuple[str, ...]:
    """Returns the keys of all conventions, in alphabetical order.

    >>> "torch.AdamW" in names()
    True
    """
    return tuple(sorted(_REGISTRY))


def get(name: str) -> Convention:
    """Returns what is known of one convention: equation, order, epsilon, defaults, traps.

    Args:
      name: One of :func:`names`.

    Raises:
      ValueError: If there is no such key, naming the nearest.

    >>> get("torch.AdamW").coupling, get("composer.DecoupledAdamW").coupling
    ('lr', 'schedule')
    >>> get("torch.Adamw")
    Traceback (most recent call last):
    ValueError: no convention 'torch.Adamw'; the nearest is 'torch.AdamW'. ...
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    raise ValueError(
        f"no convention {name!r}; the nearest is {nearest(name, _REGISTRY)!r}. "
        "wdlab.conventions.names() lists all."
    )


def build(
    name: str,
    learning_rate: ScalarOrSchedule | None,
    *,
    rules: PyTree = None,
    peak_learning_rate: float | None = None,
    **hyperparameters: Any,
) -> optax.GradientTransformation:
    r"""Builds one system's optimizer, equal to the original step by step.

    One step is the ``equation`` of ``get(name)``.

    Args:
      name: One of :func:`names`.
      learning_rate: The effective learning rate of each update: a number or a schedule of the
        number of updates made before (0-based). None where the original makes its own (the
        relative step of Adafactor).
      rules: Which leaves decay, and how much; the original's exclusions if None.
      peak_learning_rate: The learning rate that the original was constructed with, for those that
        divide by it (Composer, big_vision, timm's ``corrected_weight_decay``); schedules of
        :mod:`wdlab.schedules` carry it.
      **hyperparameters: The original's own arguments; the others keep the original's defaults.

    Raises:
      TypeError: For an argument that the original does not have, naming the nearest, or a missing
        one.
      ValueError: For an unknown name or wrong numbers.

    >>> import jax.numpy as jnp
    >>> tx = build("torch.SGD", 0.5, momentum=0.9, weight_decay=0.25)
    >>> theta, gradient = jnp.array(4.0), jnp.array(1.0)
    >>> float(tx.update(gradient, tx.init(theta), theta)[0])  # -0.5 * (1 + 0.25 * 4)
    -1.0
    >>> build("torch.AdamW", 1e-3, beta=(0.9, 0.95))
    Traceback (most recent call last):
    TypeError: torch.AdamW has no argument 'beta'; the nearest is 'betas'. ...
    """
    # optax.inject_hyperparams hands the dict of keyword arguments on as one of that name.
    hyperparameters |= hyperparameters.pop("hyperparameters", {})
    convention = get(name)
    with named_errors(name):
        request = convention.request(
            learning_rate, hyperparameters, rules=rules, peak_learning_rate=peak_learning_rate
        )
        return convention.make(request)
