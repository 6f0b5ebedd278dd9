"""The table equals what a step does; the forecast equals the product."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.rules.test_rules import GPT
from wdlab import rules, schedules
from wdlab.instruments import forecast
from wdlab.rules import leaves_with_paths


@pytest.mark.parametrize("name", ["NO_BIAS_OR_NORM", "BERT", "MINGPT", "DEEPSPEED_CHAT", "ALL"])
def test_the_table_equals_one_step_with_zero_gradients(name):
    policy = getattr(rules, name)
    params = jax.tree.map(jnp.asarray, GPT)
    table = wdlab.inspect_decay(params, policy)
    tx = wdlab.optimizers.adamw(0.5, weight_decay=0.5, coupling="lr", rules=policy)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    measured = {p: float(-u.mean() / 0.25) for p, u in leaves_with_paths(updates)}
    assert measured == {row.path: row.scale for row in table.rows}
    sizes = {p: leaf.size for p, leaf in leaves_with_paths(params)}
    assert table.decayed_parameters == sum(sizes[p] for p, s in measured.items() if s > 0)
    assert table.exempt_parameters == sum(sizes[p] for p, s in measured.items() if s == 0)
    assert table.decayed_tensors + table.exempt_tensors == len(sizes)


def test_warnings_name_decaying_norms_and_exempt_matrices():
    table = wdlab.inspect_decay(GPT, rules.ALL)
    assert any("ln_f/scale: named like a bias or norm" in w for w in table.warnings)
    table = wdlab.inspect_decay(GPT, (rules.Rule(".*", 0.0),))
    assert any("mlp/c_fc/kernel: named like a weight matrix" in w for w in table.warnings)
    assert wdlab.inspect_decay(GPT, rules.NO_BIAS_OR_NORM).warnings == ()


def test_print_decay_shows_every_leaf(capsys):
    wdlab.print_decay(GPT, rules.NO_BIAS_OR_NORM)
    out = capsys.readouterr().out
    for path, _ in leaves_with_paths(GPT):
        assert path in out
    assert "decayed: 4 tensors" in out
    assert "exempt" in out


def test_shapes_without_arrays_will_do():
    shapes = jax.eval_shape(lambda: GPT)
    assert wdlab.inspect_decay(shapes, rules.NO_BIAS_OR_NORM).decayed_tensors == 4


@pytest.mark.parametrize("coupling", ["lr", "schedule", "constant"])
def test_profile_equals_the_product_over_the_steps(coupling):
    lr = wdlab.schedules.warmup_cosine(1e-2, warmup_steps=10, decay_steps=300, end=1e-3)
    kappa = {"lr": lr, "schedule": wdlab.schedule_multiplier(lr), "constant": None}[coupling]
    decay = {"lr": 0.1, "schedule": 1e-3, "constant": 1e-3}[coupling]
    profile = wdlab.decay_profile(decay, kappa, 300)
    kappas = [1.0 if kappa is None else float(kappa(t)) for t in range(300)]
    remaining = np.prod(1 - decay * np.array(kappas))
    np.testing.assert_allclose(profile.total_shrink, 1 - remaining, rtol=1e-5)
    np.testing.assert_allclose(profile.peak_shrink, 1e-3, rtol=1e-6)
    np.testing.assert_allclose((1 - 1e-3) ** profile.half_life_steps, 0.5)
    np.testing.assert_allclose(profile.timescale_steps, 1000, rtol=1e-6)
    np.testing.assert_allclose(profile.timescale_fraction, 1000 / 300, rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "kappa", "steps", "verdict"),
    [
        (0.1, 6e-4, 50_000, "acts within the run"),
        (0.1, 6e-4, 100, "far too weak"),
        (0.1, None, 1000, "far too strong"),
        (1.0, None, 10, "far too strong"),
        (0.0, None, 10, "no decay"),
        (1e-9, None, 10, "far too weak"),
        # The limits: 5 % in the whole run; a memory of 20 steps, or of a thousandth of the run.
        (1 - 0.951**0.01, None, 100, "far too weak"),
        (1 - 0.949**0.01, None, 100, "acts"),
        (0.05, None, 100, "acts"),
        (0.0501, None, 100, "far too strong"),
        (0.01, None, 100_000, "acts"),
        (0.0101, None, 100_000, "far too strong"),
    ],
)
def test_verdicts(decay, kappa, steps, verdict):
    assert wdlab.decay_profile(decay, kappa, steps).verdict.startswith(verdict)


def test_profile_takes_a_plain_optax_schedule():
    profile = wdlab.decay_profile(0.1, optax.linear_schedule(1e-2, 0.0, 100), 100)
    np.testing.assert_allclose(profile.peak_shrink, 1e-3, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [(-0.1, None, 10), (0.1, -1.0, 10), (0.1, None, 0), (0.1, None, 1.5), ("0.1", None, 10)],
)
def test_profile_refuses_wrong_numbers(arguments):
    with pytest.raises((TypeError, ValueError), match="must be"):
        wdlab.decay_profile(*arguments)


@pytest.mark.parametrize("block", [7, 100])
def test_a_forecast_in_blocks_is_that_of_the_whole_run(block, monkeypatch):
    kappa = schedules.warmup_cosine(1e-2, warmup_steps=30, decay_steps=300)
    whole = wdlab.decay_profile(0.1, lambda count: kappa(count), 300)
    monkeypatch.setattr(forecast, "_BLOCK", block)
    found = wdlab.decay_profile(0.1, lambda count: kappa(count), 300)
    np.testing.assert_allclose(found.peak_shrink, whole.peak_shrink, rtol=1e-6)
    np.testing.assert_allclose(found.total_shrink, whole.total_shrink, rtol=1e-6)


def test_a_run_of_tokens_instead_of_steps_is_refused():
    with pytest.raises(ValueError, match="steps, not tokens"):
        wdlab.decay_profile(0.1, 1e-3, 300 * 10**9)


@pytest.mark.parametrize(("shrink", "half_life"), [(0.0, np.inf), (0.5, 1.0), (1.0, 0.0)])
def test_a_shrink_of_all_leaves_nothing_and_one_of_nothing_all(shrink, half_life):
    profile = wdlab.decay_profile(shrink, None, 1)
    assert (profile.half_life_steps, profile.total_shrink) == (half_life, shrink)


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 7), ("float16", 10)])
def test_the_rounding_step_that_is_named_is_the_one_that_counts(dtype, bits):
    none, all_move = 2.0 ** -(bits + 2), 2.0 ** -(bits + 1)
    verdicts = {
        none: f"{none:.3g} or less",
        none * 1.001: f"below {all_move:.3g}",
        all_move: "acts",
    }
    for shrink, text in verdicts.items():
        assert text in wdlab.decay_profile(shrink, None, 1000, dtype=dtype).verdict
    assert wdlab.instruments.lost_to_rounding(0.0, dtype) == ""
