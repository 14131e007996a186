"""Sets of named stimuli on disk, in a fixed order, and how they are read."""

import codecs
import functools
import glob
import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grain
import h5py
import numpy as np

from ipcl_jax.activations.preprocess import Transform
from ipcl_jax.data.decode import MOST_PIXELS, unreadable
from ipcl_jax.data.sample import SampleSource
from ipcl_jax.data.sources import SUFFIXES, Source, Split, TfdsSource, find_images, natural_key
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.system.files import error_text, expand_home, read_file
from ipcl_jax.system.probe import check_readable

_HDF5 = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf)):(?P<dataset>[^\[\]]+)(?:\[(?P<rows>.*)\])?")
_LISTS = (".txt", ".lst")
_TASK = 8  # images that a thread reads at a time: few, so that all threads work on the first batch and on the last

_USAGE = """
Ways to give images:
  a folder                 every image in it, however deep, in natural order
  a pattern                'faces/*.jpg', or '**/*.png' for any depth, in quotes; in natural order
  files                    in the order given; several folders, patterns and files one after the other
  a list, list.txt         one path a line, relative to the list, in its order
  FILE.h5:DATASET          an array [N, H, W, 3] uint8; rows by index: FILE.h5:DATASET[0:100,250]
  tfds:NAME                the validation images of a TFDS dataset (--split train for the others)
  sample                   windows of built-in photographs"""


class StimulusSet(Protocol):
    """Images in a fixed order."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each image: a path relative to the folder, a row, or an index in a dataset."""

    @property
    def categories(self) -> list[str]:
        """Category of each image: its folder or its class; empty if it has none."""

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        """Image i: an encoded file, or `[h, w, 3]` or `[h, w]` uint8."""


def open_stimuli(images: Sequence[str], *, split: Split = "val", dir: str | None = None) -> StimulusSet:
    """Opens the stimuli that a command line names.

    Folders and patterns give their images in natural order (2 before 10), files and lists in the order given. Several
    of these are concatenated.

    Args:
        images: one or several of: a folder, files, a glob pattern, a list of paths in a text file; or one of
            `FILE.h5:DATASET` (followed by rows in brackets, by default all), `tfds:NAME`, `sample`.
        split: `val` or `train`, for TFDS and the sample.
        dir: folder of TFDS data; None for TFDS's default.

    Returns:
        A set with at least one image.

    Raises:
        ConfigError: if something doesn't exist, or is named twice; the message says what was searched.
    """
    for name in images:
        if not (name.startswith("tfds:") or name == "sample" or _HDF5.fullmatch(name)) or expand_home(name).exists():
            continue
        if len(images) > 1:
            raise ConfigError(f"{name} is a set of its own, which can't be combined with other images.")
        if name.startswith("tfds:"):
            return SourceStimuli(TfdsSource(name.removeprefix("tfds:"), split, dir=dir))
        if match := _HDF5.fullmatch(name):
            return _HDF5Stimuli(expand_home(match["file"]), match["dataset"], match["rows"])
        return SourceStimuli(SampleSource(split))
    parts = [_files_of(name, single=len(images) == 1) for name in images]
    paths = [path for part in parts for path in part[0]]
    names = [name for part in parts for name in part[1]]
    seen: dict[Path, str] = {}
    for given, part in zip(images, parts, strict=True):
        for path in dict.fromkeys(part[0]):
            if (other := seen.setdefault(path.absolute(), given)) != given or images.count(given) > 1:
                raise ConfigError(f"{path} is named twice, by {other} and by {given}.")
    return FileStimuli(paths, names, searched=", ".join(part[2] for part in parts))


def _files_of(given: str, *, single: bool) -> tuple[list[Path], list[str], str]:
    """Returns paths and names of the images that one argument names, and what was searched."""
    path = expand_home(given)
    if path.is_dir():
        found = find_images(path, path)
        names = found if single else [os.path.join(given, name) for name in found]
        return [path / name for name in found], names, f"the folder {path}"
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in _LISTS:
            return read_list(path)
        if suffix in (".h5", ".hdf5", ".hdf"):
            raise ConfigError(f"{path} is an HDF5 file; name the dataset too: {path}:DATASET.{_datasets(path)}")
        return [path], [path.name if single else given], "the files given"
    if glob.has_magic(given):
        found = sorted(glob.glob(os.path.expanduser(given), recursive=True), key=natural_key)
        found = [name for name in found if Path(name).suffix.lower() in SUFFIXES]
        if not found:
            raise ConfigError(f"No images: the pattern {given} has none.{_USAGE}")
        return [Path(name) for name in found], found, f"the pattern {given}"
    if single:
        raise ConfigError(f"No images: {given} is neither a file nor a folder.{_USAGE}")
    return [path], [given], "the files given"


def read_list(path: Path) -> tuple[list[Path], list[str], str]:
    """Reads a list of image files: one path per line, relative to the list; lines that begin with # are skipped.

    If a path doesn't exist, it is searched again with slashes instead of backslashes, in the other normal form of
    Unicode, and with the extensions of image files.

    Args:
        path: a text file in UTF-8, or in UTF-16 with a byte order mark.

    Returns:
        Paths, names (as written in the list), and what was searched.

    Raises:
        ConfigError: if it is no such list, or a line matches several files.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        lines = [line.strip() for line in content.decode(encoding).splitlines()]
    except ValueError as error:
        raise ConfigError(f"{path} is no list of images in UTF-8: {error}.") from None
    names = [line for line in lines if line and not line.startswith("#")]
    known = functools.cache(_images_by_name)  # each folder is read once
    return [_find_listed(path, name, known) for name in names], names, f"the list {path}"


def _images_by_name(folder: Path) -> dict[str, list[Path]]:
    """Returns a folder's images by their names, with and without extension, in Unicode's form NFC."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in SUFFIXES:
            for name in (entry.name, entry.stem):
                found.setdefault(unicodedata.normalize("NFC", name), []).append(entry)
    return found


def _find_listed(where: Path, name: str, known: Callable[[Path], dict[str, list[Path]]]) -> Path:
    """Finds the file that a line of a list names; returns the path as written if there is none."""
    written = where.parent / expand_home(name)
    slashed = name.replace("\\", "/")
    for form in (name, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))):
        path = where.parent / expand_home(form)
        if path.is_file():
            return path
        if path.parent.is_dir() and not path.is_dir():
            fitting = known(path.parent).get(unicodedata.normalize("NFC", path.name), [])
            if len(fitting) > 1:
                shown = ", ".join(entry.name for entry in fitting)
                raise ConfigError(f"{name} in {where} fits several files: {shown}. Write its ending too.")
            if fitting:
                return fitting[0]
    return written


def _datasets(path: Path) -> str:
    """Describes a file's datasets that could hold images, for messages."""
    found = []

    def note(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (3, 4):
            found.append(f"{name} {list(item.shape)} {item.dtype}")

    try:
        check_readable(path, "hdf5")
        with h5py.File(path) as file:
            file.visititems(note)
    except Exception as error:  # damaged files raise almost anything
        return f" (It can't be read: {error}.)"
    return f" It has: {', '.join(found)}." if found else " It has no dataset that could hold images."


class FileStimuli:
    """Image files as stimuli."""

    def __init__(self, paths: Sequence[Path], names: Sequence[str], *, searched: str = "the files given"):
        if not paths:
            raise ConfigError(f"No images: {searched} has none.{_USAGE}")
        if odd := [name for name in names if not _is_text(name)]:
            raise ConfigError(
                f"{len(odd)} of {len(names)} names are not text in UTF-8, such as {os.fsencode(odd[0])!r}; they can't "
                "be stored as names of rows. Rename these files (convmv can rename all files of a disk)."
            )
        if missing := [str(path) for path in paths if not path.is_file()]:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ConfigError(
                f"{len(missing)} of {len(paths)} images do not exist: {', '.join(missing[:3])}{more}, of {searched}."
            )
        self._paths, self.names = paths, list(names)

    @property
    def categories(self) -> list[str]:
        return [Path(name).parent.name for name in self.names]

    def __getitem__(self, i: int) -> bytes:
        return read_file(self._paths[i])


def _is_text(name: str) -> bool:
    """Whether a name can be encoded as UTF-8; bytes of another encoding are decoded to lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


class SourceStimuli:
    """The images of a source of training or validation images.

    Args:
        source: from `sources.open_source`.
        indices: which of its images, in this order; by default all.
    """

    def __init__(self, source: Source, indices: Sequence[int] | None = None):
        self._source, self._indices = source, range(len(source)) if indices is None else indices
        self.names = [source.describe(i) for i in self._indices]

    @property
    def categories(self) -> list[str]:
        labels = self._source.labels()[np.asarray(self._indices)]
        return [self._source.classes[label] if label >= 0 else "" for label in labels]

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        return self._source[self._indices[i]][0]


class _HDF5Stimuli:
    """Rows of an HDF5 dataset as stimuli; the name of a row is its number."""

    def __init__(self, path: Path, dataset: str, rows: str | None):
        if not path.is_file():
            raise ConfigError(f"No images: there is no file {path}.{_USAGE}")
        check_readable(path, "hdf5")
        try:
            self._data = h5py.File(path)[dataset]
            shape: tuple[int, ...] = getattr(self._data, "shape", None) or ()
            dtype = getattr(self._data, "dtype", "a group")
        except Exception as error:  # damaged files raise almost anything
            raise ConfigError(f"{path} has no dataset {dataset!r} ({error}).{_datasets(path)}") from None
        what = f"{path}:{dataset} is {dtype} {list(shape)}"
        if len(shape) == 3 and shape[2] in (1, 3) and dtype == np.uint8 and rows is None:
            raise ConfigError(
                f"{what}, which can be one image or {shape[0]} grey ones. Write {path}:{dataset}[None] for one image, "
                f"or {path}:{dataset}[:] for {shape[0]}."
            )
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or dtype != np.uint8:
            hint = " Channels come last." if len(shape) == 4 and shape[1] in (1, 3) else ""
            hint += " Scale its numbers to 0-255 and round them first." if dtype != np.uint8 else ""
            raise ConfigError(
                f"{what}, expected uint8 [N, H, W, 3], or [N, H, W] for grey.{hint}{_datasets(path)}"
            )
        if not 0 < shape[1] * shape[2] <= MOST_PIXELS:
            raise ConfigError(
                f"{path}:{dataset} has images of {shape[1]} x {shape[2]} pixels, expected up to {MOST_PIXELS:,} in all."
            )
        if rows == "None":
            if len(shape) != 3 or shape[2] not in (1, 3):
                raise ConfigError(f"{what} and [None] means one image, [H, W, 3].")
            self._data = self._data[()][None]
            rows = None
        self._rows = _parse_rows(rows, len(self._data))
        self.names = [str(row) for row in self._rows]

    @property
    def categories(self) -> list[str]:
        return [""] * len(self.names)

    def __getitem__(self, i: int) -> np.ndarray:
        return self._data[self._rows[i]]


def _parse_rows(text: str | None, total: int) -> list[int]:
    """Parses row numbers such as `0:10,25,-1`; None stands for all rows."""
    if text is None:
        return list(range(total))
    rows: list[int] = []
    for part in text.split(","):
        try:
            if ":" in part:
                ends = [int(end) if end.strip() else None for end in part.split(":")]
                rows += range(total)[slice(*ends)]
            else:
                rows.append(range(total)[int(part)])
        except (ValueError, TypeError, IndexError):
            raise ConfigError(
                f"[{text}] names no rows of a dataset of {total} images: {part!r} is neither a number below "
                "that nor a range such as 0:100."
            ) from None
    if not rows:
        raise ConfigError(f"[{text}] leaves no rows of a dataset of {total} images.")
    return rows


@dataclass(frozen=True)
class StimulusBatch:
    """Consecutive stimuli; the last batch is padded by repeating its last image.

    Attributes:
        pixels: `[B, S, S, 3]` uint8; zeros where an image can't be read.
        sha256: of each image's file (of the pixels, for an array), hexadecimal.
        problems: the reason why an image can't be read, by its index in the batch.
        first: index of the first image in the set.
        count: number of images without padding.
    """

    pixels: np.ndarray
    sha256: list[str]
    problems: dict[int, str]
    first: int
    count: int


def _no_progress(done: int, total: int) -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Reader:
    """Options for reading stimuli.

    Attributes:
        transform: the transform of each image; its results are all of one size.
        batch_size: images per batch.
        threads: number of threads that decode; by default one per core.
        progress: called with the number of images done, and of all images.

    Raises:
        InputError: for numbers below 1.
    """

    transform: Transform
    batch_size: int = 64
    threads: int = os.cpu_count() or 1
    progress: Callable[[int, int], None] = _no_progress

    def __post_init__(self) -> None:
        if min(self.batch_size, self.threads) < 1:
            raise InputError(
                f"batch_size is {self.batch_size} and threads {self.threads}; both must be at least 1."
            )

    def batches(self, stimuli: StimulusSet, *, start: int = 0) -> Iterator[StimulusBatch]:
        """Yields batches of one shape, in order, decoded in advance by threads.

        Args:
            stimuli: the images.
            start: images to skip; a multiple of `batch_size` gives the same batches as from the start.

        Raises:
            OSError: if a disk or a network fails. Damaged images raise nothing; they are listed in `problems`.
        """
        total = len(stimuli.names)

        def load(i: int) -> tuple[np.ndarray | None, str, str]:
            """Returns pixels, the file's sha256, and why it can't be read."""
            digest = ""
            try:
                image = stimuli[i]
                digest = hashlib.sha256(image if isinstance(image, bytes) else image.data).hexdigest()
                return self.transform(image), digest, ""
            except Exception as error:  # damaged files raise almost anything
                if not unreadable(error):
                    raise
                return None, digest, error_text(error)

        def load_some(first: int) -> list[tuple[np.ndarray | None, str, str]]:
            return [load(i) for i in range(first, min(first + _TASK, total))]

        ahead = 2 * -(-self.batch_size // _TASK) + self.threads  # tasks
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=ahead)
        iterator = iter(grain.MapDataset.range(start, total, _TASK).map(load_some).to_iter_dataset(options))
        images = itertools.chain.from_iterable(iterator)
        try:
            for first in range(start, total, self.batch_size):
                count = min(self.batch_size, total - first)
                pixels = np.zeros((self.batch_size, self.transform.size, self.transform.size, 3), np.uint8)
                digests, problems = [], {}
                for k, (image, digest, problem) in enumerate(itertools.islice(images, count)):
                    digests.append(digest)
                    if image is None:
                        problems[k] = problem
                    else:
                        pixels[k] = image
                pixels[count:] = pixels[count - 1]
                yield StimulusBatch(pixels, digests, problems, first, count)
        finally:
            iterator.close()
