"""Killed and stopped runs go on; what stands in a run's way is said in a line."""

import errno
import os
import resource
import shutil
import time

import jax.numpy as jnp
import pytest

from tests.forks import Python
from wdlab.training import CheckpointError, Checkpoints
from wdlab.training import orbax_io as checkpoint_files


@pytest.mark.slow
def test_some_kills_and_signals(tmp_path):
    """In a process of its own, which forks the lives; 200 of each without --quick."""
    command = ["-m", "examples.benchmarks.reliability", "--quick", "kills", "signals"]
    done = Python(*command, folder=tmp_path)
    assert done.wait() == 0, done.stdout + done.stderr[-2000:]


def test_a_second_run_in_the_folder_is_refused_and_harms_nothing(tmp_path):
    with Checkpoints(tmp_path) as first:
        first.save(1, {"x": jnp.ones(2)})
        with pytest.raises(CheckpointError, match=rf"another run \(process {os.getpid()} on "):
            Checkpoints(tmp_path)
        with Checkpoints(tmp_path, read_only=True) as reader:
            assert reader.restore({"x": jnp.zeros(2)}) is None or reader.steps() == [1]
            with pytest.raises(CheckpointError, match="read_only"):
                reader.save(2, {"x": jnp.ones(2)})
        first.wait()
        assert first.steps() == [1]
    with Checkpoints(tmp_path) as again:
        assert again.restore({"x": jnp.zeros(2)}).step == 1


def test_a_disk_that_is_full_leaves_the_last_good_step(tmp_path):
    """A limit on the size of files, where a small disk cannot be mounted."""
    small, large = {"x": jnp.zeros(1)}, {"x": jnp.arange(2.0**18) ** 0.5}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, large)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
        try:
            checkpoints.save(2, {"x": large["x"] + 1})
            with pytest.raises(CheckpointError, match=r"step 2 could not .*\(step 1 is the newest"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoints.restore(large).step == 1
        checkpoints.save(2, large)  # There is room again.
        assert checkpoints.restore(large).step == 2
        with pytest.raises(CheckpointError, match="holds other arrays"):
            checkpoints.restore(small)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="no checkpoints can be written to .*: Not a dir"):
        Checkpoints(tmp_path / "file" / "run")
    with pytest.raises(CheckpointError, match="no checkpoints can be written to /proc/x: "):
        Checkpoints("/proc/x")

    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:  # Root, as which tests may run, may write anywhere.
        patch.setattr(checkpoint_files, "open", forbidden, raising=False)
        with pytest.raises(CheckpointError, match="Permission denied. Choose a folder"):
            Checkpoints(tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps() == []


def test_a_clock_that_jumps_back_changes_no_order(tmp_path, monkeypatch):
    now = time.time
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, days in ((1, 0), (2, -400), (3, 400), (4, -1)):
            monkeypatch.setattr(time, "time", lambda days=days: now() + 86400 * days)
            checkpoints.save(step, {"x": jnp.float32(step)})
            checkpoints.wait()
        assert checkpoints.steps() == [3, 4]
        shutil.rmtree(tmp_path / "4" / "state")
        assert float(checkpoints.restore({"x": jnp.float32(0)}).state["x"]) == 3
