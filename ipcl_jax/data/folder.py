"""Image files in a folder."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ipcl_jax.data.base import SOURCE_HELP, SortedLabels, Split, digest, stamp
from ipcl_jax.data.listing import Folder, Paths, Scan, is_within, printable, shared_folder
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import expand_home, read_file

HELD_OUT = 20  # without a folder of validation images, every 20th image is held out

# Names of the splits' folders; case is ignored.
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation")
TEST_NAMES = ("test", "testing")


class FolderSource:
    """Image files in a folder, in natural order (2 before 10), hidden ones skipped.

    With `train/<class>/*` and `val/<class>/*`, the classes are the sorted names of train's subfolders; images in deeper
    subfolders belong to the class. `train` may be called `training`; `val` may be called `valid` or `validation`, or
    `test` if there is none of these; case is ignored. Without `val/`, every 20th image of each class (at least one, if
    the class has two) is held out of train. Without `train/`, all images anywhere in the folder are one set without
    labels, and every 20th is held out in the same way.

    Every folder is read once: see `listing.Scan` for the links that are followed. Each link to a file counts as an
    image.

    Args:
        folder: the path.
        split: `train` or `val`.

    Attributes:
        paths: of the images, relative to the folder.

    Raises:
        ConfigError: if there are no images, two folders could be the same split, or the splits share images.
    """

    def __init__(self, folder: str, split: Split):
        self.name = f"folder:{printable(folder)} {split}"
        self._root = os.path.abspath(expand_home(folder))
        if not os.path.isdir(self._root):
            found = "is a file" if os.path.exists(self._root) else "does not exist"
            raise ConfigError(f"No images: looked for a folder at {printable(self._root)}, which {found}.{SOURCE_HELP}")
        tops = find_splits(self._root)
        scan = Scan(self._root, [_real_path(self._root, top) for top in tops.values()] or [_real_path(self._root, "")])
        self.notes: tuple[str, ...] = ()
        if tops:
            self.classes, self.paths, self._labels, self.notes = _labelled(self.name, scan, tops, split)
            self.notes += _outside_splits(scan, tops)
        else:
            self.classes = ()
            self.paths = Paths(held_out(scan.images(Folder("")), split))
            self._labels = SortedLabels(np.array([len(self.paths)]), first=-1)
            if scan.folders > 1:
                note = f"{self.name}: it has no folder called train, so all images are one set without labels."
                self.notes += (note,)
        if not len(self.paths):
            searched = os.path.normpath(os.path.join(self._root, tops.get(split, "")))
            raise ConfigError(
                f"No images for {split} under {printable(searched)}, {_entries_of(searched)}.{SOURCE_HELP}"
            )
        self.places = (scan.tops[list(tops).index(split)] if split in tops else scan.tops[0], *scan.places)
        self.notes += notes_of(self.name, scan)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """Returns the bytes of file i and its label (-1: none)."""
        return read_file(f"{self._root}/{self.paths[i]}"), self._labels[i]

    def describe(self, i: int) -> str:
        """Returns the path of file i; bytes that are not UTF-8 are escaped."""
        return printable(os.path.join(self._root, self.paths[i]))

    def labels(self) -> np.ndarray:
        """Returns the label of every file, `[N]` int32 (-1: none)."""
        return self._labels.all()

    def stamps(self) -> Iterator[str]:
        """Yields the path within the folder, size and modification time of each file."""
        return (stamp(path, f"{self._root}/{path}") for path in self.paths)

    def identity(self) -> str:
        """Returns the sha256 of all stamps."""
        return digest(self.stamps())


def find_splits(root: str) -> dict[str, str]:
    """Finds the folders of a data set's splits.

    Args:
        root: the folder of the data set.

    Returns:
        The names of the folders for `train` and, if there is one, for `val`. Empty without a folder of training images.

    Raises:
        ConfigError: if two folders could be the same split, there is only `val`, or one split contains the other.
    """
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    found = {}
    for split, known in (("train", TRAIN_NAMES), ("val", VAL_NAMES), ("test", TEST_NAMES)):
        there = [name for name in names if name.lower() in known]
        if split == "test" and "val" in found:
            break
        if len(there) > 1:
            raise ConfigError(
                f"{printable(root)} has {' and '.join(there)}, and each could be for {split}; "
                "move all but one elsewhere, or rename them."
            )
        if there:
            found["val" if split == "test" else split] = there[0]
    if "train" not in found:
        if "val" not in found or found["val"].lower() in TEST_NAMES:
            return {}
        raise ConfigError(
            f"{printable(root)} has {found['val']}, but no folder train beside it. Name the folder of the training "
            f"images train; or to use {found['val']} alone: --data.source folder:{printable(root)}/{found['val']}"
        )
    if len(found) == 2:
        train, val = (_real_path(root, found[split]) for split in ("train", "val"))
        if is_within(train, val) or is_within(val, train):
            raise ConfigError(
                f"{found['train']} and {found['val']} in {printable(root)} lead to the same images, {train} and {val}; "
                "what a model is trained on can't be held out. Remove the link."
            )
    return found


def held_out(chunks: Iterable[list[str]], split: Split) -> Iterator[list[str]]:
    """Selects the images of a split, where every 20th is for validation, from the first; a single one is for training.

    Args:
        chunks: all images, in lists.
        split: `train` or `val`.

    Yields:
        Lists of images.
    """
    start: int = 0
    pending: list[str] = []
    for chunk in chunks:
        pending += chunk
        if start + len(pending) > 1:
            if split == "val":
                yield pending[-start % HELD_OUT :: HELD_OUT]
            else:
                yield [image for k, image in enumerate(pending, start) if k % HELD_OUT]
            start, pending = start + len(pending), []
    if split == "train":
        yield pending


def find_images(folder: str | os.PathLike, root: str | os.PathLike) -> list[str]:
    """Lists all image files in a folder and its subfolders, by suffix; hidden ones are skipped.

    Args:
        folder: the folder to search; links are followed as by `listing.Scan`.
        root: the folder itself or one of its parents, to which the returned paths are relative.

    Returns:
        Paths in natural order (2 before 10).
    """
    within = os.path.relpath(folder, root)
    scan = Scan(os.fspath(root), [os.path.realpath(folder)])
    return [path for chunk in scan.images(Folder("" if within == "." else within)) for path in chunk]


def _labelled(
    source: str, scan: Scan, tops: Mapping[str, str], split: Split
) -> tuple[tuple[str, ...], Paths, SortedLabels, tuple[str, ...]]:
    """Lists a split with class folders: returns class names, paths, labels, and notes."""
    train, val = tops["train"], tops.get("val", "")
    searched = tops.get(split, train)
    loose, folders = scan.list_folder(Folder(searched))
    classes = tuple(sorted(_name(folder) for folder in folders))
    if split == "val" and val:
        _, of_train = Scan(scan.root, scan.tops).list_folder(Folder(train))
        known = tuple(sorted(_name(folder) for folder in of_train))
        if folders and (extra := sorted(set(classes) - set(known))):
            names = printable(", ".join(extra[:5]))
            raise ConfigError(f"{_shown(scan, val)} has {len(extra)} classes that {train} lacks, such as {names}.")
    else:
        known = classes
    if not known:
        raise ConfigError(
            f"{_shown(scan, train)} should hold one folder a class; it has none, but {len(loose)} images. "
            f"To use those without labels: --data.source folder:{_shown(scan, train)}{SOURCE_HELP}"
        )
    if not folders and loose:
        raise ConfigError(
            f"{_shown(scan, val)} should hold one folder a class, as {train} does; it has none, but {len(loose):,} "
            f"images. If they are ImageNet's, sort them into folders by the list of their classes: "
            f"python experiments/prepare.py {_shown(scan, '')} /path/to/copy --val-labels FILE"
        )
    notes = []
    if loose:
        notes.append(f"{source}: left out {len(loose):,} images in {searched} itself, which are in no class.")
    by_name = {_name(folder): folder for folder in folders}
    counts = np.zeros(len(known), np.int64)

    def chunks() -> Iterator[list[str]]:
        for label, name in enumerate(known):
            images = scan.images(by_name[name]) if name in by_name else iter(())
            for chunk in images if val else held_out(images, split):
                counts[label] += len(chunk)
                yield chunk

    paths = Paths(chunks())
    if scan.places and val:
        _check_disjoint(scan, tops, split)
    if empty := [name for name, count in zip(known, counts, strict=True) if not count]:
        notes.append(f"{source}: no images of {len(empty):,} of {len(known):,} classes{_examples(empty)}.")
    return tuple(map(printable, known)), paths, SortedLabels(counts), tuple(notes)


def _check_disjoint(scan: Scan, tops: Mapping[str, str], split: Split) -> None:
    """Raises ConfigError if links in both splits lead to one folder. (Links to the other split aren't followed.)"""
    other = Scan(scan.root, scan.tops)
    for _ in other.images(Folder(tops["val" if split == "train" else "train"])):
        pass
    if shared := shared_folder(scan.places, other.places):
        raise ConfigError(
            f"Links in both {tops['train']} and {tops['val']} of {printable(scan.root)} lead to {printable(shared)}; "
            "what a model is trained on can't be held out. Remove one of them."
        )


def notes_of(source: str, scan: Scan) -> tuple[str, ...]:
    """Describes what a scan left out, in lines that begin with the source's name."""
    notes = []
    if scan.left_out:
        most_first = sorted(scan.left_out.items(), key=lambda found: (-found[1], found[0]))
        kinds = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in most_first]
        notes.append(f"{source}: left out files that are no images by their suffix{_examples(kinds, 8)}.")
    if scan.not_followed:
        links = _examples(scan.not_followed)
        notes.append(f"{source}: links to folders that are read anyway are not followed{links}.")
    if scan.not_permitted:
        notes.append(f"{source}: left out folders that this user may not open{_examples(scan.not_permitted)}.")
    return tuple(notes)


def _outside_splits(scan: Scan, tops: Mapping[str, str]) -> tuple[str, ...]:
    """Describes images in the data set that are outside the splits' folders."""
    beside = Scan(scan.root, scan.tops)
    loose, folders = beside.list_folder(Folder(""))
    counts = {"no folder": len(loose)}
    for folder in folders:
        if folder.path not in tops.values():
            counts[folder.path] = sum(map(len, beside.images(folder)))
    found = [f"{count:,} in {where}" for where, count in counts.items() if count]
    if not found:
        return ()
    where = f"{printable(scan.root)}, beside {' and '.join(tops.values())}"
    return (f"folder:{where}: left out images{_examples(found, 8)}.",)


def _examples(items: Sequence[str], most: int = 3) -> str:
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return f": {printable(', '.join(items[:most]))}{more}"


def _name(folder: Folder) -> str:
    return folder.path.rpartition("/")[2]


def _shown(scan: Scan, path: str) -> str:
    return printable(os.path.join(scan.root, path) if path else scan.root)


def _real_path(root: str, folder: str) -> str:
    return os.path.realpath(os.path.join(root, folder))


def _entries_of(folder: str) -> str:
    names = sorted(printable(entry.name) for entry in Path(folder).iterdir())
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    return f"which has {len(names)} entries: {shown}" if names else "which is empty"
