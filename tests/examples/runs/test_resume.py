"""A run that goes on from any of its steps equals the one that was never stopped."""

import shlex
import shutil
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from examples.gpt.flags import parse as parse_gpt
from examples.gpt.start_from import Start
from examples.gpt.trainer import Trainer as GPTTrainer
from examples.resnet.flags import parse as parse_resnet
from examples.resnet.trainer import Trainer as ResNetTrainer
from examples.runs.display import Display
from wdlab.training import Checkpoints
from wdlab.training.checksum import named_leaves

STEPS = 6
GPT = shlex.split(
    f"tiny --n_layer=1 --n_head=2 --n_embd=8 --block_size=8 --batch_size=2 --max_iters={STEPS} "
    "--gradient_accumulation_steps=2 --dropout=0.2 --warmup_iters=3 --grad_clip=0.5 "
    "--ema_coef=0.9 --eval_examples=4 --eval_interval=3 --log_interval=3 --sample_tokens=0"
)
RESNET = shlex.split(
    "tiny --model=resnet_tiny --width=2 --batch_size=21 --epochs=2 --first_decay=0.5 "
    "--momentum=0.9 --ema=0.9 --batch_norm --no_data_augm=False --radius=5"
)


class StopAt(NamedTuple):
    """Stands in for a signal that comes in a step."""

    trainer: GPTTrainer | ResNetTrainer
    step: int
    name = "SIGTERM"
    exit_code = 0

    @property
    def heard(self):
        return self.trainer.begun >= self.step

    requested = heard

    def ask(self):
        return 0

    def hear(self, answer):
        assert answer == 0


def bits(tree):
    """Path -> the bytes of every array."""
    return {
        path: np.asarray(
            jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        ).tobytes()
        for path, leaf in named_leaves(tree).items()
    }  # fmt: skip


def train(trainer, folder, until, restore=True):
    """Goes on from what is in the folder, until after that step; the state's bits."""
    trainer.folder, trainer.display = folder, Display(0, STEPS, 1)
    trainer.stop = StopAt(trainer, until)
    with Checkpoints(folder / "checkpoints", keep=1) as trainer.checkpoints:
        if restore:
            trainer.restore()
        trainer.resumed = True  # Also in the same process: its rows stay.
        trainer.records = trainer.open_records()
        trainer.train()
        trainer.records.close()
    return bits(trainer.state)


def check_every_step(make_trainer, scratch):
    """One trainer pauses at every step k; another, which is at its own end, goes on from there."""
    paused, other = make_trainer(), make_trainer()
    wanted = train(other, scratch / "whole", STEPS + 1, restore=False)
    rows = (scratch / "whole/metrics.jsonl").read_text()
    for k in range(STEPS):
        train(paused, scratch / "paused", k, restore=False)
        folder = shutil.copytree(scratch / "paused", scratch / str(k))
        assert train(other, folder, STEPS + 1) == wanted, k
        assert (folder / "metrics.jsonl").read_text() == rows, k
    return rows


@pytest.mark.slow
def test_the_gpt_goes_on_from_every_step(tmp_path):
    """Dropout, schedule, clipping, accumulation, moving average, grain; evaluations on the way.

    The one that pauses makes single steps, the other one three with a call.
    """
    trainers = (
        GPTTrainer(Start(parse_gpt([*GPT, f"--updates_per_call={count}"])[1])) for count in (1, 3)
    )
    (tmp_path / "whole").mkdir()
    (tmp_path / "paused").mkdir()
    rows = check_every_step(lambda: next(trainers), tmp_path)
    assert rows.count("batch_loss") == 2


@pytest.mark.slow
def test_the_image_model_goes_on_from_every_step(images, tmp_path):
    """BatchNorm, augmentation, momentum, moving average, the sphere; within epochs and between."""
    config = parse_resnet([*RESNET, f"--dataset={images}"])
    (tmp_path / "whole").mkdir()
    (tmp_path / "paused").mkdir()
    rows = check_every_step(lambda: ResNetTrainer(config), tmp_path)
    assert rows.count("batch_loss") == 2


def rounding():
    """Bfloat16 weights, accumulation windows of three steps, steps left out."""
    inner = wdlab.optimizers.adamw(0.01, weight_decay=0.1, coupling="lr")
    rounded = wdlab.training.stochastic_rounding(inner, seed=5)
    every_third = optax.MultiSteps(rounded, 3).gradient_transformation()
    return wdlab.skip_nonfinite(every_third)


def batches():
    drawn = grain.MapDataset.source(np.arange(20.0, dtype=np.float32)).shuffle(seed=1).repeat()
    return iter(drawn.batch(4).to_iter_dataset(grain.ReadOptions(num_threads=1)))


@jax.jit
def update(params, opt_state, batch):
    """A gradient that depends on weights and batch; that of some batches is not finite."""
    w = params["w"].astype(jnp.float32)
    grads = {"w": jnp.where((batch == 3).any(), jnp.nan, jnp.sin(batch.mean() * w))}
    updates, opt_state = rounding().update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def steps(params, opt_state, iterator, count):
    """The bits after every step, and the state after the last."""
    seen = []
    for _ in range(count):
        params, opt_state = update(params, opt_state, next(iterator))
        seen.append(bits((params, opt_state)))
    return seen, {"params": params, "opt_state": opt_state}


@pytest.mark.slow
def test_rounding_accumulation_and_the_data_go_on_from_every_step(tmp_path):
    params = {"w": jnp.full(64, 0.5, jnp.bfloat16)}
    fresh = {"params": params, "opt_state": rounding().init(params)}
    wanted, last = steps(**fresh, iterator=batches(), count=STEPS)
    assert 0 < int(wdlab.training.skipped_steps(last["opt_state"]).skipped) < STEPS
    assert len({after["0/w"] for after in wanted}) > 1  # Some windows end on the way.
    with Checkpoints(tmp_path) as checkpoints:
        for k in range(1, STEPS):
            iterator = batches()
            state = steps(**fresh, iterator=iterator, count=k)[1]
            checkpoints.save(k, state, record={"iterator": iterator.get_state()})
            restored, resumed = checkpoints.restore(fresh), batches()
            resumed.set_state(restored.record["iterator"])
            assert steps(**restored.state, iterator=resumed, count=STEPS - k)[0] == wanted[k:], k
