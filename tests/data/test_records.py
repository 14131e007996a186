"""Folders packed into ArrayRecord files: the same images, labels, order and identity, whole or not at all."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from rich.console import Console

from command_line import run, script, start
from ipcl_jax.data import packing, records
from ipcl_jax.data.loader import TrainBatches
from ipcl_jax.data.sources import open_source
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.locks import LockHeld, file_lock

SPLITS = ("train", "val")


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(packing, "FEWEST", 7)


def write(root: Path, *names: str | bytes) -> Path:
    """Small pictures of different content under names; the suffix says the format."""
    for k, name in enumerate(names):
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 256, (12 + k % 3, 17, 3), np.uint8)
        Image.fromarray(noise).save(os.fsdecode(path), "PNG" if path.endswith(b"png") else "JPEG")
    return root


def labelled(root: Path) -> Path:
    return write(
        root, *(f"train/cat/{i}.jpg" for i in range(17)), "train/cat/deep/1.png", b"train/caf\xe9/1\xfc.jpg",
        *(f"train/dog/{i}.png" for i in range(9)), *(f"val/dog/{i}.jpg" for i in range(3)), "val/cat/a\n.jpg",
    )  # fmt: skip


def pack(folder: Path, target: Path, **options) -> list[str]:
    prepare = script("prepare.py")
    chosen = {"processes": 1, "to": "array_record"} | options
    return prepare.prepare(prepare.Prepare(folder, target, **chosen), Console(file=io.StringIO()))


def both(folder: Path, target: Path, split: str) -> tuple:
    return open_source(f"folder:{folder}", split), open_source(f"array_record:{target}", split)


@pytest.mark.parametrize("kind", ["classes", "no val", "no labels"])
def test_packed_images_are_those_of_the_folder(tmp_path, kind):
    folder = tmp_path / "set"
    if kind == "no labels":
        write(folder, *(f"some/where/{i}.jpg" for i in range(45)))
    else:
        labelled(folder)
    if kind == "no val":
        (folder / "val").rename(tmp_path / "elsewhere")
    assert not pack(folder, tmp_path / "packed")
    for split in SPLITS:
        one, other = both(folder, tmp_path / "packed", split)
        assert len(one) == len(other) > 0 and one.classes == other.classes
        assert list(one.stamps()) == list(other.stamps()) and one.identity() == other.identity()
        for source in (other, pickle.loads(pickle.dumps(other))):
            assert [source[i] for i in range(len(other))] == [one[i] for i in range(len(one))]
        assert one.labels().tolist() == other.labels().tolist() and other.labels().dtype == np.int32
        assert other[-1] == one[-1] and other.notes == ()
        with pytest.raises(IndexError):
            other[len(other)]
        within = one.describe(3).removeprefix(f"{folder}/") if len(one) > 3 else ""
        assert not within or other.describe(3) == f"array_record:{tmp_path}/packed/{within}"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_batches_of_both_are_the_same(tmp_path):
    pack(labelled(tmp_path / "set"), tmp_path / "packed")
    sources = both(tmp_path / "set", tmp_path / "packed", "train")
    loaded = []
    for source, workers in zip((*sources, sources[1]), (0, 0, 1), strict=True):
        with TrainBatches(source, batch_size=5, canvas=(16, 32), seed=1, threads=2, workers=workers) as batches:
            loaded.append([next(batches) for _ in range(12)])
    for one, *others in zip(*loaded, strict=True):
        for other in others:
            for name in ("index", "label", "size"):
                np.testing.assert_array_equal(one[name], other[name])
            for k, (height, width) in enumerate(one["size"]):
                np.testing.assert_array_equal(one["canvas"][k, :height, :width], other["canvas"][k, :height, :width])


def test_large_images_are_shrunk_and_small_ones_stay_as_they_are(tmp_path):
    folder = write(tmp_path / "set", "train/a/1.png", "train/a/2.jpg", "val/a/1.png")
    Image.new("RGB", (90, 60)).save(folder / "train/a/10.png")
    Image.new("RGB", (9, 39)).save(folder / "train/a/3.png")
    pack(folder, tmp_path / "packed", size=40)
    assert packing.largest_sides(tmp_path / "packed") == (40, 60)
    one, other = both(folder, tmp_path / "packed", "train")
    assert [one[i][0] == other[i][0] for i in range(4)] == [True, True, True, False]
    assert Image.open(io.BytesIO(other[3][0])).size == (60, 40)
    assert list(other.stamps())[3].split()[:2] == ["train/a/10.png", str(len(other[3][0]))]
    assert one.identity() != other.identity()


def test_a_part_of_a_mixture(tmp_path):
    pack(labelled(tmp_path / "set"), tmp_path / "packed")
    write(tmp_path / "more", *(f"train/bird/{i}.jpg" for i in range(5)))
    spec = f"array_record:{tmp_path}/packed@6 + folder:{tmp_path}/more+array_record:{tmp_path}/packed/"
    with pytest.raises(ConfigError, match="both read"):
        open_source(spec, "train")
    source = open_source(spec.rpartition("+")[0], "train")
    assert len(source) == 6 + 4 and source.classes[-1] == "bird" and source[9][1] == len(source.classes) - 1


# --- unreadable images -------------------------------------------------------------------


def test_unreadable_images_are_left_out_and_said(tmp_path):
    folder = labelled(tmp_path / "set")
    for name in ("train/cat/3.jpg", "train/dog/8.png", "val/dog/0.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    (folder / "train/cat/40.jpg").symlink_to(tmp_path / "nowhere")
    text = run("prepare.py", folder, tmp_path / "packed", "--to", "array_record", "--processes", 1, code=1)
    for name in ("train/cat/3.jpg", "train/cat/40.jpg", "train/dog/8.png", "val/dog/0.jpg"):
        assert f"{folder}/{name}: " in text
    assert "4 images can't be read, so they are left out" in text
    for split in SPLITS:
        one, other = both(folder, tmp_path / "packed", split)
        expected = [one[i] for i in range(len(one)) if f"{one.describe(i)}: " not in text]
        assert [other[i] for i in range(len(other))] == expected
        assert "4 images were left out" in other.notes[0]


def test_a_split_without_a_readable_image(tmp_path):
    folder = labelled(tmp_path / "set")
    for path in (folder / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match="None of the 4 images for val can be read"):
        pack(folder, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


# --- whole or not at all -----------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from ipcl_jax.data import packing

def encode(image):
    left.pop()
    if not left:
        print("stopped", flush=True)
        sys.stdin.read()
    return image

left = [None] * int(sys.argv[3])
packing.FEWEST = 7
plan = packing.plan_packing(Path(sys.argv[1]), None)
for _ in packing.pack(plan, Path(sys.argv[2]), encode=encode, settings="size 256, quality 95", processes=1):
    pass
"""


def killed(folder: Path, target: Path, after: int) -> None:
    """Packs in a process that is killed at some image."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, folder, target, str(after)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_after_a_kill_the_same_command_goes_on(tmp_path):
    folder, target = labelled(tmp_path / "set"), tmp_path / "packed"
    killed(folder, target, after=17)  # in the third file of seven
    with pytest.raises(ConfigError, match="No packed images: .* does not exist.*--to array_record"):
        open_source(f"array_record:{target}", "train")
    part = tmp_path / ".packed.part"
    finished = {path: path.stat().st_mtime_ns for path in part.glob("*-0000[01]-*.array_record")}
    with pytest.raises(ConfigError, match="its folder is not finished or something else"):
        open_source(f"array_record:{part}", "train")
    pack(folder, target)
    assert len(finished) == 2
    assert all((target / path.name).stat().st_mtime_ns == time for path, time in finished.items())
    pack(folder, tmp_path / "at once")
    assert contents(target) == contents(tmp_path / "at once")
    assert not part.exists()


@pytest.mark.parametrize("change", ["image", "settings", "classes"])
def test_after_a_kill_another_command_begins_anew(tmp_path, change):
    folder, target = labelled(tmp_path / "set"), tmp_path / "packed"
    killed(folder, target, after=17)
    if change == "image":
        write(folder, "train/dog/0.png", "train/cat/0.jpg")
    elif change == "classes":
        (folder / "train/dog").rename(folder / "train/wolf")
        (folder / "val/dog").rename(folder / "val/wolf")
    pack(folder, target, size=10 if change == "settings" else 256)
    pack(folder, tmp_path / "at once", size=10 if change == "settings" else 256)
    assert contents(target) == contents(tmp_path / "at once")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_again_and_clashes(tmp_path):
    folder, target = labelled(tmp_path / "set"), tmp_path / "packed"
    (folder / "train/cat/3.jpg").write_bytes(b"")
    problems = pack(folder, target)
    before = contents(target)
    assert len(problems) == 1 and pack(folder, target) == problems and contents(target) == before
    for options in ({"size": 10}, {"quality": 50}):
        with pytest.raises(ConfigError, match="holds something else than these images"):
            pack(folder, target, **options)
    (tmp_path / "other").mkdir()
    pack(folder, tmp_path / "other")  # an empty folder is written
    with pytest.raises(ConfigError, match="holds something else"):
        pack(folder, folder.parent)
    with pytest.raises(ConfigError, match="packed by --to array_record; give another folder for copies"):
        pack(folder, target, to="folder")
    with file_lock(tmp_path / "third"), pytest.raises(LockHeld):
        pack(folder, tmp_path / "third")
    assert contents(target) == before and not (tmp_path / "third").exists()


@pytest.mark.slow  # three commands and their processes start
def test_a_command_with_processes_that_is_interrupted(tmp_path):
    folder, target = labelled(tmp_path / "set"), tmp_path / "packed"
    command = start("prepare.py", folder, target, "--to", "array_record", "--processes", 2)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".packed.part").exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    command.kill()
    command.wait()
    assert target.exists() != (tmp_path / ".packed.part").exists()
    text = run("prepare.py", folder, target, "--to", "array_record", "--processes", 2)
    assert f"--data.source array_record:{target} --data.canvas 14 17, as no image is larger" in text
    assert both(folder, target, "train")[1].identity() == open_source(f"folder:{folder}", "train").identity()


def test_a_full_disk_leaves_nothing_that_reads_as_whole(tmp_path, monkeypatch):
    folder = labelled(tmp_path / "set")
    from array_record.python import array_record_module

    class Full(array_record_module.ArrayRecordWriter):
        def close(self):
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match="can't be written: .*No space left"):
        pack(folder, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


# --- reading -----------------------------------------------------------------------------


def damaged(index: dict, what: str) -> None:
    train = index["splits"]["train"]
    if what == "version":
        index["version"] = 2
    elif what == "counts":
        train["counts"][0] += 1
    elif what == "classes":
        index["classes"].append("one more")
    elif what == "images":
        train["files"][0][0] -= 1
        train["files"][1][0] += 1
        train["counts"] = [sum(train["counts"])]
    elif what == "text":
        train["files"] = "many"
    else:
        del index["splits"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("version", "is of version 2, and this program reads 1"),
        *((what, "is not as prepare.py writes it") for what in ("counts", "classes", "images", "text", "splits")),
        ("cut", "lacks 1 of 4 files of train, or they are cut off"),
        ("gone", "lacks 1 of 4 files of train"),
        ("stamps", "is not as prepare.py writes it"),
        ("json", "can't be read as JSON"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, what, message):
    pack(labelled(tmp_path / "set"), tmp_path / "packed")
    index, record = tmp_path / "packed/dataset.json", tmp_path / "packed/train-00002-of-00004.array_record"
    if what == "cut":
        record.write_bytes(record.read_bytes()[:-100])
    elif what == "gone":
        record.unlink()
    elif what == "stamps":
        (tmp_path / "packed/train.stamps").unlink()
    elif what == "json":
        index.write_text("{")
    else:
        content = json.loads(index.read_text())
        damaged(content, what)
        index.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        open_source(f"array_record:{tmp_path}/packed", "train")


def test_a_damaged_record_is_an_unreadable_image_and_a_failing_disk_is_not(tmp_path):
    pack(labelled(tmp_path / "set"), tmp_path / "packed")
    record = tmp_path / "packed/train-00000-of-00004.array_record"
    content = bytearray(record.read_bytes())
    image = open_source(f"array_record:{tmp_path}/packed", "train")[3][0]
    content[content.index(image) + 200] ^= 255
    record.write_bytes(content)
    source = open_source(f"array_record:{tmp_path}/packed", "train")
    with pytest.raises(RuntimeError, match="Corrupted"):
        source[3]
    assert source[4] and source[2]
    with (
        TrainBatches(source, batch_size=28, canvas=(16, 32), seed=1, threads=1) as batches,
        pytest.raises(RuntimeError, match="1 of 28 images can't be read, more than 1%.*\n.*Corrupted"),
    ):
        next(batches)
    record.rename(tmp_path / "away")
    source = open_source(f"array_record:{tmp_path}/packed", "val")
    for path in (tmp_path / "packed").glob("val*record"):
        path.rename(tmp_path / path.name)
    with pytest.raises(OSError, match="Input/output error|No such file") as error:
        source[0]
    assert error.value.errno == 5
    for path in tmp_path.glob("val*record"):
        path.rename(tmp_path / "packed" / path.name)
    assert source[0][0][:2] == b"\xff\xd8"  # the disk is back


def test_a_folder_of_images_is_not_packed_images(tmp_path):
    labelled(tmp_path / "set")
    with pytest.raises(ConfigError, match="No packed images: looked for .*/set/dataset.json"):
        open_source(f"array_record:{tmp_path}/set", "train")


# --- ImageNet's held-out images ----------------------------------------------------------


def flat(root: Path) -> list[str]:
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 12)]
    write(root, *(f"train/{label}/{i}.JPEG" for label in ("n01", "n02", "n10") for i in range(3)))
    write(root, *(f"val/{name}" for name in names))
    return names


def test_flat_val_is_sorted_as_in_a_sorted_copy(tmp_path):
    folder = tmp_path / "set"
    names = flat(folder)
    labels = [f"n{label:02}" for label in np.random.default_rng(0).choice([1, 2, 10], len(names))]
    numbers = {"n10": 1, "n01": 2, "n02": 3}
    table = np.array([(i, name) for name, i in numbers.items()], [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": table})
    listed = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    listed.write_text("".join(f"{numbers[label]}\n" for label in labels))
    pack(folder, tmp_path / "packed", val_labels=listed)
    pack(folder, tmp_path / "sorted", val_labels=listed, to="folder")
    for split in SPLITS:
        one, other = both(tmp_path / "sorted", tmp_path / "packed", split)
        assert [other[i] for i in range(len(other))] == [one[i] for i in range(len(one))]
        assert other.classes == one.classes == ("n01", "n02", "n10")
    stems = [Path(other.describe(i)).stem for i in range(len(other))]
    assert [labels[int(stem[-4:]) - 1] for stem in stems] == [other.classes[other[i][1]] for i in range(len(other))]
    with pytest.raises(ConfigError, match="should hold one folder a class"):
        pack(folder, tmp_path / "third")


@pytest.mark.parametrize(
    ("label", "change", "message"),
    [
        ("n03", "", "has 1 classes that train lacks, such as n03"),
        ("n01", "no val", "needs a folder val beside train"),
        ("n01", "clash", "gives 1 images of val the name of another"),
    ],
)
def test_a_list_that_does_not_fit(tmp_path, label, change, message):
    names = flat(tmp_path / "set")
    (tmp_path / "list").write_text("".join(f"{name} {label}\n" for name in names))
    if change == "no val":
        (tmp_path / "set/val").rename(tmp_path / "val")
    elif change == "clash":
        write(tmp_path / "set", f"val/n01/{names[0]}")
    with pytest.raises(ConfigError, match=message):
        pack(tmp_path / "set", tmp_path / "packed", val_labels=tmp_path / "list")
    assert not (tmp_path / "packed").exists()


def test_names_of_files_and_version_are_part_of_the_format():
    assert records.record_file("train", 3, 93) == "train-00003-of-00093.array_record"
    assert (records.INDEX, records.VERSION) == ("dataset.json", 1)
