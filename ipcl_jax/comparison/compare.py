"""The comparison of models with brain data: every layer, measure, region and subject, kept as it goes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ipcl_jax.activations.damage import find_damage
from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.preprocess import Transform
from ipcl_jax.activations.provenance import code_version, image_digests
from ipcl_jax.activations.stimuli import Reader, StimulusSet
from ipcl_jax.brain.base import BrainData, Subject
from ipcl_jax.brain.pixels import choose_stimuli
from ipcl_jax.brain.sources import files_stamp
from ipcl_jax.comparison.folder import Copied, Folder, Values
from ipcl_jax.comparison.layers import group_layers, read_layers, widths
from ipcl_jax.comparison.table import Tables, joined, tables_of
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.measures.base import Measure
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.registry import needs_features, open_measure

Images = Literal["shared", "own", "held-out"]

CODE = ("brain/*.py", "comparison/*.py", "measures/*.py", "readout/base.py", "readout/kernels.py", "readout/ridge*.py", "readout/rsa.py")
"""Patterns of this package's files whose code computes scores from activations and responses."""

Progress = Callable[[str, int, int], None]
"""Called with a title, the number of things done, and of all things."""


@dataclass(frozen=True)
class Model:
    """A model that is compared.

    Attributes:
        name: for the tables, different for each model.
        encoder: the model.
        transform: of the images.
        layers: names of the layers, from the first to the last.
    """

    name: str
    encoder: Encoder
    transform: Transform
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        spec: the data, as the user named them.
        data: the data.
        images: `shared` compares by the images that all subjects saw, `own` by each subject's own, `held-out` by those
            that the data set keeps for tests.
        models: the models.
        measures: names of the measures.
        options: of the measures.
    """

    spec: str
    data: BrainData
    images: Images
    models: tuple[Model, ...]
    measures: tuple[str, ...]
    options: MeasureOptions


@dataclass(frozen=True)
class Cell:
    """Subjects that are compared by the same images."""

    subjects: tuple[Subject, ...]
    images: tuple[str, ...]

    @property
    def name(self) -> str:
        """Names of the subjects, joined by "+"."""
        return "+".join(subject.name for subject in self.subjects)

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions that any of the subjects has."""
        return tuple(dict.fromkeys(region for subject in self.subjects for region in subject.regions))


def cells_of(data: BrainData, images: Images) -> tuple[Cell, ...]:
    """Divides a comparison into subjects that are compared by the same images.

    Raises:
        ConfigError: if there are no images of that kind.
    """
    if images == "own":
        return tuple(Cell((subject,), subject.images) for subject in data.subjects)
    chosen = data.shared
    if images == "held-out":
        if not data.held_out:
            raise ConfigError(f"--images held-out: {data.name} keeps no images for tests; take shared, or own.")
        chosen = tuple(name for name in chosen if name in data.held_out)
    if not chosen:
        names = ", ".join(subject.name for subject in data.subjects)
        raise ConfigError(f"No image was seen by all of {names}; take --images own, or other subjects.")
    return (Cell(data.subjects, chosen),)


def compare(plan: Plan, folder: Folder, reader: Reader, *, memory: int, progress: Progress) -> tuple[Tables, dict]:
    """Computes every score that the folder lacks.

    Args:
        plan: what is compared.
        folder: where scores are kept; locked by the caller.
        reader: how images are read; each model's own transform is used instead of the reader's.
        memory: bytes of activations, and of responses, that are held at a time.
        progress: of the work.

    Returns:
        The tables, and the description that is stored beside them.

    Raises:
        ConfigError: if images or responses can't be read, or the folder holds another comparison.
        InputError: if a measure can't be computed from these data.
    """
    cells = cells_of(plan.data, plan.images)
    _check_memory(plan, cells, memory)
    description = describe(plan, cells)
    folder.check_bound(description)  # before anything is written into it
    stimuli = [choose_stimuli(plan.data.stimuli, cell.images) for cell in cells]
    for some in stimuli:
        if damage := find_damage(some, threads=reader.threads):
            place, reason = next(iter(damage.items()))
            raise ConfigError(f"{len(damage)} images can't be read, such as {some.names[place]}: {reason}")
    try:
        key = f"{plan.spec} {plan.data.reading} {files_stamp(plan.spec)}"
        copies = [_copy_responses(key, cell, folder, memory) for cell in cells]
        if not folder.begun:
            for cell, copied in zip(cells, copies, strict=True):
                for region in cell.regions:
                    _Measures(plan, cell, copied).of(region)  # an error if one can't be computed
    except InputError:
        folder.remove_if_new()
        raise
    for copied in copies:
        for name, copy in copied.items():
            description["subjects"][name]["responses_sha256"] = copy.sha256
    description["images_sha256"] = _digest(stimuli, threads=reader.threads)
    try:
        folder.bind(description)
    except ConfigError:
        folder.remove_responses()  # which are not those that the folder was begun with
        raise
    parts = []
    for cell, copied, some in zip(cells, copies, stimuli, strict=True):
        opened = _Measures(plan, cell, copied)
        scores = {
            model.name: _score_model(cell, model, opened, some, folder, reader, memory, progress)
            for model in plan.models
        }
        for region in cell.regions:
            for measure in opened.of(region):
                found = {
                    name: {layer: values[region][measure.name] for layer, values in layers.items()}
                    for name, layers in scores.items()
                }
                voxels = opened.voxels(region, measure)
                parts.append(tables_of(measure, found, region=region, voxels=voxels, images=len(cell.images)))
    return joined(parts), description


def _score_model(
    cell: Cell,
    model: Model,
    opened: "_Measures",
    stimuli: StimulusSet,
    folder: Folder,
    reader: Reader,
    memory: int,
    progress: Progress,
) -> dict[str, Values]:
    """Scores every layer of a model; returns them by layer."""
    place = cell.name, model.name
    found = {layer: folder.read_scores(place, layer) for layer in model.layers}
    numbers = widths(model.encoder, model.layers, size=model.transform.size)
    title = f"{model.name}, {cell.name}" if len(cell.subjects) == 1 else model.name
    total = len(model.layers) * len(cell.regions)
    for group in group_layers(numbers, len(cell.images), memory=memory):
        progress(title, sum(map(len, found.values())), total)
        missing = [region for region in cell.regions if any(region not in found[layer] for layer in group)]
        if not missing:
            continue
        # All layers of the group, though some may be known: the same program gives the same bits.
        own = Reader(model.transform, reader.batch_size, reader.threads)
        layers = dict(read_layers(model.encoder, stimuli, own, group, memory=memory))
        for region in missing:
            measures = opened.of(region)
            for layer in group:
                if region not in found[layer]:
                    found[layer][region] = {measure.name: measure.score(layers[layer]) for measure in measures}
                    folder.write_scores(place, layer, found[layer])
                    progress(title, sum(map(len, found.values())), total)
    return found


class _Measures:
    """The measures of a cell, made for one region at a time, whose responses are held in memory meanwhile."""

    def __init__(self, plan: Plan, cell: Cell, copies: Mapping[str, Copied]):
        self._plan, self._cell, self._copies = plan, cell, copies

    def of(self, region: str) -> list[Measure]:
        """Makes the measures of a region."""
        subjects = [subject for subject in self._cell.subjects if region in subject.regions]
        found = {subject.name: self._copies[subject.name].region(subject.regions[region]) for subject in subjects}
        kinds = {subject.ceiling_kind for subject in subjects}
        try:
            return [
                open_measure(
                    name,
                    {subject: responses.mean for subject, responses in found.items()},
                    ceilings={subject: responses.ceiling for subject, responses in found.items()},
                    images=self._cell.images,
                    options=self._plan.options,
                    ceiling_kind=" or ".join(sorted(kinds - {""})),
                )
                for name in self._plan.measures
            ]
        except InputError as error:
            raise InputError(f"{region}: {error}") from None

    def voxels(self, region: str, measure: Measure) -> dict[str, int]:
        """Returns the number of voxels of each of the measure's groups."""
        counts = {
            subject.name: len(subject.regions[region])
            for subject in self._cell.subjects
            if region in subject.regions
        }
        return {group: sum(counts[name] for name in counts if name in group.split("+")) for group in measure.groups}


def _voxels(subject: Subject) -> np.ndarray:
    """Returns the voxels of all regions together, ascending."""
    return np.unique(np.concatenate([np.asarray(voxels) for voxels in subject.regions.values()]))


def _check_memory(plan: Plan, cells: Sequence[Cell], memory: int) -> None:
    """Raises ConfigError if a measure needs a layer's activations, and they don't fit into memory."""
    needing = [name for name in plan.measures if needs_features(name, plan.options)]
    for model in plan.models if needing else ():
        numbers = widths(model.encoder, model.layers, size=model.transform.size)
        layer = max(numbers, key=numbers.__getitem__)
        count = max(len(cell.images) for cell in cells)
        if (size := 4 * numbers[layer] * count) > memory:
            raise ConfigError(
                f"{needing[0]} needs the activations of {layer} of {model.name} for {count:,} images, "
                f"{size / 1e9:.1f} GB; raise --memory to {-(-size // 10**8) / 10:.1f}, or leave layers out."
            )


def describe(plan: Plan, cells: Sequence[Cell]) -> dict[str, Any]:
    """Describes a comparison by what its scores depend on, but for the content of images and responses.

    Returns:
        Names, counts, options, and the sha256 of weights and code.
    """
    return {
        "data": plan.data.name,
        "reading": dict(plan.data.reading),
        "images": plan.images,
        "subjects": {
            subject.name: {
                "images": len(cell.images),
                "voxels": {region: len(voxels) for region, voxels in subject.regions.items()},
            }
            for cell in cells
            for subject in cell.subjects
        },
        "models": {
            model.name: {
                "weights_sha256": model.encoder.digest(),
                "preprocessing": f"{model.transform}, less {list(model.encoder.mean)}, by {list(model.encoder.std)}",
                "layers": list(model.layers),
            }
            for model in plan.models
        },
        "measures": list(plan.measures),
        "options": asdict(plan.options),
        "code": f"{code_version()}, {code_version(CODE)}",
    }


def _digest(stimuli: Sequence[StimulusSet], *, threads: int) -> str:
    """Returns the sha256 of all images and their names."""
    state = hashlib.sha256()
    for some in stimuli:
        state.update("\n".join(some.names).encode())
        state.update(image_digests(some, len(some.names), threads=threads).tobytes())
    return state.hexdigest()


def _copy_responses(key: str, cell: Cell, folder: Folder, memory: int) -> dict[str, Copied]:
    """Copies the responses of a cell's subjects into the folder."""
    return {
        subject.name: Copied(folder.responses(key, subject, list(cell.images), _voxels(subject), memory))
        for subject in cell.subjects
    }
