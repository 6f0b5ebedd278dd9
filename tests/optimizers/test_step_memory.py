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


# Words moved per parameter; a float32 parameter is one word.
STEPS = {
    "sgd": (lambda: optimizers.sgd(LR), 3),
    "sgd momentum l2": (lambda: optimizers.sgd(LR, **{**DECAY, "coupling": "l2"}, momentum=0.9), 7),
    "nesterov": (lambda: optimizers.sgdw(LR, **DECAY, momentum=0.9, nesterov=True), 7),
    "adam l2": (lambda: optimizers.adam(LR, weight_decay=0.1, coupling="l2"), 12),
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
    "stochastic rounding": (lambda: precision.stochastic_rounding(optimizers.adamw(LR)), 10),
    "kahan": (lambda: precision.kahan(optimizers.adamw(LR)), 10),
    "float32 masters": (lambda: precision.float32_masters(optimizers.adamw(LR)), 10),
    "decay corrected": (
        lambda: after_adam(
            variants.decay_corrected(0.1, learning_rate=LR, normalized=(Rule("a"), Rule(".*", 0.0)))
        ),
        10,
    ),
    "nesterov l2": (
        lambda: optimizers.sgd(LR, **{**DECAY, "coupling": "l2"}, momentum=0.9, nesterov=True),
        8,
    ),
    "rmsprop l2": (lambda: wdlab.conventions.build("torch.RMSprop", 0.1, weight_decay=0.1), 9),
    "optax's lion": (lambda: optax.lion(0.1), 7),
    "optax lamb": (lambda: wdlab.conventions.build("optax.lamb", 0.1, weight_decay=0.1), 14),
    "modded-nanogpt": (lambda: wdlab.conventions.build("modded_nanogpt.Adam", 0.1), 10),
    "16-bit moment": (lambda: scale_by_adam(mu_dtype=jnp.bfloat16), 9.5),
    "16-bit moment, skip": (
        lambda: wdlab.skip_nonfinite(optax.adamw(LR, mu_dtype=jnp.bfloat16)),
        10.5,
    ),
    "groups": (
        lambda: groups.grouped(
            scale_by_adam(), 0.1, (groups.Group("a", learning_rate_scale=2.0), groups.Group(".*"))
        ),
        10,
    ),
    "hyperball": (lambda: optax.chain(scale_by_adam(), hyperball(LR, rules=1.0)), 20),
    "keep initial norm": (lambda: after_adam(keep_initial_norm(rules=1.0)), 16),
    "constrain norms": (lambda: after_adam(constrain_norms()), 14),
    "constrain norms, skip": (
        lambda: wdlab.skip_nonfinite(after_adam(constrain_norms("warm_start", 5))),
        17,
    ),
    "clip after adam": (lambda: optax.chain(scale_by_adam(), wdlab.clip_by_block_rms(1.0)), 12),
    "skip nonfinite": (
        lambda: wdlab.skip_nonfinite(clipped(wdlab.clip_by_global_norm(1.0))),
        12,
    ),
    "adafactor": (adafactor, 7),
    "adafactor l2": (lambda: adafactor(coupling="l2"), 10),
    "adafactor momentum l2": (lambda: adafactor(coupling="l2", momentum=0.9), 14),
    "adafactor clipped": (
        lambda: optax.chain(wdlab.clip_by_global_norm(1.0), adafactor()),
        8,
    ),
    "adafactor decay first": (lambda: adafactor(decay_first=True), 7),
    "optax's clip + adamw": (
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        11,
    ),
    "adafactor last": (lambda: adafactor(axes="last"), 7),
    "adafactor never": (lambda: adafactor(axes="never"), 10),
    "adafactor momentum": (lambda: adafactor(momentum=0.9), 10),
    "adafactor momentum of direction": (
        lambda: adafactor(momentum=0.9, momentum_of="direction"),
        10,
    ),
    "adafactor unclipped": (lambda: adafactor(clipping_threshold=None), 6),
    "adafactor by parameter scale": (
        lambda: adafactor(coupling="parameter_scale"),
        8,
    ),  # 7.0 by jaxlib 0.10.2, 8.0 by 0.12.0
    "adafactor torch": (lambda: preset("torch.Adafactor"), 7),
}


def figures(tx, make_update=wdlab.make_update, shape=(256, 512), dtype=jnp.float32):
    """Temporaries and traffic, as parts of the parameters' bytes; nothing is run."""
    params = {name: jax.ShapeDtypeStruct(shape, dtype) for name in "abcd"}
    state = jax.eval_shape(tx.init, params)
    compiled = make_update(tx).lower(params, state, params).compile()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in params.values())
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return temporaries / size, compiled.cost_analysis()["bytes accessed"] / size


def plain_update(tx):
    """``wdlab.make_update`` without its own loops, as anyone would write it."""

    def update(params, opt_state, grads):
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(update, donate_argnums=(0, 1))


@pytest.mark.parametrize("name", STEPS)
def test_no_temporaries(name):
    make, most = STEPS[name]
    temporaries, words = figures(make())
    assert temporaries <= 0.01
    assert words <= most + 0.1


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
    temporaries, _ = figures(theirs(), plain_update)
    assert temporaries >= 1.0
