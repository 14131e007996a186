"""Brain data in a file of the user's own arrays, read in parts."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from ipcl_jax.activations.stimuli import open_stimuli
from ipcl_jax.brain.array_regions import find_regions
from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.brain.choice import choose_regions, choose_subjects
from ipcl_jax.brain.files import Place, StoredArray, open_lazily, reading
from ipcl_jax.brain.names import MatchedRows, find_rows
from ipcl_jax.brain.responses import check_all_named, check_shape, find_responses
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.readout.ridge import reliability_ceiling
from ipcl_jax.system.probe import check_memory, free_memory

_BLOCK = 1 << 27  # bytes read at once, and bytes of the repeats that are averaged at once
_GAP = 1024  # voxels that nobody asked for, and that are read rather than skipped


def open_arrays(
    path: str, *, subjects: Sequence[str] = (), regions: Sequence[str] = ("all",), images: Sequence[str]
) -> BrainData:
    """Opens a file of the user's own arrays: HDF5, `.npz`, or `.mat`.

    Responses are an array named responses, betas or voxels (one subject, of the array's name), or a group of that
    name with an array for each subject (of the array's name in the group). An array is `[N, V]`, or `[R, N, V]` with R
    repeats, of integers or floats.

    Names of images are an array of text with an entry for each of the N images, beside the responses or in a group
    that contains them, as `names.find_rows` finds them. Each must be the name of one of the stimuli, or all stimuli
    must be among them; stimuli without responses are those that the subject didn't see. Rows with the same name are
    repeats; a subject's images must have equally many. Responses without names are taken in the order of the stimuli,
    if they are as many.

    Regions are beside the responses or in a group that contains them:

    - `regions/NAME`: a mask of V voxels, bool or 0 and 1, for all subjects that have no group of their own;
    - `regions/SUBJECT/NAME`: a mask of one subject's voxels;
    - `regions`: a label for each of the V voxels, which is a region's name (text) or number (integers); empty text
      and 0 are outside of all regions;
    - `regions/SUBJECT`: such labels of one subject's voxels.

    Without any, all voxels are one region `all`. In `.npz` files, groups are slashes in the arrays' names.

    Numeric arrays in HDF5 files are read in parts, when responses are asked for; other files are read as a whole.

    Args:
        path: `FILE` or `FILE:NAME`, where NAME is an array or a group.
        subjects: as `choose_subjects` understands them; none for all.
        regions: as `choose_regions` understands them; `all` for every one.
        images: as for `open_stimuli`.

    Returns:
        The set. The ceiling of repeated responses is the square root of their mean's reliability, over the images
        that are read (`reliability_ceiling`).

    Raises:
        ConfigError: if the file or its arrays aren't as described, or don't fit the images.
    """
    stimuli = open_stimuli(images)
    names = list(stimuli.names)
    if len(set(names)) < len(names):
        raise ConfigError(f"{len(names) - len(set(names))} of {len(names)} images are named twice; name each once.")
    file, arrays, name = open_lazily(path)
    keys = find_responses(file, arrays, name)
    opened: list[_ArraySubject] = []
    found: dict[str, MatchedRows] = {}
    for subject in choose_subjects(subjects, keys, where=str(file)):
        key = keys[subject]
        where, array = f"{file}:{key}", arrays[key]
        check_shape(where, array)
        found[key] = rows = find_rows(where, arrays, key, array.shape[-2], names, some=True)
        _check_room(where, 8 * array.shape[-1])
        masks = find_regions(file, arrays, key, subject, tuple(keys), array.shape[-1])
        seen = tuple(names[number] for number in rows.seen)
        opened.append(_ArraySubject(subject, where, array, rows.rows, seen, masks))
    by_name = check_all_named(file, found)
    known = dict.fromkeys(region for one in opened for region in one.regions)
    chosen = choose_regions(regions, known, where=str(file))
    for one in opened:
        one.regions = {region: one.regions[region] for region in chosen if region in one.regions}
    notes = dict.fromkeys(note for rows in found.values() for note in rows.notes)
    if not by_name:
        notes[f"{file} has no names of images; its rows are taken in the order of the stimuli."] = None
    return BrainData("arrays", tuple(opened), stimuli, notes=tuple(notes))


class _ArraySubject(Subject):
    """A subject whose responses are an array `[N, V]` or `[R, N, V]`.

    Args:
        name: of the subject.
        where: file and name of the array, for messages.
        array: the responses.
        rows: `[n, K]`, rows of the K measurements of each image along the axis N.
        images: names of the n images.
        regions: voxels of each region.
    """

    def __init__(
        self,
        name: str,
        where: str,
        array: np.ndarray | StoredArray,
        rows: np.ndarray,
        images: tuple[str, ...],
        regions: Mapping[str, np.ndarray],
    ):
        self.name, self.images, self.regions = name, images, regions
        self._where, self._array, self._rows = where, array, rows
        self._repeats = rows.shape[1] * (array.shape[0] if array.ndim == 3 else 1)
        several = self._repeats > 1
        self.ceiling_kind = f"root of Spearman-Brown reliability, {self._repeats} repeats" if several else ""

    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        rows, voxels = self._rows[self.rows(images)], self._checked(voxels)
        _check_room(self._where, 4 * len(rows) * len(voxels))
        mean = np.empty((len(rows), len(voxels)), np.float32)
        ceiling = np.full(len(voxels), np.nan, np.float32)
        bad: list[str] = []
        for part in _spans(voxels, self._array, self._repeats * len(rows)):
            measured = self._measured(rows, voxels[part])
            with np.errstate(over="ignore", invalid="ignore"):
                mean[:, part] = averaged = measured.mean(0).astype(np.float32)
            finite = np.isfinite(measured).all(0) & np.isfinite(averaged)  # [n, v]
            for voxel in np.flatnonzero(~finite.all(0)):
                bad.append(f"voxel {voxels[part][voxel]}, to {images[int(finite[:, voxel].argmin())]}")
            if not bad and len(rows) > 1 and (reliable := reliability_ceiling(measured)) is not None:
                ceiling[part] = reliable
        if bad:
            raise ConfigError(
                f"{self._where}: responses of {len(bad)} of {len(voxels)} voxels are not finite numbers, such as of "
                f"{bad[0]} (voxels count from 0). Leave these voxels out of the regions."
            )
        return Responses(mean, ceiling)

    def _checked(self, voxels: np.ndarray) -> np.ndarray:
        """Returns numbers of voxels as int64, or raises InputError."""
        voxels, count = np.asarray(voxels), self._array.shape[-1]
        if voxels.ndim != 1 or (voxels.size and voxels.dtype.kind not in "iu"):
            raise InputError(f"Voxels are {voxels.dtype} {list(voxels.shape)}, expected their numbers, [V].")
        voxels = voxels.astype(np.int64)
        if voxels.size and not (0 <= voxels[0] and voxels[-1] < count and (np.diff(voxels) > 0).all()):
            raise InputError(f"Voxels of {self.name} are numbers from 0 to {count - 1}, ascending, each once.")
        return voxels

    def _measured(self, rows: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        """Reads the responses in one span of voxels, `[R, n, v]` float64."""
        array, first = self._array, int(voxels[0])
        width, count = int(voxels[-1]) + 1 - first, array.shape[-2]
        repeats = self._repeats // rows.shape[1]  # along the array's own axis
        result = np.empty((repeats, rows.shape[1], len(rows), len(voxels)))
        height = _multiple(_BLOCK // (repeats * width * array.dtype.itemsize), _chunk(array, -2))
        with reading(array) as read:
            for top in range(0, count, height):
                image, again = np.nonzero((top <= rows) & (rows < top + height))
                if not image.size:
                    continue
                wanted = rows[image, again]
                low, high = int(wanted.min()), int(wanted.max()) + 1
                place: Place = (slice(low, high), slice(first, first + width))
                part = read((slice(None), *place) if array.ndim == 3 else place)
                part = part.reshape(repeats, high - low, width)
                result[:, again, image] = part[:, wanted - low][:, :, voxels - first]
        return result.reshape(-1, *result.shape[2:])


def _spans(voxels: np.ndarray, array: np.ndarray | StoredArray, count: int) -> Iterator[slice]:
    """Splits voxels, of `count` responses each, into spans that are read at once.

    Spans end where chunks of the file do. Where a chunk has more voxels than a block, chunks would be read again and
    again; then a span is as wide as free memory allows.
    """
    chunk, most = _chunk(array, -1), _BLOCK // (8 * count)
    if chunk > most:
        most = max(most, free_memory() // (8 * count))
    block = voxels // (_multiple(most, chunk) if chunk <= most else max(1, most))
    ends = np.flatnonzero((np.diff(voxels) > max(chunk, _GAP)) | (np.diff(block) > 0)) + 1
    edges = [0, *ends.tolist(), len(voxels)]
    for begin, end in pairwise(edges):
        if begin < end:
            yield slice(begin, end)


def _chunk(array: np.ndarray | StoredArray, axis: int) -> int:
    return array.chunks[axis] if isinstance(array, StoredArray) and array.chunks else 1


def _multiple(most: int, of: int) -> int:
    """Returns the largest multiple that is at most `most`, or `of` itself."""
    return max(of, most // of * of)


def _check_room(where: str, needed: int) -> None:
    try:
        check_memory(needed, free_memory())
    except MemoryError as error:
        raise ConfigError(f"{where} is too large: {error}. Choose fewer regions or images.") from None
