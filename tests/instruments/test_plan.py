"""The decay plan: equal for equal optimizers, and a named difference for each drift."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
    "rules": (adamw(), adamw(rules=KERNELS_ONLY), "wte/embedding: coupling decoupled here, none"),
    "scale": (adamw(rules=1.0), adamw(rules=0.5), "decays by"),
    "weight_decay": (adamw(), adamw(weight_decay=0.2), "decays by"),
    "coupling": (adamw(), adamw(coupling="schedule"), "decays by"),
    "l2": (adamw(), adamw(coupling="l2"), "coupling decoupled here, gradient there"),
    "schedule": (adamw(), adamw(learning_rate=1e-2), "decays by 0 here, by 0.001 there at step 0"),
    "decay_schedule": (adamw(), adamw(weight_decay=lambda t: 0.1 / (1 + t)), "at step 1"),
    "optimizer": (adamw(), optimizers.lionw(LR, weight_decay=0.1, coupling="lr"), "optimizer"),
    "multi_steps": (
        optax.MultiSteps(adamw(), 3).gradient_transformation(),
        optax.MultiSteps(adamw(), 2).gradient_transformation(),
        "calls per update: 3 here, 2 there",
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


@pytest.mark.parametrize("coupling", ["schedule", "lr", "lr2", "constant"])
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
    assert here.differences(there) == ["a: shape [2] here, [3] there", "b: only here"]
