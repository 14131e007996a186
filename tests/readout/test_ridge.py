"""Encoding and voxel-encoding RSA against scikit-learn, and truths that are known."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from ipcl_jax.errors import InputError
from ipcl_jax.readout.kernels import kernel_matrix
from ipcl_jax.readout.ridge import RidgeReadout, correlation, encode, reliability_ceiling, versa

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0)


@pytest.mark.parametrize("n, width", [(60, 12), (40, 150)])
def test_ridge_is_scikit_learns(n, width):
    rng = np.random.default_rng(0)
    X = rng.normal(1, 1, size=(n, width)).astype(np.float32)
    Y = X[:, :4] @ rng.normal(size=(4, 9)) + rng.uniform(0.1, 9, 9) * rng.normal(size=(n, 9)) + 5
    expected = RidgeCV(ALPHAS, alpha_per_target=True).fit(X.astype(np.float64), Y)
    found = RidgeReadout(ALPHAS).fit(X.reshape(n, width // 2, 2), Y)
    np.testing.assert_array_equal(found.alpha_, expected.alpha_)
    assert len(set(found.alpha_)) > 1
    for ours, theirs in (
        (found.coef_, expected.coef_),
        (found.intercept_, expected.intercept_),
        (found.predict(X[:7]), expected.predict(X[:7])),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)  # both float64
    with jax.disable_jit():
        np.testing.assert_allclose(RidgeReadout(ALPHAS).fit(X, Y).coef_, expected.coef_, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(
        found.score(X, Y), [np.corrcoef(expected.predict(X)[:, v], Y[:, v])[0, 1] for v in range(9)]
    )


@pytest.mark.parametrize("value", [1.0, 0.1, -1e9 / 3, 1e-30 / 7])
def test_correlation_of_a_constant_is_zero(value):
    varying = np.random.default_rng(0).normal(size=(60, 1))
    dead = np.full((60, 1), value)
    assert correlation(dead, varying) == correlation(varying, dead) == correlation(dead, dead) == 0


def test_small_variation_is_none_the_less_variation():
    rng = np.random.default_rng(0)
    a = 1 + 1e-6 * rng.normal(size=(60, 3))
    b = a + 1e-6 * rng.normal(size=(60, 3))
    expected = [np.corrcoef(a[:, v], b[:, v])[0, 1] for v in range(3)]
    np.testing.assert_allclose(correlation(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(correlation(a * 1e-150, b * 1e-150), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_a_dead_voxel_counts_as_zero_everywhere(value):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 8)), rng.normal(size=(3, 40, 4))
    Y[..., 1] = value
    kernel = kernel_matrix(X, "linear")
    assert reliability_ceiling(Y)[1] == 0
    assert encode(kernel, Y)[1] == 0
    readout = RidgeReadout().fit(X[:25], Y[0, :25])
    assert readout.score(X[25:], Y[0, 25:])[1] == 0
    np.testing.assert_allclose(readout.predict(X)[:, 1], value, rtol=1e-15)
    alive = np.array([True, False, True, True])
    assert versa(kernel, [Y])[0] == versa(kernel, [Y[..., alive]])[0]
    with pytest.raises(InputError, match="fewer than two voxels that vary"):
        versa(kernel, [Y[..., 1:3]])
    np.testing.assert_array_equal(encode(kernel, Y)[alive], encode(kernel, Y[..., alive]))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_a_layer_that_is_the_same_in_all_images_predicts_nothing(value):
    rng = np.random.default_rng(0)
    X, Y = np.full((40, 8), value), rng.normal(size=(1, 40, 4))
    for kernel in (kernel_matrix(X, "linear"), X @ X.T):
        assert (encode(kernel, Y) == 0).all()
    readout = RidgeReadout().fit(X[:25], Y[0, :25])
    assert (readout.score(X[25:], Y[0, 25:]) == 0).all()


def planted(signal, subjects=3, images=96, voxels=15, repeats=4, seed=0):
    """Kernels of three layers, and voxels that are sums of the second one's units, with noise in each repeat."""
    rng = np.random.default_rng(seed)
    layers = {name: rng.normal(size=(images, 8)) for name in ("shallow", "true", "deep")}
    responses, clean = {}, {}
    for subject in range(subjects):
        clean[subject] = signal * layers["true"] @ rng.normal(size=(8, voxels)) / np.sqrt(8)
        noise = rng.normal(size=(repeats, images, voxels))
        responses[subject] = clean[subject] + noise
    return {name: kernel_matrix(layer, "linear") for name, layer in layers.items()}, responses, clean


def test_encoding_finds_the_planted_layer_up_to_the_ceiling():
    kernels, responses, clean = planted(signal=1.0)
    for subject, measured in responses.items():
        scores = {name: encode(kernel, measured).mean() for name, kernel in kernels.items()}
        assert max(scores, key=scores.get) == "true"
        ceiling = reliability_ceiling(measured)
        # What it estimates is known here: the correlation of the mean with the response without noise.
        np.testing.assert_allclose(
            ceiling.mean(), correlation(clean[subject], measured.mean(0)).mean(), atol=0.03
        )
        assert ceiling.mean() - 0.1 < scores["true"] < ceiling.mean() + 0.02
        # Voxels share 8 directions, and a fold has 19 images: the mean of chance spreads by 0.05.
        assert max(abs(scores["shallow"]), abs(scores["deep"])) < 0.15


def test_voxel_encoding_rsa_finds_the_planted_layer_up_to_the_ceiling():
    kernels, responses, _ = planted(signal=1.0)
    found = {name: versa(kernel, list(responses.values())) for name, kernel in kernels.items()}
    scores = {name: score.mean() for name, (score, _) in found.items()}
    assert found["true"][0].shape == (3,) and max(scores, key=scores.get) == "true"
    low, high = found["true"][1]
    assert 0 < low < high <= 1
    # Voxels differ between subjects, and each subject is predicted from its own; so the score may pass
    # a ceiling that others' RDMs set, but not a perfect one.
    assert low < scores["true"] < 1
    assert max(abs(scores["shallow"]), abs(scores["deep"])) < 0.15


def test_no_signal_gives_chance():
    kernels, responses, _ = planted(signal=0.0)
    for kernel in kernels.values():
        assert abs(np.mean([encode(kernel, measured).mean() for measured in responses.values()])) < 0.1
        assert abs(versa(kernel, list(responses.values()))[0].mean()) < 0.1
    assert reliability_ceiling(responses[0]).mean() < 0.5
    assert reliability_ceiling(responses[0][:1]) is None


def test_encoding_is_plain_ridge_fold_by_fold():
    """The kernel's way against scikit-learn on features, one fold at a time."""
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(30, 50)), rng.normal(size=(1, 30, 4))
    Y[0] += X[:, :4]
    folds = np.random.default_rng(0).permutation(30) % 3
    expected = []
    for fold in range(3):
        fitted, tested = folds != fold, folds == fold
        unit = X[fitted].var(0).sum()  # the mean over images of the squared distance from their mean
        alphas = [unit * alpha for alpha in (0.01, 0.1, 1.0)]
        ridge = RidgeCV(alphas, alpha_per_target=True).fit(X[fitted], Y[0, fitted])
        predicted = ridge.predict(X[tested])
        expected.append([np.corrcoef(predicted[:, v], Y[0, tested, v])[0, 1] for v in range(4)])
    found = encode(X @ X.T, Y, n_folds=3, alphas=(0.01, 0.1, 1.0))
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-6)


def test_geometry_of_predictions_is_scored_by_halves():
    """With voxels that are a layer's units and no noise, prediction is perfect, and so is the score."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(60, 6))
    scores, ceiling = versa(kernel_matrix(X, "linear"), [X[None]], alphas=(1e-6,))
    np.testing.assert_allclose(scores, 1, atol=1e-3)
    assert ceiling is None


X = np.random.default_rng(0).normal(size=(5, 2))
FITTED = RidgeReadout().fit(X, np.random.default_rng(1).normal(size=(5, 3)))


@pytest.mark.parametrize(
    "problem, message",
    [
        (lambda: RidgeReadout().fit(np.ones((5, 2)), np.ones((4, 2))), r"X is of 5 images and Y of shape \[4, 2\]"),
        (lambda: RidgeReadout().fit(np.ones((5, 2)), np.full((5, 2), np.nan)), "not finite"),
        (lambda: RidgeReadout((0.0,)).fit(np.ones((5, 2)), np.ones((5, 2))), "must be above 0"),
        (lambda: RidgeReadout(()).fit(np.ones((5, 2)), np.ones((5, 2))), "one or more must be given"),
        (lambda: RidgeReadout((np.nan,)).fit(np.ones((5, 2)), np.ones((5, 2))), "must be above 0"),
        (lambda: RidgeReadout().predict(np.ones((5, 2))), "not fitted yet"),
        (lambda: FITTED.predict(np.ones((4, 3))), "X has 3 features for each image, and the read-out was fitted to 2"),
        (lambda: FITTED.predict(np.full((4, 2), np.inf)), "not finite"),
        (lambda: FITTED.score(X, np.ones(5)), r"Y is of shape \[5\]; expected \[5, 3\]"),
        (lambda: FITTED.score(X, np.ones((5, 1))), r"Y is of shape \[5, 1\]; expected \[5, 3\]"),
        (lambda: FITTED.score(X, np.ones((1, 3))), r"Y is of shape \[1, 3\]"),
        (lambda: FITTED.score(X[:1], np.ones((1, 3))), "two images or more"),
        (lambda: FITTED.score(X, np.full((5, 3), np.nan)), "not finite"),
        (lambda: encode(np.eye(10), np.ones((1, 10, 2)), n_folds=5), "10 images .* 5 folds of 3 or more; take 2 to 3"),
        (lambda: versa(np.eye(6), [np.ones((1, 6, 2))]), "of 6 images; it takes 8"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(problem, message):
    with pytest.raises(InputError, match=message):
        problem()
