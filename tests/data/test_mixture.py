"""Mixtures of sources: exact sizes, one seeded choice, labels, resuming."""

import pickle
import re

import numpy as np
import pytest
from PIL import Image

from ipcl_jax.data.loader import TrainBatches
from ipcl_jax.data.mixture import MixtureSource, split_mixture
from ipcl_jax.data.sources import open_source
from ipcl_jax.errors import ConfigError

DRAWN = [0, 1, 5, 10, 14, 15, 21, 22, 26, 32, 33, 35, 38]  # by NumPy 2.4, 13 of 40 images of the first part


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
    assert train.labels().tolist() == [train[i][1] for i in range(38)]
    assert train.identity() != open_source(spec(folders, "@12", "@25"), "train").identity()
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
    # Which ones, so that an upgrade that draws others does not go unnoticed.
    assert [whole.describe(i) for i in DRAWN] == first[:13]


def test_order_is_seeded_and_resuming_exact(folders):
    source = open_source(spec(folders, "@13", "@25"), "train")
    again = pickle.loads(pickle.dumps(source))
    options = dict(batch_size=4, canvas=(8, 16), threads=2)

    def stream(source, seed: int, start: int, steps: int, workers: int = 0) -> list[dict]:
        with TrainBatches(source, seed=seed, start_step=start, workers=workers, **options) as batches:
            return [{name: value.copy() for name, value in next(batches).items()} for _ in range(steps)]

    def same(batches: list[dict], others: list[dict]) -> None:
        for one, other in zip(batches, others, strict=True):
            for name in ("index", "label", "size"):
                np.testing.assert_array_equal(one[name], other[name])
            np.testing.assert_array_equal(one["canvas"][:, :8, :9], other["canvas"][:, :8, :9])

    unbroken = stream(source, 0, 0, 20)
    same(unbroken[11:], stream(again, 0, 11, 9))
    same(unbroken[11:], stream(source, 0, 11, 9, workers=2))
    epoch = np.concatenate([batch["index"] for batch in unbroken[:9]])
    assert len(set(epoch)) == 36  # of 38, each once
    assert (stream(source, 1, 0, 1)[0]["index"] != unbroken[0]["index"]).any()


def test_every_image_of_an_epoch_has_its_own_label(folders):
    source = open_source(spec(folders, "@13", "@25"), "train")
    with TrainBatches(source, seed=0, batch_size=19, canvas=(8, 16), threads=1) as batches:
        epoch = [next(batches) for _ in range(2)]
    for batch in epoch:
        assert len({index < 13 for index in batch["index"]}) == 2  # both parts in every batch
        for index, label in zip(batch["index"], batch["label"], strict=True):
            assert label == source[index][1]
    assert np.bincount(np.concatenate([batch["label"] for batch in epoch]), minlength=5).sum() == 38


def test_without_labels(folders):
    mixture = open_source(f"folder:{folders}/faces + folder:{folders}/places/val/b@2", "train")
    assert isinstance(mixture, MixtureSource)
    assert mixture.classes == () and mixture[0][1] == -1 and len(mixture) == 42


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sample", [("sample", None)]),
        ("sample @ 3", [("sample", 3)]),
        ("folder:a@1,281,167+sample@1_000", [("folder:a", 1281167), ("sample", 1000)]),
        ("tfds:a/b:1.*.*@7 + folder:c++/d + e", [("tfds:a/b:1.*.*", 7), ("folder:c++/d + e", None)]),
        ("folder:me@home/faces + sample", [("folder:me@home/faces", None), ("sample", None)]),
        ("folder:faces@64/", [("folder:faces@64/", None)]),
        ("folder:a+sample/b", [("folder:a+sample/b", None)]),
    ],
)
def test_how_a_mixture_is_written(text, parts):
    assert split_mixture(text) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder:{}/faces@41", "faces train has 40 images and can't give 41"),
        ("sample + folder:{}/faces@0", "can't give 0"),
        ("folder:{}/faces@3 + folder:{}/nowhere@3", "nowhere, which does not exist"),
        ("folder:{}/faces@3 + fodler:{}/places@3", "Did you mean 'folder'"),
        ("folder:{}/faces@3 + {}/places@3", "write folder:{}/places"),
        ("folder:{}/faces@10k", "after its @ stands a number of images, such as @1000, not '10k'"),
        ("sample@3 + sample@4", "has sample more than once"),
        ("+ sample@3", "lacks a source beside a +"),
        ("@3", "lacks a source beside a + or an @"),
    ],
)
def test_what_is_refused(folders, text, message):
    with pytest.raises(ConfigError, match=re.escape(message.replace("{}", str(folders)))):
        open_source(text.replace("{}", str(folders)), "train")


def test_the_same_folder_under_two_spellings_is_refused(folders, monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(folders / "faces")
    monkeypatch.chdir(folders)
    monkeypatch.setenv("HOME", str(folders))
    first = f"folder:{folders}/faces@3"
    for other in ("{}/faces/", "{}/places/../faces@4", "faces", "~/faces", "{}/faces/train", "{}/faces/train/a@2"):
        with pytest.raises(ConfigError, match="and both read .*faces.*would repeat images"):
            open_source(f"{first} + folder:{other.format(folders)}", "train")
    with pytest.raises(ConfigError, match="and both read"):
        open_source(f"{first} + folder:{tmp_path}/link", "train")
    beside = f"folder:{folders}/faces@3 + folder:{folders}/faces/val@2"  # images of its own
    assert len(open_source(beside, "train")) == 5


def test_a_part_is_read_in_another_process_as_it_was_drawn(folders):
    source = open_source(spec(folders, "@13", ""), "train")
    data = pickle.dumps(source)
    again = pickle.loads(data)
    assert [again.describe(i) for i in range(len(again))] == [source.describe(i) for i in range(len(source))]
    assert again.labels().tolist() == source.labels().tolist() and again.identity() == source.identity()


def test_what_is_sent_does_not_grow_with_the_images():
    class Many:
        name, classes, notes, places = "many", ("a",), (), ()

        def __init__(self, total):
            self.total = total

        def __len__(self):
            return self.total

    few, many = (MixtureSource([Many(total)] * 2, [None, total // 2]) for total in (100, 100_000))
    few_state, many_state = (len(pickle.dumps(source.__getstate__()["_sizes"])) for source in (few, many))
    assert abs(many_state - few_state) < 10
    assert not any(isinstance(value, np.ndarray) and value.size > 2 for value in many.__getstate__().values())
