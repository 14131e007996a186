"""Encoding, sparse positive encoding, voxel-encoding RSA and RSA against the functions of the read-outs, and SciPy."""

import numpy as np
import pytest
import scipy.stats
from made_up_responses import as_layer, make_up
from sklearn.linear_model import Lasso

from ipcl_jax.measures.base import Layer
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.registry import open_measure
from ipcl_jax.readout.kernels import kernel_matrix
from ipcl_jax.readout.ridge import correlation, encode, versa
from ipcl_jax.readout.rsa import compare_rdms, rdm

LAYERS, RESPONSES, IMAGES = make_up(3, 40, voxels=10)
SCORED = ("encoding", "sparse-positive", "versa", "rsa")


def opened(name, responses=RESPONSES, ceilings=None, **options):
    return open_measure(name, responses, ceilings or {}, IMAGES, MeasureOptions(**options), "of repeats")


def as_given(layer):
    """A layer as it comes from a model: float32 features and kernel."""
    return Layer(layer.features.astype(np.float32), kernel_matrix(layer.features, "linear"))


@pytest.mark.parametrize("options", [{}, {"seed": 3, "encoding_folds": 4, "encoding_alphas": (0.01, 1.0)}])
def test_encoding_is_that_of_the_read_out(options):
    measure = opened("encoding", **options)
    layer, folds = as_given(LAYERS["true"]), options.get("encoding_folds", 5)
    found = measure.score(layer)
    assert found.shape == (3, folds, 1) and measure.groups == tuple(RESPONSES)
    given = {"n_folds": folds, "alphas": options.get("encoding_alphas", MeasureOptions().encoding_alphas)}
    expected = [encode(layer.kernel, y[None], seed=options.get("seed", 0), **given).mean() for y in RESPONSES.values()]
    np.testing.assert_allclose(found.mean((1, 2)), expected, rtol=1e-8)  # both float64


def test_voxel_encoding_rsa_is_that_of_the_read_out():
    measure, layer = opened("versa", versa_splits=3, seed=2), as_given(LAYERS["true"])
    found = measure.score(layer)
    assert found.shape == (3, 3, 2)
    expected, (low, _) = versa(layer.kernel, [y[None] for y in RESPONSES.values()], n_splits=3, seed=2)
    # Ranks of dissimilarities in float32, of predictions that differ by rounding.
    np.testing.assert_allclose(found.mean((1, 2)), expected, atol=1e-4)
    assert measure.ceiling().shape == (3, 3)
    np.testing.assert_allclose(measure.ceiling().mean(1), low, rtol=1e-12)


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
@pytest.mark.parametrize("comparison", ["spearman", "corr"])
def test_rsa_is_that_of_the_read_out(metric, comparison):
    measure = opened("rsa", metric=metric, comparison=comparison)
    found = measure.score(LAYERS["true"])
    measured = np.stack([rdm(y) for y in RESPONSES.values()])
    expected = compare_rdms({"": rdm(LAYERS["true"].features, metric)}, measured, method=comparison)
    # The read-out's RDMs are float32, which may change a few ranks.
    np.testing.assert_allclose(found[:, 0, 0], expected.by_subject[""], atol=1e-5)
    np.testing.assert_allclose(measure.ceiling(), np.full((3, 1), expected.ceiling[0]), atol=1e-5)


@pytest.mark.parametrize("solver, tol, atol", [("published", 1e-3, 1e-9), ("exact", 1e-12, 1e-5)])
def test_sparse_positive_encoding_is_scikit_learns(solver, tol, atol):
    found = opened("sparse-positive", sparse_solver=solver).score(LAYERS["true"])
    folds = np.random.default_rng(0).permutation(40) % 5
    X, Y = LAYERS["true"].features, RESPONSES["sub1"]
    for fold in range(5):
        fitted, tested = folds != fold, folds == fold
        r = []
        for voxel in range(Y.shape[1]):
            lasso = Lasso(positive=True, alpha=0.1, random_state=365, selection="random", tol=tol)
            predicted = lasso.fit(X[fitted], Y[fitted, voxel]).predict(X[tested])
            assert (lasso.coef_ >= 0).all()
            r.append(np.corrcoef(predicted, Y[tested, voxel])[0, 1] if np.ptp(predicted) else 0)
        np.testing.assert_allclose(found[1, fold, 0], np.mean(r), rtol=0, atol=atol)


@pytest.mark.parametrize("name", SCORED)
def test_the_planted_layer_is_found(name):
    layers, responses, images = make_up(4, 60, voxels=30, noise=0.3)
    measure = open_measure(name, responses, {}, images, MeasureOptions(sparse_alpha=0.03))
    scores = {layer: measure.score(values) for layer, values in layers.items()}
    best = measure.best(scores)
    shape = (len(measure.groups), len(measure.splits))
    assert best.scores.shape == shape and best.layers.shape == (*shape, 2) and measure.ceiling().shape == shape
    assert (best.layers == 1).all()
    np.testing.assert_allclose(best.scores, scores["true"].mean(2), rtol=1e-12)
    assert all(interval.mean > 0.2 for interval in measure.interval(best.scores))
    for difference in measure.compare(best.scores, scores["deep"]):
        assert difference.mean > 0.2 and difference.p < 0.05 and difference.low > 0


@pytest.mark.parametrize("name", SCORED)
def test_a_layer_that_is_the_same_for_all_images_scores_zero(name):
    assert (opened(name).score(as_layer(np.full((40, 5), 0.1))) == 0).all()
    assert (opened(name).score(as_given(as_layer(np.full((40, 5), 0.1)))) == 0).all()


def test_pairs_are_folds_and_splits_of_a_subject():
    scores, others = np.random.default_rng(0).uniform(size=(2, 3, 5))
    found = opened("encoding").compare(scores[..., None], others)
    assert len(found) == 3
    difference = scores[0] - others[0]
    t = difference.mean() / np.sqrt((1 / 5 + 1 / 4) * difference.var(ddof=1))
    np.testing.assert_allclose([found[0].t, found[0].df], [t, 4], rtol=1e-12)
    t = difference[:4].mean() / np.sqrt((1 / 4 + 1) * difference[:4].var(ddof=1))
    assert opened("versa").compare(scores[:, :4], others[:, :4])[0].t == pytest.approx(t)


def test_pairs_of_rsa_are_the_subjects():
    scores, others = np.random.default_rng(0).uniform(size=(2, 3, 1))
    (found,) = opened("rsa").compare(scores, others)
    expected = scipy.stats.ttest_rel(scores[:, 0], others[:, 0])
    np.testing.assert_allclose([found.t, found.p, found.df], [expected.statistic, expected.pvalue, 2], rtol=1e-12)
    assert np.isnan([interval.low for interval in opened("rsa").interval(scores)]).all()


def test_ceilings_of_voxels_are_averaged():
    ceilings = {"sub0": np.linspace(0.2, 0.8, 10), "sub1": None, "sub2": np.r_[np.nan, np.ones(11)]}
    found = opened("encoding", ceilings=ceilings).ceiling()
    np.testing.assert_allclose(found, np.broadcast_to([[0.5], [np.nan], [np.nan]], (3, 5)), rtol=1e-12)


@pytest.mark.parametrize("name", SCORED)
def test_one_subject_is_enough(name):
    measure = opened(name, {"sub0": RESPONSES["sub0"]})
    scores = {layer: measure.score(values) for layer, values in LAYERS.items()}
    np.testing.assert_array_equal(scores["true"][0], opened(name).score(LAYERS["true"])[0])
    assert np.isnan(measure.ceiling()).all()
    best = measure.best(scores)
    assert np.isnan(best.scores).all() == (name == "rsa")
    if name == "rsa":
        assert best.how == "one subject: no other data to choose on" and (best.layers == -1).all()
        (difference,) = measure.compare(scores["true"], scores["deep"])
        assert np.isnan(difference.p) and difference.df == 0


def test_a_voxel_without_variation_counts_as_zero_in_encoding():
    dead = {"sub0": np.insert(RESPONSES["sub0"], 4, 0.1, axis=1)}
    found = opened("encoding", dead).score(LAYERS["true"])[0]
    np.testing.assert_allclose(found * 11, opened("encoding").score(LAYERS["true"])[0] * 10, rtol=1e-10)
    predicted = correlation(np.full((8, 1), 0.1), RESPONSES["sub0"][:8, :1])
    assert predicted == 0
