"""The training data of the Algonauts Project 2023 Challenge (Gifford et al. 2023), as they are downloaded.

These are responses of the Natural Scenes Dataset on fsaverage, within visual cortex, z-scored by session and averaged
over an image's repeats. Vertices of the left hemisphere come first, then those of the right.

Source: gifale95/algonauts_2023, `code/01_challenge_data_preparation/challenge_data_preparation.py`; arXiv:2301.03198.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ipcl_jax.activations.stimuli import FileStimuli
from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.brain.choice import choose_subjects
from ipcl_jax.brain.label_names import read_label_names
from ipcl_jax.brain.labels import add_regions, check_voxels, parse_regions, split_labels
from ipcl_jax.brain.nsd_stimuli import image_name, open_images
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import expand_home

ALL = "all-vertices"
"""The region of all vertices."""

_SUBJECTS = tuple(f"subj{s:02d}" for s in range(1, 9))
_SIDES = ("lh", "rh")
_IMAGE = re.compile(r"train-(\d+)_nsd-(\d{5})\.png")
_ROWS = 256  # images read at a time


def open_algonauts2023(
    root: str | Path,
    *,
    subjects: Sequence[str] = (),
    regions: Sequence[str] = ("streams",),
    stimuli: Sequence[str] | None = None,
) -> BrainData:
    """Opens the training data of Algonauts 2023.

    Images are named as in the Natural Scenes Dataset: `nsd-00013`, from 0. An image that several subjects saw is one
    image. Responses have no repeats, so there is no ceiling.

    Args:
        root: folder with `subj01` and others.
        subjects: such as `subj01`; by default all that are there.
        regions: `ATLAS` for all regions of an atlas, `ATLAS:REGION` for one: `streams`, `floc-faces:OFA`. An atlas may
            begin with `lh.` or `rh.` for one hemisphere, which then also comes before its regions' names.
            `all-vertices` is one region of all.
        stimuli: images, as for `nsd_stimuli.open_images`; by default the subjects' training images.

    Returns:
        Data whose voxels are vertices, numbered as in the files, those of the left hemisphere first.

    Raises:
        ConfigError: if files are missing, damaged or do not fit together, or for an unknown subject or region.
    """
    root = expand_home(root)
    found = [name for name in _SUBJECTS if (root / name).is_dir()]
    if not found:
        raise ConfigError(f"There are no subjects in {root}, which should hold folders such as subj01.")
    chosen = choose_subjects(subjects, found, where=str(root))
    opened, notes = [], []
    paths: dict[str, Path] = {}
    for name in chosen:
        pictures = _find_images(root / name / "training_split/training_images")
        subject = AlgonautsSubject(name, root / name, tuple(pictures), regions)
        if subject.lacking:
            notes.append(f"{name} has no vertices in {', '.join(subject.lacking)}.")
        opened.append(subject)
        paths |= pictures
    names = sorted(paths)
    images = (
        open_images(stimuli, root, [int(name[4:]) for name in names])
        if stimuli
        else FileStimuli([paths[name] for name in names], names)
    )
    return BrainData("algonauts2023", tuple(opened), images, notes=tuple(notes))


def _find_images(folder: Path) -> dict[str, Path]:
    """Finds a subject's images by name, in the order of the rows of its responses."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise ConfigError(f"There are no images in {folder}.")
    matches = [_IMAGE.fullmatch(path.name) for path in paths]
    if odd := [path for path, match in zip(paths, matches, strict=True) if not match]:
        raise ConfigError(f"{odd[0]} isn't named as the data set's images are: train-0001_nsd-00013.png.")
    rows = [int(match[1]) for match in matches if match]
    numbers = [int(match[2]) for match in matches if match]
    if wrong := [place for place, row in enumerate(rows, 1) if place != row]:
        next_one = paths[wrong[0] - 1].name
        raise ConfigError(f"{folder}: {next_one} should be train-{wrong[0]:04d}; an image is missing or there twice.")
    names = [image_name(number) for number in numbers]
    if len(set(names)) < len(names):
        raise ConfigError(f"{folder} has an image twice.")
    return dict(zip(names, paths, strict=True))


class AlgonautsSubject(Subject):
    """One subject.

    Attributes:
        lacking: regions that were asked for and in which the subject has no vertex.

    Args:
        name: of the subject.
        folder: with `training_split` and `roi_masks`.
        images: names of images, in the order of rows.
        regions: as for `open_algonauts2023`.

    Raises:
        ConfigError: if files are missing, damaged or do not fit together, or for an unknown region.
    """

    def __init__(self, name: str, folder: Path, images: tuple[str, ...], regions: Sequence[str]):
        self.name, self.images, self.ceiling_kind = name, images, ""
        self._paths = [folder / f"training_split/training_fmri/{side}_training_fmri.npy" for side in _SIDES]
        self._sizes = []
        for path in self._paths:
            data = _load(path)
            if data.ndim != 2 or data.dtype.kind != "f" or len(data) != len(images):
                raise ConfigError(
                    f"{path} is {data.dtype} {list(data.shape)}, expected float32 [{len(images)} images, vertices]."
                )
            self._sizes.append(data.shape[1])
        found: dict[str, np.ndarray] = {}
        for atlas, wanted in parse_regions(regions).items():
            if atlas == ALL:
                more = {ALL: np.arange(sum(self._sizes))}
            else:
                more = self._read_atlas(folder / "roi_masks", atlas, wanted)
            add_regions(found, more, folder / "roi_masks")
        self.lacking = tuple(region for region, vertices in found.items() if not len(vertices))
        if len(self.lacking) == len(found):
            lacking = ", ".join(self.lacking)
            raise ConfigError(f"{name} has no vertices in {lacking}. Ask for other regions, or subjects.")
        self.regions = {region: vertices for region, vertices in found.items() if len(vertices)}

    def _read_atlas(self, folder: Path, atlas: str, wanted: set[str]) -> dict[str, np.ndarray]:
        only = atlas[:2] if atlas.startswith(("lh.", "rh.")) else ""
        plain = atlas[3:] if only else atlas
        table = folder / f"mapping_{plain}.npy"
        if not table.is_file():
            known = [path.stem.removeprefix("mapping_") for path in folder.glob("mapping_*.npy")]
            raise ConfigError(f"There is no atlas {plain} in {folder}.{near_miss(plain, [*known, ALL])}")
        parts = []
        for side, size in zip(_SIDES, self._sizes, strict=True):
            path = folder / f"{side}.{plain}_challenge_space.npy"
            labels = _load(path)
            if labels.shape != (size,):
                raise ConfigError(f"{path} is {list(labels.shape)}, and responses have {size} vertices.")
            parts.append(np.array(labels) if only in ("", side) else np.zeros(size, np.int64))
        names = {label: name for label, name in read_label_names(table).items() if label > 0}
        return split_labels(np.concatenate(parts), names, wanted, table, f"{only}." if only else "")

    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        rows = self.rows(images)
        voxels = check_voxels(voxels, sum(self._sizes), self.name)
        mean = np.empty((len(rows), len(voxels)), np.float32)
        right = int(np.searchsorted(voxels, self._sizes[0]))
        halves = (voxels[:right], slice(0, right)), (voxels[right:] - self._sizes[0], slice(right, None))
        order = np.argsort(rows)
        for path, (vertices, place) in zip(self._paths, halves, strict=True):
            data = _load(path)
            for start in range(0, len(order) if len(vertices) else 0, _ROWS):
                some = order[start : start + _ROWS]
                part = data[rows[some]][:, vertices]
                if not np.isfinite(part).all():
                    raise ConfigError(f"{path} has responses that are no finite numbers. Download it again.")
                mean[some, place] = part
        return Responses(mean, np.full(len(voxels), np.nan, np.float32))


def _load(path: Path) -> np.ndarray:
    """Opens an array file without reading it whole."""
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} can't be read: {error}") from error
