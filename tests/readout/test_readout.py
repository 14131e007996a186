"""kNN, and how embeddings are laid out, against scikit-learn and plain float64 formulas."""

import h5py
import jax
import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from ipcl_jax.errors import InputError
from ipcl_jax.readout.knn import (
    EXCLUDED,
    KNNReadout,
    knn_scores,
    nearest,
    stratified_folds,
    unit_length,
    vote,
)
from ipcl_jax.readout.linear import LinearReadout
from ipcl_jax.readout.spread import collapse_warning, effective_rank, instance_retrieval, mean_cosine


def unit(features):
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def plain_nearest(queries, references, k, groups=None):
    """Every similarity in float64, sorted; of equal ones the lower row first."""
    found = unit(queries) @ unit(references).T
    if groups is not None:
        found[(groups[0][:, None] == groups[1]) | (groups[1] == EXCLUDED)[None]] = -np.inf
    rows = np.argsort(-found, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(found, rows, 1)
    return values, np.where(np.isinf(values), -1, rows)


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(10, 16))
    labels, tests = rng.integers(0, 10, 700), rng.integers(0, 10, 301)
    references = centers[labels] + 1.5 * rng.normal(size=(700, 16))
    queries = centers[tests] + 1.5 * rng.normal(size=(301, 16))
    return references.astype(np.float32), labels, queries.astype(np.float32), tests


@pytest.fixture
def tied():
    """Few directions, whose vectors are short sums of powers of two: similarities are exact, and many are equal."""
    rng = np.random.default_rng(1)
    corners = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T.astype(np.float32)  # length 2
    return corners[rng.integers(0, 16, 5000)], corners[rng.integers(0, 16, 40)]


@pytest.mark.parametrize("k", [1, 50, 200])
def test_knn_votes_like_scikit_learn(clusters, k):
    references, labels, queries, tests = clusters
    # On unit vectors the squared distance is 2 - 2 cosine, which gives the vote's weight.
    votes = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute")
    shares = votes.fit(unit(references), labels).predict_proba(unit(queries))
    readout = KNNReadout(k=k, temperature=0.07).fit(references, labels)
    ranked = readout.rank(queries)
    assert ranked.shape == (301, 5)
    np.testing.assert_array_equal(readout.predict(queries), shares.argmax(1))
    # Further places are compared by their votes: classes without a neighbour tie at 0.
    mine = np.take_along_axis(shares, ranked, 1)
    np.testing.assert_allclose(mine, -np.sort(-shares, 1)[:, :5], atol=1e-6)  # float32 votes
    assert readout.score(queries, tests) == np.mean(shares.argmax(1) == tests)
    assert readout.score(queries, tests, top=5) == np.mean((ranked == tests[:, None]).any(1))


@pytest.mark.parametrize("k", [1, 7, 300])
def test_ties_go_to_the_lower_row(tied, k):
    references, queries = tied
    values, rows = plain_nearest(queries, references, k)
    for block in (1 << 28, 4096):  # 4096 bytes: blocks of 256 references, of which the best are merged
        found = nearest(queries, references, k=k, block=block)
        np.testing.assert_array_equal(found[1], rows)
        np.testing.assert_array_equal(found[0], values.astype(np.float32))


def test_classes_with_equal_votes_go_to_the_lower_one():
    similarities, labels = np.full((1, 4), 0.5, np.float32), np.array([[3, 1, 3, 1]])
    assert vote(similarities, labels, 0.07, n_classes=5).tolist() == [[1, 3, 0, 2, 4]]


def test_nearest_is_that_of_plain_numpy(clusters, tmp_path):
    references, _, queries, _ = clusters
    values, rows = plain_nearest(queries, references, 20)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["references"], file["queries"] = references, queries
        kinds = {
            "in memory": (queries, references, {}),
            "on the device": (*jax.device_put((queries, references)), {}),
            "in blocks of 70": (queries, references, {"block": 70 * 64}),
            "from disk": (file["queries"], file["references"], {"block": 33 * 64}),
        }
        for kind, (*features, options) in kinds.items():
            found = nearest(*features, k=20, **options)
            np.testing.assert_array_equal(found[1], rows, err_msg=kind)
            np.testing.assert_allclose(found[0], values, atol=1e-6, err_msg=kind)  # float32 dot products
    with jax.disable_jit():
        eager = nearest(queries[:5], references, k=20)
    np.testing.assert_array_equal(eager[1], rows[:5])


def test_groups_are_not_neighbours(clusters):
    references, _, queries, _ = clusters
    own = np.arange(700)
    _, rows = nearest(references, references, k=3, groups=(own, own))  # leave one out
    np.testing.assert_array_equal(rows, plain_nearest(references, references, 3, (own, own))[1])
    groups = np.zeros(301, int), np.where(own < 690, EXCLUDED, 1)
    values, rows = nearest(queries, references, k=12, groups=groups)
    np.testing.assert_array_equal(rows, plain_nearest(queries, references, 12, groups)[1])
    assert (rows[:, 10:] == -1).all() and np.isneginf(values[:, 10:]).all()  # only ten are left


def test_several_k_and_temperatures_are_scored_at_once(clusters):
    references, labels, queries, tests = clusters
    found = knn_scores(queries, tests, references, labels, n_classes=10, k=(5, 50), temperature=(0.07, 1.0))
    assert [score[:2] for score in found] == [(5, 0.07), (5, 1.0), (50, 0.07), (50, 1.0)]
    for k, tau, top1, top5 in found:
        readout = KNNReadout(k=k, temperature=tau).fit(references, labels)
        assert (top1, top5) == (readout.score(queries, tests), readout.score(queries, tests, top=5))


def test_channels_are_normalised_place_by_place():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(6, 3, 3, 8)).astype(np.float32)
    features[2, 1, 1] = 0  # a place where nothing is active
    length = np.linalg.norm(features.astype(np.float64), axis=-1, keepdims=True)
    expected = (features / np.where(length > 0, length, 1)).reshape(6, -1)
    np.testing.assert_allclose(unit_length(features, "channels"), expected, atol=1e-7)
    values, _ = nearest(features, features, k=6, normalize="channels")
    products = expected @ expected.T  # Differs: up to 9 here, where `all` gives cosines
    np.testing.assert_allclose(values, -np.sort(-products, 1), rtol=1e-6, atol=1e-6)
    assert values.max() > 8
    labels = np.array([[0, 1, 0, 1, 0, 1]] * 6)
    assert np.isfinite(np.asarray(vote(values * 1000, labels, 0.07, n_classes=2))).all()


def test_strings_are_classes_too(clusters):
    references, labels, queries, tests = clusters
    named = KNNReadout(k=20).fit(references, np.array(list("abcdefghij"))[labels])
    numbered = KNNReadout(k=20).fit(references, labels)
    assert "".join(named.predict(queries[:4])) == "".join(
        "abcdefghij"[i] for i in numbered.predict(queries[:4])
    )


def test_folds_are_stratified():
    labels = np.random.default_rng(4).integers(0, 4, 203)
    folds = stratified_folds(labels, 5, seed=0)
    theirs = [np.bincount(labels[test]) for _, test in StratifiedKFold(5).split(labels, labels)]
    ours = [np.bincount(labels[folds == fold]) for fold in range(5)]
    # Shares of a class in any two folds differ by one image at most, as in scikit-learn.
    assert np.ptp(ours, axis=0).max() <= 1 and np.ptp(theirs, axis=0).max() <= 1
    np.testing.assert_array_equal(folds, stratified_folds(labels, 5, seed=0))
    assert (folds != stratified_folds(labels, 5, seed=1)).any()


@pytest.mark.parametrize(
    "problem, message",
    [
        (lambda X, y: KNNReadout(k=701).fit(X, y), "k is 701; it must lie between 1 and the number of images, 700"),
        (lambda X, y: KNNReadout().fit(X, y[:5]), r"700 images and labels of shape \[5\]"),
        (lambda X, y: KNNReadout().fit(X, 0 * y), "All 700 images are of one class"),
        (lambda X, y: KNNReadout(k=5).fit(X, y).predict(X[:, :4]), r"Queries have shape \[4\] each"),
        (lambda X, y: KNNReadout(k=5).fit(X, y).predict(X * np.nan), "700 images are not finite numbers"),
        (lambda X, y: nearest(X, X, k=0), "k is 0"),
        (lambda X, y: nearest(X, X, k=2.5), "k is 2.5"),
        (lambda X, y: nearest(X, X, k=2, normalize="chanels"), "Did you mean 'channels'"),
        (lambda X, y: KNNReadout(k=0).fit(X, y), "k is 0"),
        (lambda X, y: KNNReadout(k=5, temperature=0).fit(X, y), "temperature is 0; it must be a number above 0"),
        (lambda X, y: KNNReadout(k=5, temperature=-1.0).fit(X, y), "temperature is -1.0"),
        (lambda X, y: KNNReadout(k=5, temperature=np.nan).fit(X, y), "temperature is nan"),
        (lambda X, y: vote(np.ones((1, 2)), np.zeros((1, 2), int), 0.0, n_classes=2), "temperature is 0.0"),
        (lambda X, y: KNNReadout(k=5).fit(X, np.where(y == 3, np.nan, y)), "is .*nan.*, which is no class"),
        (lambda X, y: KNNReadout(k=5).fit(X, y + 0.5), "which is no class"),
        (lambda X, y: KNNReadout(k=5).fit(X, [None, *y[1:]]), "different types"),
        (lambda X, y: KNNReadout(k=5).fit(X, y[:, None]), r"labels of shape \[700, 1\]"),
        (lambda X, y: KNNReadout(k=5).fit(X[:0], y[:0]), r"X is of shape \[0, 16\]"),
        (lambda X, y: KNNReadout(k=5).fit(X[:, 0], y), r"X is of shape \[700\]"),
        (lambda X, y: KNNReadout(k=5).predict(X), "not fitted yet; call fit"),
        (lambda X, y: KNNReadout(k=5).score(X, y), "not fitted yet; call fit"),
        (lambda X, y: LinearReadout().predict(X), "not fitted yet; call fit"),
        (lambda X, y: knn_scores(X, y, X, y, n_classes=10, k=5, temperature=0.0), "temperature is 0.0"),
        (lambda X, y: knn_scores(X, y, X, y, n_classes=10, k=(5, 0)), "k is 0"),
        (lambda X, y: knn_scores(X, y[:, None], X, y, n_classes=10, k=5), r"labels are \[700, 1\]"),
        (lambda X, y: knn_scores(X, y, X, y[:5], n_classes=10, k=5), r"reference_labels are \[5\]"),
        (lambda X, y: knn_scores(X, y, X, y, n_classes=9, k=5), "class 9 votes; classes go from 0 to 8"),
        (lambda X, y: knn_scores(X, y, X, y, n_classes=10, k=5, groups=(0 * y, 0 * y)), "700 images have no neighbour"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(clusters, problem, message):
    references, labels, *_ = clusters
    with pytest.raises(ValueError, match=message):
        problem(references, labels)


@pytest.fixture(scope="module", params=["kNN", "linear"])
def fitted(request):
    rng = np.random.default_rng(0)
    X, X2 = rng.normal(size=(60, 8)), rng.normal(size=(50, 8))
    y, y2 = ((x[:, 0] > 0).astype(int) for x in (X, X2))
    readout = KNNReadout(k=5) if request.param == "kNN" else LinearReadout(epochs=2, lr=1.0)
    return readout.fit(X, y), X2, y2


@pytest.mark.parametrize(
    "labels, message",
    [
        (lambda y: y[:, None], r"50 images and labels of shape \[50, 1\]"),
        (lambda y: np.eye(2)[y], r"labels of shape \[50, 2\]"),
        (lambda y: y[:1], r"labels of shape \[1\]"),
        (lambda y: 1, r"labels of shape \[\]"),
        (lambda y: y.astype(str), r"Labels are text .*, and fit was given numbers"),
        (lambda y: y.astype("S"), r"Labels are bytes"),
        (lambda y: y.astype(str).astype(object), r"Labels are text"),
        (lambda y: np.where(y, np.nan, 0), "which is no class"),
        (lambda y: [None, *y[1:]], "different types"),
    ],
)
def test_scores_against_labels_that_do_not_fit_are_refused(fitted, labels, message):
    readout, X, y = fitted
    with pytest.raises(InputError, match=message):
        readout.score(X, labels(y))


def test_scores_against_labels_in_other_clothes(fitted):
    readout, X, y = fitted
    expected = np.mean(readout.predict(X) == y)
    for labels in (y, y.tolist(), y.astype(float), y.astype(bool), y.astype(object), y.astype(np.uint8)):
        assert readout.score(X, labels) == expected
    assert readout.score(X, y + 7) == 0  # classes that fit did not see
    assert readout.score(X, y, top=2) == readout.score(X, y, top=9) == 1


@pytest.mark.parametrize("top", [0, -1, 1.5, True, None])
def test_top_is_a_whole_number(fitted, top):
    readout, X, y = fitted
    with pytest.raises(InputError, match="top is"):
        readout.score(X, y, top=top)


@pytest.mark.parametrize(
    "X", [np.ones((50, 7)), np.ones((50, 9)), np.ones((0, 8)), np.ones(8), np.full((50, 8), "a")]
)
def test_features_unlike_those_of_fit_are_refused(fitted, X):
    readout, _, y = fitted
    for call in (readout.predict, lambda X: readout.score(X, y[: len(X)])):
        with pytest.raises(InputError):
            call(X)


def test_a_read_out_before_fit_is_an_attribute_error_too():
    with pytest.raises(AttributeError):
        KNNReadout().predict(np.ones((3, 2)))


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


def test_one_point_with_the_rounding_of_float32_has_rank_one():
    rng = np.random.default_rng(3)
    point = rng.normal(size=64)
    nearly = np.float32(point) * (1 + 1e-7 * rng.normal(size=(5000, 64))).astype(np.float32)
    assert effective_rank(nearly) == 1.0
    close = point + 1e-9 * rng.normal(size=(500, 64))  # small, and true in float64
    assert effective_rank(close) > 50


def test_embeddings_of_zeros_make_no_nan():
    zeros = np.zeros((5, 8), np.float32)
    assert mean_cosine(zeros) == 0
    assert effective_rank(zeros) == 1.0


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_neighbours_do_not_depend_on_the_size_of_features(clusters, size):
    references, _, queries, _ = clusters
    expected = nearest(queries, references, k=5)
    found = nearest(queries * np.float32(size), references, k=5)
    np.testing.assert_array_equal(found[1], expected[1])


def test_collapse_is_told_apart():
    assert "mean cosine of 0.990" in collapse_warning({"mean_cosine": 0.99, "effective_rank": 9.0})
    assert collapse_warning({"effective_rank": 1.2})
    assert collapse_warning({"mean_cosine": 0.5, "effective_rank": 30.0}) is None
    assert collapse_warning({}) is None
