"""Parameter-sized temporaries and words moved per parameter, as XLA:CPU compiles each step."""

import importlib

import jax
import jax.numpy as jnp
import optax
import pytest

import wdlab
from wdlab import groups, optimizers
from wdlab.conventions.adafactor_presets import PRESETS
from wdlab.decay import (
    decay_huber,
    decay_l1,
    decay_proximal,
    hyperball,
    keep_initial_norm,
    variants,
)
from wdlab.optimizers import adams
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import Rule
from wdlab.training import precision

LR = wdlab.schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=20)
DECAY = {"weight_decay": 0.1, "coupling": "lr"}
L2 = {"weight_decay": 0.1, "coupling": "l2"}
# The module, whose name the function of ``wdlab.decay.norm_bounds`` would hide.
constrain_norms = importlib.import_module("wdlab.decay.norm_bounds").constrain_norms


def after_adam(*last):
    return optax.chain(optimizers.adam(LR), *last)


def clipped(clip):
    return optax.chain(clip, optimizers.adamw(LR, **DECAY))


def adafactor(**arguments):
    return optimizers.adafactor(LR, **{**DECAY, **arguments})


def preset(name):
    arguments = {"learning_rate": LR, "peak_learning_rate": 0.05, **PRESETS[name].arguments}
    return optimizers.adafactor(
        **arguments, weight_decay=0.1 if "coupling" in PRESETS[name].arguments else 0.0
    )


# Words moved per parameter, a float32 parameter being one; and copies of the parameters, where XLA
# on a CPU keeps a value that two results need (compilers for GPUs and TPUs fuse the two).
STEPS = {
    "sgd": (lambda: optimizers.sgd(LR), 3),
    "sgd momentum l2": (lambda: optimizers.sgd(LR, **L2, momentum=0.9), 7),
    "nesterov": (lambda: optimizers.sgdw(LR, **DECAY, momentum=0.9, nesterov=True), 7),
    "adam l2": (lambda: optimizers.adam(LR, **L2), 12),
    "adamw": (lambda: optimizers.adamw(LR, **DECAY), 10),
    "radamw": (lambda: optimizers.radamw(LR, **DECAY), 10),
    "amsgrad": (lambda: optax.chain(scale_by_adam(amsgrad="raw"), optax.scale(-1e-3)), 13),
    "lionw": (lambda: optimizers.lionw(LR, **DECAY), 7),
    "clip by global norm": (lambda: clipped(wdlab.clip_by_global_norm(1.0)), 11),
    "clip by block rms": (lambda: clipped(wdlab.clip_by_block_rms(1.0)), 11),
    "decay masked": (lambda: optimizers.adamw(LR, **DECAY, rules=(Rule("a", 0.0), Rule(".*"))), 10),
    "decay cautious": (lambda: after_adam(wdlab.decay_weights(0.1, cautious=True)), 10),
    "decay toward init": (lambda: after_adam(wdlab.decay_weights(0.1, toward="init")), 11),
    "decay toward ema": (lambda: after_adam(variants.decay_toward_ema(0.1, ema_rate=0.9)), 14),
    "decay l1": (lambda: after_adam(decay_l1(0.1)), 10),
    "decay huber": (lambda: after_adam(decay_huber(0.1, delta=1.0)), 10),
    "decay proximal": (lambda: after_adam(decay_proximal(0.1)), 10),
    "adams": (lambda: adams(LR, weight_decay=0.1), 11),
    "decay corrected": (
        lambda: after_adam(
            variants.decay_corrected(0.1, learning_rate=LR, normalized=(Rule("a"), Rule(".*", 0.0)))
        ),
        10,
    ),
    "groups": (
        lambda: groups.grouped(
            scale_by_adam(), 0.1, (groups.Group("a", learning_rate_scale=2.0), groups.Group(".*"))
        ),
        10,
    ),
    "adafactor": (adafactor, 7),
    "adafactor last": (lambda: adafactor(axes="last"), 7),
    "adafactor never": (lambda: adafactor(axes="never"), 10),
    "adafactor momentum": (lambda: adafactor(momentum=0.9), 10),
    "adafactor momentum of direction": (
        lambda: adafactor(momentum=0.9, momentum_of="direction"),
        10,
    ),
    "adafactor unclipped": (lambda: adafactor(clipping_threshold=None), 6),
    # 7 words by jaxlib 0.10.2, 8 by 0.12.0.
    "adafactor by parameter scale": (lambda: adafactor(coupling="parameter_scale"), 8),
    "adafactor torch": (lambda: preset("torch.Adafactor"), 7),
    "nesterov l2": (lambda: optimizers.sgd(LR, **L2, momentum=0.9, nesterov=True), 9.5, 0.75),
    "rmsprop l2": (lambda: wdlab.conventions.build("torch.RMSprop", 0.1, weight_decay=0.1), 10, 1),
    "16-bit moment": (lambda: scale_by_adam(mu_dtype=jnp.bfloat16), 10.5, 0.5),
    "skip nonfinite": (lambda: wdlab.skip_nonfinite(optimizers.adamw(LR, **DECAY)), 16, 2),
    "hyperball": (lambda: optax.chain(scale_by_adam(), hyperball(LR, rules=1.0)), 20, 2),
    "keep initial norm": (lambda: after_adam(keep_initial_norm(rules=1.0)), 18, 2),
    "constrain norms": (lambda: after_adam(constrain_norms()), 18, 2),
    "adafactor l2": (lambda: adafactor(coupling="l2"), 9.5, 0.76),
    "adafactor clipped": (
        lambda: optax.chain(wdlab.clip_by_global_norm(1.0), adafactor()),
        10.1,
        1.01,
    ),
    "adafactor decay first": (lambda: adafactor(decay_first=True), 9.5, 0.76),
}


def figures(tx, dtype=jnp.float32):
    """Temporaries and traffic, as parts of the parameters' bytes; nothing is run."""
    params = {name: jax.ShapeDtypeStruct((256, 512), dtype) for name in "abcd"}
    state = jax.eval_shape(tx.init, params)
    compiled = wdlab.make_update(tx).lower(params, state, params).compile()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in params.values())
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return temporaries / size, compiled.cost_analysis()["bytes accessed"] / size


@pytest.mark.parametrize("name", STEPS)
def test_temporaries_and_words(name):
    make, words, copies = (*STEPS[name], 0)[:3]
    found = figures(make())
    assert found[0] <= copies + 0.01
    assert found[1] <= words + 0.1


@pytest.mark.parametrize(
    ("wrapper", "most"),  # Words of 2 bytes; the moments have 4.
    [
        (lambda tx: tx, 16),
        (precision.stochastic_rounding, 16),
        (precision.float32_masters, 22),
    ],
)
def test_no_temporaries_with_16_bit_parameters(wrapper, most):
    tx = wrapper(optimizers.adamw(LR, **DECAY))
    temporaries, words = figures(tx, dtype=jnp.bfloat16)
    assert temporaries <= 0.01
    assert words <= most + 0.1


@pytest.mark.parametrize(
    "theirs",
    [
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        lambda: optax.lion(1e-3),
        lambda: optax.adafactor(1e-3),
    ],
)
def test_the_check_can_fail(theirs):
    assert figures(theirs())[0] >= 1.0
