"""Where images come from: folders, TFDS without TensorFlow, the built-in sample, and what errors say."""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ipcl_jax.data import sample
from ipcl_jax.data.sources import open_source
from ipcl_jax.errors import ConfigError


def _write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (len(name), 0, 0)).save(path, "JPEG")


def _files(source) -> list[str]:
    return [Path(source.describe(i)).name for i in range(len(source))]


def test_a_folder_of_classes(tmp_path):
    _write(tmp_path, "train/cat/10.jpg", "train/cat/2.JPG", "train/cat/deep/er/1.jpeg", "train/dog/a.jpg")
    _write(tmp_path, "train/cat/.hidden.jpg", "train/cat/.cache/x.jpg", "train/.trash/x.jpg", "val/dog/b.jpg")
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    train = open_source(f"folder:{tmp_path}", "train")
    assert train.classes == ("cat", "dog")
    assert _files(train) == ["2.JPG", "10.jpg", "1.jpeg", "a.jpg"]  # natural order: 2 before 10
    assert [train[i][1] for i in range(len(train))] == [0, 0, 0, 1]
    assert train[0][0] == Path(train.describe(0)).read_bytes()
    val = open_source(f"folder:{tmp_path}", "val")
    assert (val.classes, _files(val), val[0][1]) == (("cat", "dog"), ["b.jpg"], 1)
    again = pickle.loads(pickle.dumps(train))
    assert (len(again), again[3], again.describe(3)) == (len(train), train[3], train.describe(3))


def test_without_val_every_twentieth_of_each_class_is_held_out(tmp_path):
    _write(tmp_path, *(f"train/a/{i}.jpg" for i in range(41)))
    _write(tmp_path, "train/b/0.jpg", "train/b/1.jpg", "train/c/0.jpg")
    train, val = (open_source(f"folder:{tmp_path}", split) for split in ("train", "val"))
    assert [val[i][1] for i in range(len(val))] == [0, 0, 0, 1]  # c's only image stays in train
    assert _files(val) == ["0.jpg", "20.jpg", "40.jpg", "0.jpg"]
    assert len(train) == 44 - 4
    assert not {train.describe(i) for i in range(len(train))} & {val.describe(i) for i in range(len(val))}


def test_one_folder_of_images_has_no_labels(tmp_path):
    _write(tmp_path, *(f"some/where/{i}.jpg" for i in range(25)))
    train, val = (open_source(f"folder:{tmp_path}", split) for split in ("train", "val"))
    assert train.classes == () and train[0][1] == -1
    assert _files(val) == ["0.jpg", "20.jpg"]
    assert _files(train) == [f"{i}.jpg" for i in range(25) if i % 20]


def test_a_link_is_followed(tmp_path):
    _write(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    (tmp_path / "set/train").mkdir(parents=True)
    (tmp_path / "set/train/cat").symlink_to(tmp_path / "elsewhere")
    assert _files(open_source(f"folder:{tmp_path}/set", "train")) == ["2.jpg"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smaple", "Did you mean 'sample'"),
        ("folder:", "missing"),
        ("sample:7", "takes nothing"),
        ("folder:{}/nowhere", "looked for a folder at {}/nowhere, which does not exist"),
        ("folder:{}/empty", "empty, which is empty"),
        ("folder:{}/texts", "which has 1 entries: readme.txt"),
        ("folder:{}/loose", "none, but 2 images"),
        ("{}/loose", "write folder:{}/loose"),
        ("tfds:imagnet2012", "Did you mean imagenet2012"),
        ("tfds:imagenet2012", "tfds build imagenet2012 --file_format=array_record --data_dir={}/tfds"),
        ("tfds:mnist:9.9.9", "9.9.9"),
        ("tfds:what is this", "TFDS can't open"),
    ],
)
def test_errors_say_what_was_looked_for_and_all_ways_to_give_images(tmp_path, spec, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/readme.txt").write_text("no image")
    _write(tmp_path, "loose/train/1.jpg", "loose/train/2.jpg")
    with pytest.raises(ConfigError, match=re.escape(message.format(tmp_path))) as error:
        open_source(spec.format(tmp_path), "train", dir=f"{tmp_path}/tfds")
    text = str(error.value)
    assert "--data.source sample" in text
    assert "--data.source folder:/path/to/images" in text
    assert "--data.source tfds:NAME --data.dir /path" in text


def test_a_class_that_only_val_has_is_an_error(tmp_path):
    _write(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg", "val/dgo/1.jpg")
    with pytest.raises(ConfigError, match="1 classes that .*train lacks, such as dgo"):
        open_source(f"folder:{tmp_path}", "val")


def test_identity_is_that_of_the_files(tmp_path):
    _write(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg", "val/a/1.jpg")
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.labels().tolist() == [source[i][1] for i in range(3)] == [0, 0, 1]
    before = source.identity()
    assert open_source(f"folder:{tmp_path}", "train").identity() == before
    os.utime(tmp_path / "train/a/2.jpg", (1, 1))  # as when it is written anew
    assert source.identity() != before
    _write(tmp_path, "train/b/2.jpg")
    assert open_source(f"folder:{tmp_path}", "train").identity() != source.identity()


def test_sample_windows_are_balanced_and_do_not_overlap():
    train, val = open_source("sample", "train"), open_source("sample", "val")
    for source, number in ((train, sample.SAMPLE_TRAIN), (val, sample.SAMPLE_VAL)):
        labels = [source[i][1] for i in range(len(source))]
        assert np.bincount(labels).tolist() == [number] * len(source.classes)
        image = source[0][0]
        assert image.dtype == np.uint8 and image.shape[2] == 3 and image.shape[0] == image.shape[1]
        assert source.labels().tolist() == labels
    assert train.identity() == open_source("sample", "train").identity() != val.identity()
    assert train.classes == val.classes and len(train.classes) == 14
    assert "astronaut, window 3" in train.describe(3)
    rows, columns = np.mgrid[:60, :100]
    places = np.stack([rows, columns, rows], -1).astype(np.uint8)  # a pixel's colour is its position
    windows = np.concatenate([w.reshape(-1, 3) for w in sample._windows(places, 20)])
    assert len(np.unique(windows, axis=0)) == len(windows)


def test_sample_without_its_packages_says_what_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    hide = lambda name, *rest: None if name == "skimage" else find_spec(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(ConfigError, match=re.escape("pip install 'ipcl_jax[demo]'")):
        open_source("sample", "train")


# Ten training and three test examples: files of 9x8 pixels, as an image and as plain arrays.
_BUILDER = """
import io, sys
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

def file(i):
    memory = io.BytesIO()
    Image.new("RGB", (9, 8), (20 * i, 0, 0)).save(memory, "PNG")
    memory.seek(0)
    return memory

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="files"), tfds.core.BuilderConfig(name="arrays")]

    def _info(self):
        files = self.builder_config.name == "files"
        image = tfds.features.Image() if files else tfds.features.Tensor(shape=(8, 9, 3), dtype=np.uint8)
        features = {"image": image, "label": tfds.features.ClassLabel(names=["even", "odd"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(10), "test": self._generate_examples(3)}

    def _generate_examples(self, number):
        for i in range(number):
            image = file(i) if self.builder_config.name == "files" else np.full((8, 9, 3), i, np.uint8)
            yield i, {"image": image, "label": i % 2}

for name in ("files", "arrays"):
    Tiny(data_dir=sys.argv[1], config=name, file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-c", _BUILDER, folder], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_tfds_without_tensorflow(tfds_dir):
    script = textwrap.dedent("""
        import io, pickle, sys
        from PIL import Image
        from ipcl_jax.data.sources import open_source
        from ipcl_jax.activations.preprocess import make_transform
        from ipcl_jax.activations.stimuli import open_stimuli
        train = open_source("tfds:tiny/files", "train", dir=sys.argv[1])
        assert (len(train), train.classes) == (10, ("even", "odd"))
        for source in (train, pickle.loads(pickle.dumps(train))):
            image, label = source[3]
            value = Image.open(io.BytesIO(image)).getpixel((0, 0))[0]
            assert label == value // 20 % 2, (label, value)
        assert len(open_source("tfds:tiny/files", "val", dir=sys.argv[1])) == 3
        assert train.describe(3) == "tfds:tiny/files train[3]"
        assert train.labels().tolist() == [train[i][1] for i in range(10)]
        others = [open_source(f"tfds:tiny/{name}", split, dir=sys.argv[1]) for name, split in
                  (("files", "train"), ("files", "val"), ("arrays", "train"))]
        assert [train.identity() == other.identity() for other in others] == [True, False, False]
        stimuli = open_stimuli(["tfds:tiny/files"], dir=sys.argv[1])
        assert list(stimuli.names) == [f"tfds:tiny/files test[{i}]" for i in range(3)]
        assert make_transform("stimulus", 64)(stimuli[2]).shape == (64, 64, 3)
        image, label = open_source("tfds:tiny/arrays", "train", dir=sys.argv[1])[0]
        assert image.shape == (8, 9, 3) and label == image[0, 0, 0] % 2
        assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "torch")]
    """)
    done = subprocess.run([sys.executable, "-c", script, tfds_dir], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tfds_labels_are_read_once_and_no_image_is_decoded(tfds_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("IPCL_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("files", "arrays"):
        source = open_source(f"tfds:tiny/{name}", "train", dir=str(tfds_dir))
        expected = [source[i][1] for i in range(10)]
        assert sorted(expected) == [0] * 5 + [1] * 5
        monkeypatch.setattr(type(source), "__getitem__", None)  # reads images
        assert source.labels().tolist() == expected and source.labels().dtype == np.int32
        monkeypatch.setattr(type(source), "_read_labels", None)
        again = open_source(f"tfds:tiny/{name}", "train", dir=str(tfds_dir))
        assert again.labels().tolist() == expected
        with pytest.raises(TypeError):  # other images have labels of their own
            open_source(f"tfds:tiny/{name}", "val", dir=str(tfds_dir)).labels()
        monkeypatch.undo()
        monkeypatch.setenv("IPCL_JAX_CACHE", str(tmp_path / "cache"))
    (kept, _) = (tmp_path / "cache/labels").iterdir()
    kept.write_bytes(b"damaged")
    for name in ("files", "arrays"):
        assert sorted(open_source(f"tfds:tiny/{name}", "train", dir=str(tfds_dir)).labels()) == [0] * 5 + [1] * 5


def test_the_same_tfds_data_twice_in_a_mixture(tfds_dir):
    spec = "tfds:tiny/files@2 + tfds:tiny/files:1.0.0@2"
    with pytest.raises(ConfigError, match="both read .*train.*would repeat"):
        open_source(spec, "train", dir=str(tfds_dir))
    assert len(open_source("tfds:tiny/files@2 + tfds:tiny/arrays@2", "train", dir=str(tfds_dir))) == 4


def test_tfds_data_in_a_format_without_random_access(tfds_dir, tmp_path):
    version = tmp_path / "tiny/files/1.0.0"
    version.mkdir(parents=True)
    for path in (tfds_dir / "tiny/files/1.0.0").iterdir():
        (version / path.name).write_bytes(path.read_bytes())
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ConfigError, match="prepared as tfrecord(.|\n)*tfds build tiny/files"):
        open_source("tfds:tiny/files", "train", dir=str(tmp_path))


def test_tfds_data_with_a_missing_or_damaged_file(tfds_dir, tmp_path):
    version = tmp_path / "tiny/files/1.0.0"
    version.mkdir(parents=True)
    for path in (tfds_dir / "tiny/files/1.0.0").iterdir():
        if "train" not in path.name:
            (version / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="can't be read"):
        open_source("tfds:tiny/files", "train", dir=str(tmp_path))


def test_tfds_names_the_splits_and_features_there_are(tfds_dir, tmp_path):
    version = tmp_path / "tiny/files/1.0.0"
    version.mkdir(parents=True)
    for path in (tfds_dir / "tiny/files/1.0.0").iterdir():
        (version / path.name).write_bytes(path.read_bytes())
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace('"test"', '"rest"'))
    with pytest.raises(ConfigError, match="no split validation or test, but train, rest"):
        open_source("tfds:tiny/files", "val", dir=str(tmp_path))
