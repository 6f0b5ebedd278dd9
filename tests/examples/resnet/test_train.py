"""Runs of the image models: what they leave behind, and that they continue bit for bit."""

import json
import os
import shlex
import shutil
import signal

import pytest

from examples.resnet import train
from examples.resnet.trainer import Trainer
from examples.runs import records

SMALL = shlex.split(
    "tiny --model=resnet_tiny --width=2 --batch_size=16 --epochs=4 --first_decay=0.5 "
    "--momentum=0.5 --no_data_augm=False --save_every=1 --radius=5"
)
LINEAR = shlex.split("tiny --model=linear --no_batch_norm --batch_size=16 --epochs=3")


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train.main([*SMALL, f"--dataset={images}", f"--out_dir={folder}"]) == 0
    return folder


def rows_of(folder):
    return records.read(folder / "metrics.jsonl")


@pytest.mark.slow
def test_a_run_leaves_records_checkpoints_and_a_picture(run):
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in rows] == [0, 4, 8, 12, 16]
    assert [row["lr"] for row in rows] == [0.05, 0.05, 0.05, 1e-3, 1e-3]
    for row in rows:
        assert row["weight_norm"] == pytest.approx(5, rel=1e-5)  # The sphere.
        penalty = 0.01 / 2 * row["weight_norm"] ** 2
        assert row["train_objective"] == pytest.approx(row["train_loss"] + penalty, rel=1e-5)
    assert rows[-1]["ema_train_loss"] != rows[-1]["train_loss"]
    assert (run / "training.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "config.json").read_text())["width"] == 2
    assert {p.name for p in (run / "checkpoints").iterdir()} >= {"12", "16"}


@pytest.mark.slow
@pytest.mark.parametrize("done", [4, 10])
def test_a_run_that_was_stopped_anywhere_continues_bit_for_bit(
    run, images, tmp_path, monkeypatch, done, capsys
):
    """Stopped by a signal after some steps: at the end of an epoch, and within one."""
    argv = [*SMALL, f"--dataset={images}", f"--out_dir={tmp_path}"]
    call = Trainer.call

    def then_signal(self, before):
        numbers = call(self, before)
        if self.begun == done:
            signal_self()
        return numbers

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "call", then_signal)
        assert train.main(argv) == 0
    assert f"SIGTERM: saved at step {done}; --resume continues" in capsys.readouterr().out
    assert len(rows_of(tmp_path)) < 5
    assert train.main([*argv, "--resume"]) == 0
    assert f"resuming at step {done}" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


def signal_self():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(run, images, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "copy")
    argv = [*SMALL, f"--dataset={images}", f"--out_dir={folder}"]
    assert train.main([*argv, "--wd=0.5", "--resume"]) == 1
    assert "wd is 0.01 in the checkpoint, 0.5 in this run" in capsys.readouterr().err
    assert train.main(argv) == 1
    assert "already holds a run: add --resume" in capsys.readouterr().err


def test_nan_stops_the_run_with_the_last_good_step_saved(images, tmp_path, capsys):
    argv = [*LINEAR, "--lr=1e30", "--momentum=0.9"]
    assert train.main([*argv, f"--dataset={images}", f"--out_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "stopped; the weights before it are saved as step" in error
    assert "Try a lower --lr" in error
    assert error.count("\n") == 1
    assert list((tmp_path / "checkpoints").glob("[0-9]*"))
