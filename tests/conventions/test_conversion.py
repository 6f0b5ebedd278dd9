"""Conversions: exact round trips, the same undriven shrink in what is built, reasons why not."""

import itertools

import jax
import numpy as np
import pytest

from tests import contract
from tests.oracles.run_wdlab import train
from wdlab import conventions, schedules
from wdlab.conventions import compare, convert, shrink_at_peak
from wdlab.rules import ALL

CONVERTIBLE = [
    name
    for name in conventions.names()
    if conventions.get(name).power_for(conventions.get(name).defaults) is not None
    and name != "paper.AdamWR"  # Its number is per restart: see below.
]
STEPS = 1000
WHY_NOT = {
    "torch.Adam": "no number is equal",
    "torch.NAdam": "decoupled_weight_decay=True",
    "torch.RAdam": "no number is equal",
    "torch.Adamax": "Choose a decoupled convention",
    "torch.Adagrad": "gradient",
    "torch.RMSprop": "gradient",
    "torch.Adadelta": "Choose a decoupled convention",
    "torch.ASGD": "without lambd there is one",
    "torch.Rprop": "has no weight decay",
    "mup.MuAdam": "no number is equal",
    "transformers.Adafactor": "size of each leaf",
    "fairseq.Adafactor": "size of each leaf",
    "optimi.Adam": "With decouple_wd=True it is decoupled",
    "optimi.RAdam": "With decouple_wd=True it is decoupled",
    **{f"bitsandbytes.{name}": "no number is equal" for name in ("RMSprop", "Adagrad", "LARS")},
    "bitsandbytes.SGD": "no number is equal",
    **{f"torchao.Adam{bits}": "Choose a decoupled" for bits in ("8bit", "4bit", "Fp8")},
    "optax.contrib.adopt": "has no weight decay",
    "timm.Adopt": "With decoupled=True it is decoupled",
    "timm.Lamb": "trust ratio",
    "timm.Lars": "each leaf's own rate",
    "timm.NvNovoGrad": "adds it to the momentum",
    "apex.FusedLAMB": "trust ratio",
    "adopt.ADOPT": "With decouple=True it is decoupled",
    **dict.fromkeys((n for n in conventions.names() if "schedule" in n), "average"),
    "gpa.GPAAdamW": "average",
    "prodigyopt.Prodigy": "estimate d",
    "optax.contrib.prodigy": "estimate d",
    "optax.contrib.dadapt_adamw": "estimate d",
    "dadaptation.DAdaptLion": "estimate d",
    "dadaptation.DAdaptAdan": "estimate d",
    "dadaptation.DAdaptAdam": "Choose a decoupled convention",
    "dadaptation.DAdaptSGD": "gradient",
    "dadaptation.DAdaptAdaGrad": "gradient",
    "optax.lamb": "trust ratio",
    "nanochat.Muon": "no more rows than columns it is torch.AdamW's",
    "modded_nanogpt.NorMuon": "no more rows than columns it is palm.Adafactor's",
    "scion.Scion": "its lambda is 1",
    "emerging_optimizers.Scion": "its lambda is 1",
    "paper.Adafactor": "no weight decay",
}
THREE = ("torch.AdamW", "paper.AdamW", "palm.Adafactor")  # Powers 1, 0 and 2.
# One convention of each power of the learning rate, factor and form: all that is converted by.
KINDS = {
    (
        known.power_for(known.defaults),
        known.factor_for(known.defaults),
        known.coupling_for(known.defaults) == "proximal",
    ): known.name
    for known in map(conventions.get, CONVERTIBLE)
}.values()
# Of schedules, those whose shrink follows it alike: equal over a run, not at the peak only.
FOLLOWING = [n for n in CONVERTIBLE if conventions.get(n).coupling in ("schedule", "lr")]


def test_every_key_converts_or_says_why_not():
    assert set(CONVERTIBLE) | set(WHY_NOT) | {"paper.AdamWR"} == set(conventions.names())


@pytest.mark.parametrize("name", WHY_NOT)
def test_where_no_number_is_equal_the_reason_is_given(name):
    for source, target in ((name, "torch.AdamW"), ("torch.AdamW", name)):
        with pytest.raises(ValueError, match=WHY_NOT[name]):
            convert(0.1, learning_rate=1e-3, source=source, target=target)


@pytest.mark.parametrize("weight_decay", [0.1, 0.01, 1e-4, 0.3, 0.05, 1 / 8])
@pytest.mark.parametrize("learning_rate", [6e-4, 1e-3, 3e-4, 1.2e-4, 0.1])
def test_round_trips_are_exact(weight_decay, learning_rate):
    for source, target in itertools.permutations(KINDS, 2):
        there = convert(weight_decay, learning_rate=learning_rate, source=source, target=target)
        back = convert(there, learning_rate=learning_rate, source=target, target=source)
        assert back == weight_decay, (source, target)


def test_any_number_comes_back_to_rounding():
    rng = np.random.default_rng(0)
    for weight_decay, learning_rate in 10.0 ** rng.uniform(-6, 0, (50, 2)):
        for source, target in itertools.permutations(THREE, 2):
            rate = {"learning_rate": float(learning_rate)}
            there = convert(float(weight_decay), source=source, target=target, **rate)
            back = convert(there, source=target, target=source, **rate)
            assert abs(back - weight_decay) <= 5e-16 * weight_decay


def test_the_numbers_of_the_documentation():
    to = lambda target, decay=0.1, lr=6e-4: convert(  # noqa: E731
        decay, learning_rate=lr, source="torch.AdamW", target=target
    )
    assert to("composer.DecoupledAdamW") == to("optax.adafactor") == 6e-5
    assert to("optax.adamw") == to("keras.AdamW") == to("torch.SGD") == 0.1
    assert to("palm.Adafactor", lr=1e-2) == 10.0
    assert shrink_at_peak(0.1, learning_rate=6e-4, convention="torch.AdamW") == 6e-5
    assert convert(0.1, learning_rate=1e-3, source="nanodo.adamw", target="paper.AdamW") == 1e-4


def test_arguments_that_change_the_meaning():
    decoupled = {"decoupled_weight_decay": True}
    rate = {"learning_rate": 1e-3}
    assert convert(0.1, **rate, source="torch.Adam", target="torch.AdamW",
                   source_arguments=decoupled) == 0.1  # fmt: skip
    assert convert(0.1, **rate, source="torch.AdamW", target="lion_pytorch.Lion",
                   target_arguments=decoupled) == 1e-4  # fmt: skip
    assert convert(0.1, **rate, source="nanodo.adamw", target="torch.AdamW",
                   source_arguments={"independent_weight_decay": True}) == 100.0  # fmt: skip
    assert convert(1.0, **rate, source="t5x.Adafactor", target="palm.Adafactor",
                   source_arguments={"weight_decay_rate_lr_exponent": 2.0}) == 1.0  # fmt: skip
    assert convert(0.5, **rate, source="paper.AdamWR", target="paper.AdamW",
                   source_arguments={"first_steps": 10_000}) == 0.005  # fmt: skip
    with pytest.raises(ValueError, match="first_steps"):
        convert(0.5, **rate, source="paper.AdamWR", target="paper.AdamW")
    with pytest.raises(ValueError, match="without momentum"):
        convert(0.1, **rate, source="torch.SGD", target="torch.AdamW",
                source_arguments={"momentum": 0.9})  # fmt: skip


def test_the_learning_rate_is_that_of_the_peak():
    lr = schedules.warmup_cosine(6e-4, warmup_steps=10, decay_steps=100)
    sides = {"source": "torch.AdamW", "target": "big_vision.adam"}
    assert convert(0.1, learning_rate=lr, **sides) == 6e-5
    with pytest.raises(ValueError, match="peak"):
        convert(0.1, learning_rate=lambda count: 6e-4, **sides)
    with pytest.raises(ValueError, match="learning_rate must be"):
        convert(0.1, learning_rate=0.0, **sides)
    with pytest.raises(ValueError, match="weight_decay must be"):
        convert(-0.1, learning_rate=1e-3, **sides)


def test_a_proximal_decay_divides():
    """Halving a weight is 1 - 0.5 and 1 / (1 + 1); no division leaves nothing."""
    sides = {"learning_rate": 0.5, "source": "torch.AdamW", "target": "adan.Adan"}
    assert convert(1.0, **sides) == 2.0
    assert convert(1.0, **sides, target_arguments={"no_prox": True}) == 1.0
    with pytest.raises(ValueError, match="leaves nothing"):
        convert(2.0, **sides)
    text = str(compare(0.1, **sides))
    assert "follows the schedule, that of adan.Adan divides by 1 + lr_t lambda" in text


def left_of_one(name, weight_decay, learning_rate):
    """An undriven weight of 1 after a run of what is built, in float64."""
    arguments = {**contract.REQUIRED.get(name, {}), "weight_decay": weight_decay}
    leaves = contract.ALL_LEAVES if name.startswith("mup.") else ("kernel",)  # Its widths' leaves.
    params = jax.tree.map(np.ones_like, contract.tree(0, leaves))
    tx = conventions.build(name, learning_rate, rules=ALL, **arguments)
    after = train(tx, params, [jax.tree.map(np.zeros_like, params)] * STEPS)
    return float(after["layer"]["kernel"][0, 0])


@pytest.fixture(scope="module")
def warmup_cosine():
    """A schedule, and what is left of a weight by its definition at the shrinks of torch.AdamW."""
    lr = schedules.warmup_cosine(6e-3, warmup_steps=100, decay_steps=STEPS)
    with jax.enable_x64(True):
        return lr, np.prod(1 - 0.1 * np.asarray(jax.vmap(lr)(np.arange(STEPS))))


@pytest.mark.parametrize("name", FOLLOWING)
def test_converted_decays_shrink_alike_over_a_run(x64, name, warmup_cosine):
    lr, total = warmup_cosine
    decay = convert(0.1, learning_rate=lr, source="torch.AdamW", target=name)
    np.testing.assert_allclose(left_of_one(name, decay, lr), total, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in CONVERTIBLE if n not in FOLLOWING])
def test_the_others_shrink_alike_at_a_constant_rate(x64, name):
    decay = convert(0.1, learning_rate=6e-3, source="torch.AdamW", target=name)
    if name == "modded_nanogpt.Adam":  # Undriven weights stay: it decays along with a step only.
        assert left_of_one(name, decay, 6e-3) == 1.0
        return
    np.testing.assert_allclose(left_of_one(name, decay, 6e-3), (1 - 6e-4) ** STEPS, rtol=1e-12)


def test_the_comparison_tells_what_else_differs():
    rate = {"learning_rate": 6e-4}
    text = str(compare(0.1, source="torch.AdamW", target="bert.AdamWeightDecayOptimizer", **rate))
    for word in ("epsilon:", "bias correction:", "exclusions:", "order:", "LayerNorm", "trap"):
        assert word in text
    constant = compare(0.1, source="torch.AdamW", target="optax.adafactor", **rate)
    assert "not over the run" in constant.differences[0]
    assert not any(
        line.startswith("schedule")
        for line in compare(0.1, source="torch.AdamW", target="paper.AdamW", **rate).differences
    )
