"""Which sets of brain data there are, and what is checked of each."""

import copy
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ipcl_jax.brain.base import BrainData, Subject
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import expand_home

SETS = ("objects72", "nsd", "algonauts2023", "things-fmri", "bold5000", "arrays")
"""Sets that `open_brain` opens; that called a-b is opened by `open_a_b` in the module `a_b` beside this one."""


@dataclass(frozen=True)
class Reading:
    """How a set of brain data is read; each set has some of these options, and a default where none is given."""

    space: Literal["volume", "surface"] | None = None
    """nsd: voxels of each subject's volume, or vertices of the common surface (fsaverage)."""
    sessions: int | None = None
    """nsd: number of sessions to read, from the first; by default all, none of which may be missing."""
    betas: str | None = None
    """nsd: version of the responses; by default betas_fithrf_GLMdenoise_RR."""
    resolution: Literal["func1pt8mm", "func1mm"] | None = None
    """nsd: voxels of 1.8 mm (the default) or 1 mm."""
    version: str | None = None
    """bold5000: version of the responses; by default TYPED-FITHRF-GLMDENOISE-RR."""
    zscore: bool | None = None
    """nsd, things-fmri, bold5000: z-score each voxel within each session; by default yes."""
    parts: Literal["SECTORS", "GRADIENT"] | None = None
    """objects72: the paper's sectors (the default), or steps along the ventral stream."""
    min_reliability: float | None = None
    """objects72: least reliability of a voxel; by default 0.3, as the paper's lab takes."""
    min_voxels: int | None = None
    """objects72: least number of a region's voxels; by default 50."""

    def given(self) -> dict[str, object]:
        """Returns the options that are given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def open_brain(
    spec: str,
    *,
    subjects: Sequence[str] = (),
    regions: Sequence[str] = (),
    images: Sequence[str] = (),
    **options: object,
) -> BrainData:
    """Opens a set of brain data and checks it.

    Args:
        spec: `SET:PATH`, with SET from `SETS`, and PATH as the set's own function describes it.
        subjects: as `choose_subjects` understands them; none for all.
        regions: as the set's own function understands them; none for its default.
        images: as for `open_stimuli`, for sets that come without their images.
        options: of the set's own function, such as `space` of NSD.

    Returns:
        The set, with at least one subject, and a region that has voxels in all subjects.

    Raises:
        ConfigError: for an unknown set, path, subject, region or option, for images that the set doesn't need or
            lacks, or files that are damaged or don't fit together.
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
    own = [option for option in list(known)[1:] if option not in ("subjects", "regions", "images")]
    if unknown := [option for option in options if option not in own]:
        hint = near_miss(unknown[0], own) if own else " It has none."
        raise ConfigError(f"{unknown[0]} is no option of {name}.{hint}")
    if "images" not in known and images:
        raise ConfigError(f"{name} has its own images; leave out {', '.join(map(str, images[:3]))}.")
    if "images" in known and known["images"].default is inspect.Parameter.empty and not images:
        raise ConfigError(f"{name} comes without its images; say where they are.")
    given = {name: value for name, value in (("images", images), ("regions", regions)) if value}
    root = path if name == "arrays" else expand_home(path)
    data = opener(root, subjects=subjects, **given, **options)
    return replace(check_brain(data, regions), reading={**data.reading, **options})


def _opener(name: str) -> Callable[..., BrainData]:
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"ipcl_jax.brain.{module}"), f"open_{module}")


def choose_subjects(given: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Finds subjects by what a user calls them.

    Args:
        given: names, in upper or lower case, with or without punctuation and leading zeros (`subj01`, `Subj-1`), or
            numbers alone (`1`, `01`); none, or `all`, for every subject.
        available: names of the subjects there are.

    Returns:
        Names from `available`, each once, in the order given.

    Raises:
        ConfigError: for a name that fits no subject, or several.
    """
    if not given or "all" in given and "all" not in available:
        return tuple(available)
    return tuple(dict.fromkeys(_choose_subject(str(name), available) for name in given))


def _choose_subject(name: str, available: Sequence[str]) -> str:
    if name in available:
        return name
    words, numbers = _words_and_numbers(name)
    found = [one for one in available if _words_and_numbers(one) == (words, numbers)]
    if not found and numbers and not words:
        found = [one for one in available if _words_and_numbers(one)[1] == numbers]
    return _only(name, found, available, "subject")


def _words_and_numbers(name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    words = tuple(re.findall(r"[^\W\d_]+", name.casefold()))
    return words, tuple(int(number) for number in re.findall(r"[0-9]+", name))


def choose_regions(given: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Finds regions by what a user calls them.

    Args:
        given: names; upper and lower case differ only where regions do. `all` stands for every region.
        available: names of the regions that there are in any subject.

    Returns:
        Names from `available`, each once, in the order given.

    Raises:
        ConfigError: for a name that fits no region, or several.
    """
    if not given or "all" in given:
        return tuple(available)
    found = []
    for name in given:
        same = [one for one in available if one.casefold() == name.casefold()]
        found.append(name if name in available else _only(name, same, available, "region"))
    return tuple(dict.fromkeys(found))


def _only(name: str, found: Sequence[str], available: Sequence[str], what: str) -> str:
    if len(found) > 1:
        raise ConfigError(f"{name} can be {what} {' or '.join(found)}; write the whole name.")
    if not found:
        raise ConfigError(f"There is no {what} {name}.{near_miss(name, available)}")
    return found[0]


def check_brain(data: BrainData, regions: Sequence[str] = ()) -> BrainData:
    """Checks what all sets of brain data have in common.

    Args:
        data: a set, with the subjects and regions that were asked for.
        regions: as the user gave them.

    Returns:
        The same set without regions that have no voxels, and with a note for each region that a subject lacks.

    Raises:
        ConfigError: if there are no subjects or images, a subject lacks a region that was asked for by name, no
            region has voxels in all subjects, or a subject's images aren't all among the stimuli, each once.
    """
    if not data.subjects:
        raise ConfigError(f"{data.name} has no subjects.")
    stimuli = set(data.stimuli.names)
    if len(stimuli) < len(data.stimuli.names):
        raise ConfigError(f"{data.name} has {len(data.stimuli.names) - len(stimuli)} stimuli with another's name.")
    for subject in data.subjects:
        if not subject.images or len(set(subject.images)) < len(subject.images):
            raise ConfigError(f"{data.name}: {subject.name} has no images, or has one twice.")
        if missing := [name for name in subject.images if name not in stimuli]:
            raise ConfigError(
                f"{data.name}: {len(missing)} of the {len(subject.images)} images that {subject.name} saw are not "
                f"among the {len(stimuli)} stimuli, such as {missing[0]}."
            )
    subjects = tuple(_without_empty_regions(subject) for subject in data.subjects)
    every = tuple(dict.fromkeys(region for subject in subjects for region in subject.regions))
    asked = {region for region in every if region.casefold() in {name.casefold() for name in regions}}
    notes = []
    for region in every:
        lacking = [subject.name for subject in subjects if region not in subject.regions]
        if lacking and region in asked:
            known = next(subject.regions for subject in subjects if subject.name == lacking[0])
            raise ConfigError(
                f"{data.name}: {lacking[0]} has no voxels in {region}. Leave out the subject or the region; it has "
                f"{', '.join(known) or 'none'}."
            )
        if lacking:
            notes.append(f"{region} is left out for {', '.join(lacking)}, where it has no voxels.")
    if not any(all(region in subject.regions for subject in subjects) for region in every):
        listing = "; ".join(f"{subject.name}: {', '.join(subject.regions) or 'none'}" for subject in subjects)
        raise ConfigError(f"{data.name}: no region has voxels in every subject. Regions of {listing}.")
    return replace(data, subjects=subjects, notes=(*data.notes, *notes))


def _without_empty_regions(subject: Subject) -> Subject:
    filled = {name: voxels for name, voxels in subject.regions.items() if len(voxels)}
    if len(filled) == len(subject.regions):
        return subject
    changed = copy.copy(subject)
    object.__setattr__(changed, "regions", filled)  # also of a frozen dataclass
    return changed
