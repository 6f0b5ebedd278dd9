"""The decay plan: what a real step does; equal for equal optimizers; each difference named."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from optax import contrib

import wdlab
from tests.rules.test_rules import GPT
from wdlab import optimizers
from wdlab.instruments import plan_differences
from wdlab.rules import KERNELS_ONLY, NO_BIAS_OR_NORM, Rule

SHAPES = jax.eval_shape(lambda: jax.tree.map(jnp.float32, GPT))
LR = wdlab.schedules.warmup_cosine(1e-2, warmup_steps=10, decay_steps=100)


def adamw(**changes):
    arguments = {"weight_decay": 0.1, "coupling": "lr", "rules": NO_BIAS_OR_NORM, **changes}
    return optimizers.adamw(arguments.pop("learning_rate", LR), **arguments)


def masked(names):
    mask = {name: name in names for name in SHAPES}
    return optax.masked(optax.adamw(1e-2, weight_decay=0.1), mask)


DRIFTS = {
    "rules": (adamw(), adamw(rules=KERNELS_ONLY), "wte/embedding: coupling decoupled"),
    "scale": (adamw(rules=1.0), adamw(rules=0.5), "decays by"),
    "weight_decay": (adamw(), adamw(weight_decay=0.2), "decays by"),
    "coupling": (adamw(), adamw(coupling="schedule"), "decays by"),
    "l2": (adamw(), adamw(coupling="l2"), "coupling decoupled in this plan, gradient"),
    "schedule": (adamw(), adamw(learning_rate=1e-2), "decays by 0 in this plan, 0.001"),
    "decay_schedule": (adamw(), adamw(weight_decay=lambda t: 0.1 / (1 + t)), "at step 1"),
    "optimizer": (adamw(), optimizers.lionw(LR, weight_decay=0.1, coupling="lr"), "optimizer"),
    "multi_steps": (
        optax.MultiSteps(adamw(), 3).gradient_transformation(),
        optax.MultiSteps(adamw(), 2).gradient_transformation(),
        "calls per update: 3 in this plan, 2",
    ),
    "mask_narrowed": (masked(["wte", "wpe"]), masked(["wte"]), "wpe/embedding"),
    "mask_widened": (masked(["wte"]), masked(["wte", "wpe"]), "wpe/embedding"),
    "no_mask": (optax.adamw(1e-2, weight_decay=0.1), masked(["wte"]), "wpe/embedding"),
    "adafactor_factoring": (
        optax.adafactor(1e-2, min_dim_size_to_factor=2),
        optax.adafactor(1e-2, min_dim_size_to_factor=128),
        "entries",
    ),
    "toward": (wdlab.decay_weights(0.1), wdlab.decay_weights(0.1, toward="init"), "arrays"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_changes_the_digest_and_is_named(name):
    one, two, message = DRIFTS[name]
    here, there = wdlab.decay_plan(one, SHAPES), wdlab.decay_plan(two, SHAPES)
    assert here.digest() != there.digest()
    assert any(message in line for line in here.differences(there)), here.differences(there)
    assert here.digest() == wdlab.decay_plan(one, SHAPES).digest()
    assert here.differences(here) == []


def test_injected_hyperparameters_have_the_same_coefficients():
    plain = wdlab.decay_plan(adamw(), SHAPES)
    injected = wdlab.decay_plan(
        wdlab.inject_hyperparams(optimizers.adamw)(LR, weight_decay=0.1, coupling="lr"), SHAPES
    )
    for one, two in zip(plain.leaves, injected.leaves, strict=True):
        np.testing.assert_allclose(one.coefficients, two.coefficients, rtol=1e-5)


@pytest.mark.parametrize("coupling", ["schedule", "lr", "lr2", "lr2_over_peak", "constant"])
def test_coefficients_equal_a_step_with_zero_gradient(coupling):
    tx = adamw(coupling=coupling, learning_rate=0.5)
    params = jax.tree.map(jnp.float32, GPT)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    measured = [float(-u.mean()) for u in jax.tree.leaves(updates)]
    planned = [leaf.coefficients[0] for leaf in wdlab.decay_plan(tx, params).leaves]
    np.testing.assert_allclose(planned, measured, rtol=1e-6)


def test_rules_alone_and_json_round_trip():
    import json

    plan = wdlab.decay_plan((Rule("wte/.*", 0.5), Rule(".*", 0.0)), SHAPES)
    assert {leaf.path for leaf in plan.leaves if leaf.coefficient} == {"wte/embedding"}
    stored = json.loads(json.dumps(plan.as_json()))
    assert plan_differences(plan.as_json(), stored) == []


def test_other_parameters_are_named():
    here = wdlab.decay_plan(1.0, {"a": jnp.ones(2), "b": jnp.ones(2)})
    there = wdlab.decay_plan(1.0, {"a": jnp.ones(3)})
    shape = "a: shape [2] in this plan, [3] in the other"
    assert here.differences(there) == [shape, "b: only in this plan"]


WIDE = {
    "square": jax.ShapeDtypeStruct((64, 64), jnp.float32),
    "wide": jax.ShapeDtypeStruct((64, 192), jnp.float32),
    "bias": jax.ShapeDtypeStruct((192,), jnp.float32),
}
ADAMW = optax.adamw(1e-3, weight_decay=0.1)
ANCHOR = jax.tree.map(lambda x: np.linspace(-1, 1, x.size).reshape(x.shape).astype("f4"), WIDE)


def by_shape(keep):
    return optax.adamw(1e-3, weight_decay=0.1, mask=lambda p: jax.tree.map(keep, p))


def odd_count():
    """A decay by a schedule whose count has another name."""

    def update(updates, state, params):
        rate = 0.1 / (1 + state["made"])
        pairs = jax.tree.map(lambda u, p: u - rate * p, updates, params)
        return pairs, {"made": state["made"] + 1}

    return optax.GradientTransformation(lambda p: {"made": jnp.int32(0)}, update)


ALL, NONE = dict.fromkeys(WIDE, 1e-4), dict.fromkeys(WIDE, 0.0)
# Name: transformation, path -> decay at step 0 (NaN: unknown), calls per update.
CASES = {
    "adamw": (ADAMW, ALL, 1),
    "by size": (by_shape(lambda p: p.size > 5000), NONE | {"wide": 1e-4}, 1),
    "by squareness": (by_shape(lambda p: len({*p.shape}) < p.ndim), NONE | {"square": 1e-4}, 1),
    "apply_every": (optax.chain(ADAMW, optax.apply_every(4)), dict.fromkeys(WIDE, 4e-4), 4),
    "MultiSteps": (optax.MultiSteps(ADAMW, 3).gradient_transformation(), ALL, 3),
    "MultiSteps of many": (optax.MultiSteps(ADAMW, 16).gradient_transformation(), ALL, 16),
    "another count": (odd_count(), dict.fromkeys(WIDE, 0.1), 1),
    "schedule free": (contrib.schedule_free_adamw(1e-3, weight_decay=0.0), NONE, 1),
    "schedule free, decayed": (contrib.schedule_free_adamw(1e-3, weight_decay=0.1), ALL, 1),
    "mechanize": (contrib.mechanize(ADAMW), dict.fromkeys(WIDE, 1e-10), 1),
    "dog": (contrib.dog(1.0), NONE, 1),
    "prodigy": (contrib.prodigy(1.0), NONE, 1),
    "plateau": (optax.chain(ADAMW, contrib.reduce_on_plateau()), ALL, 1),
    "polyak": (optax.polyak_sgd(), NONE, 1),
    "muon": (contrib.muon(1e-3, weight_decay=0.1), NONE | {"square": 1e-4, "wide": 1e-4}, 1),
    "toward a tree": (wdlab.decay_weights(0.1, toward=ANCHOR), dict.fromkeys(WIDE, 0.1), 1),
    "toward the start": (wdlab.decay_weights(0.1, toward="init"), dict.fromkeys(WIDE, 0.1), 1),
    "lamb": (optax.lamb(1e-3), NONE, 1),
    "noise": (optax.noisy_sgd(1e-3), NONE, 1),
    "skip": (wdlab.skip_nonfinite(ADAMW), ALL, 1),
    "lbfgs": (optax.lbfgs(), dict.fromkeys(WIDE, np.nan), 1),
    "sophia": (contrib.sophia(1e-3), dict.fromkeys(WIDE, np.nan), 1),
    "norm bound": (wdlab.decay.constrain_norms(), dict.fromkeys(WIDE, np.nan), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_plan_says_what_the_code_does(name):
    tx, expected, calls = CASES[name]
    plan = wdlab.decay_plan(tx, WIDE)
    found = {leaf.path: leaf.coefficients[0] for leaf in plan.leaves}
    np.testing.assert_allclose(*[[x[k] for k in WIDE] for x in (found, expected)], rtol=1e-6)
    assert plan.calls_per_update == calls
    for leaf in plan.leaves:
        kinds = {"unknown"} if np.isnan(expected[leaf.path]) else {"none", "decoupled"}
        assert leaf.coupling in kinds
        assert (leaf.coupling == "none") == (expected[leaf.path] == 0)
    assert name not in ("lbfgs", "sophia") or "unknown: " in str(plan)


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "nadamw", "radam", "novograd"])
@pytest.mark.parametrize("step", [0, 2])
def test_decay_and_response_equal_real_steps(name, step):
    tx = optax.chain(getattr(optax, name)(1e-3), optax.add_decayed_weights(-1e-3))
    params = jax.tree.map(lambda x: jnp.ones(x.shape), WIDE)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(step):
        _, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
    still, _ = update(jax.tree.map(jnp.zeros_like, params), state, params)
    driven, _ = update(params, state, params)
    for leaf in wdlab.decay_plan(tx, WIDE).leaves:
        real = float(-still[leaf.path].mean()), float((driven[leaf.path] - still[leaf.path]).mean())
        planned = leaf.coefficients[step], leaf.response.values[step]
        np.testing.assert_allclose(planned, real, rtol=1e-3, atol=1e-9)


def steps_at(boundary):
    return optax.adamw(optax.piecewise_constant_schedule(1e-3, {boundary: 0.1}), weight_decay=0.1)


TOLD_APART = {
    "rate and decay": (ADAMW, optax.adamw(1e-2, weight_decay=0.01), "steps by"),
    "b1": (optax.adamw(1e-3), optax.adamw(1e-3, b1=0.95), "steps by"),
    "b2": (optax.adamw(1e-3), optax.adamw(1e-3, b2=0.99), "steps by"),
    "eps": (optax.adamw(1e-3), optax.adamw(1e-3, eps=1e-6), "steps by"),
    "clipping": (
        optax.chain(optax.clip_by_global_norm(1.0), ADAMW, optax.sgd(1.0)),
        optax.chain(optax.clip(1.0), ADAMW, optax.sgd(1.0)),
        "steps by",
    ),
    "momentum": (optax.sgd(0.1, momentum=0.9), optax.sgd(0.1, momentum=0.8), "steps by"),
    "toward": (
        wdlab.decay_weights(0.1, toward=ANCHOR),
        wdlab.decay_weights(0.1, toward=jax.tree.map(lambda x: 2 * x, ANCHOR)),
        "steps by",
    ),
    "300": (steps_at(300), steps_at(400), "from step 300 in this plan, 400"),
    "30k": (steps_at(30_000), steps_at(45_000), "from step 30000 in this plan, 45000"),
    "60k": (steps_at(60_000), steps_at(90_000), "from step 60000 in this plan, 90000"),
    "120k": (steps_at(120_000), steps_at(400_000), "decays by 1e-05 in this plan, 0.0001"),
}


@pytest.mark.parametrize("name", TOLD_APART)
def test_no_difference_is_overlooked(name):
    here, there = (wdlab.decay_plan(tx, WIDE) for tx in TOLD_APART[name][:2])
    assert here.digest() != there.digest()
    assert any(TOLD_APART[name][2] in line for line in here.differences(there))


@settings(max_examples=8, phases=[Phase.generate])
@given(st.integers(2, 10**8), st.integers(1, 10**6))
def test_any_boundary_is_found_to_the_step(boundary, further):
    one, same, other = (
        wdlab.decay_plan(steps_at(b), WIDE) for b in (boundary,) * 2 + (boundary + further,)
    )
    assert one.digest() == same.digest() != other.digest()
    assert one.leaves[0].decay.jumps == (boundary,)


def test_digests_are_those_of_any_container_and_process():
    models = [WIDE, FrozenDict(WIDE), nnx.State(WIDE)]
    masked = optax.masked(ADAMW, lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    for tx in (ADAMW, masked):
        assert len({wdlab.decay_plan(tx, model).digest() for model in models}) == 1
    script = """
import jax, optax, wdlab
shapes = {n: jax.ShapeDtypeStruct(s, "float32") for n, s in dict(
    square=(64, 64), wide=(64, 192), bias=(192,)).items()}
print(wdlab.decay_plan(optax.adamw(1e-3, weight_decay=0.1), shapes).digest())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == wdlab.decay_plan(ADAMW, WIDE).digest()


def test_numbers_as_leaves_and_lookahead_are_understood():
    assert wdlab.decay_plan(ADAMW, {"w": 1.0}).leaves[0].coefficient == 1e-4
    plan = wdlab.decay_plan(optax.lookahead(ADAMW, 5, 0.5), optax.LookaheadParams(WIDE, WIDE))
    assert {leaf.coefficients[0] for leaf in plan.leaves if leaf.path.startswith("fast")} == {1e-4}


def test_hundreds_of_leaves_print_as_a_few_lines():
    many = {f"layer{n}": WIDE for n in range(200)}
    plan = wdlab.decay_plan(adamw(), many)
    text = str(plan)
    assert len(plan.leaves) == 600
    assert text.count("\n") == 3
    assert "and 397 more" in text
    assert len(plan.as_json()["kinds"]) == 2
