"""Image models on meshes and in processes: the same run on any number of devices."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from examples.resnet import layers, model, train
from examples.resnet.flags import parse
from examples.resnet.trainer import Trainer
from examples.runs import hlo, processes
from examples.runs.errors import UserError
from examples.runs.program import Program
from examples.runs.records import read
from examples.runs.run_dir import settings_of
from tests.examples.resnet import small_images

ROOT = Path(__file__).parents[3]
SMALL = shlex.split(
    "tiny --model=small --batch_size=16 --epochs=2 --momentum=0.5 --ema=0.5 --lr=0.1 --wd=0.1 "
    "--radius=20 --no_data_augm=False"
)
LINEAR = shlex.split("tiny --model=linear --no_batch_norm --batch_size=16 --epochs=2 --radius=1")
TWO_BY_TWO = ["--mesh_data=2", "--mesh_fsdp=2"]


class Small(nnx.Module):
    """Of each kind of layer one; the second convolution is large enough to be split."""

    def __init__(self, n_classes: int, rngs: nnx.Rngs):
        self.conv1, self.norm = layers.conv(3, 32, rngs), layers.BatchNorm(32, affine=True)
        self.conv2 = layers.conv(32, 64, rngs, stride=2)
        self.head = layers.linear(64, n_classes, rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = jax.nn.relu(self.norm(self.conv1(x), train))
        return self.head(self.conv2(x).mean((1, 2)))


@pytest.fixture(scope="module", autouse=True)
def _small_is_a_model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.MODELS, "small", lambda c, size, n, rngs: Small(n, rngs))
        yield


def check_same_rows(folder, other):
    """Loss, error, norm of the weights and of their average, at every epoch."""
    rows, others = read(folder / "metrics.jsonl"), read(other / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 4, 8]
    assert len({row["train_loss"] for row in rows}) == 3
    for row, wanted in zip(rows, others, strict=True):
        assert row == pytest.approx(wanted, rel=0, abs=2e-5)


@pytest.mark.slow
def test_a_run_moves_between_meshes_and_stays_the_same(images, tmp_path, monkeypatch, capsys):
    """Two steps on 2 x 2 devices, three on 4, the rest on one: with BatchNorm and augmentation."""
    one, moved = tmp_path / "one", tmp_path / "moved"
    argv = [*SMALL, f"--dataset={images}"]
    assert train.main([*argv, f"--out_dir={one}"]) == 0
    call = Trainer.call

    def then_signal(self, before):
        numbers = call(self, before)
        if self.begun in (2, 5):
            os.kill(os.getpid(), signal.SIGTERM)
        return numbers

    monkeypatch.setattr(Trainer, "call", then_signal)
    for mesh in (TWO_BY_TWO, ["--mesh_data=4"], []):
        assert train.main([*argv, *mesh, "--resume", f"--out_dir={moved}"]) == 0
    shown = capsys.readouterr().out
    assert "4 x cpu (data 2 x fsdp 2)" in shown
    assert "4 x cpu (data 4 x fsdp 1)" in shown
    assert "resuming at step 5" in shown
    check_same_rows(moved, one)


def bytes_on_a_device(tree):
    device = jax.devices()[0]
    shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


def test_weights_average_and_momentum_are_born_split_and_stay_where_they_are(images):
    one, four = (
        Trainer(parse([*SMALL, f"--dataset={images}", *mesh])) for mesh in ([], TWO_BY_TWO)
    )
    for part in ("params", "opt_state", "ema"):
        whole, split = (bytes_on_a_device(getattr(t.state, part)) for t in (one, four))
        assert split < 0.6 * whole, part
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(four.state.stats))
    for trainer in (one, four):
        born = [leaf.sharding for leaf in jax.tree.leaves(trainer.state)]
        steps = trainer.epochs.train_steps
        compiled = steps._cache_size()
        with trainer.layout.active():
            for i in range(2):
                trainer.state, _ = trainer.epochs.call((0.1, 0.1), trainer.state, i)
        assert [leaf.sharding for leaf in jax.tree.leaves(trainer.state)] == born
        assert steps._cache_size() <= compiled + 1


def test_only_weights_are_gathered(images):
    """Not the activations: each device computes its images from the first layer to the last."""
    trainer = Trainer(parse([*SMALL, f"--dataset={images}", *TWO_BY_TWO]))
    with trainer.layout.active():
        program = trainer.epochs.train_steps.lower(
            trainer.state, trainer.train_images, trainer.epochs.order(0), jax.random.key(0),
            (0.1, 0.1), 0, 1,
        ).compile()  # fmt: skip
    sent = hlo.collectives(Program(program.as_text()))
    split = [p for p in jax.tree.leaves(trainer.state.params) if not p.is_fully_replicated]
    assert set(sent) == {"all-gather", "all-reduce"}
    assert sent["all-gather"] == (len(split), sum(p.nbytes for p in split) / 2)


def test_a_batch_that_the_devices_cannot_share_is_refused(images):
    with pytest.raises(UserError, match="--batch_size 16 must be a multiple of 3"):
        Trainer(parse([*LINEAR, f"--dataset={images}", "--mesh_data=3"]))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    images = small_images.save(tmp_path, pixels=64)
    one, two = tmp_path / "one", tmp_path / "two"
    flags = [*LINEAR, f"--dataset={images}"]
    command = [sys.executable, "-m", "examples.runs.launch", "--processes=2", "--devices=1"]
    command += ["examples.resnet.train", *flags, "--mesh_fsdp=2", f"--out_dir={two}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 x cpu (data 1 x fsdp 2, 2 processes)" in done.stdout
    assert done.stdout.count("epoch 2: train loss") == 1  # One log.
    weights_and_average = 2 * 3 * 3 * 64**2 * 4
    assert settings_of(two)["state_bytes"] == weights_and_average / 2 + 4  # And a count.
    assert (two / "checkpoints/8").is_dir()
    assert train.main([*flags, f"--out_dir={one}"]) == 0
    check_same_rows(two, one)


def test_a_lost_process_is_told_from_other_errors(monkeypatch, capsys):
    lost = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore")
    assert not processes.is_alone(lost)  # One process has none to lose.
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert processes.is_alone(lost)
    assert not processes.is_alone(ValueError("RESOURCE_EXHAUSTED: Out of memory"))
    monkeypatch.setattr(os, "_exit", lambda code: None)
    assert processes.fail(lost) == 1
    error = capsys.readouterr().err
    assert "closed by peer); start all of them again with --resume" in error
    assert error.count("\n") == 1
