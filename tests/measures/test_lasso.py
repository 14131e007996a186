"""The Lasso with weights that are not negative, against scikit-learn and the conditions of a minimum."""

import warnings

import numpy as np
import pytest
import sklearn.linear_model

from ipcl_jax.measures.lasso import TOLERANCE, fit_lasso


def make_up(images, units, voxels=5, seed=0):
    """Units after a ReLU that share 6 directions, as a layer's do, and voxels that follow some of these."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(images, 6))
    X = np.maximum(directions @ rng.normal(size=(6, units)) / 2 + rng.normal(size=(images, units)), 0)
    Y = directions @ rng.normal(size=(6, voxels)) / 2 + rng.normal(size=(images, voxels)) + 3
    return X.astype(np.float32), Y


def objective(X, y, weights, intercept, alpha):
    return ((y - X @ weights - intercept) ** 2).mean() / 2 + alpha * weights.sum()


# More units than images, and fewer; sets that grow several times; more weights than can be told apart.
@pytest.mark.parametrize("images, units, alpha", [(60, 400, 0.1), (200, 40, 0.02), (50, 900, 0.01), (12, 80, 1e-3)])
def test_it_is_scikit_learns(images, units, alpha):
    X, Y = make_up(images, units)
    found = fit_lasso(X, Y, alpha)
    X = X.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's own tolerance is out of reach with many units
        expected = sklearn.linear_model.Lasso(alpha=alpha, positive=True, tol=1e-10, max_iter=100_000).fit(X, Y)
    weights = found.weights.toarray()
    assert (weights >= 0).all() and 0 < (weights > 0).sum() < weights.size
    for voxel in range(Y.shape[1]):
        ours = objective(X, Y[:, voxel], weights[voxel], found.intercepts[voxel], alpha)
        theirs = objective(X, Y[:, voxel], expected.coef_[voxel], expected.intercept_[voxel], alpha)
        assert ours <= theirs * (1 + 1e-9) + 1e-12
    # Predictions are unique where weights are not; they are within the square root of what objectives are within.
    np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=0, atol=1e-4)


@pytest.mark.parametrize("images, units, alpha", [(60, 400, 0.1), (200, 40, 0.02), (50, 900, 0.01), (12, 80, 1e-3)])
def test_the_conditions_of_a_minimum_hold(images, units, alpha):
    X, Y = make_up(images, units, seed=1)
    found = fit_lasso(X, Y, alpha)
    residuals = Y - found.predict(X)
    np.testing.assert_allclose(residuals.mean(0), 0, atol=1e-12)
    gradient = (X - X.mean(0)).T @ residuals / images - alpha
    used = found.weights.toarray().T > 0
    assert (gradient < 2 * TOLERANCE * alpha).all()
    assert abs(gradient[used]).max() < 2 * TOLERANCE * alpha


def test_a_large_penalty_leaves_the_mean():
    X, Y = make_up(40, 60)
    found = fit_lasso(X, Y, 1e3)
    assert found.weights.nnz == 0
    np.testing.assert_array_equal(found.predict(X), np.broadcast_to(Y.mean(0), Y.shape))


def test_equal_and_constant_units():
    X, Y = make_up(40, 60)
    odd = np.concatenate([X, X, np.full((40, 3), 0.1, np.float32)], axis=1)
    np.testing.assert_allclose(fit_lasso(odd, Y, 0.05).predict(odd), fit_lasso(X, Y, 0.05).predict(X), atol=1e-6)


def test_blocks_make_no_difference(monkeypatch):
    X, Y = make_up(40, 60, voxels=40)
    whole = fit_lasso(X, Y, 0.05)
    monkeypatch.setattr("ipcl_jax.measures.lasso.BLOCK", 600)
    np.testing.assert_allclose(fit_lasso(X, Y, 0.05).weights.toarray(), whole.weights.toarray(), rtol=1e-9, atol=1e-12)
