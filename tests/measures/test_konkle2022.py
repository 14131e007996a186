"""The paper's measure against scikit-learn in a loop that leaves one image out, and all splits enumerated."""

import itertools

import numpy as np
import pytest
from made_up_responses import as_layer, make_up
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ipcl_jax.errors import InputError
from ipcl_jax.measures.geometry import pattern_rdm
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.registry import open_measure
from ipcl_jax.measures.subject_halves import halves_of


def opened(responses, images, name="konkle2022", **options):
    return open_measure(name, responses, {}, images, MeasureOptions(**options))


def predict_plainly(X, Y, alphas=(0.1, 1.0, 10.0), per_voxel=False, standardise="none"):
    """Held-out predictions of scikit-learn's ridge regression, one image after another."""
    predicted = np.empty_like(Y)
    if standardise == "all":
        X = StandardScaler().fit_transform(X)
    for image in range(len(X)):
        others = np.arange(len(X)) != image
        scaler = StandardScaler(with_mean=standardise == "fitted", with_std=standardise == "fitted").fit(X[others])
        ridge = RidgeCV(alphas, alpha_per_target=per_voxel).fit(scaler.transform(X[others]), Y[others])
        predicted[image] = ridge.predict(scaler.transform(X[image : image + 1]))[0]
    return predicted


def compare_plainly(predicted, measured):
    """Scores of both halves of every split and the ceilings, from RDMs `[N, N]` of each subject."""
    subjects, count = len(measured), len(measured[0])
    below = np.tril_indices(count, -1)
    found, seen = {}, set()
    for half in itertools.combinations(range(subjects), subjects // 2):
        rest = tuple(s for s in range(subjects) if s not in half)
        if frozenset((half, rest)) in seen:
            continue
        seen.add(frozenset((half, rest)))
        means = [[np.mean([rdms[s] for s in part], axis=0)[below] for part in (half, rest)] for rdms in (predicted, measured)]
        scores = [np.corrcoef(a, b)[0, 1] for a, b in zip(*means, strict=True)]
        found[half] = scores, np.corrcoef(*means[1])[0, 1]
    return found


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices of 72 x 72 are decomposed several times faster by one thread than by many."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("subjects, images, splits, options", [
    (10, 72, 126, {"units": 30}),
    (7, 40, 35, {"units": 90}),
    (7, 20, 35, {"konkle_per_voxel": True, "konkle_alphas": (0.1, 10.0, 1000.0)}),
    (4, 20, 3, {"konkle_standardise": "all"}),
    (5, 20, 10, {"konkle_standardise": "fitted", "konkle_alphas": (1.0, 30.0)}),
])  # fmt: skip
def test_it_is_the_brute_force(subjects, images, splits, options):
    options = dict(options)
    units = options.pop("units", 90)
    layers, responses, names = make_up(subjects, images, voxels=4, units=units, noise=2.0)
    X = layers["true"].features
    plain = {key.removeprefix("konkle_"): value for key, value in options.items()}
    predicted = [1 - np.corrcoef(predict_plainly(X, Y, **plain)) for Y in responses.values()]
    expected = compare_plainly(predicted, [1 - np.corrcoef(Y) for Y in responses.values()])
    measure = opened(responses, names, **options)
    found = measure.score(layers["true"])
    assert found.shape == (1, splits, 2) and len(measure.splits) == len(expected) == splits
    assert measure.groups == ("+".join(responses),)
    order = [tuple(list(responses).index(name) for name in split.split("+")) for split in measure.splits]
    # All in float64, but for the order of sums.
    np.testing.assert_allclose(found[0], [expected[half][0] for half in order], rtol=0, atol=1e-8)
    np.testing.assert_allclose(measure.ceiling()[0], [expected[half][1] for half in order], rtol=0, atol=1e-8)
    assert np.ptp(found) > 0.01


def test_classic_rsa_is_the_brute_force():
    layers, responses, names = make_up(7, 30)
    units = [1 - np.corrcoef(layers["true"].features)] * 7
    expected = compare_plainly(units, [1 - np.corrcoef(Y) for Y in responses.values()])
    found = opened(responses, names, "konkle2022-classic").score(layers["true"])
    np.testing.assert_allclose(found[0], [scores for scores, _ in expected.values()], rtol=0, atol=1e-8)


def test_the_best_layer_of_one_half_is_scored_in_the_other():
    layers, responses, names = make_up(5, 20, noise=3.0)
    measure = opened(responses, names)
    scores = {name: measure.score(layer) for name, layer in layers.items()}
    best, table = measure.best(scores), np.stack(list(scores.values()))[:, 0]
    for split in range(10):
        first, second = table[:, split, 0].argmax(), table[:, split, 1].argmax()
        assert best.layers[0, split].tolist() == [second, first]
        z = np.arctanh([table[second, split, 0], table[first, split, 1]])
        np.testing.assert_allclose(best.scores[0, split], np.tanh(z.mean()), rtol=1e-12)
    (interval,) = measure.interval(scores["true"])
    assert interval.low < interval.mean < interval.high
    (interval,) = measure.interval(best.scores)
    np.testing.assert_allclose(interval.mean, np.tanh(np.arctanh(best.scores).mean()), rtol=1e-12)
    (difference,) = measure.compare(scores["true"], scores["deep"])
    assert difference.mean > 0 and difference.df == 9 and 0 < difference.p < 1
    assert measure.compare(best.scores, best.scores)[0].p == 1


def test_a_layer_without_information_scores_nothing_but_what_the_means_give():
    layers, responses, names = make_up(6, 40, voxels=20)
    measure = opened(responses, names)
    assert (measure.score(as_layer(np.full((40, 5), 0.1))) == 0).all()
    noise = as_layer(np.random.default_rng(9).normal(size=(40, 300)))
    assert abs(measure.score(noise).mean()) < 0.2 < measure.score(layers["true"]).mean()
    # The same noise, so small that the penalties leave nothing of it: what remains are means of the other images.
    nothing = as_layer(1e-6 * noise.features)
    np.testing.assert_allclose(measure.score(nothing), measure.without_layer(), atol=1e-3)
    assert measure.without_layer().min() > 0.3


def test_voxels_that_do_not_vary_are_left_out():
    layers, responses, names = make_up(4, 20)
    dead = {name: np.insert(values, 1, 0.1, axis=1) for name, values in responses.items()}
    with_dead, without = opened(dead, names), opened(responses, names)
    np.testing.assert_array_equal(with_dead.score(layers["true"]), without.score(layers["true"]))
    np.testing.assert_array_equal(with_dead.ceiling(), without.ceiling())
    dead["sub2"] = dead["sub2"][:, [0, 1]]
    with pytest.raises(InputError, match="1 voxels of sub2 vary"):
        opened(dead, names)


@pytest.mark.parametrize("subjects, splits", [(4, 3), (5, 10), (6, 10), (7, 35), (10, 126), (12, 462), (13, 100)])
def test_every_split_is_taken_once(subjects, splits):
    halves = halves_of(subjects, 100 if subjects == 13 else 1000, 0)
    assert len({frozenset((tuple(half), tuple(~half))) for half in halves}) == len(halves) == splits
    assert (halves.sum(1) == subjects // 2).all()
    np.testing.assert_array_equal(halves, halves_of(subjects, 100 if subjects == 13 else 1000, 0))


def test_many_subjects_are_drawn_by_the_seed():
    first, second = halves_of(13, 100, 0), halves_of(13, 100, 1)
    assert (first != second).any()
    even = halves_of(14, 50, 0)
    assert even[:, 0].all() and len(np.unique(even, axis=0)) == 50 and (even.sum(1) == 7).all()


def test_fewer_than_four_subjects_are_refused():
    _, responses, names = make_up(3)
    with pytest.raises(InputError, match="3 can't be halved; give 4 or more"):
        opened(responses, names)


def test_rdms_are_numpys():
    rng = np.random.default_rng(0)
    for values in (rng.normal(5, 1, (9, 7)), rng.normal(size=(9, 7)).astype(np.float32)):
        expected = (1 - np.corrcoef(values.astype(np.float64)))[np.tril_indices(9, -1)]
        np.testing.assert_allclose(pattern_rdm(values), expected, rtol=0, atol=1e-13)
    values[3] = 0.1
    constant = pattern_rdm(values)[np.any(np.array(np.tril_indices(9, -1)) == 3, axis=0)]
    np.testing.assert_array_equal(constant, 1)
