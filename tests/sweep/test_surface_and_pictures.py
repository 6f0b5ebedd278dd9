"""The separability number on surfaces whose slope is known, the pictures, the command."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from wdlab.cli import main
from wdlab.sweep import Table, read_csv, save_heat_maps, save_marginals, separability

LRS, DECAYS = np.geomspace(1e-4, 1e-1, 9), np.geomspace(1e-6, 1e-1, 9)


def surface(slope, *, seeds=3, noise=0.0, wall=0.0, coupling=None, center=1e-3):
    """Rows of a bowl whose valley has that slope in log2; ``wall`` makes it steeper above."""
    rng = np.random.default_rng(1)
    lr, wd, seed = (
        a.ravel() for a in np.meshgrid(LRS, DECAYS, np.arange(float(seeds)), indexing="ij")
    )
    x, y = np.log2(lr / 10**-2.5), np.log2(wd / center)
    off = y - slope * x
    loss = 1 + 0.01 * x**2 + 0.005 * off**2 + wall * np.maximum(off, 0) ** 3
    loss = loss + noise * rng.normal(size=loss.shape)
    columns = {"learning_rate": lr, "weight_decay": wd, "seed": seed, "val_loss": loss}
    columns["status"] = np.full(loss.shape, "ok")
    axes = ("learning_rate", "weight_decay")
    if coupling is not None:
        axes, columns = ("coupling", *axes), {"coupling": np.full(loss.shape, coupling)} | columns
    return Table(axes, columns)


@pytest.mark.parametrize("of", ["best", "shoulder"])
@pytest.mark.parametrize("slope", [0.0, -0.5, -1.0, 0.7])
def test_the_slope_of_a_known_valley(slope, of):
    number = separability(surface(slope, wall=0.0 if of == "best" else 0.1), reach=1.0, of=of)
    tolerance = 1e-6 if of == "best" else 0.1  # A shoulder is interpolated.
    assert number.slope == pytest.approx(slope, abs=tolerance)
    assert number.low == pytest.approx(number.high, abs=1e-6)
    assert number.rows_used >= 3


@pytest.mark.parametrize("slope", [0.0, -1.0])
def test_with_noise_and_a_wall_the_interval_is_near_the_slope(slope):
    number = separability(surface(slope, seeds=8, noise=0.01, wall=1e-3), samples=300)
    assert number.slope == pytest.approx(slope, abs=0.2)
    assert number.low < number.slope < number.high
    assert 0.01 < number.high - number.low < 0.8


def test_a_valley_outside_the_grid_is_not_identified():
    number = separability(surface(0.0, center=1e3))
    assert np.isnan(number.slope)
    assert number.rows_used == 0
    assert number.rows_at_edge > 2
    assert "not identified" in str(number)


@pytest.mark.parametrize("slope", [0.0, -1.0])
def test_where_decay_does_not_help_only_the_shoulder_is_known(slope):
    table = surface(slope, seeds=4)
    x, y = np.log2(table["learning_rate"] / 10**-2.5), np.log2(table["weight_decay"] / 1e-3)
    noise = 1e-3 * np.random.default_rng(2).normal(size=len(table))
    harm = np.exp2(y - slope * x)  # and no gain anywhere
    table.columns["val_loss"] = 1 + 0.01 * x**2 + 0.1 * harm + noise
    best = separability(table)
    assert np.isnan(best.slope)
    assert best.rows_flat > 0
    assert separability(table, of="shoulder").slope == pytest.approx(slope, abs=0.1)


def test_diverged_points_are_never_the_best():
    table = surface(-1.0)
    bad = table["weight_decay"] > 0.02
    table.columns["val_loss"][bad] = -100.0
    table.columns["status"][bad] = "diverged"
    assert separability(table).slope == pytest.approx(-1.0, abs=0.15)


def test_one_seed_has_no_interval():
    number = separability(surface(-1.0, seeds=1))
    assert number.slope == pytest.approx(-1, abs=1e-6)
    assert np.isnan(number.low)


def test_further_axes_must_be_fixed_first():
    a, b = surface(0.0, coupling="lr"), surface(-1.0, coupling="l2")
    both = Table(a.axes, {k: np.concatenate([v, b.columns[k]]) for k, v in a.columns.items()})
    with pytest.raises(ValueError, match="Fix its other axes"):
        separability(both)
    assert separability(both.where(coupling="l2")).slope == pytest.approx(-1, abs=1e-6)


def test_pictures_of_every_kind(tmp_path):
    table = surface(-1.0, coupling="lr")
    table.columns["val_loss"][:7] = np.nan
    paths = save_heat_maps(table, tmp_path) + save_marginals(table, tmp_path)
    assert [p.name for p in paths] == [
        "heat_maps.png", "heat_maps.svg", "marginals.png", "marginals.svg",
    ]  # fmt: skip
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_sweep_in_which_all_diverged_cannot_be_drawn(tmp_path):
    table = surface(0.0)
    table.columns["val_loss"][:] = np.inf
    with pytest.raises(ValueError, match="every point diverged"):
        save_heat_maps(table, tmp_path)


def test_the_command_writes_table_and_pictures_and_resumes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(
        "def train(h, key):\n"
        "    on = h['coupling']\n"
        "    return {'val_loss': (h['learning_rate'] - on['lr']) ** 2 + h['weight_decay']}\n"
    )
    command = ["sweep", "--task", "my_task:train", "--learning-rate", "0.1:10:3"]
    command += ["--weight-decay", "0.1,0.2", "--coupling", "lr", "--seeds", "2", "--out", "here"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "coupling = lr: best mean val_loss 0.1 at learning_rate 1, weight_decay 0.1" in first
    assert len(read_csv("here/results.csv")) == 12
    assert main(command) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--learning-rate=-1e-3", "must be a number in [0, inf)"),
        ("--weight-decay 1e-3:1e-1:0", "the range is empty"),
        ("--coupling lr,lr3", "'lr3' is unknown"),
        ("--task nothing.here:train", "No module named"),
        ("--task math:nothing", "no attribute"),
        ("--task cats", "write digits or MODULE:FUNCTION"),
        ("--set x", "NAME=VALUES"),
        ("--set x=1,2 --seeds 1", "never reads x"),
        ("--seeds 0", "seeds must be"),
        ("--chunk 0", "chunk must be"),
        ("--out /proc/nothing", "cannot write to the folder"),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys):
    assert main(["sweep", *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
