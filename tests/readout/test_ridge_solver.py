"""Penalties by leave-one-out, and predictions, against scikit-learn's RidgeCV."""

import h5py
import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import make_scorer

from ipcl_jax.errors import InputError
from ipcl_jax.readout import ridge_blocks, ridge_penalties
from ipcl_jax.readout.ridge_blocks import solve
from ipcl_jax.readout.ridge_solver import fit_predict, leave_one_out

ALPHAS = tuple(10.0**power for power in range(-4, 5))
VOXELS = 60
DEAD = 7


def planted(images, width, spectrum, dtype, seed=0):
    """Features of images, 20 more, and responses: noise-free, nearly so, of little or no signal, one voxel constant."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(images + 20, width))
    if spectrum != "flat":
        X *= np.arange(1, width + 1) ** -0.7
    if spectrum == "heavy":
        X *= np.exp(rng.normal(size=(len(X), 1)))  # outliers among images
    X /= np.sqrt(np.square(X).sum(1).mean())
    Y = X @ rng.normal(size=(width, VOXELS))
    Y /= Y.std(0)
    noise = np.abs(rng.standard_cauchy(VOXELS))
    noise[:6] = 0, 0, 0, 1e-4, 1e-4, 1e9
    Y = (Y + noise * rng.normal(size=Y.shape) + 3).astype(dtype)
    Y[:, DEAD] = 0.1
    return X, Y[:images], X[images:]


def left_out_errors(X, Y):
    """Leave-one-out errors of every penalty, `[n, V, A]`, by scikit-learn."""
    return RidgeCV(ALPHAS, alpha_per_target=True, store_cv_results=True).fit(X, Y).cv_results_


def correlations(a, b):
    return np.array([np.corrcoef(a[:, v], b[:, v])[0, 1] for v in range(a.shape[1])])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "images, width, spectrum",
    [(60, 12, "flat"), (50, 200, "falling"), (80, 200, "heavy"), (200, 70, "heavy"), (150, 400, "falling"), (4, 5, "flat")],
)  # fmt: skip
def test_the_penalty_has_the_least_leave_one_out_error(images, width, spectrum, dtype):
    X, Y, others = planted(images, width, spectrum, dtype)
    X, exact = (X[:images], Y.astype(np.float64))
    errors = left_out_errors(X, exact).mean(0)  # [V, A]
    found = fit_predict(X @ X.T, others @ X.T, Y, ALPHAS)
    assert found.predictions.dtype == dtype
    alive = np.arange(VOXELS) != DEAD
    chosen = np.take_along_axis(errors, np.searchsorted(ALPHAS, found.alpha)[:, None], 1)[:, 0]
    # The choice is between errors that rounding changes by less than this.
    rounding = 1e-5 if dtype == np.float32 else 1e-7
    assert (chosen <= errors.min(1) * (1 + rounding))[alive].all()
    np.testing.assert_allclose(found.held_out[alive], chosen[alive], rtol=rounding)
    expected = Ridge(found.alpha).fit(X, exact).predict(others)
    assert found.held_out[DEAD] == 0
    np.testing.assert_allclose(found.predictions[:, DEAD], Y[0, DEAD], rtol=1e-15)
    error = np.abs(found.predictions - expected).max(0) / np.maximum(Y.std(0), 1e-6)
    # The smallest penalty, 1e-4 of the mean variance, multiplies rounding by 1 / (2 sqrt(1e-4)) at most.
    assert error[alive].max() < (1e-3 if dtype == np.float32 else 1e-8)
    wide = alive & (expected.std(0) > 0.01 * Y.std(0))  # others vary little beside their mean, which float32 rounds
    assert (correlations(found.predictions[:, wide], expected[:, wide]) > 1 - 1e-6).all()


def test_hardly_any_penalty_is_computed_where_one_is_clearly_best(monkeypatch):
    X, Y, others = planted(300, 900, "falling", np.float32)
    computed = []

    def counted(self, rotated, voxels, penalty, compute=ridge_penalties.Penalties._scaled):
        computed.append(len(voxels))
        return compute(self, rotated, voxels, penalty)

    monkeypatch.setattr(ridge_penalties.Penalties, "_scaled", counted)
    fit_predict(X[:300] @ X[:300].T, others @ X[:300].T, Y, ALPHAS)
    assert VOXELS <= sum(computed) < 2 * VOXELS


@pytest.mark.parametrize("seed", range(20))
def test_bounds_are_below_the_errors(seed):
    rng = np.random.default_rng(seed)
    images, width = rng.integers(4, 60), rng.integers(1, 80)
    X, Y, _ = planted(images, width, ("flat", "falling", "heavy")[seed % 3], np.float64, seed)
    X = X[:images] - X[:images].mean(0)
    solver = ridge_blocks._Solver(X @ X.T, X.T, np.array(ALPHAS), np.float64, ridge_penalties.NUMPY)
    penalties = solver._exact.penalties
    rows, scale = solver._exact.rows(np.ascontiguousarray(Y.T))
    errors = left_out_errors(X, Y).mean(0) / scale[:, None] ** 2
    rotated = penalties._rotate(rows)
    for place in range(len(ALPHAS)):
        penalty = np.full(VOXELS, place)
        _, sums = penalties._scaled(rotated, np.arange(VOXELS), penalty)
        bound, _ = penalties._bound(penalties._products(rotated), penalty, sums)
        assert (bound <= errors * (1 + 1e-7) + 1e-20).all()
        # The margin for rounding is the square root of 128 eps times the spread of weights, which outliers make large.
        np.testing.assert_allclose(bound[:, place], errors[:, place], rtol=1e-2, atol=1e-20)


def mean_r(known, predicted):
    known, predicted = known.reshape(len(known), -1), predicted.reshape(len(known), -1)
    alive = np.ptp(known, 0) > 0
    return correlations(known[:, alive], predicted[:, alive]).sum() / len(alive)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("per_voxel", [False, True])
def test_penalties_by_correlation(dtype, per_voxel):
    X, Y, others = planted(80, 30, "falling", dtype)
    X, exact = X[:80], Y.astype(np.float64)
    ridge = RidgeCV(ALPHAS, scoring=make_scorer(mean_r), alpha_per_target=per_voxel).fit(X, exact)
    found = fit_predict(X @ X.T, others @ X.T, Y, ALPHAS, by="correlation", per_voxel=per_voxel)
    if per_voxel:
        np.testing.assert_allclose(found.held_out, ridge.best_score_, atol=1e-6)  # the solver's own limit
    else:
        assert set(found.alpha) == {ridge.alpha_}
        np.testing.assert_allclose(found.held_out.mean(), ridge.best_score_, atol=1e-6)
    expected = Ridge(found.alpha).fit(X, exact).predict(others)
    np.testing.assert_allclose(found.predictions / Y.std(0).clip(1e-6), expected / Y.std(0).clip(1e-6), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noisy", [False, True])
def test_one_penalty_for_all_voxels(dtype, noisy):
    X, Y, others = planted(60, 90, "falling", dtype)
    X, Y = X[:60], Y[:, 10:] if noisy else Y[:, :3]
    expected = RidgeCV(ALPHAS, store_cv_results=True).fit(X, Y.astype(np.float64))
    found = fit_predict(X @ X.T, others @ X.T, Y, ALPHAS, per_voxel=False)
    assert set(found.alpha) == {expected.alpha_}
    errors = expected.cv_results_.mean(0)[:, ALPHAS.index(expected.alpha_)]
    np.testing.assert_allclose(found.held_out, errors, rtol=1e-5)
    np.testing.assert_allclose(found.predictions, expected.predict(others), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("by", ["error", "correlation"])
@pytest.mark.parametrize("per_voxel", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_accelerators_way_gives_the_same(dtype, by, per_voxel):
    X, Y, others = planted(40, 90, "heavy", dtype)
    X = X[:40] - X[:40].mean(0)
    ours, theirs = (
        solve(X @ X.T, others @ X.T, Y, ALPHAS, by=by, per_voxel=per_voxel, arrays=arrays)
        for arrays in (ridge_penalties.NUMPY, ridge_penalties.JAX)
    )
    alive = np.arange(VOXELS) != DEAD
    np.testing.assert_array_equal(ours.alpha[alive], theirs.alpha[alive])
    rounding = 1e-4 if dtype == np.float32 else 1e-9
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding * np.abs(a).max(-1).min())


def test_blocks_make_no_difference(tmp_path):
    X, Y, others = planted(40, 90, "falling", np.float32)
    kernel, cross = X[:40] @ X[:40].T, others @ X[:40].T
    whole = fit_predict(kernel, cross, Y, ALPHAS)
    with h5py.File(tmp_path / "responses.h5", "w") as file:
        found = fit_predict(kernel, cross, file.create_dataset("Y", data=Y), ALPHAS, memory=16 * 8 * 4 * 40)
    np.testing.assert_array_equal(found.alpha, whole.alpha)
    # Products of other shapes sum in another order.
    error = np.abs(found.predictions - whole.predictions).max(0) / np.maximum(Y.std(0), 1e-6)
    assert error.max() < 1e-4


@pytest.mark.parametrize("unit", [1e-12, 1e12])
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_units_make_no_difference(unit, size):
    X, Y, others = planted(40, 90, "falling", np.float32)
    kernel, cross, alphas = X[:40] @ X[:40].T, others @ X[:40].T, np.array(ALPHAS)
    once = fit_predict(kernel, cross, Y, alphas)
    found = fit_predict(unit * kernel, unit * cross, (size * Y.astype(np.float64)).astype(np.float32), unit * alphas)
    alive = np.arange(VOXELS) != DEAD
    np.testing.assert_allclose(found.alpha[alive], unit * once.alpha[alive])
    np.testing.assert_allclose(
        found.predictions[:, alive] / np.float32(size), once.predictions[:, alive], rtol=1e-3, atol=1e-3
    )


def test_a_kernel_of_zeros_predicts_the_mean():
    Y = np.random.default_rng(0).normal(size=(9, 4))
    found = fit_predict(np.zeros((9, 9)), np.zeros((5, 9)), Y, ALPHAS)
    np.testing.assert_allclose(found.predictions, np.tile(Y.mean(0), (5, 1)), rtol=1e-12)


@pytest.mark.parametrize("alphas", [(0.1, 1, 10), tuple(10.0**power for power in range(-3, 6))])
@pytest.mark.parametrize("per_voxel", [False, True])
@pytest.mark.parametrize("images, width", [(4, 5), (12, 5), (12, 40), (40, 8), (72, 20), (30, 150)])
def test_each_image_is_predicted_from_all_others(images, width, per_voxel, alphas):
    rng = np.random.default_rng(images + width)
    X = rng.normal(2, 1, size=(images, width))
    Y = X @ rng.normal(size=(width, 6)) / 3 + np.array([0, 1e-3, 0.1, 1, 3, 30]) * rng.normal(size=(images, 6))
    Y[0, 3] += 1e3  # an outlier
    expected, chosen = [], []
    for i in range(images):
        ridge = RidgeCV(alphas, alpha_per_target=per_voxel).fit(np.delete(X, i, 0), np.delete(Y, i, 0))
        expected.append(ridge.predict(X[i : i + 1])[0])
        chosen.append(ridge.alpha_)
    found = leave_one_out(X @ X.T, Y, alphas, per_voxel=per_voxel, memory=8 * images * 30)
    np.testing.assert_array_equal(found.alpha, chosen)
    np.testing.assert_allclose(found.predictions, expected, rtol=1e-8, atol=1e-8)  # both float64


X, Y = np.random.default_rng(0).normal(size=(5, 2)), np.ones((5, 3))
K = X @ X.T


@pytest.mark.parametrize(
    "problem, message",
    [
        (lambda: fit_predict(K, K, Y[:4], ALPHAS), r"of 5 images and responses are of shape \[4, 3\]"),
        (lambda: fit_predict(K, K[:, :4], Y, ALPHAS), r"cross is of shape \[5, 4\]; expected \[5, 5\]"),
        (lambda: fit_predict(K[:, :4], K, Y, ALPHAS), r"own is of shape \[5, 4\]; expected \[5, 5\]"),
        (lambda: fit_predict(K * np.nan, K, Y, ALPHAS), "own holds values that are not finite"),
        (lambda: fit_predict(K, K, Y * [1, np.nan, 1], ALPHAS), "voxel 1 hold values that are not finite"),
        (lambda: fit_predict(K, K, Y, ()), "one or more must be given"),
        (lambda: fit_predict(K, K, Y, (0.0, 1.0)), "must be above 0"),
        (lambda: fit_predict(K, K, Y, ALPHAS, by="r"), "by is 'r'; it must be 'error' or 'correlation'"),
        (lambda: leave_one_out(K[:3, :3], Y[:3], ALPHAS), "of 4 images or more"),
        (lambda: leave_one_out(K, Y * np.inf, ALPHAS), "not finite"),
        (lambda: leave_one_out(K[:4], Y[:4], ALPHAS), r"of shape \[4, 5\]; expected \[4, 4\]"),
    ],
)
def test_what_makes_no_sense_is_said(problem, message):
    with pytest.raises(InputError, match=message):
        problem()
