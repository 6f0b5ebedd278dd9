"""Pictures of a sweep: nothing that was measured is left out, every mark is explained."""

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection

from wdlab.sweep import Table, heat_maps, marginals, save_heat_maps, save_marginals

LRS, DECAYS = np.geomspace(1e-4, 1e-1, 7), (0.0, *np.geomspace(1e-6, 1e-1, 6))
X, Y = "learning_rate", "weight_decay"


def bowl(lr, decay, seed):
    """Best at 1e-3 and decay 1e-4; untrained corners are a hundred times worse."""
    away = np.log10(lr / 1e-3) ** 2 + 0.2 * np.log10((decay + 1e-6) / 1e-4) ** 2
    return 0.05 + 0.01 * away + np.exp(away) / 500 + 1e-4 * seed


def table(loss, *, lrs=LRS, decays=DECAYS, seeds=2, **others):
    axes = {**others, X: lrs, Y: decays}
    columns = zip(*itertools.product(*axes.values(), range(seeds)), strict=True)
    columns = {name: np.array(c) for name, c in zip((*axes, "seed"), columns, strict=True)}
    columns["loss"] = np.array([loss(*row) for row in zip(*columns.values(), strict=True)])
    columns["status"] = np.where(np.isfinite(columns["loss"]), "ok", "diverged")
    return Table(tuple(axes), columns)


def shown(figure):
    """Of each panel its image and its marks: kind -> places."""
    for axes in figure.axes:
        if axes.images:
            marks = [c.get_offsets() for c in axes.collections if isinstance(c, PathCollection)]
            yield axes, axes.images[0], [m for m in marks if len(m)]


def colours(image, mask):
    """How many different ones the cells of a mask have."""
    drawn = image.to_rgba(image.get_array())
    return len(np.unique(drawn[mask.T].round(3), axis=0))


def test_the_basin_has_colours_of_its_own_and_the_corners_share_one():
    figure = heat_maps(table(bowl), metric="loss")
    [(_, image, _)] = shown(figure)
    mean = np.array([[bowl(lr, d, 0.5) for d in DECAYS] for lr in LRS])
    basin, corners = mean < 2 * mean.min(), mean > np.percentile(mean, 80)
    assert colours(image, basin) > 8
    assert colours(image, corners) == 1
    np.testing.assert_allclose(image.get_array().T, mean - mean.min(), atol=1e-12)
    drawn = image.to_rgba(image.get_array())
    assert (
        np.linalg.norm(drawn[mean.min() == mean.T] - drawn[np.sort(mean.ravel())[4] == mean.T])
        > 0.1
    )


def test_every_mark_is_explained_and_titles_are_short():
    lost = lambda c, lr, d, s: np.inf if lr > 0.05 and s else bowl(lr, d, s)  # noqa: E731
    figure = heat_maps(table(lost, coupling=("lr", "l2")), metric="loss")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [
        "best loss, mean over seeds", "best weight decay for this learning rate",
        "diverged for a seed", "within 1% of the best",
    ]  # fmt: skip
    for axes, _, (circles, star, crosses) in shown(figure):
        assert len(axes.get_title().splitlines()) <= 2
        assert star.tolist() == [[2, 3]]
        assert circles.tolist() == [[i, 3] for i in range(6)]
        assert crosses.tolist() == [[6, j] for j in range(7)]


def test_the_line_surrounds_exactly_the_cells_within_a_hundredth():
    loss = lambda lr, d, s: 1 + 10 * abs(lr - 1e-3) + 100 * d  # noqa: E731
    [(axes, _, _)] = shown(heat_maps(table(loss), metric="loss"))
    inside = np.array([[loss(lr, d, 0) <= 1.01 for d in DECAYS] for lr in LRS]).astype(int)
    borders = np.abs(np.diff(np.pad(inside, 1), axis=0)).sum()
    borders += np.abs(np.diff(np.pad(inside, 1), axis=1)).sum()
    [line] = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert len(line.get_segments()) == borders > 0
    for segment in line.get_segments():
        assert np.abs(np.diff(segment, axis=0)).sum() == 1  # The side of one cell.


def test_a_panel_in_which_all_diverged_has_no_best():
    lost = lambda c, lr, d, s: np.nan if c == "l2" else bowl(lr, d, s)  # noqa: E731
    found = {a.get_title().splitlines()[0]: m for a, _, m in shown(heat_maps(
        table(lost, coupling=("lr", "l2")), metric="loss"))}  # fmt: skip
    assert list(found) == ["coupling = lr: best 0.05205", "coupling = l2: every point diverged"]
    assert len(found["coupling = l2: every point diverged"]) == 1  # Crosses.


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 7])
def test_panels_have_rows_of_three(panels):
    figure = heat_maps(table(lambda e, *p: bowl(*p) + e, seeds=1, eps=range(panels)), metric="loss")
    assert len(list(shown(figure))) == panels
    width, height = figure.get_size_inches()
    assert width < 15
    assert height < 5 * (1 + (panels - 1) // 3)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def lines(axes):
    """Label -> points of each curve."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_marginals_show_every_value_decay_0_and_the_worst_rate_too():
    figure = marginals(table(bowl), metric="loss", names=(X, Y))
    mean = np.array([[bowl(lr, d, 0.5) for d in DECAYS] for lr in LRS])
    for axes, values, best in zip(
        figure.axes, (LRS, DECAYS), (mean.min(1), mean.min(0)), strict=True
    ):
        [points] = lines(axes).values()
        np.testing.assert_allclose(points, np.stack([values, best], 1), rtol=1e-12)
        for limits, numbers in ((axes.get_xlim(), values), (axes.get_ylim(), best)):
            assert limits[0] < min(numbers)
            assert max(numbers) < limits[1]
    figure.draw_without_rendering()
    at = figure.axes[1].transData.transform(np.stack([DECAYS, np.ones(7)], 1))[:, 0]
    assert (np.diff(at) > 0.05 * figure.axes[1].bbox.width).all()  # 0 has a place of its own.


def test_marginals_mark_what_diverged_inside_the_picture():
    lost = lambda lr, d, s: np.inf if lr > 0.02 else bowl(lr, d, s)  # noqa: E731
    figure = marginals(table(lost), metric="loss", names=(X, Y))
    left, right = figure.axes
    [points] = lines(left).values()
    assert points[:, 0].tolist() == LRS[:5].tolist()
    crosses = [c.get_offsets()[:, 0].tolist() for c in left.collections if len(c.get_offsets())]
    assert LRS[5:].tolist() in crosses
    assert left.get_xlim()[1] > LRS[-1]
    assert "diverged for a seed" in [t.get_text() for t in left.get_legend().get_texts()]
    assert len(lines(right)[next(iter(lines(right)))]) == len(DECAYS)


def test_marginals_of_one_hyperparameter():
    rates = table(lambda e, lr, d, s: lr, decays=(0.1,), eps=(1, 2))
    rates = Table((X, "eps"), {k: v for k, v in rates.columns.items() if k != Y})
    figure = marginals(rates, metric="loss", names=(X,))
    assert [axes.get_xlabel() for axes in figure.axes] == ["learning rate"]
    assert len(figure.axes[0].lines) == 2


def test_fifteen_curves_look_different():
    figure = marginals(
        table(lambda e, *p: bowl(*p) + e, eps=range(15)), metric="loss", names=(X, Y)
    )
    looks = {(c.get_color(), c.get_marker(), c.get_linestyle()) for c in figure.axes[0].lines}
    assert len(looks) == 15


def test_files_of_both_kinds(tmp_path):
    found = table(bowl)
    paths = save_heat_maps(found, tmp_path, metric="loss")
    paths += save_marginals(found, tmp_path, metric="loss")
    assert [p.name for p in paths] == [
        "heat_maps.png", "heat_maps.svg", "marginals.png", "marginals.svg",
    ]  # fmt: skip
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("loss", "sizes"),
    [
        (lambda *_: 2.0, (1, 1)),
        (lambda *_: 0.0, (3, 3)),
        (lambda lr, d, s: -lr * d, (1, 3)),
        (lambda lr, d, s: lr * 1e30, (2, 2)),
        (lambda lr, d, s: lr - d, (40, 40)),
    ],
)
def test_pictures_of_any_surface(loss, sizes, tmp_path):
    lrs, decays = (np.geomspace(1e-3, 1, n) for n in sizes)
    found = table(loss, lrs=lrs, decays=decays, seeds=1)
    for path in save_heat_maps(found, tmp_path, metric="loss"):
        assert path.stat().st_size
    assert save_marginals(found, tmp_path, metric="loss")


def test_a_sweep_in_which_all_diverged_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="every point diverged"):
        save_heat_maps(table(lambda *_: np.inf), tmp_path, metric="loss")
