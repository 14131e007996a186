"""The command that shrinks a folder of images before training."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import SCRIPTS, run


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


@pytest.fixture
def experiments(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


def test_what_cannot_be_done_is_said_before_anything_is_written(originals, tmp_path, experiments):
    from rich.console import Console

    import prepare
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
