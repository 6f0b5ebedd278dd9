"""Optimizers as chains short enough to see where the decay sits; the coupling has no default."""

from wdlab._core.dtypes import in_float32
from wdlab.optimizers.adafactor_chain import adafactor, scale_by_adafactor
from wdlab.optimizers.assembly import assemble, complete, scale_by_learning_rate
from wdlab.optimizers.chains import adam, adamw, lionw, radamw, sgd, sgdw
from wdlab.optimizers.injection import inject_hyperparams
from wdlab.optimizers.second_order import soap
from wdlab.optimizers.stable_decay import adams

__all__ = [
    "adafactor",
    "adam",
    "adams",
    "adamw",
    "assemble",
    "complete",
    "in_float32",
    "inject_hyperparams",
    "lionw",
    "radamw",
    "scale_by_adafactor",
    "scale_by_learning_rate",
    "sgd",
    "sgdw",
    "soap",
]
