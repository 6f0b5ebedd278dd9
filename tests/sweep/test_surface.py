"""The separability number: that of the twin, and of surfaces whose answer is known."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twins import surface as twin
from wdlab.sweep import Separability, Table, loss_surface, separability

NAN = math.nan


def table(rates, decays, losses):
    """Losses (seeds, rates, decays) as a sweep's table; what is not finite diverged."""
    losses = np.asarray(losses, float)
    seed, i, j = (index.ravel() for index in np.indices(losses.shape))
    values = losses.ravel()
    columns = {
        "learning_rate": np.asarray(rates, float)[i],
        "weight_decay": np.asarray(decays, float)[j],
        "seed": seed.astype(float),
        "val_loss": values,
        "status": np.where(np.isfinite(values), "ok", "diverged"),
    }
    return Table(("learning_rate", "weight_decay"), columns)


def of_logs(x, y, losses, **settings):
    """The number for learning rates 2^x and decays 2^y."""
    return separability(table(np.exp2(x), np.exp2(y), losses), **settings)


def fields(number):
    """As the twin gives them."""
    return (
        *(number.slope, number.low, number.high),
        *(number.rows_used, number.rows_at_edge, number.rows_flat),
    )


@settings(max_examples=150)
@given(data=st.data(), of=st.sampled_from(["best", "shoulder"]))
def test_any_surface_gives_the_number_of_the_twin(data, of):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    seeds, rates, decays = (data.draw(st.integers(low, 6)) for low in (1, 3, 3))
    x, y = (np.cumsum(rng.uniform(0.5, 2, n)) for n in (rates, decays))
    slope, noise = rng.uniform(-1.5, 1.5), 10 ** rng.uniform(-4, -0.5)
    valley = y - y.mean() - slope * (x[:, None] - x.mean()) - rng.uniform(-1, 1)
    losses = 1 + 0.05 * (x[:, None] - x.mean()) ** 2 + 0.1 * valley**2 * rng.choice([0, 1])
    losses = losses + noise * rng.normal(size=(seeds, rates, decays))
    losses[rng.random(losses.shape) < rng.choice([0, 0.02, 0.2])] = np.inf
    how = {"tolerance": rng.uniform(0.01, 0.5), "reach": rng.uniform(0.1, 3)}
    found = of_logs(x, y, losses, of=of, samples=40, random_seed=7, **how)
    expected = twin.separability(
        np.log2(np.exp2(x)).tolist(), np.log2(np.exp2(y)).tolist(), losses.tolist(),
        of=of, samples=40, seed=7, **how,
    )  # fmt: skip
    np.testing.assert_allclose(fields(found), expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=60)
@given(
    slope=st.floats(-2, 2),
    center=st.floats(-0.45, 0.45),
    curve=st.floats(0.01, 10),
    seeds=st.integers(1, 3),
    low=st.floats(-3, 3),
)
def test_a_quadratic_valley_of_any_slope(slope, center, curve, seeds, low):
    x, y = np.arange(5) / 2, np.arange(-6, 7.0)
    valley = curve * (y - center - slope * (x[:, None] - 1)) ** 2
    each = np.arange(seeds)[:, None, None]  # Seeds differ by a constant: same valley.
    number = of_logs(x, y, low + valley + each, samples=20)
    assert number.slope == pytest.approx(slope, abs=1e-6)
    assert (number.rows_used, number.rows_at_edge, number.rows_flat) == (5, 0, 0)
    interval = [number.low, number.high]
    assert interval == pytest.approx(
        [slope, slope] if seeds > 1 else [NAN, NAN], 0, 1e-6, nan_ok=True
    )


@settings(max_examples=60)
@given(
    steps=st.integers(-1, 1),
    walls=st.lists(st.floats(1, 100), min_size=5, max_size=5),
    tolerance=st.floats(0.01, 0.9),
    low=st.sampled_from([0.1, 3.0, -2.0, 0.0]),
)
def test_a_shoulder_at_a_known_place(steps, walls, tolerance, low):
    """Flat up to a decay that moves by whole cells, then straight walls of any steepness."""
    x, y = np.arange(5.0), np.arange(12.0)
    kinks, walls = 5 + steps * (x - 2), np.array(walls)
    losses = low + 3 * walls[:, None] * np.maximum(y - kinks[:, None], 0)
    number = of_logs(x, y, [losses], of="shoulder", tolerance=tolerance)
    places = kinks + tolerance * abs(low) / (3 * walls)
    assert number.slope == pytest.approx(np.polyfit(x, places, 1)[0], abs=1e-9)
    assert (number.rows_used, number.rows_at_edge, number.rows_flat) == (5, 0, 0)


def valley(places, y=range(9), *, curve=0.1, above=0.0):
    """Rows with parabolas of the best decay there; ``above``: how much worse each row's best is."""
    return 1 + curve * (np.array(y) - np.reshape(places, (-1, 1))) ** 2 + np.reshape(above, (-1, 1))


def test_rows_at_the_edge_are_left_out_and_counted():
    x, y = np.arange(7.0), np.arange(9.0)
    number = of_logs(x, y, [valley([-3, -1, 2, 3, 4, 9, 12])], reach=9.0)
    assert number.slope == pytest.approx(1)
    assert (number.rows_used, number.rows_at_edge) == (3, 4)


def test_rows_that_are_much_worse_weigh_nothing():
    x, y = np.arange(7.0), np.arange(9.0)
    places, above = [4, 3, 4, 5, 6, 6, 2], [50, 0, 0, 0, 0, 90, 90]
    number = of_logs(x, y, [valley(places, above=above)])
    assert number.slope == pytest.approx(1)
    assert (number.rows_used, number.rows_at_edge, number.rows_flat) == (4, 0, 0)


def test_the_weights_fall_linearly_to_the_reach():
    x, y = np.arange(4.0), np.arange(9.0)
    places, above = np.array([4, 4, 4, 5.0]), np.array([0, 0, 0, 0.3])
    losses = valley(places, above=above)
    scale = np.median(losses) - losses.min()
    for reach in (0.1, 0.5, 2.0):
        weight = max(0, 1 - 0.3 / (reach * scale))
        expected = np.polyfit(x, places, 1, w=np.sqrt([1, 1, 1, weight]))[0]
        assert of_logs(x, y, [losses], reach=reach).slope == pytest.approx(expected, abs=1e-7)


def test_two_rows_are_too_few_and_three_enough():
    x, y = np.arange(3.0), np.arange(9.0)
    assert of_logs(x, y, [valley([3, 4, 5])]).slope == pytest.approx(1)
    assert np.isnan(of_logs(x[:2], y, [valley([3, 4])]).slope)
    edge = of_logs(x, y, [valley([3, 4, 9])], reach=9.0)
    assert np.isnan(edge.slope)
    assert (edge.rows_used, edge.rows_at_edge) == (2, 1)


@pytest.mark.parametrize(("gain", "flat"), [(0.99, True), (1.0, False), (1.01, False)])
def test_a_row_is_flat_below_two_standard_errors(gain, flat):
    """Four seeds of gains g + (-3, -1, 1, 3): a standard error of sqrt(20 / 3 / 4)."""
    x, y = np.arange(4.0), np.arange(9.0)
    losses = np.repeat(valley([4, 4, 4, 4], curve=100)[None], 4, axis=0)
    at_zero = losses[:, 3, 4] + np.array([-3, -1, 1, 3]) + gain * 2 * math.sqrt(20 / 3 / 4)
    losses[:, 3, 0] = at_zero * (1 + 1e-12)  # Equal is not below, whatever the rounding.
    number = of_logs(x, y, losses, reach=9.0)
    assert (number.rows_flat, number.rows_used) == ((1, 3) if flat else (0, 4))
    assert of_logs(x, y, losses, reach=9.0, of="shoulder").rows_flat == 0


def test_a_flat_row_out_of_reach_is_not_counted():
    x, y = np.arange(5.0), np.arange(9.0)
    losses = np.stack([valley([4, 4, 4, 4, 4], above=[0, 0, 0, 0, far]) for far in (80, 80)])
    losses[0, 4] += np.arange(9) * 1e-3
    losses[1, 4, 0] -= 2  # For this seed the smallest decay is better.
    assert of_logs(x, y, losses).rows_flat == 0
    assert of_logs(x, y, losses, reach=1e3).rows_flat == 1


def test_a_vertex_that_lies_beyond_the_neighbours_is_sought_among_them():
    x, y = np.arange(3.0), np.arange(9.0)
    steep = np.array([90, 50, 1.5, 1.5, 1.2, 3.1, 3.2, 20, 30])
    five = np.polyfit(np.arange(-2, 3), steep[2:7], 2)
    assert five[1] / (2 * five[0]) > 1
    three = np.polyfit(np.arange(-1, 2), steep[3:6], 2)
    shift = -three[1] / (2 * three[0])
    losses = np.stack([valley([4])[0], steep, valley([4 + 2 * shift])[0]])
    assert of_logs(x, y, [losses], reach=50).slope == pytest.approx(shift, abs=1e-6)


def test_beside_a_diverged_neighbour_the_place_is_that_of_the_smallest_loss():
    x, y = np.arange(3.0), np.arange(9.0)
    losses = valley([3.2, 4.0, 4.8])
    losses[1, 5:] = np.inf
    losses[1, :3] = np.inf  # Only decays 3 and 4 are left: no parabola.
    assert of_logs(x, y, [losses], reach=50).slope == pytest.approx(0.8, abs=1e-6)


def test_diverged_points_are_never_the_best():
    x, y = np.arange(5.0), np.arange(9.0)
    found = table(np.exp2(x), np.exp2(y), [valley([3, 3.5, 4, 4.5, 5])])
    bad = found["weight_decay"] > 2**6.5
    found.columns["val_loss"][bad] = -100.0
    found.columns["status"][bad] = "diverged"
    assert separability(found).slope == pytest.approx(0.5, abs=1e-6)
    found.columns["val_loss"][bad] = np.nan
    found.columns["status"][bad] = "ok"
    assert separability(found).slope == pytest.approx(0.5, abs=1e-6)


def test_decay_0_and_rate_0_have_no_logarithm():
    x, y = np.arange(5.0), np.arange(9.0)
    losses = np.pad(valley([3, 3.5, 4, 4.5, 5]), ((1, 0), (1, 0)), constant_values=-9.0)
    found = table([0, *np.exp2(x)], [0, *np.exp2(y)], [losses])
    assert separability(found).slope == pytest.approx(0.5, abs=1e-6)
    only = table([0.1, 0.2, 0.3], [0.0], np.ones((1, 3, 1)))
    assert fields(separability(only))[3:] == (0, 0, 0)


def test_most_points_equal_to_the_best_leave_the_rows_that_reach_it():
    x, y = np.arange(5.0), np.arange(6.0)
    losses = np.ones((5, 6))
    losses[:, 0] = losses[:, 5] = 2  # More than half of the points are the best one.
    losses[4] += 1
    number = of_logs(x, y, [losses], of="shoulder", tolerance=0.5)
    assert (number.slope, number.rows_used) == (pytest.approx(0), 4)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_intervals_cover_at_their_rate_and_are_those_of_a_mean(seeds):
    rng, held, ratios = np.random.default_rng(1), 0, []
    x, y = np.arange(3.0), np.arange(-4, 5.0)
    for _ in range(40):
        slopes = rng.normal(0.3, 0.2, seeds)
        number = of_logs(x, y, [valley(s * (x - 1), y) for s in slopes], samples=60, reach=9.0)
        held += number.low <= 0.3 <= number.high
        width = 2 * scipy.stats.t(seeds - 1).ppf(0.975) * slopes.std(ddof=1) / math.sqrt(seeds)
        ratios.append((number.high - number.low) / width)
    assert held >= 36
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


@pytest.mark.filterwarnings("error")
def test_one_seed_has_no_interval_and_nothing_diverges_to_a_warning():
    x, y = np.arange(3.0), np.arange(9.0)
    assert np.isnan(of_logs(x, y, [valley([3, 4, 5])]).low)
    assert fields(of_logs(x, y, np.full((2, 3, 9), np.inf)))[3:] == (0, 0, 0)
    losses = np.stack([valley([3, 4, 5]), valley([3, 4, 5])])
    losses[0, 0] = losses[1, 1] = np.inf  # Each seed alone has two rows.
    number = of_logs(x, y, losses)
    assert np.isnan([number.slope, number.low]).all()


def test_the_defaults():
    x, y = np.arange(6.0), np.arange(9.0)
    rng = np.random.default_rng(0)
    losses = valley(3 + 0.3 * x, above=0.1 * x) + 0.02 * rng.normal(size=(8, 6, 9))
    plain = of_logs(x, y, losses)
    assert plain == of_logs(x, y, losses, of="best", reach=0.5, samples=1000, random_seed=0)
    shoulder = of_logs(x, y, losses, of="shoulder")
    assert shoulder == of_logs(x, y, losses, of="shoulder", tolerance=0.1)
    assert shoulder.slope != plain.slope


@pytest.mark.parametrize(
    "wrong", [{"reach": 0}, {"tolerance": 0}, {"tolerance": -1}, {"samples": 0}, {"of": "worst"}]
)
def test_numbers_out_of_range_are_refused(wrong):
    found = table([1, 2, 3], [1, 2, 3], np.ones((1, 3, 3)))
    with pytest.raises(ValueError, match=r"above 0 and of 'best' or 'shoulder'"):
        separability(found, **wrong)
    assert separability(found, samples=1, reach=1e-9, tolerance=1e-9)


def test_a_point_that_is_missing_or_there_twice_is_refused():
    found = table([1, 2, 3], [1, 2, 3], np.ones((2, 3, 3)))
    some = lambda keep: Table(found.axes, {k: v[keep] for k, v in found.columns.items()})  # noqa: E731
    for rows in (np.arange(17), [*range(18), 4], [*range(17), 4]):
        with pytest.raises(ValueError, match="Fix its other axes"):
            loss_surface(some(rows), "val_loss", "learning_rate", "weight_decay")
    shuffled = some(np.random.default_rng(0).permutation(18))
    np.testing.assert_array_equal(
        loss_surface(shuffled, "val_loss", "weight_decay", "learning_rate")[2], np.ones((2, 3, 3))
    )


def test_a_number_is_fixed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Separability(0.5, NAN, NAN, 3, 0, 0).slope = 1.0


def test_as_text():
    assert str(Separability(-0.5, -0.75, 0.25, 5, 1, 2)) == (
        "-0.50 [-0.75, +0.25] (5 rows, 2 flat, 1 at the edge)"
    )
    assert str(Separability(NAN, NAN, NAN, 1, 3, 2)) == (
        "not identified (1 rows, 2 flat, 3 at the edge)"
    )
