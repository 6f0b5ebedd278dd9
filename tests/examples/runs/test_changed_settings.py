"""What changed between two runs is refused by name on resume, or accepted by a flag."""

import dataclasses
import shlex

import jax
import jax.numpy as jnp
import optax
import pytest

import wdlab
from examples.gpt.flags import parse as parse_gpt
from examples.gpt.start_from import Start
from examples.gpt.trainer import Trainer as GPTTrainer
from examples.resnet import optim as resnet_optim
from examples.resnet.flags import parse as parse_resnet
from examples.runs.same_optimizer import same_optimizer
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


def test_an_error_of_the_callers_check_is_no_damage(tmp_path):
    tx = adamw()
    save(tmp_path, tx, settings_of(tx))
    other = settings_of(tx, DATA | {"data_seed": 1})
    with pytest.raises(CheckpointError, match="check_settings: ZeroDivisionError: "):
        resume(tmp_path, tx, other, check_settings=lambda *_: 1 // 0)
    assert resume(tmp_path, tx, other, check_settings=lambda *_: True).damaged == {}


FLAGS = shlex.split(
    "tiny --n_layer=1 --n_head=2 --n_embd=8 --block_size=8 --batch_size=2 --max_iters=6 "
    "--decay_lr=False --weight_decay=0.001 --coupling=constant --sample_tokens=0 --eval_examples=4"
)


def trainer_of(folder, *flags):
    _, config = parse_gpt([*FLAGS, f"--out_dir={folder}", *flags])
    return GPTTrainer(Start(config))


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = trainer_of(folder)
    record = {"pending": 0, **trainer.record()}
    with Checkpoints(folder, settings=trainer.settings()) as checkpoints:
        checkpoints.save(3, trainer.state, record=record)
    return folder


def restored(folder, *flags):
    trainer = trainer_of(folder, *flags)
    with Checkpoints(folder, settings=trainer.settings(), read_only=True) as trainer.checkpoints:
        return trainer.restore()


def test_other_flags_of_the_same_optimizer_go_on(saved_run):
    assert restored(saved_run)[-1] == "resuming at step 3"
    # eta_t is 1 where the learning rate is constant, and both rules exempt nothing but norms.
    notes = restored(saved_run, "--coupling=schedule", "--rules=NO_BIAS_OR_NORM")
    assert notes[-1] == "resuming at step 3"
    assert "coupling is constant in the checkpoint, schedule in this run" in notes[-2]
    assert notes[-2].endswith("the same optimizer: proved")


def test_other_flags_of_another_optimizer_are_refused_with_the_first_step(saved_run):
    with pytest.raises(CheckpointError) as refused:
        restored(saved_run, "--weight_decay=0.002")
    told = str(refused.value)
    assert "they differ first at step 0 in" in told
    assert "(decay, without a gradient)" in told
    assert "2 times" in told
    assert "Write --weight_decay=0.001 to go on with the run, or" in told
    assert "--init_from=resume --ckpt_path=FOLDER" in told
    assert "\n" not in told


def test_flags_of_more_than_the_optimizer_are_refused_as_they_were(saved_run):
    with pytest.raises(CheckpointError, match="made with other settings: dropout is 0"):
        restored(saved_run, "--dropout=0.1", "--coupling=schedule")


def test_the_resnets_optimizers_of_both_rates_are_compared():
    one = parse_resnet(shlex.split("tiny --opt_type=sgd --rules=ALL --lr=0.1 --wd=0.01"))
    params = {"stages": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}}
    saved = dataclasses.replace(one, coupling="constant").trajectory()  # SGD's is L2 in any case.

    def build(config):
        rates = [resnet_optim.rates(config, epoch) for epoch in (0, config.epochs - 1)]
        return [resnet_optim.make_optimizer(config, *both) for both in rates]

    told = same_optimizer(one, params, build, saved, one.trajectory())
    assert told.endswith("the same optimizer: proved")
    with pytest.raises(CheckpointError, match="Write --momentum=0.5 .*to go on with the run$"):
        same_optimizer(one, params, build, saved | {"momentum": 0.5}, one.trajectory())


def test_the_flags_of_an_optimizer_are_settings():
    for config in (parse_gpt(FLAGS)[1], parse_resnet(["tiny"])):
        assert set(config.OPTIMIZER) <= config.trajectory().keys()
