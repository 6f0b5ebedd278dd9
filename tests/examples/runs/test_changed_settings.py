"""What changed between two runs is refused by name on resume, or accepted by a flag."""

import jax
import jax.numpy as jnp
import optax
import pytest

import wdlab
from wdlab.training import CheckpointError, Checkpoints, run_settings

DATA = {"batch_size": 4, "data_length": 1000, "data_seed": 0, "data_shards": 1}
MASK, NARROW = {"w": True, "b": True}, {"w": True, "b": False}


def make_params():
    return {"w": jnp.ones((2, 8)), "b": jnp.ones((8,))}


def adamw(**arguments):
    return optax.adamw(0.01, **{"weight_decay": 0.1} | arguments)


def injected(weight_decay):
    return optax.inject_hyperparams(optax.adamw)(0.01, weight_decay=weight_decay)


def steps_of(k, tx):
    return optax.MultiSteps(tx, k).gradient_transformation()


CHANGES = {
    "mask": (adamw(mask=MASK), adamw(mask=NARROW), "b: coupling none in this plan, decoupled"),
    "weight_decay": (adamw(), adamw(weight_decay=0.2), "w: decays by 0.002 in this plan, 0.001"),
    "injected weight_decay": (injected(0.1), injected(0.2), "w: decays by 0.002 in this plan"),
    "MultiSteps": (steps_of(3, adamw()), steps_of(2, adamw()), "calls per update: 2 in this"),
    "MultiSteps without decay": (
        steps_of(3, optax.adam(0.01)),
        steps_of(2, optax.adam(0.01)),
        "calls per update: 2 in this plan, 3",
    ),
    "masked, narrowed": (
        optax.masked(adamw(), MASK),
        optax.masked(adamw(), NARROW),
        "b: coupling none in this plan, decoupled",
    ),
    "masked, widened": (
        optax.masked(adamw(), NARROW),
        optax.masked(adamw(), MASK),
        "b: coupling decoupled in this plan, none",
    ),
    "no mask": (adamw(), adamw(mask=NARROW), "b: coupling none in this plan, decoupled"),
    "decay by schedule": (
        optax.chain(optax.adam(0.01), optax.add_decayed_weights(-0.001)),
        optax.chain(
            optax.adam(0.01),
            optax.add_decayed_weights(lambda count: -0.001 / (1 + count)),
        ),
        "decays by 0.0005 in this plan, 0.001 in the other at step 1",
    ),
    "factoring": (
        optax.adafactor(0.01, min_dim_size_to_factor=2, weight_decay_rate=0.1),
        optax.adafactor(0.01, min_dim_size_to_factor=128, weight_decay_rate=0.1),
        "optimizer: ",
    ),
}
DATA_CHANGES = {
    "batch_size": (8, "batch_size is 4 in the checkpoint, 8 in this run"),
    "data_length": (999, "data_length is 1000 in the checkpoint, 999 in this run"),
    "data_seed": (1, "data_seed is 0 in the checkpoint, 1 in this run"),
    "data_shards": (2, "data_shards is 1 in the checkpoint, 2 in this run"),
}


def settings_of(tx, data=None):
    return run_settings(tx, make_params(), **(data or DATA))


def state_of(tx):
    return {"params": make_params(), "opt_state": tx.init(make_params())}


def save(folder, tx, settings):
    with Checkpoints(folder, settings=settings) as checkpoints:
        checkpoints.save(1, state_of(tx))


def resume(folder, tx, settings, **flags):
    with Checkpoints(folder, settings=settings) as checkpoints:
        return checkpoints.restore(state_of(tx), **flags)


@pytest.mark.parametrize("name", CHANGES)
def test_another_optimizer_is_refused_by_name(name, tmp_path):
    before, after, message = CHANGES[name]
    there, here = settings_of(before), settings_of(after)
    save(tmp_path, before, there)
    assert resume(tmp_path, before, there).differences == []
    with pytest.raises(CheckpointError) as refused:
        resume(tmp_path, after, here)
    assert message in str(refused.value)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(state_of(tx))] for tx in (before, after)]
    if shapes[0] == shapes[1]:
        accepted = resume(tmp_path, after, here, check_settings=False)
        assert any(message in line for line in accepted.differences)
    else:
        with pytest.raises(CheckpointError, match="holds other arrays: "):
            resume(tmp_path, after, here, check_settings=False)


@pytest.mark.parametrize("name", DATA_CHANGES)
def test_other_data_are_refused_by_name(name, tmp_path):
    value, message = DATA_CHANGES[name]
    tx = optax.sgd(0.1)
    there = settings_of(tx)
    assert there | {name: value} == settings_of(tx, DATA | {name: value})
    save(tmp_path, tx, there)
    with pytest.raises(CheckpointError, match=message):
        resume(tmp_path, tx, there | {name: value})
    accepted = resume(tmp_path, tx, there | {name: value}, check_settings=False)
    assert accepted.differences == [message]


def test_the_plan_is_the_librarys_own_too(tmp_path):
    """The same through wdlab's optimizers, where rules and coupling are what changes."""
    tx = wdlab.optimizers.adamw(0.01, weight_decay=0.1, coupling="lr")
    save(tmp_path, tx, settings_of(tx))
    other = wdlab.optimizers.adamw(0.01, weight_decay=0.1, coupling="lr", rules=wdlab.rules.ALL)
    with pytest.raises(CheckpointError, match="b: coupling decoupled in this plan, none"):
        resume(tmp_path, other, settings_of(other))
