"""Meshes and processes: the same run on any number of devices."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.benchmarks import scaling
from examples.gpt import data as data_lib
from examples.gpt import model, start_from
from examples.gpt.flags import parse
from examples.gpt.train import main
from examples.gpt.trainer import Trainer
from examples.resnet import data as resnet_data
from examples.resnet import flags as resnet_flags
from examples.runs import hlo, launch, processes
from examples.runs.errors import UserError
from examples.runs.layout import Layout
from examples.runs.mesh import along_batch, make_mesh
from examples.runs.program import Program
from examples.runs.records import read
from examples.runs.run_dir import settings_of
from tests.forks import Python
from wdlab.training import Checkpoints

RUN = shlex.split(  # No bias: the keys' has no gradient but rounding, which Adam makes large.
    "tiny --n_layer=1 --n_head=2 --n_embd=128 --block_size=8 --batch_size=4 --dropout=0.1 "
    "--warmup_iters=2 --lr_decay_iters=9 --eval_interval=9 --eval_examples=4 --log_interval=1 "
    "--sample_tokens=0 --ema_coef=0 --no_bias"
)


def trainer_of(*flags):
    return Trainer(start_from.find(parse([*RUN, *flags])[1], Path("no such run")))


def weights(folder):
    like = {"params": model.shapes(parse(RUN)[1], data_lib.embedded().vocab_size)}
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(like, check_settings=False, partial=True)
    assert restored.step == 5
    return jax.tree.leaves(restored.state)


def losses(folder):
    return [row["batch_loss"] for row in read(folder / "metrics.jsonl")[1:]]


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on_with_theirs(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    program = ["examples.gpt.train", *RUN, "--max_iters=3", "--mesh_fsdp=2", f"--out_dir={two}"]
    pair = [
        Python("-m", *program, folder=tmp_path, env=env)
        for env in launch.environments(2, devices=1)
    ]
    assert [process.wait() for process in pair] == [0, 0], pair[0].stderr + pair[1].stderr
    shown = "".join(process.stdout for process in pair)
    assert "2 x cpu (data 1 x fsdp 2, 2 processes)" in shown
    assert shown.count("step 3: train loss") == 1  # One log.
    shared = settings_of(two)["state_bytes"]
    assert main([*RUN, "--max_iters=5", f"--out_dir={one}"]) == 0
    assert shared < 0.55 * settings_of(one)["state_bytes"]
    assert main([*RUN, "--max_iters=5", "--resume", f"--out_dir={two}"]) == 0
    assert "resuming at step 3" in capsys.readouterr().out
    np.testing.assert_allclose(losses(two), losses(one), rtol=0, atol=1e-5)
    for a, b in zip(weights(two), weights(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def run_of(loss=0.0, weight=0.0, mean=0.0):
    return scaling.Run(
        [np.full(20, 2.0) + loss], [np.ones(3), np.full((2, 2), 0.5) + weight], [np.zeros(2) + mean]
    )


def test_the_benchmark_names_every_claim_that_does_not_hold():
    sizes = {"1": 1000, "2": 549, "4": 276}
    runs = {"1": run_of(), "2": run_of(9e-6), "4": run_of(0, -2e-5), "4, 1": run_of(mean=np.nan)}
    lines, wrong = scaling.judge(sizes, runs)
    assert lines[1] == ["2", "549", "0.549", "9.0e-06", "0.0e+00", "0.0e+00"]
    assert lines[3] == ["4, 1", "", "", "0.0e+00", "0.0e+00", "nan"]
    assert wrong == [
        "4 processes: 0.276 of the bytes of 1",
        "4 processes: weights differ by 2.0e-05 from 1's",
        "4, 1 processes: statistics differ by nan from 1's",
    ]


def test_the_benchmark_takes_up_the_run_as_if_it_had_been_stopped(tmp_path, monkeypatch):
    for name in ("5", "10", "15", "20"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "lock").touch()
    made = []

    def train(example, folder, processes, flags):
        steps = {int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")}
        made.append((processes, max(steps), flags[-1]))
        for step in {5, 10, 15, 20} - steps:
            (folder / "checkpoints" / str(step)).mkdir()
        return f"resuming at step {min(max(steps), 10)}\n"

    monkeypatch.setattr(scaling, "train", train)
    with pytest.raises(UserError, match="resnet did not go on from step 15"):
        scaling.move("resnet", tmp_path, [2, 1, 4], [])
    assert made == [(2, 5, "--resume"), (1, 10, "--resume"), (4, 15, "--resume")]


def test_an_epoch_of_the_benchmarks_images_is_one_step(tmp_path):
    config = resnet_flags.parse(scaling.flags_of("resnet", tmp_path))
    images = resnet_data.load(config)
    assert images.image_size == 8
    assert config.no_data_augm  # Cutout covers 8 x 8 pixels: nothing would be left.
    assert len(images.x_train) // config.batch_size == 1
    assert config.epochs == scaling.STEPS


def test_the_state_is_born_where_the_step_leaves_it():
    trainer = trainer_of("--mesh_data=2", "--mesh_fsdp=2")

    def where():
        return [leaf.sharding for leaf in jax.tree.leaves(trainer.state)]

    born = where()
    kernels = [
        leaf
        for leaf in jax.tree.leaves((trainer.state.params, trainer.state.opt_state))
        if leaf.size >= 2**14
    ]
    assert len(kernels) == 12  # Four kernels and their two moments.
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 2 for leaf in kernels)
    numbers = trainer.call(None)
    trainer.call(numbers)
    assert where() == born
    assert trainer.train_steps._cache_size() == 1


def test_processes_read_their_rows_of_one_batch():
    config = parse(RUN)[1]
    data = data_lib.load(config)
    whole = next(data_lib.batches(data, config))
    for rows in ([0, 1], [3], [0, 2]):
        part = next(data_lib.batches(data, config, np.array(rows)))
        np.testing.assert_array_equal(part, whole[:, rows])


def test_a_batch_lies_split_over_all_devices():
    layout = Layout(make_mesh(2, 2))
    rows = layout.rows(8)
    np.testing.assert_array_equal(rows, np.arange(8))
    tokens = np.arange(3 * 8 * 5).reshape(3, 8, 5)
    batch = layout.batch(tokens, rows, 8, axis=1)
    np.testing.assert_array_equal(batch, tokens)
    assert {shard.data.shape for shard in batch.addressable_shards} == {(3, 2, 5)}
    with pytest.raises(UserError, match="--batch_size 6 must be a multiple of 4"):
        layout.rows(6)


def test_only_whole_batches_are_kept_split():
    with Layout(make_mesh(2, 2)).active():
        one, four = jax.jit(lambda x, y: (along_batch(x), along_batch(y)))(
            jnp.ones((1, 4)), jnp.ones((4, 4))
        )
    assert {shard.data.shape for shard in one.addressable_shards} == {(1, 4)}
    assert {shard.data.shape for shard in four.addressable_shards} == {(1, 4)}
    assert along_batch(four) is four


def test_a_mesh_of_devices_that_are_not_there_is_refused(monkeypatch):
    with pytest.raises(UserError, match="--mesh_data 4 x --mesh_fsdp 4 is 16 devices, but there"):
        make_mesh(4, 4)
    assert make_mesh(0, 1) is None  # On a CPU one device, unless more are asked for.
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert make_mesh(0, 2).shape == {"data": 4, "fsdp": 2}
    with pytest.raises(UserError, match="is 2 devices, but there are 8"):
        make_mesh(1, 2)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES, JAX_PROCESS_ID is not set"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS must be host:port",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "got 'a:1', '2' of '2'",
        ),
    ],
)
def test_half_a_description_of_the_processes_is_refused(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(message)):
        processes.start()


def test_the_launcher_stops_the_others_when_one_fails(monkeypatch):
    monkeypatch.setattr(launch, "_GRACE", 0.1)
    program = "import os, sys, time; n = int(os.environ['JAX_PROCESS_ID']); "
    program += "sys.exit(3) if n else time.sleep(60)"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, "JAX_PROCESS_ID": str(n)}
        )
        for n in range(2)
    ]
    assert launch.wait(started) == 3
    assert [process.poll() for process in started] == [-9, 3]


PROGRAM = """
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = f32[8]{0} all-reduce(%x), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%add
  %s = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%r), channel_id=3
}
%condition (p: (s32[], f32[8])) -> pred[] {
  %c = s32[] constant(12)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
ENTRY %main (p: f32[4]) -> f32[16] {
  %w = (s32[], f32[8]) while(%t), condition=%condition, body=%body
  ROOT %g = bf16[16]{0:T(8,128)} all-gather(%p), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}
}
"""  # noqa: E501


def test_collectives_in_loops_count_as_often_as_they_run():
    assert hlo.collectives(Program(PROGRAM)) == {
        "all-gather": (1, 3 / 4 * 16 * 2),
        "all-reduce": (12, 12 * 2 * 3 / 4 * 8 * 4),
        "collective-permute": (12, 12 * 4 * 4),
    }


def test_matrix_products_count_what_is_computed_again():
    def loss(w, x):
        return jax.checkpoint(lambda w: jnp.sin(x @ w) @ w)(w).sum()

    arguments = jnp.ones((4, 4)), jnp.ones((2, 4))
    product = 2 * 2 * 4 * 4
    assert hlo.matmul_flops(jax.make_jaxpr(loss)(*arguments)) == 2 * product
    # Again: the first product; then each product's two gradients, without that of x.
    assert hlo.matmul_flops(jax.make_jaxpr(jax.grad(loss))(*arguments)) == (2 + 1 + 3) * product
