"""The registry: every key against a float64 twin, or live in tests/oracles; defaults, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import contract
from tests.conventions.lists import LIVE, MATRIX_VARIANTS, TWIN_VARIANTS
from tests.oracles import run_wdlab
from tests.oracles.trajectories import (
    PEAK_LEARNING_RATE,
    SHAPES,
    gradients,
    initial_params,
    learning_rates,
    relative_error,
)
from tests.twins import conventions as twins
from wdlab import conventions
from wdlab.conventions import REQUIRED
from wdlab.conventions.parts import caution
from wdlab.rules import ALL, Rule

DECAY = 0.02
NAMES = conventions.names()
SCALES = {"exempt": 0.0, "decayed": 1.0}
RULES = tuple(Rule(f"{group}_.*", scale) for group, scale in SCALES.items())
CASES = [(name, i) for name, variants in TWIN_VARIANTS.items() for i in range(len(variants))]


def test_every_key_is_live_or_has_a_twin():
    assert set(twins.TWINS) == set(TWIN_VARIANTS) | set(MATRIX_VARIANTS)
    assert sorted(LIVE | set(twins.TWINS)) == list(conventions.names())


@pytest.fixture(scope="module")
def trajectory():
    """Every leaf of the shared trajectory twice: without decay and with."""
    twice = lambda tree: {f"{g}_{n}": x for g in SCALES for n, x in tree.items()}  # noqa: E731
    return twice(initial_params()), [twice(tree) for tree in gradients()], learning_rates()


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_equals_its_twin_in_float64(name, variant, trajectory, record_property):
    params, grads, rates = trajectory
    convention = conventions.get(name)
    arguments = convention.complete(TWIN_VARIANTS[name][variant])
    if convention.decay_argument:
        arguments[convention.decay_argument] = DECAY
    if name == "fairseq.NAG":
        rates = np.maximum(rates, 1e-9)  # The original fails after a rate of 0.
    ours = run_wdlab.run(maker(name, arguments), params, grads, rates, np.float64)
    for group, scale in SCALES.items():
        scaled = {**arguments, "leaf_scale": scale}
        if convention.decay_argument:
            scaled[convention.decay_argument] = scale * DECAY
        if scale == 0 and name == "t5x.Adafactor":  # A rate of 0 beside an exponent is 1 there.
            scaled["weight_decay_rate_lr_exponent"] = None
        of_group = lambda tree, g=group: {n: tree[f"{g}_{n}"] for n in SHAPES}  # noqa: E731
        theirs = twins.run(
            name,
            scaled,
            of_group(params),
            [of_group(tree) for tree in grads],
            rates,
            PEAK_LEARNING_RATE,
            copies=len(SCALES),
        )
        error = relative_error([of_group(tree) for tree in ours], theirs)
        record_property("error", f"{error:.1e}")
        assert error <= 1e-10


def maker(name, arguments):
    """Learning-rate schedule -> what is built; some make their own from a number or None."""
    restarts = name == "paper.AdamWR"

    def make(rate):
        given = PEAK_LEARNING_RATE if restarts else rate
        given = None if arguments.get("relative_step") else given
        peak = None if restarts else PEAK_LEARNING_RATE
        return conventions.build(name, given, peak_learning_rate=peak, rules=RULES, **arguments)

    return make


@pytest.mark.parametrize("name", NAMES)
def test_every_convention_says_what_it_is(name):
    convention = conventions.get(name)
    assert dataclasses.is_dataclass(convention)
    with pytest.raises(dataclasses.FrozenInstanceError):
        convention.name = "mine"
    for text in ("version", "source", "equation", "coupling", "order", "epsilon"):
        assert getattr(convention, text)
    assert convention.source.startswith("http") or "https://" in convention.source
    assert convention.traps
    assert all(isinstance(rule, Rule) for rule in convention.rules)
    if convention.decay_argument is not None:
        assert convention.decay_argument in convention.defaults
    built(name)  # Its defaults are possible together.


def built(name, learning_rate=0.01, **hyperparameters):
    arguments = {**contract.REQUIRED.get(name, {}), **hyperparameters}
    return conventions.build(name, learning_rate, **arguments)


@pytest.mark.parametrize("name", [n for n in NAMES if conventions.get(n).decay_argument])
def test_weight_decay_is_understood_everywhere(name):
    """The original's own name and ``weight_decay`` mean the same."""
    convention = conventions.get(name)
    required = dict(contract.REQUIRED.get(name, {}))
    required.pop("weight_decay", None)
    for key in (convention.decay_argument, "weight_decay"):
        assert convention.request(0.01, {**required, key: 0.03}).weight_decay == 0.03


def undriven(name, rules=None, **hyperparameters):
    """What one step without a gradient leaves of weights of 1."""
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "LayerNorm": jnp.ones(2)}
    tx = built(name, rules=rules, **hyperparameters)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, jax.jit(tx.init)(params), params)
    return optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    ("name", "shrink"),
    [
        ("torch.AdamW", 0.5 * 0.1),
        ("optax.adamw", 0.5 * 0.1),
        ("keras.AdamW", 0.5 * 0.1),
        ("composer.DecoupledAdamW", 0.1),
        ("paper.AdamW", 0.1),
        ("axlearn.adamw_decoupled", 0.1),
        ("optax.adafactor", 0.1),
        ("t5x.Adafactor", 0.1),
        ("tfa.AdamW", 0.1),
        ("palm.Adafactor", 0.5**2 * 0.1),
        ("torch.SGD", 0.5 * 0.1),
        ("optax.lamb", 0.5),  # Whatever the decay is: the trust ratio divides it out.
        ("modded_nanogpt.Adam", 0.0),  # Without a step, no decay.
        ("transformers.Adafactor", 0.5 * 0.1),  # RMS 1.
    ],
)
def test_the_shrink_of_an_undriven_weight(name, shrink):
    after = undriven(name, rules=ALL, learning_rate=0.5, weight_decay=0.1)
    np.testing.assert_allclose(after["dense"]["kernel"], 1 - shrink, rtol=1e-6)


def test_bert_exempts_its_names_and_big_vision_all_but_kernels():
    bert = undriven("bert.AdamWeightDecayOptimizer", weight_decay_rate=0.5, learning_rate=0.5)
    assert float(bert["dense"]["bias"][0]) == float(bert["LayerNorm"][0]) == 1.0
    assert float(bert["dense"]["kernel"][0, 0]) == 0.75
    vision = undriven("big_vision.adam", wd=0.5, learning_rate=0.5)
    assert float(vision["dense"]["bias"][0]) == float(vision["LayerNorm"][0]) == 1.0
    assert float(vision["dense"]["kernel"][0, 0]) == 0.5
    torch = undriven("torch.AdamW", weight_decay=0.5, learning_rate=0.5)
    assert float(torch["LayerNorm"][0]) == 0.75


def test_rules_of_modded_nanogpt_are_its_table():
    rules = conventions.get("modded_nanogpt.Adam").rules
    scale = lambda path: next(r.scale for r in rules if r.matches(path, 2))  # noqa: E731
    assert scale("embed") == scale("lm_head/kernel") == 150.0
    assert scale("value_embeds") == scale("bigram_embed") == 5.0
    assert scale("scalars") == scale("resid_lambdas") == 0.0
    assert scale("ve_gate_bank") == 1.0


def test_corrected_decay_is_the_square_over_the_peak():
    lr = lambda count: jnp.where(count == 0, 0.25, 0.5)  # noqa: E731
    after = undriven(
        "timm.AdamW",
        rules=ALL,
        learning_rate=lr,
        peak_learning_rate=0.5,
        corrected_weight_decay=True,
        weight_decay=0.4,
    )
    np.testing.assert_allclose(after["LayerNorm"], 1 - 0.25**2 / 0.5 * 0.4, rtol=1e-6)


def test_schedules_need_their_peak_where_the_original_keeps_it():
    bare = lambda count: 0.1  # noqa: E731
    with pytest.raises(ValueError, match="peak"):
        built("composer.DecoupledAdamW", bare)
    with pytest.raises(ValueError, match="peak"):
        built("timm.Lion", bare, corrected_weight_decay=True)
    built("composer.DecoupledAdamW", bare, peak_learning_rate=0.1)
    built("timm.Lion", bare)


def test_maximize_turns_the_gradient_and_not_the_decay():
    params = {"w": jnp.array(4.0)}
    tx = conventions.build("torch.AdamW", 0.5, weight_decay=0.25, maximize=True)
    step = tx.update({"w": jnp.array(1.0)}, tx.init(params), params)[0]["w"]
    np.testing.assert_allclose(step, 0.5 - 0.5 * 0.25 * 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "message"),
    [
        ("torch.AdamW", {"beta": (0.9, 0.9)}, "nearest is 'betas'"),
        ("torch.AdamW", {"weight_decy": 0.1}, "nearest is 'weight_decay'"),
        ("torch.AdamW", {"lr": 0.1}, "by its place"),
        ("torch.AdamW", {"foreach": True}, "how the original runs"),
        ("torch.AdamW", {"betas": 0.9}, "pair"),
        ("torch.AdamW", {"amsgrad": 1}, "True or False"),
        ("torch.AdamW", {"weight_decay": "0.1"}, "weight_decay must be"),
        ("optax.adamw", {"mask": None}, "rules="),
        ("keras.AdamW", {"clipnorm": 1.0, "clipvalue": 1.0}, "only one of clipnorm, clipvalue"),
        ("keras.SGD", {"gradient_accumulation_steps": 1}, "whole number >= 2"),
        ("keras.SGD", {"use_ema": True}, "optax.incremental_update"),
        ("keras.Lion", {"ema_overwrite_frequency": 10}, "write it over the params"),
        ("axlearn.adamw", {"b1": 0.9, "b2": 0.9, "eps": REQUIRED}, "eps is required"),
        ("mup.MuAdam", {"widths": REQUIRED}, "wdlab.groups.widths"),
        ("t5x.Adafactor", {"weight_decay": 0.1, "weight_decay_rate": 0.1}, "the same"),
        ("paper.Adafactor", {"weight_decay": 0.1}, "does not decay"),
    ],
)
def test_errors_name_the_way_out(name, hyperparameters, message):
    with pytest.raises((TypeError, ValueError), match=message):
        built(name, **hyperparameters)


def test_defaults_that_the_traps_speak_of():
    """The numbers that differ between classes of one name, and that the texts quote."""

    def default(name, argument="weight_decay"):
        return conventions.get(name).defaults[argument]

    assert default("torch.AdamW") == default("timm.AdamW") == 1e-2
    assert default("optax.adamw") == 1e-4
    assert default("keras.AdamW") == 4e-3
    assert default("composer.DecoupledAdamW") == 1e-5
    assert default("transformers.AdamW") == default("mup.MuAdamW") == 0.0
    assert default("optax.lion") == 1e-3
    assert default("lion_pytorch.Lion") == default("timm.Lion") == 0.0
    assert default("tfa.AdamW") is REQUIRED
    assert default("apex.FusedAdam", "adam_w_mode") is True
    assert default("deepspeed.DeepSpeedCPUAdam", "adamw_mode") is True
    assert default("composer.DecoupledAdamW", "betas") == (0.9, 0.95)
    assert default("keras.AdamW", "epsilon") == default("tfa.AdamW", "epsilon") == 1e-7
    assert default("praxis.sharded_adam", "update_capping") == 1.0
    assert default("praxis.sharded_adam", "epsilon") == 1e-6
    assert default("transformers.AdamW", "eps") == 1e-6
    assert default("torch.Adagrad", "initial_accumulator_value") == 0.0
    assert conventions.get("torch.NAdam").learning_rate == 2e-3


def test_unknown_keys_name_the_nearest():
    for wrong, near in (("torch.Adamw", "torch.AdamW"), ("composer.AdamW", "composer.Decoupled")):
        with pytest.raises(ValueError, match=near):
            conventions.get(wrong)
    with pytest.raises(ValueError, match="nearest"):
        conventions.build("adamw", 0.1)


def test_relative_step_and_learning_rate_exclude_each_other():
    for name in ("transformers.Adafactor", "fairseq.Adafactor"):
        with pytest.raises(ValueError, match="exclude each other"):
            conventions.build(name, 0.1, relative_step=True)
        with pytest.raises(ValueError, match="needs a learning rate"):
            conventions.build(name, None, relative_step=False)
    with pytest.raises(TypeError, match="learning_rate is required"):
        conventions.build("torch.AdamW", None)


def test_the_exponent_of_t5x_is_ignored_where_it_is_zero():
    for exponent, shrink in ((None, 0.1), (0.0, 0.1), (1.0, 0.05), (2.0, 0.025)):
        after = undriven(
            "t5x.Adafactor",
            learning_rate=0.5,
            weight_decay_rate=0.1,
            weight_decay_rate_lr_exponent=exponent,
        )
        np.testing.assert_allclose(after["LayerNorm"], 1 - shrink, rtol=1e-6)
    after = undriven("t5x.Adafactor", learning_rate=0.5, weight_decay_rate_lr_exponent=2.0)
    np.testing.assert_allclose(after["LayerNorm"], 0.75, rtol=1e-6)  # Without a rate: 1.


def test_caution_keeps_the_mean_size():
    tx = caution(optax.identity())
    g = jnp.array([1.0, -2.0, 0.0, 3.0])
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0], g / 0.75, rtol=1e-6)
