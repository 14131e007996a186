"""Listing a folder of images: natural order, links, names of splits, what is left out, names that are not UTF-8."""

import multiprocessing
import os
import pickle
import random
import re
from pathlib import Path

import pytest
from PIL import Image

from ipcl_jax.data.decode import FORMATS
from ipcl_jax.data.listing import SUFFIXES, Paths, printable
from ipcl_jax.data.sources import find_images, natural_key, open_source
from ipcl_jax.errors import ConfigError


def make(root: Path, *names: str | bytes) -> Path:
    """Empty files of these names; listing looks at names alone."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    return root


def listed(root: Path, split: str = "train", spec: str = "folder:{}") -> list[str]:
    source = open_source(spec.format(root), split)
    return [os.path.relpath(source.describe(i), root) for i in range(len(source))]


def both(root: Path) -> tuple[list[str], list[str]]:
    return listed(root, "train"), listed(root, "val")


# --- order -------------------------------------------------------------------------------


def in_runs(path: str) -> tuple:
    """Natural order by its definition: runs of digits are numbers, folder by folder."""
    runs = (re.split(r"([0-9]+)", part.casefold()) for part in path.split("/"))
    return [[int(run) if k % 2 else run for k, run in enumerate(part)] for part in runs], path


def test_natural_order_is_that_of_numbers_and_words(tmp_path):
    draw = random.Random(0)
    pieces = ["a", "A", "b", "ß", "ss", "é", "İ", "٣", "日本", "\x01", " ", "-", "_", ".", "0", "00", "1", "01", "2", "10"]
    pieces += ["007", "10026", "99999999999999999999", "n01440764_"]
    names = {"".join(draw.choices(pieces, k=draw.randint(1, 4))).strip(". ") or "x" for _ in range(1500)}
    folders = ["", "a/", "A/", "1/", "01/", "a1/b/", "A1/b/", "a01/B/", "ß/", "x.jpg/"]
    paths = sorted({f"{draw.choice(folders)}{name}.jpg" for name in names} - {"x.jpg"})
    make(tmp_path, *paths)
    expected = sorted(paths, key=in_runs)
    assert find_images(tmp_path, tmp_path) == expected
    assert sorted(paths, key=natural_key) == expected
    source = [*listed(tmp_path, "train"), *listed(tmp_path, "val")]
    assert sorted(source) == sorted(printable(path) for path in paths)


def test_paths_in_one_piece_of_memory(tmp_path):
    names = [f"train/é{i}.jpg" for i in range(9000)]
    paths = Paths([names[:1], [], names[1:8000], names[8000:]])
    assert (len(paths), list(paths), paths[-1], paths[3:5]) == (9000, names, names[-1], names[3:5])
    with pytest.raises(IndexError):
        paths[9000]
    for some in (paths, Paths([]), Paths([names[:1]])):
        again = pickle.loads(pickle.dumps(some))
        assert list(again) == list(some) and len(pickle.dumps(again)) < 300


def _describe(source, queue) -> None:
    queue.put((len(source), [source.describe(i) for i in (0, 500, len(source) - 1)], source[500]))


def test_a_worker_process_is_sent_little_and_has_the_same_listing(tmp_path):
    make(tmp_path, *(f"train/{c}/{i}.jpg" for c in "ab" for i in range(1000)))
    source = open_source(f"folder:{tmp_path}", "train")
    few = make(tmp_path / "few", "train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg")
    assert len(pickle.dumps(source)) - len(pickle.dumps(open_source(f"folder:{few}", "train"))) < 50
    data = pickle.dumps(source)
    expected = (len(source), [source.describe(i) for i in (0, 500, len(source) - 1)], source[500])
    make(tmp_path, "train/a/0.0.jpg")  # comes first in a listing made now
    assert open_source(f"folder:{tmp_path}", "train").describe(0) != expected[1][0]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_describe, args=(pickle.loads(data), queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()
    (file,) = {source.paths._file}
    assert os.path.exists(file)
    del source
    assert not os.path.exists(file)  # nothing stays behind


# --- names of splits ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"), ("train", "validation"), ("train", "valid"), ("train", "test"), ("Train", "Val"),
        ("TRAIN", "Validation"), ("training", "Testing"),
    ],
)  # fmt: skip
def test_a_folder_of_held_out_images_by_its_usual_names(tmp_path, train, val):
    make(tmp_path, *(f"{train}/cat/{i}.jpg" for i in range(21)), f"{val}/cat/a.jpg", f"{val}/cat/b.jpg")
    there, held_out = both(tmp_path)
    assert there == [f"{train}/cat/{i}.jpg" for i in range(21)]  # none of these is held out
    assert held_out == [f"{val}/cat/a.jpg", f"{val}/cat/b.jpg"]
    source = open_source(f"folder:{tmp_path}", "val")
    assert source.classes == ("cat",) and source.notes == ()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "val", "validation"), "has val and validation, and each could be for val"),
        (("train", "Train", "val"), "has Train and train, and each could be for train"),
        (("train", "test", "Testing"), "each could be for test"),
        (("val",), "has val, but no folder train beside it.*folder:.*/val"),
        (("images_train", "Valid"), "has Valid, but no folder train beside it"),
    ],
)
def test_ambiguous_splits_are_refused(tmp_path, folders, message):
    make(tmp_path, *(f"{folder}/cat/{i}.jpg" for folder in folders for i in range(3)))
    for split in ("train", "val"):
        with pytest.raises(ConfigError, match=message):
            open_source(f"folder:{tmp_path}", split)


def test_imagenets_flat_val_says_what_to_do(tmp_path):
    make(tmp_path, "train/n01440764/1.JPEG", *(f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in range(5)))
    with pytest.raises(ConfigError, match=r"has none, but 5 images.*prepare\.py .* --val-labels FILE"):
        open_source(f"folder:{tmp_path}", "val")


# --- what is left out --------------------------------------------------------------------


def test_what_is_left_out_is_said_with_a_count(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/cat/2.heic", "train/cat/3.HEIC", "train/cat/notes.txt", "train/cat/raw")
    make(tmp_path, "train/loose.jpg", "train/cat/.DS_Store", "train/dog/1.heic", "val/cat/1.jpg", "val/dog/1.jpg")
    make(tmp_path, "test/a/1.jpg", "test/a/2.jpg", "extra/b/1.png", "top.jpg", "docs/x.txt")
    text = "\n".join(open_source(f"folder:{tmp_path}", "train").notes)
    assert "files that are no images by their suffix: 3 .heic, 1 without a suffix, 1 .txt." in text
    assert "left out 1 images in train itself, which are in no class" in text
    assert "no images of 1 of 2 classes: dog" in text
    assert "beside train and val: left out images: 1 in no folder, 1 in extra, 2 in test." in text
    text = "\n".join(open_source(f"folder:{tmp_path}/test", "train").notes)
    assert "no folder called train, so all images are one set without labels" in text


def test_a_folder_that_may_not_be_opened_is_said(tmp_path, monkeypatch):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # a superuser may open everything
    source = open_source(f"folder:{tmp_path}", "train")
    assert len(source) == 1 and "may not open: train/dog" in "\n".join(source.notes)


def test_every_suffix_is_of_a_format_that_is_read():
    Image.init()
    formats = Image.registered_extensions()
    assert {formats[suffix] for suffix in SUFFIXES} == set(FORMATS)


# --- links -------------------------------------------------------------------------------


def test_links_that_lead_back_up_bring_no_image_twice(tmp_path):
    root = make(tmp_path / "set", "train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg", "train/b/2.jpg", "val/a/1.jpg")
    make(root, "val/b/1.jpg")
    expected = both(root)
    assert [len(images) for images in expected] == [4, 2]
    (root / "train/a/up").symlink_to(root)
    (root / "train/a/further").symlink_to(tmp_path)
    (root / "train/b/self").symlink_to(root / "train/b")
    (root / "train/b/other").symlink_to("../a")
    (root / "train/twin").symlink_to("a")
    (root / "train/a/held").symlink_to(root / "val")
    (root / "val/b/trained").symlink_to("../../train/b")
    assert both(root) == expected
    source = open_source(f"folder:{root}", "train")
    assert source.classes == ("a", "b")
    assert "6 more" not in source.notes[0] and "3 more" in source.notes[0] and "not followed" in source.notes[0]
    assert find_images(root, root) == [*expected[0], *expected[1]]


def test_a_folder_elsewhere_is_read_once(tmp_path):
    make(tmp_path / "other", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")
    root = make(tmp_path / "set", "train/a/1.jpg", "val/a/1.jpg")
    (root / "train/cat").symlink_to(tmp_path / "other/cat")
    (root / "train/katze").symlink_to(tmp_path / "other/cat")
    (root / "train/zoo").symlink_to(tmp_path / "other")
    (tmp_path / "other/cat/loop").symlink_to(tmp_path / "other")
    assert listed(root) == ["train/a/1.jpg", "train/cat/1.jpg", "train/cat/2.jpg", "train/zoo/dog/1.jpg"]


def test_links_to_files_count_each(tmp_path):
    root = make(tmp_path, "pool/1.jpg", "train/a/0.jpg", "val/a/0.jpg")
    (root / "train/a/1.jpg").symlink_to("../../pool/1.jpg")
    (root / "train/a/2.jpg").symlink_to("../../pool/1.jpg")
    assert listed(root) == ["train/a/0.jpg", "train/a/1.jpg", "train/a/2.jpg"]


def test_train_and_val_that_overlap_are_refused(tmp_path):
    one = make(tmp_path / "one", "train/a/1.jpg", "train/a/2.jpg")
    (one / "val").symlink_to("train")
    two = make(tmp_path / "two", "train/a/1.jpg", "val/a/1.jpg")
    make(tmp_path / "else", "b/c/1.jpg")
    (two / "train/b").symlink_to(tmp_path / "else/b")
    (two / "val/b").symlink_to(tmp_path / "else/b")
    three = make(tmp_path / "three", "train/b/1.jpg", "val/b/1.jpg")
    (three / "train/b/deep").symlink_to(tmp_path / "else")
    (three / "val/b/c").symlink_to(tmp_path / "else/b/c")
    for root in (one, two, three):
        for split in ("train", "val"):
            with pytest.raises(ConfigError, match="what a model is trained on can't be held out"):
                open_source(f"folder:{root}", split)


# --- names that are not UTF-8 ------------------------------------------------------------


def test_names_that_are_not_utf8(tmp_path):
    root = make(tmp_path, b"train/caf\xe9/1\xfc.jpg", b"train/caf\xe9/2.jpg", b"train/b/1.jpg", b"val/caf\xe9/1.jpg")
    Image.new("RGB", (9, 8)).save(os.fsencode(root) + b"/train/caf\xe9/1\xfc.jpg", "JPEG")
    source = open_source(f"folder:{root}", "train")
    assert source.classes == ("b", "caf\\udce9")
    assert source.describe(1) == f"{root}/train/caf\\udce9/1\\udcfc.jpg"
    again = pickle.loads(pickle.dumps(source))
    assert again[1] == source[1] and source[1][0][:2] == b"\xff\xd8" and source[1][1] == 1
    lines = list(source.stamps())
    assert lines[1].startswith("train/caf\\udce9/1\\udcfc.jpg ")
    assert again.identity() == source.identity() and len(open_source(f"folder:{root}", "val")) == 1
    deep = open_source(f"folder:{os.fsdecode(os.fsencode(root))}/train/" + os.fsdecode(b"caf\xe9"), "train")
    for text in (*source.notes, *deep.notes, deep.name, deep.describe(0), *lines):
        text.encode()
    make(root, "train/b/two\nlines.jpg")
    assert all(len(line.splitlines()) == 1 for line in open_source(f"folder:{root}", "train").stamps())


def test_identity_of_a_tree_that_is_moved(tmp_path):
    root = make(tmp_path / "here", "train/a/1.jpg", "train/a/2.jpg")
    before = open_source(f"folder:{root}", "train").identity()
    root.rename(tmp_path / "there")
    assert open_source(f"folder:{tmp_path}/there", "train").identity() == before
