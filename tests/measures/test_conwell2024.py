"""Conwell et al.'s measures against a transcription in NumPy and scikit-learn."""

import numpy as np
import pytest
from made_up_responses import as_layer, make_up
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim

from ipcl_jax.measures.conwell2024 import project
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.registry import open_measure

ALPHAS = np.logspace(-1, 5, 7)
NAMES = ("conwell2024", "conwell2024-versa", "conwell2024-classic")


def fit_plainly(X, y, Z):
    """Held-out predictions of the training half at each voxel's best penalty, and predictions of the test half."""
    held_out, predicted = np.empty_like(y), np.empty((len(Z), y.shape[1]))
    tried = []
    for alpha in ALPHAS:
        left_out = np.empty_like(y)
        for image in range(len(X)):
            others = np.arange(len(X)) != image
            left_out[image] = Ridge(alpha).fit(X[others], y[others]).predict(X[image : image + 1])[0]
        tried.append((left_out, Ridge(alpha).fit(X, y).predict(Z)))
    for voxel in range(y.shape[1]):
        best = max(range(len(ALPHAS)), key=lambda a: pearsonr(y[:, voxel], tried[a][0][:, voxel])[0])
        held_out[:, voxel], predicted[:, voxel] = (values[:, voxel] for values in tried[best])
    return held_out, predicted


def compare_plainly(a, b):
    above = np.triu_indices(len(a), 1)
    return pearsonr((1 - np.corrcoef(a))[above], (1 - np.corrcoef(b))[above])[0]


def score_plainly(features, responses, dimensions, narrow):
    """All three scores of both halves, `[subjects, 2]` each."""
    reduced = features
    if narrow == "project" or features.shape[1] > dimensions:
        reduced = SparseRandomProjection(dimensions, random_state=0).fit_transform(features)
    scaler = StandardScaler().fit(reduced[::2])
    found = {name: [] for name in NAMES}
    for y in responses.values():
        predicted = fit_plainly(scaler.transform(reduced[::2]), y[::2], scaler.transform(reduced[1::2]))
        measured, raw = (y[::2], y[1::2]), (features[::2], features[1::2])
        halves = [list(zip(predicted, measured, strict=True)), list(zip(raw, measured, strict=True))]
        found[NAMES[0]].append([np.mean([pearsonr(p[:, v], m[:, v])[0] for v in range(m.shape[1])]) for p, m in halves[0]])
        found[NAMES[1]].append([compare_plainly(p, m) for p, m in halves[0]])
        found[NAMES[2]].append([compare_plainly(p, m) for p, m in halves[1]])
    return found


@pytest.mark.filterwarnings("ignore:The number of components is higher")
@pytest.mark.parametrize("units, dimensions, narrow", [(80, 50, "project"), (30, 50, "project"), (30, 50, "keep")])
def test_it_is_the_transcription(units, dimensions, narrow):
    layers, responses, images = make_up(2, 31, units=units)
    options = MeasureOptions(conwell_dimensions=dimensions, conwell_narrow=narrow)
    expected = score_plainly(layers["true"].features, responses, dimensions, narrow)
    for name in NAMES:
        found = open_measure(name, responses, {}, images, options).score(layers["true"])
        # Both in float64; penalties are chosen among the same, by correlations that differ by rounding only.
        np.testing.assert_allclose(found[:, 0], expected[name], rtol=0, atol=1e-8)
    assert np.ptp(expected["conwell2024"]) > 0.01


def test_the_dimensions_are_the_published_ones():
    assert johnson_lindenstrauss_min_dim(1000, eps=0.1) == MeasureOptions().conwell_dimensions == 5920
    np.testing.assert_allclose(MeasureOptions().conwell_alphas, ALPHAS, rtol=1e-15)


@pytest.mark.filterwarnings("ignore:The number of components is higher")
@pytest.mark.parametrize("units", [700, 40])
def test_a_projection_is_scikit_learns(units, monkeypatch):
    features = np.random.default_rng(0).normal(size=(10, units)).astype(np.float32)
    expected = SparseRandomProjection(60, random_state=0).fit_transform(features.astype(np.float64))
    monkeypatch.setattr("ipcl_jax.measures.conwell2024.ROWS", 3 * units)
    np.testing.assert_allclose(project(features, 60), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_chosen_in_the_training_half_and_scored_in_the_test_half(name):
    layers, responses, images = make_up(3, 40, voxels=20, noise=0.3)
    measure = open_measure(name, responses, {}, images, MeasureOptions(conwell_dimensions=60))
    scores = {layer: measure.score(values) for layer, values in layers.items()}
    best = measure.best(scores)
    assert (best.layers == 1).all() and best.layers.shape == (3, 1, 2)
    np.testing.assert_array_equal(best.scores, scores["true"][..., 1])
    assert scores["true"][..., 1].min() > scores["deep"][..., 1].max()
    assert [interval.mean for interval in measure.interval(scores["true"])] == scores["true"][:, 0, 1].tolist()
    (difference,) = measure.compare(best.scores, scores["deep"])
    np.testing.assert_allclose(difference.mean, (scores["true"] - scores["deep"])[..., 1].mean(), rtol=1e-12)
    assert difference.df == 2 and difference.low < difference.mean < difference.high
    assert (measure.score(as_layer(np.full((40, 5), 0.1))) == 0).all()


def test_ceilings_of_voxels_and_of_geometry():
    _, responses, images = make_up(3, 40)
    ceilings = {name: np.full(values.shape[1], 0.5 + place / 10) for place, (name, values) in enumerate(responses.items())}
    voxels = open_measure("conwell2024", responses, ceilings, images, MeasureOptions(), "of repeats")
    np.testing.assert_allclose(voxels.ceiling(), [[0.5], [0.6], [0.7]])
    assert voxels.ceiling_kind == "of repeats"
    rdms = [(1 - np.corrcoef(y[1::2]))[np.triu_indices(20, 1)] for y in responses.values()]
    for name in NAMES[1:]:
        measure = open_measure(name, responses, ceilings, images, MeasureOptions())
        np.testing.assert_allclose(measure.ceiling()[0, 0], np.corrcoef(rdms[0], rdms[1] + rdms[2])[0, 1], rtol=1e-10)
        alone = open_measure(name, {"sub0": responses["sub0"]}, {}, images, MeasureOptions())
        assert np.isnan(alone.ceiling()).all() and alone.ceiling_kind == ""


def test_a_voxel_without_variation_counts_as_zero():
    layers, responses, images = make_up(1, 31)
    options = MeasureOptions(conwell_dimensions=60)
    dead = {"sub0": np.insert(responses["sub0"], 2, 0.1, axis=1)}
    with_dead, without = (
        open_measure("conwell2024", each, {}, images, options).score(layers["true"]) for each in (dead, responses)
    )
    np.testing.assert_allclose(with_dead * 7, without * 6, rtol=1e-10)
