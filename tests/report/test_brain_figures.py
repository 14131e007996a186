import io
import itertools
import math
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from ipcl_jax.errors import InputError
from ipcl_jax.report import brain_figures
from ipcl_jax.report.brain_figures import BROAD, NARROW, draw_layers_by_region, draw_models
from ipcl_jax.report.brain_summary import LIMIT, part, summarise, surviving
from ipcl_jax.report.drawing import COLOURS, short_names
from made_up_brain import MODELS, REGIONS, SUBJECTS, made_up

DRAW = (draw_layers_by_region, draw_models)
LONG = [f"a model with a long name, of the study {number} of the year" for number in range(16)]
TABLES = {
    "usual": made_up(layers=[f"block_{i}.{j}" for i in range(3) for j in range(4)]),
    "one of each": made_up(models=["m"], layers=["fc7"], regions=["V1"], subjects=["s"]),
    "many models": made_up(models=LONG, layers=["fc6", "fc7"], regions=REGIONS[:2]),
    "many regions": made_up(models=["m"], layers=["fc7"], regions=[f"region {i}" for i in range(18)]),
    "many subjects": made_up(layers=["fc6"], subjects=[f"s{i}" for i in range(8)]),
    "rows of unequal length": made_up(models=LONG[:6], regions=[*REGIONS, "V2"]),
    "networks of unequal depth": made_up(layers={name: list("abcdefgh")[: 3 + i] for i, name in enumerate(MODELS)}),
    "below zero": made_up(layers=["fc6", "fc7"], shift=-0.5, subjects=SUBJECTS[:2]),
    "no ceilings": made_up(layers=["fc6", "fc7"], ceilings=False),
    "hostile": made_up(models=["$\\frac", "_hidden", "a\nb", "<b>&"], regions=["$V1", "_V2"], layers=["_$x", "y$"]),
}


@pytest.fixture
def figures(monkeypatch):
    """Figures as they are about to be written."""
    kept, save = [], brain_figures.save

    def keep(figure, path, **options):
        save(figure, path, **options)
        kept.append(figure)

    monkeypatch.setattr(brain_figures, "save", keep)
    return kept


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def named_ticks(axis, along):
    """Labels of an axis that are shown."""
    low, high = sorted(axis.get_view_interval())
    labels = [label for label in axis.get_ticklabels() if low <= label.get_position()[along] <= high]
    return [label for label in labels if label.get_visible() and label.get_text()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_cut_and_no_names_overlap(name, draw, figures):
    for measure, width in (("konkle2022", NARROW), ("encoding", BROAD)):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw(TABLES[name], measure, file, width=width)
        figure = figures.pop()
        assert Image.open(file).size[0] <= 200 * width
        figure.draw_without_rendering()  # at the figure's own resolution
        below, others = [], list(figure.legends[0].get_texts())
        for axes in panels(figure).values():
            below += named_ticks(axes.xaxis, 0) + axes.texts
            others += named_ticks(axes.yaxis, 1) + [axes._left_title]
        boxes = [text.get_window_extent() for text in below + others]
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_tables_give_equal_bytes(draw, suffix, tmp_path):
    for name in ("one", "two"):
        draw(TABLES["usual"], "encoding", tmp_path / f"{name}{suffix}")
    one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
    assert one == two and len(one) > 1000
    assert b"CreationDate" not in one and b"<dc:date>" not in one


def test_lines_are_means_over_subjects_along_the_network(figures):
    tables = TABLES["usual"]
    draw_layers_by_region(tables, "encoding", io.BytesIO())
    for region, axes in panels(figures[0]).items():
        lines = {line.get_color(): line for line in axes.lines}
        for number, model in enumerate(MODELS):
            line, own = lines[COLOURS[number]], [
                row for row in tables.layers if (row.measure, row.region, row.model) == ("encoding", region, model)
            ]  # fmt: skip
            means = [np.mean([row.score for row in own if row.depth == depth]) for depth in range(12)]
            np.testing.assert_allclose(line.get_ydata(), means, rtol=1e-12)  # float64
            np.testing.assert_allclose(line.get_xdata(), np.arange(12) / 11, rtol=1e-12)
        span = next(patch for patch in axes.patches if patch.get_width() == 1)
        tops = [row.ceiling for row in tables.layers if (row.measure, row.region) == ("encoding", region)]
        assert span.get_y() == min(tops) and math.isclose(span.get_y() + span.get_height(), max(tops))
    assert legend(figures[0]) == [*MODELS, "ceiling, lowest to highest"]


def test_dots_are_the_best_layers(figures):
    tables = TABLES["usual"]
    draw_models(tables, "encoding", io.BytesIO())
    for region, axes in panels(figures[0]).items():
        dots = {line.get_color(): line.get_xdata() for line in axes.lines if line.get_markersize() == 4}
        small = {line.get_color(): line.get_xdata() for line in axes.lines if line.get_markersize() == 2.2}
        for number, model in enumerate(MODELS):
            own = [row.score for row in part(tables, "encoding").best if (row.region, row.model) == (region, model)]
            assert dots[COLOURS[number]] == pytest.approx(np.mean(own))
            assert list(small[COLOURS[number]]) == own
    assert [label.get_text() for label in named_ticks(panels(figures[0])["V1"].yaxis, 1)] == list(MODELS)


@pytest.mark.parametrize("draw", DRAW)
def test_without_ceilings_none_is_drawn(draw, figures):
    draw(TABLES["no ceilings"], "encoding", io.BytesIO())
    assert not any("ceiling" in label for label in legend(figures[0]))
    assert not any(line.get_color() == "#999999" for axes in figures[0].axes for line in axes.lines)
    assert all(not axes.patches for axes in figures[0].axes)


def test_ties_join_models_that_differ(figures):
    tables = TABLES["usual"]
    pairs = {
        region: {
            (row.model, row.other) for row in tables.differences
            if (row.measure, row.region) == ("encoding", region) and row.p < LIMIT
        } for region in REGIONS
    }  # fmt: skip
    assert any(pairs.values())
    draw_models(tables, "encoding", io.BytesIO())
    for region, axes in panels(figures[0]).items():
        outside = [line for line in axes.lines if min(line.get_xdata()) > 1]
        ticks = [line for line in outside if len(line.get_xdata()) == 2 and len(set(line.get_ydata())) == 1]
        assert len(ticks) == len(pairs[region])
    draw_models(TABLES["many models"], "encoding", io.BytesIO())
    assert not any("tied" in label for label in legend(figures[1]))


def test_names_that_look_alike_when_shortened_get_numbers():
    assert short_names(["short", "x" * 40, "x" * 41]) == [
        "short", "x" * 12 + "…" + "x" * 15 + " (2)", "x" * 12 + "…" + "x" * 15 + " (3)"
    ]  # fmt: skip


def test_mean_and_interval_are_those_of_a_t_test():
    rows = [row for row in part(TABLES["usual"], "encoding").best if (row.region, row.model) == ("V1", MODELS[0])]
    found, expected = summarise(rows), stats.ttest_1samp([row.score for row in rows], 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)  # float64, the same formula
    assert found.score == pytest.approx(np.mean([row.score for row in rows]))
    one = summarise(rows[:1])
    assert (one.score, one.low, one.high) == (rows[0].score, rows[0].low, rows[0].high)
    assert math.isnan(summarise(rows[:2]).low)  # two subjects are too few


def test_a_difference_survives_in_every_subject_and_in_one_direction():
    row = TABLES["usual"].differences[0]._replace(p=0.01, difference=0.1)
    pair = {(row.model, row.other)}
    assert surviving([row, row]) == pair
    assert not surviving([row, row._replace(p=0.06)])
    assert not surviving([row, row._replace(p=None)])
    assert not surviving([row, row._replace(difference=-0.1)])


def test_tables_that_would_mislead_are_refused():
    tables = TABLES["usual"]
    with pytest.raises(InputError, match="No scores of the measure 'encodng'. Did you mean 'encoding'"):
        part(tables, "encodng")
    first = next(row for row in tables.best if row.measure == "encoding")

    def with_best(*rows):
        return tables._replace(best=[*rows, *(row for row in tables.best if row != first)])

    with pytest.raises(InputError, match=f"{first.model}, {first.subject}: score nan"):
        part(with_best(first._replace(score=math.nan)), "encoding")
    with pytest.raises(InputError, match="ceiling inf"):
        part(with_best(first._replace(ceiling=math.inf)), "encoding")
    with pytest.raises(InputError, match="occurs twice"):
        part(with_best(first, first), "encoding")
    with pytest.raises(InputError, match=f"has no score of {first.subject}"):
        part(with_best(), "encoding")
