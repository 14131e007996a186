"""The numbers of an epoch."""

import warnings

import numpy as np
import pytest

from ipcl_jax.config import Model, Monitor, Objective, Train
from ipcl_jax.readout.spread import collapse_warning
from ipcl_jax.run.bank import References
from ipcl_jax.run.monitor import Embedded, measure, nearest_images

CONFIG = Train(name="one votes", monitor=Monitor(k=1))
CATEGORIES = Train(
    name="categories", monitor=Monitor(k=1), objective=Objective(name="categories"), model=Model(l2norm=False)
)


def test_accuracy_of_scores_beside_the_knn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 200)
    scores = rng.normal(size=(200, 12)).astype(np.float32)
    scores[np.arange(200), labels] += 1.5
    images = Embedded(scores, rng.normal(size=(200, 2, 12)).astype(np.float32), np.arange(200), labels)
    references = References(np.eye(12, dtype=np.float32), np.arange(12), np.arange(12))  # one image a class
    found = measure(images, references, CATEGORIES, n_classes=12)
    rank = (scores > scores[np.arange(200), labels][:, None]).sum(1)  # classes that score higher
    assert found["top1"] == np.mean(rank == 0) and found["top5"] == np.mean(rank < 5)
    assert 0.3 < found["top1"] < found["top5"] < 1
    assert found["knn_top1"] == found["top1"]  # the nearest unit vector is the largest score
    without = measure(images, references, CONFIG, n_classes=12)
    assert "top1" not in without and without.items() <= found.items()


@pytest.mark.parametrize("count, expected", [(0, set()), (1, {"knn_top1", "knn_top5"})])
def test_one_held_out_image_or_none_gives_no_number_that_needs_two(count, expected):
    one = np.eye(4, dtype=np.float32)[:count]
    images = Embedded(one, np.stack([one, one], 1), np.arange(count), np.zeros(count, int))
    references = References(np.eye(4, dtype=np.float32), np.arange(4), np.arange(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(images, references, CONFIG, n_classes=4)
        assert found.keys() == expected and collapse_warning(found) is None
        assert [len(part) for part in nearest_images(images, references)] == [count] * 3


def test_images_without_a_class_neither_vote_nor_are_asked():
    """Their label is -1, which is no place from the end."""
    unit = np.eye(4, dtype=np.float32)
    references = References(unit, np.arange(4), np.array([0, 1, 2, -1]))
    images = Embedded(unit, np.stack([unit, unit], 1), np.arange(4), np.array([0, 1, -1, 3]))
    found = measure(images, references, CATEGORIES, n_classes=4)
    assert found["top1"] == 1.0  # three are asked, each by its own score
    assert found["knn_top1"] == 2 / 3  # and the last one's nearest neighbour has no class
    nobody = Embedded(unit, np.stack([unit, unit], 1), np.arange(4), np.full(4, -1))
    assert not {"top1", "knn_top1"} & measure(nobody, references, CATEGORIES, n_classes=4).keys()
