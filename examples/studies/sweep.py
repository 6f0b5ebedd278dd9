"""The digits network as a sweep: learning rate x weight decay x coupling, every run in one program.

``wdlab sweep`` in the root of the repository trains it: 729 runs, seconds on two CPU cores.
"""

from collections.abc import Mapping
from typing import Any

import jax

import wdlab
from wdlab.sweep import Train, adam_of

from . import digits as network
from . import grids

EXAMPLES = 300


def task(*, hidden: int = 64, steps: int = 300, batch_size: int = 64) -> Train:
    """Overfitting (see ``grids.py``) by Adam with a cosine to 0, the coupling traced."""
    eta = wdlab.schedules.cosine(1.0, decay_steps=steps)
    return grids.overfitting(
        lambda h: adam_of(h, schedule=eta),
        steps=steps,
        batch_size=batch_size,
        examples=EXAMPLES,
        init=lambda key: network.init(key, (hidden,)),
    )


def digits(hyperparameters: dict[str, Any], key: jax.Array) -> Mapping[str, Any]:
    """One run; the hyper-parameters are those of :func:`wdlab.sweep.adam_of`."""
    return task()(hyperparameters, key)
