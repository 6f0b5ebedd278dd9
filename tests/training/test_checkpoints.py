"""Nothing wrong is ever restored, an older good step is found, and the user is told in a line."""

import gc
import json
import math
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from examples.benchmarks.damage import make_state
from tests.forks import Python
from wdlab.training import CheckpointError, Checkpoints, SkipNonfiniteState
from wdlab.training.checksum import leaf_checksum

FLIPS = 10
ONE = {"x": jnp.ones(2)}
# What a failed read or write leaves behind would be reported where it is collected.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Two good steps, 10 and 20, with different values."""
    folder = tmp_path_factory.mktemp("pristine")
    with Checkpoints(folder) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, make_state(step), record={"iterator": step})
    return folder


@pytest.fixture
def copied(pristine, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(pristine, folder)
    return folder


def restore(folder, like=None, **kwargs):
    with Checkpoints(folder, **kwargs) as checkpoints:
        return checkpoints.restore(make_state() if like is None else like)


def files_of(folder, step):
    return sorted(p for p in (folder / str(step)).rglob("*") if p.is_file() and p.stat().st_size)


def test_round_trip_keeps_every_kind_of_leaf_and_the_record(pristine):
    restored = restore(pristine)
    assert (restored.step, restored.record, restored.damaged) == (20, {"iterator": 20}, {})
    assert equal(restored.state, make_state(20))
    assert jax.tree.map(jnp.dtype, restored.state["half"].dtype) == jnp.bfloat16


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


def test_arrays_may_be_donated_right_after_save(tmp_path):
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        x = jnp.arange(1000.0)
        checkpoints.save(1, {"x": x})
        double(x)
        restored = checkpoints.restore({"x": jnp.zeros(1000)})
    assert restored.state["x"].tolist() == list(range(1000))


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize(
    ("losses", "kept", "best"),
    [
        ([3.0, 1.0, 2.0, 5.0, 4.0], [1, 3, 4], 1),
        ([0.5, 0.1, 0.6, math.nan, 0.7, 0.8], [1, 4, 5], 1),
        ([math.nan, 0.2, 0.6, 0.7, math.nan, math.nan], [1, 4, 5], 1),
        ([math.inf, -math.inf, 0.6, 0.7], [1, 2, 3], 1),
        ([0.2, 0.2, 0.3, 0.4, 0.4], [1, 3, 4], 1),
        ([math.nan] * 4, [2, 3], None),
        ([0.1, None, None, None], [0, 2, 3], 0),  # Without metrics: after a signal.
        ([None] * 3, [1, 2], None),
        ([0.1, "other", "other", 0.2], [0, 2, 3], 0),
    ],
)
@pytest.mark.filterwarnings("ignore:the metrics have no 'loss'")
def test_the_newest_and_the_best_are_kept_and_nan_is_never_best(
    losses, kept, best, reopened, tmp_path
):
    checkpoints = Checkpoints(tmp_path, keep=2, best="loss")
    for step, loss in enumerate(losses):
        metrics = {"other": 0.0} if loss == "other" else loss if loss is None else {"loss": loss}
        checkpoints.save(step, {"x": jnp.float32(step)}, metrics=metrics)
        if reopened:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path, keep=2, best="loss")
    checkpoints.close()
    with Checkpoints(tmp_path, read_only=True, best="loss") as checkpoints:
        assert (checkpoints.steps(), checkpoints.best_step()) == (kept, best)


def test_metrics_without_the_one_that_decides_are_warned_of(tmp_path):
    with (
        Checkpoints(tmp_path, best="val_loss") as checkpoints,
        pytest.warns(UserWarning, match="no 'val_loss', which decides what is best; .* loss"),
    ):
        checkpoints.save(1, ONE, metrics={"loss": 1.0})


def test_one_flipped_bit_never_gives_wrong_values(pristine, tmp_path):
    """In files drawn by size, so mostly in the arrays; plus each file at least once."""
    rng = random.Random(0)
    files = files_of(pristine, 20)
    drawn = files + rng.choices(files, weights=[f.stat().st_size for f in files], k=FLIPS)
    fell_back = 0
    with Checkpoints(tmp_path / "run") as checkpoints:
        for i, source in enumerate(drawn):
            folder = tmp_path / "run"
            for step in (10, 20):
                shutil.rmtree(folder / str(step), ignore_errors=True)
                shutil.copytree(pristine / str(step), folder / str(step))
            for leftover in folder.glob("damaged-*"):
                shutil.rmtree(leftover)
            flip_bit(folder / source.relative_to(pristine), rng)
            checkpoints._manager.reload()
            restored = checkpoints.restore(make_state())
            assert equal(restored.state, make_state(restored.step)), (i, source)
            assert restored.record == {"iterator": restored.step}
            assert restored.damaged.keys() == ({20} if restored.step == 10 else set())
            fell_back += restored.step == 10
    assert fell_back > FLIPS / 2


def flip_bit(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _largest(folder, step=20):
    return max(files_of(folder, step), key=lambda path: path.stat().st_size)


def truncate(folder):
    path = _largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(folder):
    path = _largest(folder)
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = {
    "truncated": truncate,
    "zeroed": zero,
    "deleted": lambda folder: _largest(folder).unlink(),
    "record deleted": lambda folder: shutil.rmtree(folder / "20" / "record"),
    "state deleted": lambda folder: shutil.rmtree(folder / "20" / "state"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_falls_back_names_the_step_and_loses_nothing(copied, damage):
    damage(copied)
    with Checkpoints(copied) as checkpoints:
        restored = checkpoints.restore(make_state())
        assert restored.step == 10
        assert equal(restored.state, make_state(10))
        assert list(restored.damaged) == [20]
        assert restored.damaged[20]
        assert (copied / "damaged-20").is_dir()
        checkpoints.save(20, make_state(20), record={"iterator": 20})  # Can be written again.
        assert checkpoints.restore(make_state()).step == 20


def test_no_good_step_is_an_error_that_names_all(copied):
    for step in (10, 20):
        _largest(copied, step).unlink()
    with pytest.raises(CheckpointError, match=r"is whole: step 20: .*; step 10: "):
        restore(copied)
    assert sorted(p.name for p in copied.iterdir() if p.is_dir()) == ["10", "20"]


def test_a_changed_iterator_position_is_noticed(copied):
    path = copied / "20" / "record" / "metadata"
    sealed = json.loads(path.read_text())
    sealed["body"]["record"]["iterator"] = 21
    path.write_text(json.dumps(sealed))
    restored = restore(copied)
    assert restored.step == 10
    assert "SHA-256" in restored.damaged[20]


def test_other_settings_are_refused_by_name(tmp_path):
    with Checkpoints(tmp_path, settings={"n_embd": 128, "seed": 0}) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
    like = {"x": jnp.ones(2)}
    with pytest.raises(CheckpointError, match="n_embd is 128 in the checkpoint, 64 in this run"):
        restore(tmp_path, like, settings={"n_embd": 64, "seed": 0})
    with pytest.raises(CheckpointError, match="decay_plan is absent in the checkpoint, abc"):
        restore(tmp_path, like, settings={"n_embd": 128, "seed": 0, "decay_plan": "abc"})
    with Checkpoints(tmp_path, settings={"n_embd": 64}) as checkpoints:
        assert checkpoints.restore(like, check_settings=False).step == 1


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": jnp.ones(3)}, r"x is float32\[2\] in the checkpoint, float32\[3\] in this run"),
        ({"x": jnp.ones(2, jnp.bfloat16)}, r"x is float32\[2\] in the checkpoint, bfloat16\[2\]"),
        ({"x": 1.0}, r"x is float32\[2\] in the checkpoint, float in this run"),
        ({"y": jnp.ones(2)}, r"x is float32\[2\] in the checkpoint, absent in this run"),
    ],
    ids=["shape", "dtype", "number", "name"],
)
@pytest.mark.parametrize("partial", [False, True])
def test_another_layout_is_refused_by_name_and_never_cast(tmp_path, like, message, partial):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, ONE)
        if partial and "y" in like:
            message = "nothing of what is wanted: it has x; wanted is y"
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(like, partial=partial)
        assert checkpoints.steps() == [1]


def test_a_part_is_restored_and_what_is_new_keeps_its_values(tmp_path):
    state = {"params": {"w": jnp.arange(3.0)}, "opt_state": [jnp.ones(3), jnp.int32(7)]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        like = {"params": {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}, "ema": jnp.full(3, 5.0)}
        with pytest.raises(CheckpointError, match="opt_state/0 is .* in the checkpoint, absent"):
            checkpoints.restore(like)
        found = checkpoints.restore(like, partial=True)
        assert found.filled == ["ema"]
        assert jax.tree.map(lambda x: x.tolist(), found.state) == {
            "params": {"w": [0.0, 1.0, 2.0]},
            "ema": [5.0] * 3,
        }
        with pytest.raises(CheckpointError, match="no ema: give an array with its first values"):
            checkpoints.restore(like | {"ema": like["params"]["w"]}, partial=True)


def test_every_kind_of_leaf_comes_back_as_it_was(tmp_path):
    """64 bits too, which JAX would shorten; entries that Orbax refuses: numbers, size 0, none."""
    state = {
        "numpy": np.arange(3) + 2**40,
        "half": np.ones(2, jnp.bfloat16),
        "complex": np.asarray([1 + 2j]),
        "scalars": [np.float32(0.1), np.int64(2**40), np.float64(0.1), np.bool_(True)],
        "numbers": [3, 0.1, True, 1j],
        "empty": [jnp.zeros((0, 3)), np.zeros((2, 0))],
        "key": jax.random.key(3),
    }
    like = jax.tree.map(lambda x: type(x)() if np.isscalar(x) else x * 0, state | {"key": 0})
    like["key"] = jax.random.key(0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        found = checkpoints.restore(like).state
        checkpoints.save(2, {})
        assert checkpoints.restore({}).state == {}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert type(one) is type(other)
        assert jnp.shape(one) == jnp.shape(other)
        assert np.all(np.asarray(one == other))
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


@pytest.mark.parametrize("saved", [3, jnp.int32(3)], ids=["int", "int32"])
@pytest.mark.parametrize(
    ("like", "kind"),
    [(0, int), (jnp.int32(0), jax.Array), (jax.ShapeDtypeStruct((), jnp.int32), jax.Array)],
    ids=["int", "int32", "shape"],
)
def test_a_count_may_be_a_number_here_and_an_array_there(saved, like, kind, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"count": saved})
        found = checkpoints.restore({"count": like}).state["count"]
        assert found == 3
        assert isinstance(found, kind)
        with pytest.raises(CheckpointError, match="count is int.* in the checkpoint, float"):
            checkpoints.restore({"count": 1.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"a": [{1, 2}]}}, r"settings\['a'\]\[0\] is a set"),
        ({"keep": 0}, "keep must be a whole number >= 1, got 0"),
        ({"keep": 1.5}, "keep must be a whole number >= 1, got 1.5"),
        ({"keep": True}, "keep must be a whole number >= 1, got True"),
    ],
)
def test_arguments_that_cannot_be_are_named(changes, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        Checkpoints(tmp_path, **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, ONE), "step must be a whole number >= 0, got -1"),
        ((1.5, ONE), "float"),
        ((1, {"x": "text"}), "x is a str: a state holds arrays and numbers"),
        ((1, {"x": np.asarray(["text"])}), "x is a ndarray"),
        ((1, {"a/b": 1, "a": {"b": 2}}), "two leaves of the state have the path 'a/b'"),
        ((1, ONE, {"data": b"bytes"}), r"record\['data'\] is a bytes"),
    ],
)
def test_what_cannot_be_saved_is_named_and_harms_nothing(arguments, message, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        step, state, *record = arguments
        with pytest.raises((TypeError, ValueError), match=message):
            checkpoints.save(step, state, record=record[0] if record else None)
        checkpoints.save(np.int64(2), ONE)
        checkpoints.save(jnp.int32(3), ONE)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]


def test_settings_may_hold_nan_and_numpy(tmp_path):
    settings = {"lr": np.float32(0.5), "betas": (0.9, 0.95), "clip": math.nan, "folder": tmp_path}
    with Checkpoints(tmp_path, settings=settings) as checkpoints:
        checkpoints.save(1, ONE)
        assert checkpoints.restore(ONE).differences == []
    with pytest.raises(CheckpointError, match="clip is nan in the checkpoint, 1.0 in this run"):
        restore(tmp_path, ONE, settings=settings | {"clip": 1.0})


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Checkpoints("~/run") as checkpoints:
        checkpoints.save(1, ONE)
    assert (tmp_path / "run" / "1").is_dir()


def test_a_step_that_is_not_there_is_told_from_a_damaged_one(copied):
    with Checkpoints(copied) as checkpoints:
        with pytest.raises(CheckpointError, match="there is no step 7 in .*: it has 10, 20"):
            checkpoints.restore(make_state(), step=7)
        assert checkpoints.restore(make_state(), step=10).step == 10


def test_a_renamed_folder_is_refused(copied):
    (copied / "20").rename(copied / "70")
    with pytest.raises(CheckpointError, match="/70 holds step 20: its folder was renamed"):
        restore(copied)
    assert (copied / "70").is_dir()


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_kept(tmp_path):
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(other)
    with pytest.raises(CheckpointError, match="its .lock is a symbolic link"):
        Checkpoints(tmp_path / "run")
    assert other.read_text() == "precious"


def test_a_second_one_of_this_process_is_told_what_to_close(tmp_path):
    first = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="same as this one.*Checkpoints.close_all()"):
        Checkpoints(tmp_path)
    first.save(1, ONE)
    Checkpoints.close_all()
    with Checkpoints(tmp_path) as second:
        assert second.restore(ONE).step == 1
        with pytest.raises(CheckpointError, match="is closed: step 2 cannot be saved"):
            first.save(2, ONE)
    first.close()  # Nothing is left to close.


def test_a_reader_sees_what_another_run_has_saved_since(tmp_path):
    with Checkpoints(tmp_path) as writer, Checkpoints(tmp_path, read_only=True) as reader:
        assert reader.restore(ONE) is None
        writer.save(1, ONE)
        writer.wait()
        assert reader.restore(ONE).step == 1


def run(script, folder):
    """A process of its own that has ended: what it printed, and how it ended."""
    start = f"""
import resource
import jax.numpy as jnp
from wdlab.training import CheckpointError, Checkpoints
state = {{"x": jnp.arange(2.0**18) ** 0.5}}
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def told(act, *arguments):
    try:
        act(*arguments)
    except CheckpointError as error:
        print(str(error).split(" in ")[0])
c = Checkpoints({os.fspath(folder)!r}, keep=1)
"""
    done = Python("-c", start + script, folder=folder.parent)
    done.wait()
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saves", "said", "steps"),
    [
        ("told(c.wait); limit(-1); c.save(3, state)", ["step 2 could not be saved"], [3]),
        (
            "told(c.save, 3, state); told(c.wait); limit(-1); c.save(4, state)",
            ["step 2 could not be saved", "step 3 could not be saved"],
            [4],
        ),
        ("told(c.close); limit(-1)", ["step 2 could not be saved"], [1]),
    ],
)
def test_after_a_full_disk_was_freed_the_next_step_is_saved(saves, said, steps, tmp_path):
    """No traceback of Orbax, no half step left, the older one still there."""
    script = f"c.save(1, state); c.wait(); limit(2**16); c.save(2, state); {saves}"
    done = run(script, tmp_path)
    assert (done.stdout.splitlines(), done.stderr) == (said, "")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == steps
        assert checkpoints.restore({"x": jnp.zeros(2**18)}).step == steps[-1]


@pytest.mark.slow
@pytest.mark.parametrize("last_words", ["", "1 / 0", "c.close(); c.close()"])
def test_a_script_that_ends_writes_what_it_saved_last(last_words, tmp_path):
    done = run(f"for step in range(3): c.save(step, state)\n{last_words}", tmp_path)
    assert done.returncode == (last_words == "1 / 0")
    assert done.stderr.count("Traceback") == (last_words == "1 / 0")
    assert restore(tmp_path, {"x": jnp.zeros(2**18)}).step == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "2"]


def test_a_script_that_ends_on_a_full_disk_says_so_in_a_line(tmp_path):
    done = run("c.save(1, state); c.wait(); limit(2**16); c.save(2, state)", tmp_path)
    assert done.stderr.startswith("error: step 2 could not be saved in ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "complex64"])
def test_every_single_bit_flip_changes_both_sums(dtype):
    rng = np.random.default_rng(0)
    raw = np.asarray(jnp.asarray(rng.normal(size=(3, 5)) * 9).astype(dtype))
    good = np.asarray(leaf_checksum(raw))
    bits = raw.nbytes * 8
    for bit in rng.permutation(bits)[:40]:
        words = np.frombuffer(raw.tobytes(), np.uint8).copy()
        words[bit // 8] ^= np.uint8(1 << bit % 8)
        flipped = np.frombuffer(words.tobytes(), raw.dtype).reshape(raw.shape)
        assert (np.asarray(leaf_checksum(flipped)) != good).all()


def test_swapped_entries_and_paired_sign_flips_change_the_sum():
    x = jnp.arange(1.0, 9.0)
    sums = [leaf_checksum(y).tolist() for y in (x, x[::-1], x.at[:2].multiply(-1), jnp.zeros(8))]
    assert len({tuple(s) for s in sums}) == 4


def test_leaves_whose_paths_sort_in_another_order_than_the_tree_keep_their_places(tmp_path):
    """Twelve layers ('10' sorts before '2'), and a NamedTuple whose fields are not sorted."""
    counters = SkipNonfiniteState(skipped=jnp.int32(12), in_a_row=jnp.int32(13), inner=())
    state = {"layers": {i: jnp.int32(i) for i in range(12)}, "state": counters}
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, state)
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state)).state
    assert jax.tree.leaves(found) == jax.tree.leaves(state)


def test_reading_one_step_of_another_run_leaves_its_folder_alone(tmp_path):
    """That run may be in the middle of a save, or its newest step damaged."""
    like = {"w": jnp.zeros(3)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": jnp.full(3, float(step))})
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    for path in (tmp_path / "2/state").glob("**/d/*"):
        path.write_bytes(bytes(path.stat().st_size))
    before = set(tmp_path.iterdir())
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(like, step=1).state["w"].tolist() == [1.0, 1.0, 1.0]
        with pytest.raises(CheckpointError, match="step 2"):
            checkpoints.restore(like, step=2)
    assert set(tmp_path.iterdir()) == before


def test_tensorstore_still_leaks_its_metrics(tmp_path):
    """Once this fails, delete ``stop_metrics_leak`` of training/orbax_manager.py, and this."""
    tensorstore.KvStore.open(f"file://{tmp_path}/").result().write("key", b"value").result()

    def objects(times):
        for _ in range(times):
            tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/")
        gc.collect()
        return len(gc.get_objects())

    before = objects(times=1)
    assert objects(times=20) - before > 20


def test_a_manager_asks_tensorstore_for_no_metrics(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        tensorstore, "experimental_collect_matching_metrics", lambda *a: asked.append(a) or []
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state())
    assert asked == []
