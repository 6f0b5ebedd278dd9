"""The optimizers that are measured: ours, Optax's closest, and the words that the math needs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

import wdlab
from wdlab import optimizers
from wdlab.rules import Rule

LR, DECAY = 1e-3, 0.1
COUPLED = {"weight_decay": DECAY, "coupling": "lr"}
Make = Callable[[], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer."""

    name: str
    ours: Make
    theirs: Make  # Optax's closest, the same step to rounding unless ``note`` says otherwise.
    words: int  # Reads and writes of a parameter, its gradient and its state that no step can spare
    torch: str = ""  # Key of examples.benchmarks.torch_steps.STEPS, where torch has it.
    note: str = ""


def _after_adam(decay: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optimizers.adam(LR), decay)


def _wide(params: Any) -> Any:
    """Optax's way to decay matrices only."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


ROWS = (
    Row("sgd", lambda: optimizers.sgd(LR), lambda: optax.sgd(LR), 3, "sgd"),
    Row(
        "sgd, momentum, l2",
        lambda: optimizers.sgd(LR, weight_decay=DECAY, coupling="l2", momentum=0.9),
        lambda: optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(LR, momentum=0.9)),
        5,
        "momentum",
    ),
    Row(
        "adam, l2",
        lambda: optimizers.adam(LR, weight_decay=DECAY, coupling="l2"),
        lambda: optax.chain(optax.add_decayed_weights(DECAY), optax.adam(LR)),
        7,
        "adam",
    ),
    Row(
        "adamw",
        lambda: optimizers.adamw(LR, **COUPLED),
        lambda: optax.adamw(LR, weight_decay=DECAY),
        7,
        "adamw",
    ),
    Row(
        "clip + adamw",
        lambda: optax.chain(wdlab.clip_by_global_norm(1.0), optimizers.adamw(LR, **COUPLED)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LR, weight_decay=DECAY)),
        8,
        "clip + adamw",
    ),
    Row(
        "block clip + adamw",
        lambda: optax.chain(wdlab.clip_by_block_rms(1.0), optimizers.adamw(LR, **COUPLED)),
        lambda: optax.chain(optax.clip_by_block_rms(1.0), optax.adamw(LR, weight_decay=DECAY)),
        8,
    ),
    Row(
        "adamw, masked decay",
        lambda: optimizers.adamw(LR, **COUPLED, rules=(Rule(".*(bias|layer0)", 0.0), Rule(".*"))),
        lambda: optax.adamw(LR, weight_decay=DECAY, mask=_wide),
        7,
    ),
    Row(
        "adamw, cautious decay",
        lambda: _after_adam(wdlab.decay_weights(DECAY, multiplier=LR, cautious=True)),
        lambda: optax.adamw(LR, weight_decay=DECAY),
        7,
        note="Optax has none: AdamW",
    ),
    Row(
        "adamw, decay to init",
        lambda: _after_adam(wdlab.decay_weights(DECAY, multiplier=LR, toward="init")),
        lambda: optax.adamw(LR, weight_decay=DECAY),
        8,
        note="Optax has none: AdamW, one word less",
    ),
    Row(
        "radamw",
        lambda: optimizers.radamw(LR, **COUPLED),
        lambda: optax.chain(
            optax.scale_by_radam(), optax.add_decayed_weights(DECAY), optax.scale(-LR)
        ),
        7,
        "radam",
    ),
    Row(
        "lionw",
        lambda: optimizers.lionw(LR, **COUPLED),
        lambda: optax.lion(LR, weight_decay=DECAY),
        5,
    ),
    Row(
        "adafactor",
        lambda: optimizers.adafactor(LR, **COUPLED),
        lambda: optax.adafactor(LR, weight_decay_rate=LR * DECAY),
        6,
        "adafactor",
    ),
)


def _hidden_dims(params: Any) -> Any:
    """Optax's way to say which leaves are Muon's: ours, so that both do the same work."""
    of = {"muon": optax.contrib.MuonDimensionNumbers(), "adamw": None}
    return jax.tree.map(of.__getitem__, optimizers.branches_of(params))


def _muon(**arguments: Any) -> Make:
    return lambda: optimizers.muon(LR, **COUPLED, scaling="original", **arguments)


def _optax_muon() -> optax.GradientTransformation:
    return optax.contrib.muon(
        LR,
        weight_decay=DECAY,
        adam_weight_decay=DECAY,
        muon_weight_dimension_numbers=_hidden_dims,
    )


# The words are those of the elementwise part; the products' traffic depends on the shapes.
MATRIX_ROWS = (
    Row("muon, bfloat16", _muon(), _optax_muon, 5, "muon", "Optax: float32, NAdamW beside it"),
    Row("muon, float32", _muon(dtype="float32"), _optax_muon, 5, note="Optax: NAdamW beside it"),
)
