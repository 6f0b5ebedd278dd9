"""One compiled program for a grid: equal to separate runs, resumable, clear about mistakes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wdlab
from examples.studies.sweep import task
from wdlab.schedules import warmup_cosine, with_peak
from wdlab.sweep import adam_of, make_grid, parse_values, sweep, train_function
from wdlab.sweep import program as sweep_program

GRID = {"learning_rate": [1e-3, 1e-2], "weight_decay": [1e-4, 1e-2], "coupling": ["lr", "l2"]}
ONE = jax.devices()[:1]


def quadratic(h, key):
    """Gradient descent on x^2 / 2 in closed form: diverges beyond learning rate 2."""
    x = jax.random.normal(key)
    shrink = 1 - h["learning_rate"] - h["weight_decay"]
    return {"loss": (x * shrink ** jnp.arange(1.0, 40.0)) ** 2, "start": x}


QUADRATIC = {"learning_rate": [0.1, 0.5, 30.0e3], "weight_decay": [0.0, 0.25]}


@pytest.fixture(scope="module")
def small():
    """The digits task, short enough for a test."""
    return task(hidden=8, steps=12, batch_size=16)


@pytest.fixture(scope="module")
def on_one_device(small):
    return sweep(small, GRID, seeds=2, devices=ONE, chunk=1)


def run_alone(train, table, row):
    h = {
        name: {v: float(table[name][row] == v) for v in GRID["coupling"]}
        if name == "coupling"
        else table[name][row]
        for name in table.axes
    }
    return h, jax.random.key(int(table["seed"][row]))


def test_each_point_on_one_device_is_bit_for_bit_its_own_run(small, on_one_device):
    alone = jax.jit(small)
    for row in range(len(on_one_device)):
        for name, value in alone(*run_alone(small, on_one_device, row)).items():
            assert on_one_device[name][row] == value, (name, row)


def test_two_side_by_side_on_eight_devices_equal_one(small, on_one_device):
    assert len(jax.devices()) == 8
    table = sweep(small, GRID, seeds=2, chunk=2)
    assert list(table.columns) == list(on_one_device.columns)
    for name, column in table.columns.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(column, on_one_device[name], rtol=1e-5)
        else:
            assert (column == on_one_device[name]).all()


def test_one_trace_and_two_compilations_at_most(monkeypatch):
    traces = []
    compiled = []
    original = sweep_program._compile
    monkeypatch.setattr(
        sweep_program, "_compile", lambda *a: compiled.append(a[-1]) or original(*a)
    )

    def train(h, key):
        traces.append(None)
        return quadratic(h, key)

    table = sweep(train, QUADRATIC, seeds=3, devices=ONE)
    assert (len(traces), compiled, len(table)) == (1, [1, 18], 18)


def test_rows_come_in_the_order_of_the_grid_and_per_step_metrics_end_in_their_last():
    table = sweep(quadratic, QUADRATIC, seeds=(7, 3))
    assert table["learning_rate"].tolist() == [0.1] * 4 + [0.5] * 4 + [30.0e3] * 4
    assert table["weight_decay"].tolist() == [0.0, 0.0, 0.25, 0.25] * 3
    assert table["seed"].tolist() == [7, 3] * 6
    start = np.array([float(jax.random.normal(jax.random.key(seed))) for seed in (7, 3)] * 6)
    shrink = 1 - table["learning_rate"] - table["weight_decay"]
    ok = table["status"] == "ok"
    with np.errstate(over="ignore"):
        expected = (start * shrink**39.0) ** 2
    np.testing.assert_allclose(table["loss"][ok], expected[ok], rtol=1e-4, atol=1e-37)


def test_what_diverges_is_recorded_and_stops_nothing():
    table = sweep(quadratic, QUADRATIC, seeds=2)
    assert (table["status"] == "diverged").tolist() == (table["learning_rate"] > 2).tolist()
    assert np.isfinite(table["start"]).all()
    assert table.best("loss")["learning_rate"] == 0.5  # 1 - 0.5 - 0.25 is nearest to 0


def test_a_step_that_is_not_finite_counts_even_if_the_last_one_is():
    table = sweep(lambda h, key: {"loss": jnp.stack([h["x"] / 0.0, h["x"]])}, {"x": [1.0]}, seeds=1)
    assert table["status"].tolist() == ["diverged"]
    assert table["loss"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        ({}, 1, "grid must map names to values"),
        ({"learning_rate": []}, 1, "is empty"),
        ({"learning_rate": [-1e-3]}, 1, r"number in \[0, inf\), got -0.001"),
        ({"weight_decay": [math.nan]}, 1, "got nan"),
        ({"b2": [1.0]}, 1, r"\[0, 1\)"),
        ({"x": [1.0, "a"]}, 1, "must be a number"),
        ({"x": [1.0, 1.0]}, 1, "twice"),
        ({"x": 1.0}, 1, "sequence of values"),
        ({"seed": [1.0]}, 1, "are taken"),
        ({"x": [1.0]}, 0, "seeds must be"),
        ({"x": [1.0]}, (1, 1), "twice"),
        ({"x": [1.0]}, (-1,), "seeds must be"),
        ({"x": range(2000), "y": range(2000)}, 1, "4,000,000 points"),
    ],
)
def test_wrong_grids_are_refused(grid, seeds, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_grid(grid, seeds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"),
        ("1e-4:1e-1", "cannot read"),
        ("1e-4:1e-1:0", "is empty"),
        ("1e-1:1e-4:3", "is empty"),
        ("0:1:3", "above 0"),
        ("a,b", "cannot read 'a'"),
    ],
)
def test_wrong_ranges_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_values("--learning-rate", text)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda h, key: {"loss": 1.0 if h["x"] > 0 else 2.0}, "not jittable"),
        (lambda h, key: {"loss": math.sqrt(h["x"])}, "not jittable"),
        (lambda h, key: {"loss": np.sqrt(h["x"])}, "not jittable"),
        (lambda h, key: {"loss": jnp.zeros(h["x"].astype(int))}, "not jittable"),
        (lambda h, key: h["x"], "must return a dict"),
        (lambda h, key: {}, "must return a dict"),
        (lambda h, key: {"loss": jnp.ones((2, 2)) * h["x"]}, "has shape"),
        (lambda h, key: {"x": h["x"]}, "cannot name a metric"),
        (lambda h, key: {"loss": h["y"]}, "the grid does not have"),
        (lambda h, key: {"loss": jax.random.normal(key)}, "never reads x"),
    ],
)
def test_a_wrong_train_function_is_refused(train, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sweep(train, {"x": [1.0]}, seeds=1)


def test_a_name_that_train_does_not_know_is_refused():
    train = lambda h, key: {"loss": h["c"]["a"] * 1.0}  # noqa: E731
    with pytest.raises(ValueError, match=r"never reads c\.b"):
        sweep(train, {"c": ["a", "b"]}, seeds=1)


def test_chunks_fit_the_memory():
    def train(h, key):
        x = jax.random.normal(key, (256, 256)) * h["x"]
        return {"loss": (jnp.sin(x) @ x).sum()}

    grid = make_grid({"x": np.arange(1.0, 65.0)}, seeds=1)
    traced = sweep_program.trace(train, grid)
    alone = sweep_program.compile_program(traced, grid, ONE, chunk=1)
    assert alone.bytes_per_device > 256 * 256 * 4
    with pytest.raises(ValueError, match=r"one run needs .* [KM]iB on each device"):
        sweep_program.compile_program(traced, grid, ONE, memory_bytes=100_000)
    with pytest.raises(ValueError, match="a chunk of 64 runs needs"):
        sweep_program.compile_program(traced, grid, ONE, chunk=64, memory_bytes=1 << 20)


def test_on_an_accelerator_chunks_fill_the_memory(monkeypatch):
    train = lambda h, key: {"loss": (jax.random.normal(key, (512,)) * h["x"]).sum()}  # noqa: E731
    grid = make_grid({"x": np.arange(1.0, 65.0)}, seeds=1)
    traced = sweep_program.trace(train, grid)
    monkeypatch.setattr(sweep_program, "_CPU_CACHE_BYTES", 1 << 40)
    sizes = []
    for limit in (20_000, 60_000, 1 << 30):
        program = sweep_program.compile_program(traced, grid, ONE, memory_bytes=limit)
        assert program.bytes_per_device <= limit
        sizes.append(program.size)
    assert sizes == sorted(sizes)
    assert 1 < sizes[0] < sizes[1] < sizes[2] == 64


@pytest.mark.parametrize("coupling", ["lr", "schedule", "lr2", "lr2_over_peak", "constant", "l2"])
def test_a_traced_coupling_is_the_optimizer_of_that_name(coupling):
    eta = warmup_cosine(1.0, warmup_steps=2, decay_steps=8, end=0.1)
    lr = with_peak(lambda count: 0.25 * eta(count), 0.25)
    twin = wdlab.optimizers.adamw(lr, weight_decay=0.125, coupling=coupling)
    flags = {name: float(name == coupling) for name in wdlab.schedules.COUPLINGS}
    tx = adam_of({"learning_rate": 0.25, "weight_decay": 0.125, "coupling": flags}, schedule=eta)
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=5)), "bias": jnp.ones(2)}
    state, twin_state = tx.init(params), twin.init(params)
    for _ in range(4):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        updates, state = tx.update(grads, state, params)
        expected, twin_state = twin.update(grads, twin_state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


def test_adam_of_without_a_known_coupling_is_refused():
    with pytest.raises(ValueError, match="coupling is missing"):
        adam_of({"learning_rate": 0.1, "weight_decay": 0.1})
    with pytest.raises(ValueError, match="'lr3' is unknown"):
        adam_of({"learning_rate": 0.1, "weight_decay": 0.1, "coupling": {"lr3": 1.0}})


def test_train_function_is_plain_training():
    """The float64 twin of least squares by gradient descent on the same batches."""
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32)
    train = train_function(
        lambda key: {"kernel": jax.random.normal(key, (3,))},
        lambda p, batch: jnp.mean((batch[0] @ p["kernel"] - batch[1]) ** 2),
        (x, y),
        lambda h: wdlab.optimizers.sgd(
            h["learning_rate"], weight_decay=h["weight_decay"], coupling="constant"
        ),
        steps=30,
        batch_size=4,
        held_out=(x, y),
    )
    key = jax.random.key(5)
    got = jax.jit(train)({"learning_rate": 0.05, "weight_decay": 0.01}, key)
    init_key, data_key = jax.random.split(key)
    w = np.asarray(jax.random.normal(init_key, (3,)), float)
    losses = []
    for picked in np.asarray(jax.random.randint(data_key, (30, 4), 0, 20)):
        error = x[picked] @ w - y[picked]
        losses.append((error**2).mean())
        w = w - 0.05 * 2 * x[picked].T @ error / 4 - 0.01 * w
    np.testing.assert_allclose(got["train_loss"], np.mean(losses[-3:]), rtol=1e-4)
    np.testing.assert_allclose(got["val_loss"], ((x @ w - y) ** 2).mean(), rtol=1e-4)


def test_wrong_training_settings_are_refused():
    make = lambda data, steps: train_function(  # noqa: E731
        lambda key: {}, lambda p, b: 0.0, data, lambda h: None, steps=steps, batch_size=1
    )
    with pytest.raises(ValueError, match="steps must be"):
        make(np.ones(3), 0)
    with pytest.raises(ValueError, match="equal first axis"):
        make((np.ones(3), np.ones(2)), 1)
