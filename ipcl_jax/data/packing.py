"""Packs a folder of images into ArrayRecord files: a hundred files instead of a million.

`records` reads what is written here, and describes it.
"""

import functools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ipcl_jax.data.base import SortedLabels, digest, stamp
from ipcl_jax.data.class_list import class_paths
from ipcl_jax.data.decode import size_of, unreadable
from ipcl_jax.data.folder import FolderSource, find_images, find_splits
from ipcl_jax.data.listing import Paths, natural_key, printable
from ipcl_jax.data.records import INDEX, VERSION, record_file
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import atomic, error_text, read_json, sync_to_disk
from ipcl_jax.system.locks import file_lock
from ipcl_jax.system.signals import end_with_parent

FILES = 96  # about; each process writes one at a time
FEWEST = 1024  # images in a file

Encode = Callable[[bytes], bytes]
"""Returns the file to be stored for an image's file; raises an error if that can't be read."""


@dataclass(frozen=True)
class Images:
    """Images of a split, sorted by class.

    Attributes:
        paths: relative to the folder.
        names: the paths, with a folder of the class for images that a list gives a class.
        counts: number of images of each class; of all without classes.
    """

    paths: Sequence[str]
    names: Sequence[str]
    counts: list[int]


@dataclass(frozen=True)
class Plan:
    """What is to be packed.

    Attributes:
        folder: of the images.
        classes: names in the order of labels; empty without labels.
        splits: `train` and `val`.
        notes: messages for the user, one line each.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Images]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(images.paths) for images in self.splits.values())


def plan_packing(folder: Path, val_labels: Path | None) -> Plan:
    """Lists the images of a folder as `FolderSource` does.

    Args:
        folder: of the images.
        val_labels: list of the classes of held-out images that lie in one folder; see `class_list`.

    Raises:
        ConfigError: if there are no images of a split, or the list doesn't fit them.
    """
    train = FolderSource(str(folder), "train")
    splits, notes = {"train": _of_source(train)}, train.notes
    if val_labels:
        splits["val"] = _sorted_by_list(folder, train.classes, val_labels)
    else:
        val = FolderSource(str(folder), "val")
        splits["val"] = _of_source(val)
        notes = tuple(dict.fromkeys((*notes, *val.notes)))
    return Plan(folder, train.classes, splits, notes)


def _of_source(source: FolderSource) -> Images:
    counts = np.bincount(source.labels(), minlength=len(source.classes)) if source.classes else [len(source)]
    return Images(source.paths, source.paths, [int(count) for count in counts])


def _sorted_by_list(folder: Path, classes: tuple[str, ...], val_labels: Path) -> Images:
    """Lists held-out images in the order that they would have in a folder for each class."""
    val = find_splits(str(folder)).get("val", "")
    if not (classes and val):
        raise ConfigError(f"--val-labels needs a folder val beside train in {printable(str(folder))}; it has none.")
    paths = find_images(folder / val, folder)
    homes = dict(zip(paths, paths, strict=True)) | class_paths(val_labels, folder, paths)
    label_of = {name: label for label, name in enumerate(classes)}
    found = {path: printable(home.split(os.sep)[1]) for path, home in homes.items()}
    if unknown := sorted(set(found.values()) - set(classes)):
        raise ConfigError(f"--val-labels {val_labels} has {len(unknown)} classes that train lacks, such as {unknown[0]}.")
    if twice := len(homes) - len(set(homes.values())):
        raise ConfigError(f"--val-labels {val_labels} gives {twice} images of val the name of another in its class.")
    paths.sort(key=lambda path: (label_of[found[path]], natural_key(homes[path])))
    counts = np.bincount([label_of[found[path]] for path in paths], minlength=len(classes))
    return Images(paths, [homes[path] for path in paths], counts.tolist())


def largest_sides(packed: Path) -> tuple[int, int]:
    """Returns the largest shorter and the largest longer side of all images of a packed folder, in pixels."""
    short, long = read_json(packed / INDEX)["largest"]
    return short, long


def pack(plan: Plan, target: Path, *, encode: Encode, settings: str, processes: int) -> Iterator[tuple[int, list[str]]]:
    """Packs the images of a folder.

    Files are written to a hidden folder beside the target, which is renamed when all are there. The same call after an
    interruption keeps the files that were finished; a call with other images or settings begins anew.

    Args:
        plan: what to pack.
        target: folder to write.
        encode: makes the file to be stored.
        settings: what distinguishes this `encode` from others.
        processes: number of processes.

    Yields:
        The number of images of each finished file, and a line for each of them that can't be read and was left out.

    Raises:
        ConfigError: if the target exists and is not this data set.
        LockHeld: if another process is writing the target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(target, wait=False):
        files = [file for split, images in plan.splits.items() for file in _files(split, images, len(plan))]
        made_of = _fingerprint(plan, settings)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            if not (target / INDEX).is_file() or read_json(target / INDEX).get("made_of") != made_of:
                raise ConfigError(
                    f"{printable(str(target))} holds something else than these images packed with these settings; "
                    "remove it, or give another folder."
                )
            yield len(plan), read_json(target / INDEX)["unreadable"]
            return
        part = target.with_name(f".{target.name}.part")
        begun = part / "made_of"
        if not begun.is_file() or begun.read_text() != made_of:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            begun.write_text(made_of)
        write = functools.partial(_write_file, source=plan.folder, part=part, encode=encode)
        for file, problems in zip(files, _in_processes(write, files, processes), strict=True):
            yield len(file.paths), problems
        _finish(plan, part, files, made_of)
        part.replace(target)


@dataclass(frozen=True)
class _File:
    """One of the files: its name, its split, the index of its first image, and its images."""

    name: str
    split: str
    first: int
    paths: Sequence[str]
    names: Sequence[str]


def _files(split: str, images: Images, total: int) -> list[_File]:
    size = max(FEWEST, -(-total // FILES))
    starts = range(0, len(images.paths), size)
    return [
        _File(record_file(split, k, len(starts)), split, start, images.paths[start : start + size],
              images.names[start : start + size])
        for k, start in enumerate(starts)
    ]  # fmt: skip


def _fingerprint(plan: Plan, settings: str) -> str:
    """Computes the sha256 of all that decides what is written."""

    def lines() -> Iterator[str]:
        yield json.dumps([VERSION, settings, plan.classes])
        for split, images in plan.splits.items():
            yield json.dumps([split, images.counts])
            for path, name in zip(images.paths, images.names, strict=True):
                try:
                    yield stamp(name, f"{plan.folder}/{path}")
                except OSError as error:  # such as a link to nowhere
                    yield f"{printable(name)} {error.errno}"

    return digest(lines())


def _in_processes(
    write: Callable[[_File], list[str]], files: Sequence[_File], processes: int
) -> Iterator[list[str]]:
    if processes == 1:
        yield from map(write, files)
        return
    context = multiprocessing.get_context("spawn")  # fork is not safe beside other threads
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        yield from pool.map(write, files)


def _write_file(file: _File, source: Path, part: Path, encode: Encode) -> list[str]:
    """Writes a file of records, unless that was done earlier; returns a line for each image that can't be read."""
    report = part / f"{file.name}.json"
    if report.is_file():
        return read_json(report)["unreadable"]
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    stamps, left_out, problems = [], [], []
    largest = [0, 0]
    path = str(part / file.name)
    # A chunk holds one image, so that it can be read alone. Images are compressed already.
    writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
    for i, (image, name) in enumerate(zip(file.paths, file.names, strict=True)):
        try:
            record = encode((source / image).read_bytes())
            largest = [max(pair) for pair in zip(largest, sorted(size_of(record)), strict=True)]
        except Exception as error:  # damaged files raise many kinds of error
            if not unreadable(error):
                raise
            left_out.append(i)
            problems.append(printable(f"{source / image}: {error_text(error)}"))
            continue
        writer.write(record)
        stamps.append(f"{printable(name)} {len(record)} {os.stat(source / image).st_mtime_ns}")
    try:
        writer.close()
        if (written := ArrayRecordReader(path).num_records()) != len(stamps):
            raise RuntimeError(f"it has {written} of {len(stamps)} records")
    except RuntimeError as error:  # such as a full disk
        raise OSError(f"{printable(path)} can't be written: {error}") from None
    with atomic(report, durable=False) as unfinished:
        content = {"stamps": stamps, "largest": largest, "left_out": left_out, "unreadable": problems}
        unfinished.write_text(json.dumps(content), encoding="utf-8")
    return problems


def _finish(plan: Plan, part: Path, files: list[_File], made_of: str) -> None:
    """Writes the stamps and the index, and removes what only an interrupted packing needs."""
    index: dict = {"version": VERSION, "made_of": made_of, "classes": plan.classes, "splits": {}, "unreadable": []}
    index["largest"] = [0, 0]
    for split, images in plan.splits.items():
        own = [file for file in files if file.split == split]
        labels, counts = SortedLabels(np.array(images.counts)), list(images.counts)
        sizes: list[tuple[int, int]] = []
        with open(part / f"{split}.stamps", "wb") as all_stamps:
            for file in own:
                report = read_json(part / f"{file.name}.json")
                Paths([report["stamps"]]).write(all_stamps)
                sizes.append((len(report["stamps"]), (part / file.name).stat().st_size))
                index["unreadable"] += report["unreadable"]
                index["largest"] = [max(pair) for pair in zip(index["largest"], report["largest"], strict=True)]
                for i in report["left_out"]:
                    counts[labels[file.first + i]] -= 1
        if not sum(counts):
            raise ConfigError(f"None of the {len(images.paths):,} images for {split} can be read.")
        index["splits"][split] = {"counts": counts, "files": sizes}
    (part / INDEX).write_text(json.dumps(index), encoding="utf-8")
    for file in files:
        (part / f"{file.name}.json").unlink()
    (part / "made_of").unlink()
    sync_to_disk(part)
