"""Mixtures of sources: exact sizes, one seeded choice, labels, resuming."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ipcl_jax.config import ConfigError
from ipcl_jax.loading import TrainBatches
from ipcl_jax.mixture import MixtureSource
from ipcl_jax.sources import open_source


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Faces in two classes and places in three, of which one has the name of a class of faces."""
    root = tmp_path_factory.mktemp("mixture + more")  # a path may hold what stands between parts
    for kind, classes in (("faces", "ab"), ("places", "bcd")):
        for number, name in enumerate(classes):
            for split, count in (("train", 20), ("val", 3)):
                folder = root / kind / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    colour = (100 * (kind == "places") + 20 * number, i, 7)
                    Image.new("RGB", (9, 8), colour).save(folder / f"{i}.png")
    return root


def spec(folders, faces: str, places: str) -> str:
    return f"folder:{folders}/faces{faces} + folder:{folders}/places{places}"


def test_sizes_labels_and_names(folders):
    train = open_source(spec(folders, "@13", "@25"), "train")
    assert len(train) == 38
    assert train.classes == ("a", "1:b", "2:b", "c", "d")
    places = [train.describe(i) for i in range(38)]
    assert len(set(places)) == 38  # none twice
    assert all("/faces/" in place for place in places[:13]) and all(
        "/places/" in place for place in places[13:]
    )
    for i in range(38):
        image, label = train[i]
        folder = train.describe(i).split("/")[-2]
        assert train.classes[label].split(":")[-1] == folder
        assert image == open(train.describe(i), "rb").read()
    assert train[-1] == train[37]
    with pytest.raises(IndexError):
        train[38]
    val = open_source(spec(folders, "@13", "@25"), "val")
    assert len(val) == 6 + 9 and val.classes == train.classes  # all of them
    assert len(open_source(spec(folders, "", "@25"), "train")) == 40 + 25
    assert len(open_source(f"folder:{folders}/faces@7", "train")) == 7
    assert len(open_source(f"folder:{folders}/faces@7+sample", "train")) == 7 + 896


def test_the_choice_is_random_and_always_the_same(folders):
    def chosen(faces: str) -> list[str]:
        source = open_source(spec(folders, faces, "@25"), "train")
        return [source.describe(i) for i in range(len(source))]

    first = chosen("@13")
    assert first == chosen("@13")
    whole = open_source(f"folder:{folders}/faces", "train")
    assert first[:13] != [whole.describe(i) for i in range(13)]
    assert len({place.split("/")[-2] for place in first[:13]}) == 2  # of both classes
    assert set(first[:13]) < set(chosen("@20"))  # a larger share holds a smaller one


def test_order_is_seeded_and_resuming_exact(folders):
    source = open_source(spec(folders, "@13", "@25"), "train")
    again = pickle.loads(pickle.dumps(source))
    options = dict(batch_size=4, canvas=(8, 16), threads=2)

    def stream(source, seed: int, start: int, steps: int) -> list[dict]:
        with TrainBatches(source, seed=seed, start_step=start, **options) as batches:
            return [{name: value.copy() for name, value in next(batches).items()} for _ in range(steps)]

    unbroken, resumed = stream(source, 0, 0, 20), stream(again, 0, 11, 9)
    for one, other in zip(unbroken[11:], resumed, strict=True):
        for name in ("index", "label", "size"):
            np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_array_equal(one["canvas"][:, :8, :9], other["canvas"][:, :8, :9])
    epoch = np.concatenate([batch["index"] for batch in unbroken[:9]])
    assert len(set(epoch)) == 36  # of 38, each once
    assert (stream(source, 1, 0, 1)[0]["index"] != unbroken[0]["index"]).any()


def test_without_labels_and_what_is_refused(folders):
    unlabelled = open_source(f"folder:{folders}/faces + folder:{folders}/places/val/b@2", "train")
    assert unlabelled.classes == () and unlabelled[0][1] == -1 and len(unlabelled) == 42
    assert isinstance(unlabelled, MixtureSource)
    for faces, message in (("@41", "has 40 images and can't give 41"), ("@0", "can't give 0")):
        with pytest.raises(ConfigError, match=message):
            open_source(spec(folders, faces, ""), "train")
    with pytest.raises(ConfigError, match="which does not exist"):
        open_source(f"folder:{folders}/faces@3 + folder:{folders}/nowhere@3", "train")
