"""Read-outs against scikit-learn and plain float64 formulas."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from ipcl_jax.readout.knn import knn_predict, nearest
from ipcl_jax.readout.spread import collapse_warning, effective_rank, instance_retrieval, mean_cosine


def unit_length(features):
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(10, 16))
    labels, tests = rng.integers(0, 10, 700), rng.integers(0, 10, 301)
    references = centers[labels] + 1.5 * rng.normal(size=(700, 16))
    queries = centers[tests] + 1.5 * rng.normal(size=(301, 16))
    return references.astype(np.float32), labels, queries.astype(np.float32), tests


@pytest.mark.parametrize("k", [1, 50, 200])
def test_knn_votes_like_scikit_learn(clusters, k):
    references, labels, queries, _ = clusters
    unit = [unit_length(x) for x in (references, queries)]
    # On unit vectors the squared distance is 2 - 2 cosine, which gives the vote's weight.
    votes = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute")
    shares = votes.fit(unit[0], labels).predict_proba(unit[1])
    ranked = np.asarray(knn_predict(queries, references, labels, n_classes=10, k=k))
    assert ranked.shape == (301, 5)
    np.testing.assert_array_equal(ranked[:, 0], shares.argmax(1))
    # Further places are compared by their votes: classes without a neighbour tie at 0.
    mine = np.take_along_axis(shares, ranked, 1)
    np.testing.assert_allclose(mine, -np.sort(-shares, 1)[:, :5], atol=1e-6)  # float32 votes


def test_knn_does_not_depend_on_chunks_or_jit(clusters):
    references, labels, queries, _ = clusters
    whole = knn_predict(queries, references, labels, n_classes=10, k=20, chunk=301)
    by_seven = knn_predict(queries, references, labels, n_classes=10, k=20, chunk=7)
    np.testing.assert_array_equal(whole, by_seven)
    with jax.disable_jit():
        few = knn_predict(queries[:5], references, labels, n_classes=10, k=20)
    np.testing.assert_array_equal(whole[:5], few)


def test_nearest_are_sorted_cosines(clusters):
    references, _, queries, _ = clusters
    cosines, rows = map(np.asarray, nearest(queries, references, k=9))
    unit = [unit_length(x) for x in (references, queries)]
    exact = unit[1] @ unit[0].T
    np.testing.assert_allclose(cosines, -np.sort(-exact, 1)[:, :9], atol=1e-6)  # float32 dot products
    np.testing.assert_allclose(np.take_along_axis(exact, rows, 1), cosines, atol=1e-6)


def test_instance_retrieval_counts_siblings():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(40, 8))
    pairs = np.stack([first, first + 0.01 * rng.normal(size=first.shape)], 1).astype(np.float32)
    assert instance_retrieval(pairs) == 1.0
    pairs[:10, 1] = rng.normal(size=(10, 8))  # ten images lose their sibling
    unit = pairs.reshape(80, 8) / np.linalg.norm(pairs.reshape(80, 8), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    assert instance_retrieval(pairs) == np.mean(cosines.argmax(1) == np.arange(80) ^ 1)
    assert instance_retrieval(pairs, chunk=7) == instance_retrieval(pairs)


def test_identical_views_are_no_success():
    assert instance_retrieval(np.ones((50, 2, 4), np.float32)) < 0.1  # all alike: chance, whatever the ties


def test_spread_against_the_plain_formulas():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(60, 12)) + 0.5
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.testing.assert_allclose(mean_cosine(z), cosines[~np.eye(60, dtype=bool)].mean(), rtol=1e-12)
    covariance = np.linalg.eigvalsh(np.cov(unit.T, bias=True)).clip(0)
    share = np.sqrt(covariance) / np.sqrt(covariance).sum()
    np.testing.assert_allclose(effective_rank(z), np.exp(-(share * np.log(share)).sum()), rtol=1e-9)
    directions = np.concatenate([np.eye(8), -np.eye(8)])  # centred, and even in eight directions
    np.testing.assert_allclose(effective_rank(directions), 8, rtol=1e-12)
    assert effective_rank(np.ones((5, 8))) == 1.0


def test_collapse_is_told_apart():
    assert "mean cosine of 0.990" in collapse_warning({"mean_cosine": 0.99, "effective_rank": 9.0})
    assert collapse_warning({"effective_rank": 1.2})
    assert collapse_warning({"mean_cosine": 0.5, "effective_rank": 30.0}) is None
    assert collapse_warning({}) is None
