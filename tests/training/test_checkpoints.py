"""wdlab.checkpoint: nothing wrong is ever restored, and an older good step is found."""

import gc
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from examples.benchmarks.damage import make_state
from wdlab.training import CheckpointError, Checkpoints, SkipNonfiniteState
from wdlab.training.checksum import leaf_checksum

FLIPS = 10
# TensorStore futures of a failed read are collected with their exception unread.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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


def test_the_newest_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2, best="val_loss") as checkpoints:
        for step, loss in enumerate([3.0, 1.0, 2.0, 5.0, 4.0]):
            checkpoints.save(step, {"x": jnp.float32(step)}, metrics={"val_loss": loss})
        checkpoints.save(9, {"x": jnp.float32(9)})  # Without metrics: after a signal.
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4, 9]


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
    with pytest.raises(CheckpointError, match="n_embd is 128 there, 64 here"):
        restore(tmp_path, like, settings={"n_embd": 64, "seed": 0})
    with pytest.raises(CheckpointError, match="decay_plan is absent there, abc here"):
        restore(tmp_path, like, settings={"n_embd": 128, "seed": 0, "decay_plan": "abc"})
    with Checkpoints(tmp_path, settings={"n_embd": 64}) as checkpoints:
        assert checkpoints.restore(like, check_settings=False).step == 1


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": jnp.ones(3)}, r"x is float32\[2\] there, float32\[3\] here"),
        ({"x": jnp.ones(2, jnp.bfloat16)}, r"x is float32\[2\] there, bfloat16\[2\] here"),
        ({"y": jnp.ones(2)}, r"x is float32\[2\] there, absent here"),
    ],
    ids=["shape", "dtype", "name"],
)
def test_another_layout_is_refused_by_name_and_never_cast(tmp_path, like, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(like)
        assert checkpoints.steps() == [1]


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
    """Once this fails, delete ``stop_metrics_leak`` of wdlab/training/orbax_io.py, and this."""
    tensorstore.KvStore.open(f"file://{tmp_path}/").result().write("key", b"value").result()

    def objects():
        tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/")
        gc.collect()
        return len(gc.get_objects())

    before = objects()
    assert [objects() for _ in range(20)][-1] - before > 20


def test_a_manager_asks_tensorstore_for_no_metrics(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        tensorstore, "experimental_collect_matching_metrics", lambda *a: asked.append(a) or []
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state())
    assert asked == []
