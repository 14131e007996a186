"""What every measure has in common: its contract, and what it refuses."""

import numpy as np
import pytest
from made_up_responses import make_up

from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.measures.base import Layer, Measure
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.registry import MEASURES, open_measure

LAYERS, RESPONSES, IMAGES = make_up(4, 24)
OPTIONS = MeasureOptions(conwell_dimensions=40)


def opened(name, responses=RESPONSES, images=IMAGES, ceilings=None):
    return open_measure(name, responses, ceilings or {}, images, OPTIONS)


@pytest.mark.parametrize("name", MEASURES)
def test_the_contract_is_kept(name):
    measure = opened(name)
    assert isinstance(measure, Measure) and measure.name == name
    shape = len(measure.groups), len(measure.splits), len(measure.sides)
    scores = {layer: measure.score(values) for layer, values in LAYERS.items()}
    for found in scores.values():
        assert found.shape == shape and found.dtype == np.float64 and (abs(found) <= 1).all()
    assert measure.ceiling().shape == shape[:2] and measure.ceiling().dtype == np.float64
    best = measure.best(scores)
    assert best.scores.shape == shape[:2] and best.layers.shape == (*shape[:2], 2) and best.how
    assert best.layers.min() >= 0 and best.layers.max() < 3 and best.layers.dtype == np.int64
    assert len(measure.interval(scores["true"])) == len(measure.interval(best.scores)) == shape[0]
    for others in (scores["deep"], best.scores):
        assert len(measure.compare(scores["true"], others)) in (1, shape[0])
    for same in measure.compare(best.scores, best.scores):
        assert (same.mean, same.t, same.p) == (0, 0, 1)
    assert measure.score(LAYERS["true"]).tolist() == scores["true"].tolist()


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("change, message", [
    (lambda y: y[None], r"The responses of sub1 are of shape \[1, 24, 7\]; expected \[N, V\]"),
    (lambda y: y[:, 0], r"of shape \[24\]"),
    (lambda y: y[:, :0], r"of shape \[24, 0\]"),
    (lambda y: y[:-1], "The responses of sub1 are to 23 images, and 24 are named"),
    (lambda y: np.where(y == y.max(), np.nan, y), "The responses of sub1 hold values that are not finite"),
    (lambda y: np.where(y == y.max(), np.inf, y), "not finite"),
])  # fmt: skip
def test_wrong_responses_are_refused(name, change, message):
    with pytest.raises(InputError, match=message):
        opened(name, RESPONSES | {"sub1": change(RESPONSES["sub1"])})


@pytest.mark.parametrize("name", MEASURES)
def test_too_few_images_and_images_named_twice_are_refused(name):
    few = {subject: values[:7] for subject, values in RESPONSES.items()}
    with pytest.raises(InputError, match="of 7 images.*it takes (8|15)"):
        opened(name, few, IMAGES[:7])
    with pytest.raises(InputError, match="Image 0.png is named twice"):
        opened(name, images=[IMAGES[0], *IMAGES[:-1]])
    with pytest.raises(InputError, match="no responses"):
        opened(name, {})


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("layer, message", [
    (Layer(np.ones((23, 3)), np.ones((23, 23))), r"\[23, 3\] and its kernel \[23, 23\]; expected .* 24 images"),
    (Layer(np.ones((24, 3, 1)), np.ones((24, 24))), r"\[24, 3, 1\]"),
    (Layer(np.full((24, 3), np.nan), np.ones((24, 24))), "not finite"),
])  # fmt: skip
def test_wrong_layers_are_refused(name, layer, message):
    with pytest.raises(InputError, match=message):
        opened(name).score(layer)


@pytest.mark.parametrize("ceiling, message", [
    (np.ones(3), r"The ceilings of sub1 are of shape \[3\]; expected \[7\]"),
    (np.full(7, 1.5), "not all between 0 and 1"),
])  # fmt: skip
def test_wrong_ceilings_are_refused(ceiling, message):
    with pytest.raises(InputError, match=message):
        opened("encoding", ceilings={"sub1": ceiling})


def test_an_unknown_measure_is_refused():
    with pytest.raises(InputError, match="No measure 'konkle2023'. Did you mean 'konkle2022'"):
        opened("konkle2023")


@pytest.mark.parametrize("name", ["versa", "rsa"])
def test_responses_without_geometry_are_refused(name):
    flat = RESPONSES["sub1"][:, :1] * [1, 2]  # patterns of all images are perfectly correlated or anticorrelated
    with pytest.raises(InputError, match="The responses of sub1: All images are equally far apart"):
        opened(name, RESPONSES | {"sub1": abs(flat)})


@pytest.mark.parametrize("option, message", [
    ({"konkle_alphas": ()}, "--measures.konkle-alphas is ; one or more must be given"),
    ({"encoding_alphas": (0.0, 1.0)}, "each above 0"),
    ({"encoding_folds": 1}, "two folds or more"),
    ({"konkle_standardise": "some"}, "--measures.konkle-standardise is 'some'"),
    ({"seed": -1}, "between 0 and"),
    ({"sparse_alpha": 0.0}, "greater than zero"),
    ({"konkle_splits": 0}, "greater than zero"),
])  # fmt: skip
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        MeasureOptions(**option)
