"""Which sets of brain data there are, and what is checked of each."""

import copy
import dataclasses
import hashlib
import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ipcl_jax.brain.base import BrainData, Subject
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import expand_home

SETS = ("objects72", "nsd", "algonauts2023", "things-fmri", "bold5000", "arrays")
"""Sets that `open_brain` opens; that called a-b is opened by `open_a_b` in the module `a_b` beside this one."""


@dataclass(frozen=True)
class Reading:
    """How a data set is read; None for the set's own default."""

    space: Literal["volume", "surface"] | None = None
    """NSD: the subject's own volume (the default), or fsaverage."""
    betas: str | None = None
    """NSD: version of the responses, by default betas_fithrf_GLMdenoise_RR."""
    resolution: Literal["func1pt8mm", "func1mm"] | None = None
    """NSD: of the volume; 1.8 mm by default."""
    sessions: int | None = None
    """NSD: only so many sessions, from the first; by default all."""
    zscore: bool | None = None
    """NSD, THINGS-fMRI, BOLD5000: scale each voxel's responses within each session; true by default."""
    version: str | None = None
    """BOLD5000: of the responses, as in the files' names; by default TYPED-FITHRF-GLMDENOISE-RR."""
    ignore_affines: bool | None = None
    """BOLD5000: accept masks whose affine differs from the brain mask's; false by default."""
    parts: Literal["SECTORS", "GRADIENT"] | None = None
    """72 objects: how cortex is divided; by default SECTORS."""
    min_reliability: float | None = None
    """72 objects: voxels are kept if their reliability is above; 0.3 by default."""
    min_voxels: int | None = None
    """72 objects: regions with fewer voxels are noted; 50 by default."""
    skip: tuple[int, ...] | None = None
    """72 objects: places in the file, from 0, of subjects to leave out; 1 by default."""


def open_brain(
    spec: str,
    *,
    subjects: Sequence[str] = (),
    regions: Sequence[str] = ("all",),
    images: Sequence[str] = (),
    reading: Reading = Reading(),  # noqa: B008  (frozen)
) -> BrainData:
    """Opens a set of brain data and checks it.

    Args:
        spec: `SET:PATH`, with SET from `SETS`, and PATH as the set's own function describes it.
        subjects: as `choose_subjects` understands them; none for all.
        regions: as the set's own function describes them; `all` for those that it gives by default.
        images: as for `open_stimuli`: the images of a set that comes without, or instead of its own.
        reading: options of the set's own function.

    Returns:
        The set, with at least one subject, and a region that has voxels in all subjects. Its `reading` has all options
        of the set's own function, also those that were not given.

    Raises:
        ConfigError: for an unknown set, path, subject, region or option, for images that are lacking, or files that
            are damaged or don't fit together.
    """
    name, colon, path = spec.partition(":")
    if not colon or name not in SETS:
        raise ConfigError(
            f"{spec} is no set of brain data: write SET:PATH, or arrays:FILE for a file of your own."
            f"{near_miss(name, SETS)}"
        )
    if not path:
        raise ConfigError(f"{spec} lacks the path of the data after the colon.")
    if name != "arrays" and not expand_home(path).exists():  # arrays:FILE:NAME isn't a path alone
        raise ConfigError(f"There is no file or folder {expand_home(path)}, of {spec}.")
    opener = _opener(name)
    known = inspect.signature(opener).parameters
    options = {field.name: known[field.name].default for field in dataclasses.fields(Reading) if field.name in known}
    given = {option: value for option, value in dataclasses.asdict(reading).items() if value is not None}
    if unknown := sorted(given.keys() - options):
        hint = near_miss(unknown[0], options) if options else " It has no options."
        raise ConfigError(f"{unknown[0]} is no option of {name}.{hint}")
    pictures = "images" if "images" in known else "stimuli"
    if images:
        given[pictures] = images
    elif known[pictures].default is inspect.Parameter.empty:
        raise ConfigError(f"{name} comes without its images; say where they are (--stimuli).")
    if "all" not in regions:
        given["regions"] = regions
    data = opener(path if name == "arrays" else expand_home(path), subjects=subjects, **given)
    used = {option: given.get(option, default) for option, default in options.items()}
    return check_brain(dataclasses.replace(data, reading={**used, **data.reading}), regions)


def files_stamp(spec: str) -> str:
    """Returns a digest of the names, sizes and times of change of a set's files, which differs once one was changed.

    Args:
        spec: as for `open_brain`. Without files, the digest is that of none.
    """
    path = spec.partition(":")[2]
    while path and not expand_home(path).exists():  # arrays:FILE:NAME
        path = path.rpartition(":")[0]
    state = hashlib.sha256()
    if path:
        top = str(expand_home(path))
        files = [os.path.join(where, name) for where, _, names in os.walk(top) for name in names]
        for file in sorted(files or [top]):
            if os.path.exists(file):  # no broken link
                found = os.stat(file)
                state.update(repr((os.path.relpath(file, top), found.st_size, found.st_mtime_ns)).encode())
    return state.hexdigest()


def _opener(name: str) -> Callable[..., BrainData]:
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"ipcl_jax.brain.{module}"), f"open_{module}")


def check_brain(data: BrainData, regions: Sequence[str] = ("all",)) -> BrainData:
    """Checks what all sets of brain data have in common.

    Args:
        data: a set, with the subjects and regions that were asked for.
        regions: as the user gave them: names, `ATLAS:NAME`, or what stands for several, such as `all` or an atlas.

    Returns:
        The same set without regions that have no voxels, and with a note for each region that a subject lacks.

    Raises:
        ConfigError: if there are no subjects or images, a subject lacks a region that was asked for by name, no
            region has voxels in all subjects, or a subject's images aren't all among the stimuli, each once.
    """
    if not data.subjects:
        raise ConfigError(f"{data.name} has no subjects.")
    _check_images(data)
    every = tuple(dict.fromkeys(region for subject in data.subjects for region in subject.regions))
    subjects = tuple(_without_empty_regions(subject) for subject in data.subjects)
    named = {part.casefold() for text in regions for part in (text, text.rpartition(":")[2])}
    notes, in_all = [], False
    for region in every:
        lacking = [subject for subject in subjects if region not in subject.regions]
        in_all |= not lacking
        if lacking and region.casefold() in named and "all" not in regions:
            raise ConfigError(
                f"{data.name}: {lacking[0].name} has no voxels in {region}. Leave out the subject or the region; it has "
                f"voxels in {', '.join(lacking[0].regions) or 'none'}."
            )
        if lacking:
            names = ", ".join(subject.name for subject in lacking)
            notes.append(f"{region} is left out for {names}, where it has no voxels.")
    if not in_all:
        listing = "; ".join(f"{subject.name}: {', '.join(subject.regions) or 'none'}" for subject in subjects)
        raise ConfigError(f"{data.name}: no region has voxels in every subject. Regions of {listing}.")
    return dataclasses.replace(data, subjects=subjects, notes=(*data.notes, *notes))


def _check_images(data: BrainData) -> None:
    stimuli = set(data.stimuli.names)
    if len(stimuli) < len(data.stimuli.names):
        raise ConfigError(f"{data.name}: {len(data.stimuli.names) - len(stimuli)} stimuli have the name of another one.")
    for subject in data.subjects:
        if not subject.images or len(set(subject.images)) < len(subject.images):
            raise ConfigError(f"{data.name}: {subject.name} has no images, or has one twice.")
        if missing := [name for name in subject.images if name not in stimuli]:
            raise ConfigError(
                f"{data.name}: {len(missing)} of the {len(subject.images)} images that {subject.name} saw are not "
                f"among the {len(stimuli)} stimuli, such as {missing[0]}."
            )


def _without_empty_regions(subject: Subject) -> Subject:
    filled = {name: voxels for name, voxels in subject.regions.items() if len(voxels)}
    if len(filled) == len(subject.regions):
        return subject
    changed = copy.copy(subject)
    object.__setattr__(changed, "regions", filled)  # also of a frozen dataclass
    return changed
