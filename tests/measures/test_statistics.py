"""Statistics of dependent splits against SciPy, plain loops and published formulas."""

import numpy as np
import pytest
import scipy.stats

from ipcl_jax.errors import InputError
from ipcl_jax.measures.statistics import (
    choose_by_other_side,
    choose_by_others,
    choose_by_rest,
    corrected_interval,
    corrected_ttest,
    fisher_mean,
)

RNG = np.random.default_rng(0)
A, B = RNG.uniform(-0.2, 0.9, 35), RNG.uniform(-0.2, 0.9, 35)


def test_without_correction_the_test_is_scipys():
    found, expected = corrected_ttest(A, B, ratio=0), scipy.stats.ttest_rel(A, B)
    bounds = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found[:3], [np.mean(A - B), bounds.low, bounds.high], rtol=1e-12)
    np.testing.assert_allclose([found.t, found.df, found.p], [expected.statistic, 34, expected.pvalue], rtol=1e-12)


def test_without_correction_the_interval_is_scipys():
    low, high = scipy.stats.t.interval(0.9, 34, A.mean(), scipy.stats.sem(A))
    np.testing.assert_allclose(corrected_interval(A, ratio=0, level=0.9), [A.mean(), low, high], rtol=1e-12)


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_the_variance_is_nadeau_and_bengios(ratio):
    difference = A - B
    mean = sum(difference) / 35
    variance = sum((x - mean) ** 2 for x in difference) / 34
    t = mean / np.sqrt((1 / 35 + ratio) * variance)
    found = corrected_ttest(A, B, ratio=ratio)
    np.testing.assert_allclose([found.t, found.p], [t, 2 * scipy.stats.t.sf(abs(t), 34)], rtol=1e-12)
    half = scipy.stats.t.ppf(0.975, 34) * mean / t
    np.testing.assert_allclose(found[1:3], sorted([mean - half, mean + half]), rtol=1e-10)


def test_fishers_z_is_transformed_back():
    z = np.arctanh(A)
    np.testing.assert_allclose(fisher_mean(A), np.tanh(z.mean()), rtol=1e-12)
    low, high = scipy.stats.t.interval(0.95, 34, z.mean(), z.std(ddof=1) * np.sqrt(1 / 35 + 1))
    expected = np.tanh([z.mean(), low, high])
    np.testing.assert_allclose(corrected_interval(A, ratio=1, fisher=True), expected, rtol=1e-12)
    found = corrected_ttest(A, B, ratio=0, fisher=True)
    expected = scipy.stats.ttest_rel(z, np.arctanh(B))
    np.testing.assert_allclose([found.t, found.p], [expected.statistic, expected.pvalue], rtol=1e-12)
    np.testing.assert_allclose(found.mean, fisher_mean(A) - fisher_mean(B), rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.15, 0.4, -0.4])
@pytest.mark.parametrize("fisher", [False, True])
def test_bounds_exclude_zero_where_the_test_is_significant(shift, fisher):
    found = corrected_ttest(B + 0.05 * A + shift, B, ratio=0.25, fisher=fisher)
    assert found.low <= found.mean <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_equal_scores_and_single_pairs():
    for fisher in (False, True):
        assert corrected_ttest(A, A, ratio=1, fisher=fisher) == (0, 0, 0, 0, 34, 1)
        single = corrected_ttest(A[:1], B[:1], ratio=1, fisher=fisher)
        np.testing.assert_allclose(single.mean, A[0] - B[0], rtol=1e-12)
        assert single.df == 0 and np.isnan([single.low, single.high, single.t, single.p]).all()
        mean, low, high = corrected_interval(A[:1], ratio=1, fisher=fisher)
        np.testing.assert_allclose(mean, A[0], rtol=1e-12)
        assert np.isnan([low, high]).all()
    one_more = corrected_ttest(np.full(4, 0.75), np.full(4, 0.5), ratio=0)
    assert one_more == (0.25, 0.25, 0.25, np.inf, 3, 0)
    assert corrected_ttest(np.full(4, 0.5), np.full(4, 0.75), ratio=0).t == -np.inf


def test_r_of_one_stays_finite():
    assert fisher_mean(np.array([1.0, 1.0])) == pytest.approx(1, abs=1e-11)
    assert fisher_mean(np.array([1.0, -1.0])) == 0
    assert np.isfinite(corrected_interval(np.array([1.0, 0.5, -1.0]), ratio=1, fisher=True)).all()
    assert np.isfinite(corrected_ttest(np.array([1.0, 0.5]), np.array([0.1, -1.0]), ratio=1, fisher=True)).all()


@pytest.mark.parametrize("values", [np.ones((2, 2)), np.ones(0), 1.0])
def test_other_shapes_are_refused(values):
    with pytest.raises(InputError, match=r"expected \[K\]"):
        corrected_interval(values, ratio=1)
    with pytest.raises(InputError, match="a paired test takes as many"):
        corrected_ttest(A, A[1:], ratio=1)


def test_choices_are_those_of_plain_loops():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(6, 3, 5, 2))
    other, rest, others = choose_by_other_side(scores), choose_by_rest(scores[..., 0]), choose_by_others(scores[..., 0])
    for g in range(3):
        for k in range(5):
            for side in range(2):
                layer = max(range(6), key=lambda one: scores[one, g, k, 1 - side])
                assert other.layers[g, k, side] == layer and other.scores[g, k, side] == scores[layer, g, k, side]
            layer = max(range(6), key=lambda one: np.mean([scores[one, g, j, 0] for j in range(5) if j != k]))
            assert rest.layers[g, k] == layer and rest.scores[g, k] == scores[layer, g, k, 0]
            layer = max(range(6), key=lambda one: np.mean([scores[one, h, k, 0] for h in range(3) if h != g]))
            assert others.layers[g, k] == layer and others.scores[g, k] == scores[layer, g, k, 0]


def test_the_first_of_equal_layers_is_chosen_and_none_from_one_group():
    assert choose_by_rest(np.zeros((3, 1, 4))).layers.tolist() == [[0] * 4]
    alone = choose_by_others(np.zeros((3, 1, 4)))
    assert np.isnan(alone.scores).all() and (alone.layers == -1).all()
