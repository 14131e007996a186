"""The command that shrinks a folder of images before training."""

import errno
import functools
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from command_line import run, script
from ipcl_jax.data.sources import open_source


def _picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(width).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.BICUBIC).convert(mode)


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "originals"
    (folder / "train/cat/deep").mkdir(parents=True)
    _picture(120, 90).save(folder / "train/cat/wide.JPEG", "JPEG", quality=98)
    _picture(90, 300).save(folder / "train/cat/tall.png")
    _picture(90, 80).save(folder / "train/cat/misnamed.jpg", "PNG")
    _picture(30, 50).save(folder / "train/cat/deep/small.jpg", "JPEG", quality=60)
    _picture(1, 1).save(folder / "train/cat/deep/dot.png")
    for mode in ("L", "RGBA", "P", "I;16"):
        _picture(90, 80, mode).save(folder / f"train/cat/{mode.replace(';', '')}.png")
    _picture(90, 80, "CMYK").save(folder / "train/cat/CMYK.jpg")
    (folder / "train/cat/notes.txt").write_text("not an image")
    return folder


prepare = functools.partial(run, "prepare.py")


def test_prepare_shrinks_resumes_and_cleans_up(originals, tmp_path):
    copies = tmp_path / "copies"
    text = prepare(originals, copies, "--size", 40, "--processes", 2)
    assert "10/10" in text
    names = {str(path.relative_to(copies)) for path in copies.rglob("*") if path.is_file()}
    stems = ["wide", "tall", "misnamed", "deep/small", "deep/dot", "L", "RGBA", "P", "I16", "CMYK"]
    assert names == {f"train/cat/{stem}.jpg" for stem in stems}

    images = {stem: Image.open(copies / f"train/cat/{stem}.jpg") for stem in stems}
    assert {image.format for image in images.values()} == {"JPEG"}
    assert images["wide"].size == (53, 40)  # int(40 * 120 / 90)
    assert images["tall"].size == (40, 133)
    assert images["deep/dot"].size == (1, 1)
    small = "train/cat/deep/small.jpg"
    assert (copies / small).read_bytes() == (originals / small).read_bytes()
    with Image.open(originals / "train/cat/tall.png") as original:
        expected = original.resize((40, 133), Image.BILINEAR)
    difference = np.abs(np.asarray(images["tall"]).astype(int) - np.asarray(expected))
    assert difference.mean() < 2  # JPEG at quality 95

    # A run that was killed leaves images out, and one half written.
    kept = (copies / "train/cat/tall.jpg").stat().st_mtime_ns
    (copies / "train/cat/wide.jpg").unlink()
    (copies / "train/cat/.wide.jpg.1234.part").write_bytes(b"half an im")
    assert "9 of 10 images are there already" in prepare(originals, copies, "--size", 40, "--processes", 1)
    assert {str(path.relative_to(copies)) for path in copies.rglob("*") if path.is_file()} == names
    assert (copies / "train/cat/tall.jpg").stat().st_mtime_ns == kept


def test_unreadable_images_are_listed_and_have_no_copy(originals, tmp_path):
    whole = (originals / "train/cat/wide.JPEG").read_bytes()
    (originals / "train/cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    small = (originals / "train/cat/deep/small.jpg").read_bytes()
    (originals / "train/cat/cut small.jpg").write_bytes(small[:-9])
    (originals / "train/cat/empty.png").write_bytes(b"")
    text = prepare(originals, tmp_path / "copies", "--size", 40, "--processes", 1, code=1)
    assert "3 images can't be read" in text
    for name in ("cut.jpg", "cut small.jpg", "empty.png"):
        assert f"{originals}/train/cat/{name}: " in text
        assert not (tmp_path / "copies/train/cat" / name).with_suffix(".jpg").exists()
    assert (tmp_path / "copies/train/cat/wide.jpg").exists()


def test_what_cannot_be_done_is_said_before_anything_is_written(originals, tmp_path):
    prepare = script("prepare.py")
    from rich.console import Console

    from ipcl_jax.errors import ConfigError

    def refused(match: str, src: Path, dst: Path, **options) -> None:
        with pytest.raises(ConfigError, match=match):
            prepare.prepare(prepare.Prepare(src, dst, **options), Console(file=io.StringIO()))
        assert not dst.is_dir()

    copies = tmp_path / "copies"
    refused("nowhere is not a folder", tmp_path / "nowhere", copies)
    refused("lies in", originals, originals / "copies")
    refused("quality is 0", originals, copies, quality=0)
    refused("at least 1", originals, copies, size=0)
    (tmp_path / "empty").mkdir()
    refused("holds no image files", tmp_path / "empty", copies)
    (tmp_path / "file").write_text("")
    refused("file is a file", originals, tmp_path / "file")
    _picture(20, 20).save(originals / "train/cat/wide.png")
    refused("1 copies would have two originals, such as .*wide.* and .*wide", originals, copies)


def _flat(root: Path) -> list[str]:
    """A class of training images, and held-out ones in one folder as ImageNet's."""
    names = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 5)]
    for name in ("train/n01/a", "train/n02/a", *(f"val/{name}" for name in names)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _picture(9, 8).save(f"{root / name}.JPEG", "JPEG")
    return names


def _kit(folder: Path, numbers: str) -> Path:
    """The development kit's ground truth, and its table of classes."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    table = np.array([(1, "n02", 0), (2, "n01", 0), (3, "n00", 2)], fields)  # the last is a group of the others
    (folder / "data").mkdir(parents=True)
    scipy.io.savemat(folder / "data/meta.mat", {"synsets": table})
    path = folder / "data/ILSVRC2012_validation_ground_truth.txt"
    path.write_text(numbers)
    return path


LISTS = {
    "kaggle": "ImageId,PredictionString\n{3},n01 9 9 10 10\n{0},n01 1 2 3 4 n01 5 6 7 8\n{1},n02 1 2 3 4\n{2},n02 1 1 2 2\n",
    "pairs": "{0}.JPEG n01\n{1}.JPEG n02\n\n{2}.JPEG\tn02\n{3}.JPEG n01\n",
}


@pytest.mark.parametrize("kind", [*LISTS, "kit"])
def test_imagenets_flat_val_is_sorted_by_the_list_of_its_classes(tmp_path, kind):
    names = _flat(tmp_path / "set")
    if kind == "kit":
        labels = _kit(tmp_path / "kit", "2\n1\n1\n2\n")
    else:
        labels = tmp_path / "list.csv"
        labels.write_text(LISTS[kind].format(*names))
    prepare(tmp_path / "set", tmp_path / "copy", "--val-labels", labels, "--processes", 1)
    val = open_source(f"folder:{tmp_path}/copy", "val")
    found = [Path(val.describe(i)).parts[-2:] for i in range(len(val))]
    order = [("n01", 0), ("n01", 3), ("n02", 1), ("n02", 2)]
    assert found == [(label, f"{names[i]}.jpg") for label, i in order]
    assert (tmp_path / "copy/train/n01/a.jpg").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{0} n01\n{1} n01\n", "lacks 2 of 4 images, such as val/{2}.JPEG"),
        ("{0} n01\n{1} n01\n{2}\n{3} n01", "has the line '{2}', expected a name and a class"),
        ("{0} n01\n{0} n02\n{1} a\n{2} a\n{3} a", "two classes for {0}"),
        ("{0} ../up\n{1} a\n{2} a\n{3} a", "can't be a folder's name"),
        ("1\n2\n", "is of 2 images, and there are 4"),
        ("1\n2\n1\n2\n", "meta.mat of the same development kit"),
        ("kit 1\n2\n1\n0\n", "has the class 0, which"),
        ("kit 1\n2\n1\n3\n", "has the class 3, which"),
    ],
)
def test_a_list_of_classes_that_does_not_fit(tmp_path, text, message):
    prepare = script("prepare.py")
    from rich.console import Console

    from ipcl_jax.errors import ConfigError

    names = _flat(tmp_path / "set")
    listed = tmp_path / "list.txt"
    if text.startswith("kit "):
        listed = _kit(tmp_path / "kit", text.removeprefix("kit "))
    else:
        listed.write_text(text.format(*names))
    options = prepare.Prepare(tmp_path / "set", tmp_path / "copy", val_labels=listed)
    with pytest.raises(ConfigError, match=re.escape(message.format(*names))):
        prepare.prepare(options, Console(file=io.StringIO()))
    assert not (tmp_path / "copy").exists()


def test_what_is_not_copied_is_said_and_names_need_not_be_utf8(tmp_path):
    source = tmp_path / "set"
    source.mkdir()
    _picture(9, 8).save(os.fsencode(source) + b"/caf\xe9.jpg", "JPEG")
    (source / "a.heic").write_bytes(b"")
    (source / os.fsdecode(b"cut\xe9.png")).write_bytes(b"no image")
    text = prepare(source, tmp_path / "copy", "--processes", 2, code=1)
    assert "no images by their suffix: 1 .heic" in text and "cut\\udce9.png: not an image" in text
    assert os.listdir(os.fsencode(tmp_path / "copy")) == [b"caf\xe9.jpg"]


def test_a_disk_that_fails_is_not_taken_for_a_damaged_image(originals, tmp_path, monkeypatch):
    prepare = script("prepare.py")
    from rich.console import Console

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    options = prepare.Prepare(originals, tmp_path / "copy", processes=1)
    with pytest.raises(OSError, match="Input/output error"):
        prepare.prepare(options, Console(file=io.StringIO()))
