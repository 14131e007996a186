"""Representational geometry against SciPy, the published formulas in float64, and truths that are known."""

import warnings
from typing import get_args

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kendalltau, spearmanr

from ipcl_jax import extract
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.config import Model
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.readout.kernels import layer_kernels
from ipcl_jax.readout.rsa import Comparison, cka, compare_rdms, kernel_alignment, rdm, to_rdm, upper


class Arrays:
    """Stimuli in memory."""

    def __init__(self, images):
        self.images, self.names = images, [f"{i}.png" for i in range(len(images))]

    def __getitem__(self, i):
        return self.images[i]


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_rdms_are_scipys(metric):
    features = np.random.default_rng(0).normal(2, 1, size=(30, 5, 4, 3)).astype(np.float32)
    expected = squareform(pdist(features.reshape(30, -1).astype(np.float64), metric))
    # float32 products; the euclidean one is the root of a difference.
    np.testing.assert_allclose(rdm(features, metric), expected, atol=2e-5, rtol=1e-5)
    with jax.disable_jit():
        np.testing.assert_allclose(rdm(features, metric), expected, atol=2e-5, rtol=1e-5)


def test_images_without_variation_and_equal_ones():
    features = np.ones((4, 6), np.float32)
    features[0] = features[1] = np.arange(6)
    found = rdm(features, "correlation")
    assert found[0, 1] == pytest.approx(0, abs=1e-6) and found[2, 3] == 1  # r of a constant counts as 0
    assert (np.diag(found) == 0).all()


@pytest.mark.parametrize("value", [0.1, 1e5 / 3, 1e-25 / 3, 1e30])
def test_rows_that_are_constant_have_r_0(value):
    features = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
    features[2:] = value
    found = rdm(features)
    assert (found[2:, :2] == 1).all() and found[2, 3] == 1


def test_small_variation_around_large_values_is_measured():
    rng = np.random.default_rng(0)
    features = np.float32(1 + 1e-5 * rng.normal(size=(6, 400)))
    expected = squareform(pdist(features.astype(np.float64), "correlation"))
    np.testing.assert_allclose(rdm(features), expected, atol=1e-4)
    for size in (2.0**-80, 2.0**80):  # whose squares float32 can't hold
        np.testing.assert_allclose(rdm(features * np.float32(size)), expected, atol=1e-4)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e5 / 3])
def test_cka_of_a_layer_that_is_the_same_in_all_images_is_zero(debiased, value):
    dead, alive = np.full((9, 20), value, np.float32), np.random.default_rng(0).normal(size=(9, 20))
    assert cka(dead, alive, debiased=debiased) == cka(dead, dead, debiased=debiased) == 0


def test_debiased_cka_of_images_equally_far_apart_is_zero():
    assert cka(np.eye(9), np.random.default_rng(0).normal(size=(9, 20)), debiased=True) == 0


@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_kernels_of_layers_are_those_of_extracted_features(memory):
    encoder = init_encoder(Model(fc_dim=32), name="small", size=64)
    images = Arrays(np.random.default_rng(0).integers(0, 256, (11, 70, 64, 3), np.uint8))
    layers, kernels = ("conv_block_5", "fc7"), ("correlation", "linear")
    transform, calls = make_transform("stimulus", 64), []
    reader = Reader(transform, batch_size=4, threads=1, progress=lambda *done: calls.append(done))
    found = layer_kernels(encoder, images, reader, layers, kernels, memory=memory)
    assert calls[-1] == ((3, 3) if memory > 1 else (6, 6))  # with little memory, a round for each batch
    pixels = np.stack([transform(image) for image in images.images])
    for layer, features in extract(encoder, pixels, layers).items():
        flat = np.asarray(features).reshape(11, -1).astype(np.float64)
        for metric, kernel in (("correlation", "correlation"), ("euclidean", "linear")):
            expected = squareform(pdist(flat, metric))
            # float32 throughout, and another compiled forward pass.
            np.testing.assert_allclose(
                to_rdm(found[layer][kernel], metric), expected, atol=1e-4 * expected.max()
            )


def test_an_image_that_cannot_be_read_stops_the_kernels():
    images = Arrays([b"nothing"] * 5)
    with pytest.raises(ConfigError, match="0.png can't be read"):
        encoder, reader = init_encoder(Model(fc_dim=32), size=64), Reader(make_transform("stimulus", 64))
        layer_kernels(encoder, images, reader, ["fc7"], ["linear"])


def plain_cka(x, y, debiased):
    """HSIC written out with loops over what the papers sum."""
    x, y = (z - z.mean(0) for z in (x, y))
    if not debiased:
        return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))

    def hsic(a, b):
        n = len(a)
        a, b = (k * (1 - np.eye(n)) for k in (a, b))
        ones = np.ones(n)
        return (
            np.trace(a @ b)
            + ones @ a @ ones * (ones @ b @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * ones @ a @ b @ ones
        ) / (n * (n - 3))

    a, b = x @ x.T, y @ y.T
    return hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_is_the_published_formula(debiased):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 12)).astype(np.float32)
    y = (x[:, :5] @ rng.normal(size=(5, 30)) + rng.normal(size=(40, 30)) + 3).astype(np.float32)
    expected = plain_cka(x.astype(np.float64), y.astype(np.float64), debiased)
    np.testing.assert_allclose(cka(x, y, debiased=debiased), expected, rtol=1e-5)  # float32 kernels
    rotated = x @ np.linalg.qr(rng.normal(size=(12, 12)))[0] * 7 + 1
    np.testing.assert_allclose(cka(x, rotated, debiased=debiased), 1, rtol=1e-5)


def pairwise_cka(kernel, other, debiased):
    """Kernels centred as matrices, one pair at a time, in float64."""

    def centred(k):
        k, n = k.astype(np.float64), len(k)
        k = k - k.mean(0) - k.mean(1, keepdims=True) + k.mean()
        if debiased:
            np.fill_diagonal(k, 0)
            sums = k.sum(0) / (n - 2)
            k = k - sums - sums[:, None] + sums.sum() / (n - 1)
            np.fill_diagonal(k, 0)
        return k

    a, b = centred(kernel), centred(other)
    return (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("memory", [1 << 30, 8 * 30 * 7 * 4, 1])
def test_alignment_of_all_pairs_of_layers(debiased, memory):
    rng = np.random.default_rng(1)
    layers = {name: rng.normal(2, 1, size=(30, width)).astype(np.float32) for name, width in (("a", 5), ("b", 90), ("c", 12))}
    others = {name: rng.normal(size=(30, 8)).astype(np.float32) + layers["a"][:, :1] for name in "wxyz"}
    others["z"] = np.full((30, 8), 0.1, np.float32)
    rows, columns = ({name: x @ x.T for name, x in some.items()} for some in (layers, others))
    found = kernel_alignment(rows, columns, debiased=debiased, memory=memory)
    assert found.shape == (3, 4) and (found[:, 3] == 0).all()
    expected = [[pairwise_cka(a, columns[b], debiased) for b in "wxy"] for a in rows.values()]
    np.testing.assert_allclose(found[:, :3], expected, rtol=0, atol=1e-12)  # both float64
    own = kernel_alignment(rows, debiased=debiased, memory=memory)
    expected = [[pairwise_cka(a, b, debiased) for b in rows.values()] for a in rows.values()]
    np.testing.assert_allclose(own, expected, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="Kernels are of 30 and 9 images"):
        kernel_alignment(rows, {"small": np.eye(9)})


def test_debiased_cka_of_unrelated_features_is_near_zero():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 60, 500))
    assert cka(x, y) > 0.8  # few images and many units look alike
    assert abs(cka(x, y, debiased=True)) < 0.1


def planted(noise, subjects=6, images=24, seed=0):
    """Two layers, and RDMs of subjects who have the first one's geometry and noise of their own."""
    rng = np.random.default_rng(seed)
    layers = {name: rng.normal(size=(images, 20)) for name in ("true", "other")}
    truth = squareform(pdist(layers["true"], "correlation"))
    measured = np.stack(
        [squareform(upper(truth) + noise * rng.normal(size=upper(truth).size)) for _ in range(subjects)]
    )
    return {name: rdm(layer) for name, layer in layers.items()}, measured


@pytest.mark.parametrize("method, theirs", [("spearman", spearmanr), ("tau-a", kendalltau), ("corr", None)])
def test_scores_are_scipys_and_the_true_layer_comes_first(method, theirs):
    models, measured = planted(noise=0.2)
    found = compare_rdms(models, measured, method=method)
    for name, model in models.items():
        for subject, score in zip(measured, found.by_subject[name], strict=True):
            pair = upper(model), upper(subject)
            # Without ties tau-a and tau-b are one.
            expected = np.corrcoef(*pair)[0, 1] if theirs is None else theirs(*pair).statistic
            np.testing.assert_allclose(score, expected, atol=1e-5)  # the model's RDM is float32
    low, high = found.ceiling
    assert abs(found.scores["other"]) < 0.1 < low < high
    assert low - 0.02 <= found.scores["true"] <= high + 0.02  # nothing but noise keeps the truth from 1


def test_the_ceiling_is_that_of_its_definition():
    _, measured = planted(noise=0.3)
    flat = upper(measured)
    z = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    others = [np.delete(z, s, 0).mean(0) for s in range(len(z))]
    low = np.mean([np.corrcoef(z[s], others[s])[0, 1] for s in range(len(z))])
    high = np.mean([np.corrcoef(z[s], z.mean(0))[0, 1] for s in range(len(z))])
    found = compare_rdms({"m": measured[0]}, measured, method="corr").ceiling
    np.testing.assert_allclose(found, (low, high), rtol=1e-6)


@pytest.mark.slow
def test_the_bootstrap_is_reproducible_and_knows_uncertainty():
    models, measured = planted(noise=0.2)
    state = np.random.get_state()[1].copy()
    found = [compare_rdms(models, measured, bootstrap=60, seed=seed).sem for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert all(0 < value < 0.3 for value in found[0].values())
    alone = compare_rdms(models, measured[:1], bootstrap=60)
    assert alone.ceiling is None and alone.sem["true"] > 0


def test_one_measured_rdm_is_one_subject():
    models, measured = planted(noise=0.2)
    alone, listed = compare_rdms(models, measured[0]), compare_rdms(models, measured[:1])
    assert alone.ceiling is None and alone.by_subject["true"].shape == (1,)
    assert alone.scores == listed.scores
    expected = spearmanr(upper(models["true"]), upper(measured[0])).statistic
    assert alone.scores["true"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", get_args(Comparison))
def test_a_layer_with_all_images_equally_far_apart_scores_zero(method):
    models, measured = planted(noise=0.2, subjects=3, images=8)
    flat = (
        np.zeros((8, 8))
        if method.startswith("cosine")
        else np.float32(0.1) * (1 - np.eye(8, dtype=np.float32))
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning)
        found = compare_rdms({"flat": flat, **models}, measured, method=method)
        alone = compare_rdms({"flat": flat}, measured, method=method)
    assert found.scores["flat"] == alone.scores["flat"] == 0 and list(found.scores) == [
        "flat",
        "true",
        "other",
    ]
    assert np.isfinite(list(found.scores.values())).all()
    assert found.scores["true"] == compare_rdms(models, measured, method=method).scores["true"]
    assert alone.ceiling == found.ceiling and np.isfinite(alone.ceiling).all()


def test_weighted_comparisons_run():
    models, measured = planted(noise=0.2)
    for method in ("corr_cov", "cosine_cov"):
        scores = compare_rdms(models, measured, method=method).scores
        assert scores["true"] > scores["other"]


@pytest.mark.parametrize(
    "problem, message",
    [
        (lambda m, r: compare_rdms(m, r[:, :5, :5]), r"RDM of true is \[24, 24\], and measured ones are \[5, 5\]"),
        (lambda m, r: compare_rdms(m, r[:, :, :5]), r"shape \[6, 24, 5\]; expected \[S, N, N\], or \[N, N\]"),
        (lambda m, r: compare_rdms(m, r + np.arange(24.0)), "measured data is not symmetric"),
        (lambda m, r: compare_rdms(m, 1 - r), "measured data is not zero on its diagonal"),
        (lambda m, r: compare_rdms(m, r * np.nan), "measured data holds dissimilarities that are not finite"),
        (lambda m, r: compare_rdms({"a": 1 - m["true"]}, r), "RDM of a is not zero on its diagonal"),
        (lambda m, r: compare_rdms({"a": m["true"] * np.nan}, r), "RDM of a holds dissimilarities that are not finite"),
        (lambda m, r: compare_rdms(m, 1.0 - np.eye(24)), "equally far apart in the measured RDM of subject 0"),
        (lambda m, r: compare_rdms(m, r, bootstrap=-1), "bootstrap is -1"),
        (lambda m, r: compare_rdms({}, r), "no models"),
        (lambda m, r: compare_rdms(m, r, method="spearmen"), "Did you mean 'spearman'"),
        (lambda m, r: rdm(r[0], "corelation"), "Did you mean 'correlation'"),
        (lambda m, r: rdm(r[0] * np.nan), "24 images are not finite"),
        (lambda m, r: cka(r[0], r[0, :5]), "24 and 5 images"),
        (lambda m, r: cka(r[0, :3], r[0, :3], debiased=True), "CKA of 3 images; it takes 4"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(problem, message):
    with pytest.raises(InputError, match=message):
        problem(*planted(noise=0.1))
