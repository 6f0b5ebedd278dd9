"""Parameter-sized temporaries and words moved per parameter, as XLA:CPU compiles each step."""

import importlib

import jax
import jax.numpy as jnp
import optax
import pytest

import wdlab
from tests.compilers import after_norms
from wdlab import groups, optimizers
from wdlab.decay import hyperball, keep_initial_norm, penalties, variants
from wdlab.optimizers import adams
from wdlab.preconditioners import scale_by_adam, scale_by_galore
from wdlab.rules import Rule
from wdlab.training import precision

LR = wdlab.schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=20)
DECAY = {"weight_decay": 0.1, "coupling": "lr"}
# The module, whose name the function of ``wdlab.decay.norm_bounds`` would hide.
constrain_norms = importlib.import_module("wdlab.decay.norm_bounds").constrain_norms


def sgd(**arguments):
    return lambda: optimizers.sgd(LR, **DECAY | {"coupling": "l2", "momentum": 0.9} | arguments)


def adamw(*, around=lambda tx: tx, first=optax.identity, **arguments):
    return lambda: around(optax.chain(first(), optimizers.adamw(LR, **DECAY | arguments)))


def adafactor(*, first=optax.identity, **arguments):
    return lambda: optax.chain(first(), optimizers.adafactor(LR, **DECAY | arguments))


def adam_then(last):
    return lambda: optax.chain(optimizers.adam(LR), last())


def clip():
    return wdlab.clip_by_global_norm(1.0)


# Words moved per parameter, a float32 parameter being one; and copies of the parameters, where XLA
# on a CPU keeps a value that two results need (compilers for GPUs and TPUs fuse the two).
ONE_NORMALIZED = {"learning_rate": LR, "normalized": (Rule("a"), Rule(".*", 0.0))}
TWO_GROUPS = (groups.Group("a", learning_rate_scale=2.0), groups.Group(".*"))
STEPS = {
    "sgd": (sgd(weight_decay=0.0, momentum=0.0), 3),
    "sgd momentum l2": (sgd(), 7),
    "nesterov": (lambda: optimizers.sgdw(LR, **DECAY, momentum=0.9, nesterov=True), 7),
    "adam l2": (lambda: optimizers.adam(LR, weight_decay=0.1, coupling="l2"), 12),
    "adamw": (adamw(), 10),
    "radamw": (lambda: optimizers.radamw(LR, **DECAY), 10),
    "amsgrad": (lambda: optax.chain(scale_by_adam(amsgrad="raw"), optax.scale(-1e-3)), 13),
    "lionw": (lambda: optimizers.lionw(LR, **DECAY), 7),
    "clip by global norm": (adamw(first=clip), 11),
    "clip by block rms": (adamw(first=wdlab.clip_by_block_rms), 11),
    "decay masked": (adamw(rules=(Rule("a", 0.0), Rule(".*"))), 10),
    "decay cautious": (adam_then(lambda: wdlab.decay_weights(0.1, cautious=True)), 10),
    "decay toward init": (adam_then(lambda: wdlab.decay_weights(0.1, toward="init")), 11),
    "decay toward ema": (adam_then(lambda: variants.decay_toward_ema(0.1, ema_rate=0.9)), 14),
    "decay l1": (adam_then(lambda: penalties.decay_l1(0.1)), 10),
    "decay huber": (adam_then(lambda: penalties.decay_huber(0.1, delta=1.0)), 10),
    "decay proximal": (adam_then(lambda: penalties.decay_proximal(0.1)), 10),
    "decay corrected": (adam_then(lambda: variants.decay_corrected(0.1, **ONE_NORMALIZED)), 10),
    # The iteration's operand and its product, as many at a time as XLA starts.
    "muon": (lambda: optimizers.muon(LR, **DECAY), 66.3, 2.5),
    "adams": (lambda: adams(LR, weight_decay=0.1), 11),
    "groups": (lambda: groups.grouped(scale_by_adam(), 0.1, TWO_GROUPS), 10),
    "adafactor": (adafactor(), 7),
    "adafactor last": (adafactor(axes="last"), 7),
    "adafactor never": (adafactor(axes="never"), 10),
    "adafactor momentum": (adafactor(momentum=0.9), 10),
    "adafactor momentum of direction": (adafactor(momentum=0.9, momentum_of="direction"), 10),
    "adafactor unclipped": (adafactor(clipping_threshold=None), 6),
    # 7 words by jaxlib 0.10.2, 8 by 0.12.0.
    "adafactor by parameter scale": (adafactor(coupling="parameter_scale"), 8),
    "adafactor torch": (lambda: wdlab.conventions.build("torch.Adafactor", 0.1), 7),
    "nesterov l2": (sgd(nesterov=True), 9.5, 0.75),
    "rmsprop l2": (lambda: wdlab.conventions.build("torch.RMSprop", 0.1, weight_decay=0.1), 10, 1),
    "16-bit moment": (lambda: scale_by_adam(mu_dtype=jnp.bfloat16), 10.5, 0.5),
    "skip nonfinite": (adamw(around=wdlab.skip_nonfinite), 16, 2),
    "hyperball": (lambda: optax.chain(scale_by_adam(), hyperball(LR, rules=1.0)), 20, 2),
    "keep initial norm": (adam_then(lambda: keep_initial_norm(rules=1.0)), 18, 2),
    "constrain norms": (adam_then(constrain_norms), 18, 2),
    "adafactor l2": (adafactor(coupling="l2"), 9.5, 0.76),
    "adafactor clipped": (adafactor(first=clip), 10.1, 1.01),
    "adafactor decay first": (adafactor(decay_first=True), 9.5, 0.76),
    "sophia": (lambda: wdlab.conventions.build("sophia.SophiaG", LR), 7),
    "galore": (lambda: scale_by_galore(16), 8.3, 1.4),
    # A factor and a basis of both axes are 2.5 copies of a leaf each: products with them, their
    # branches, and what eigh and qr work in.
    "soap": (lambda: optimizers.soap(LR, **DECAY), 88, 8.4),
    "soap, short axes": (lambda: optimizers.soap(LR, max_dim=256, **DECAY), 34, 4.4),
    "shampoo": (lambda: optimizers.shampoo(LR, **DECAY), 65, 7.7),
}


OF_NORMS = (
    *("clip", "muon", "adafactor", "skip nonfinite", "hyperball", "keep initial norm"),
    *("constrain norms", "soap", "shampoo"),
)


def figures(tx, dtype=jnp.float32):
    """Temporaries and traffic, as parts of the parameters' bytes; nothing is run."""
    params = {name: jax.ShapeDtypeStruct((256, 512), dtype) for name in "abcd"}
    state = jax.eval_shape(tx.init, params)
    compiled = wdlab.make_update(tx).lower(params, state, params).compile()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in params.values())
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return temporaries / size, compiled.cost_analysis()["bytes accessed"] / size


@pytest.mark.parametrize("name", after_norms(STEPS, OF_NORMS))
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
        (precision.float32_masters, 23),  # The weights are read: they may have been replaced.
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
