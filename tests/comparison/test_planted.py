"""Every set of brain data, from its files to scores: what is planted in stand-ins is found, and a mistake loses it.

In each stand-in one region is made of a model's early layer, one of its last, and one of noise (`planted_sets`).
"""

import dataclasses
import functools

import numpy as np
import pytest
from made_up_world import COUNT
from planted_sets import LATE, LAYERS, NULL, WRITERS, make_world

from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.brain import algonauts2023, arrays, bold5000, nsd, objects72, things_fmri
from ipcl_jax.brain.sources import Reading, open_brain
from ipcl_jax.comparison.compare import Plan, compare
from ipcl_jax.comparison.folder import Folder
from ipcl_jax.errors import InputError
from ipcl_jax.measures.options import MeasureOptions

OF_VOXELS = ("encoding", "conwell2024", "sparse-positive")
OF_GEOMETRY = ("versa", "rsa")
OF_HALVES = ("konkle2022", "konkle2022-classic")  # of four subjects or more
FEW = ("nsd-surface", "things-fmri")  # subjects
SCALED = ("nsd-volume", "nsd-surface", "things-fmri", "bold5000")  # within sessions, as they are read
# Units of fc7 vary by 0.04, so that sparse-positive's own penalty of 0.1 leaves no weight; two folds take a third of
# the time of five. Standardised units vary by far more than konkle2022's penalties, so that predictions are not the
# mean of the other images alone.
OPTIONS = MeasureOptions(
    conwell_dimensions=200, sparse_alpha=0.03, sparse_folds=2, encoding_alphas=(0.01, 0.1, 1.0, 10.0), versa_splits=2,
    konkle_standardise="all",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def files_are_checked_without_a_process():
    """A process that checks a file first takes half a second, and would be most of the time here."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("brain.files", "brain.nsd", "brain.objects72", "brain.things_fmri", "activations.stimuli"):
            patch.setattr(f"ipcl_jax.{module}.check_readable", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def sets(world, tmp_path_factory):
    """Writes a set, by name, once."""
    return functools.cache(lambda name: WRITERS[name](tmp_path_factory.mktemp(name), world))


@pytest.fixture(scope="module")
def scored(sets, world, tmp_path_factory):
    """Scores all layers in a set, by name, once, by every measure that it allows."""

    def score(name):
        measures = OF_VOXELS + OF_GEOMETRY + (() if name in FEW else OF_HALVES)
        return run(sets(name), world.model, tmp_path_factory.mktemp("out") / name, measures)

    return functools.cache(score)


def run(planted, model, out, measures, *, regions=None, options=OPTIONS):
    """Compares a model with a set by the images that all subjects saw; returns the scores by layer."""
    atlas = "streams:" if planted.spec.startswith(("nsd:", "algonauts2023:")) else ""
    regions = [atlas + region for region in regions or planted.regions]
    data = open_brain(planted.spec, images=planted.stimuli, regions=regions, reading=Reading(**planted.reading))
    plan = Plan(planted.spec, data, "shared", (model,), measures, options)
    folder = Folder(out)
    with folder.locked():
        reader = Reader(model.transform, batch_size=16)
        return compare(plan, folder, reader, memory=1 << 30, progress=lambda *_: None)[0].layers


def region_of(planted, layer):
    return next(region for region, made_of in planted.regions.items() if made_of == layer)


def mean(rows, measure, region, layer):
    """The score of a layer, averaged over subjects."""
    return np.mean([row.score for row in rows if (row.measure, row.region, row.layer) == (measure, region, layer)])


@pytest.mark.parametrize("name", WRITERS)
def test_the_planted_layer_is_first_by_every_measure(name, sets, scored):
    for measure in {row.measure for row in scored(name)}:
        for region, planted in sets(name).regions.items():
            if planted is not NULL:
                found = {layer: mean(scored(name), measure, region, layer) for layer in LAYERS}
                assert max(found, key=found.get) == planted, (measure, region, found)


@pytest.mark.parametrize("name", WRITERS)
def test_a_region_of_noise_is_at_chance(name, sets, scored):
    region = region_of(sets(name), NULL)
    rows = [row for row in scored(name) if row.region == region]
    subjects = len({row.subject for row in rows if row.measure == "encoding"})
    for measure in {row.measure for row in rows}:
        # The r of a voxel's noise has a deviation of 1 / sqrt(n - 1) over n images. Those of two halves of the images
        # are nearly the same number, so n is half of the images; 8 voxels or more of each subject are averaged. Of the
        # entries of an RDM no more than one an image is taken as independent, and of subjects one alone.
        deviation = 1 / np.sqrt((COUNT / 2 - 1) * 8 * subjects) if measure in OF_VOXELS else 1 / np.sqrt(COUNT - 1)
        for layer in LAYERS:
            score = mean(rows, measure, region, layer)
            assert abs(score) < (4 if measure in OF_VOXELS else 1) * deviation, (measure, layer, score)


def test_noise_scores_high_where_penalties_leave_the_mean_of_the_others(sets, world, tmp_path):
    """What the bound above would show, if standardised units did not avoid it (docs/measures.md)."""
    planted = sets("arrays")
    options = dataclasses.replace(OPTIONS, konkle_alphas=(1e12,))
    rows = run(planted, world.model, tmp_path / "brain", OF_HALVES[:1], regions=["null"], options=options)
    assert min(row.score for row in rows) > 0.4  # the bound is 0.15


@pytest.mark.parametrize("name", WRITERS)
def test_ceilings_are_the_planted_ones(name, sets, scored):
    planted = sets(name)
    rows = [row for row in scored(name) if row.measure == "encoding"]
    for row in rows:
        if not planted.ceilings:
            assert row.ceiling is None and row.ceiling_kind == ""
        elif planted.regions[row.region] is NULL:
            # The root is steep near 0: 1 / 24 of variance, which z-scores of 24 trials lack and which BOLD5000's formula
            # takes for signal, and a standard error, make 0.68 of 7 repeats.
            assert 0 <= row.ceiling < 0.7
        else:
            # Four standard errors of a mean of 8 voxels; z-scores of sessions of 24 or 48 trials, whose means and
            # deviations have errors of their own, lower it by up to 0.004; and float32.
            value, error = planted.ceilings[row.subject]
            assert row.ceiling == pytest.approx(value, abs=4 * error / np.sqrt(8) + (0.004 if error else 1e-6))


@pytest.mark.parametrize("measure", OF_HALVES)
@pytest.mark.parametrize("name", FEW)
def test_the_papers_measures_are_refused_for_few_subjects(name, measure, sets, world, tmp_path):
    with pytest.raises(InputError, match=f"{measure} averages RDMs over halves of the subjects, and [23] can't be"):
        run(sets(name), world.model, tmp_path / "brain", (measure,))


# What a reader could get wrong: a function of a module, and what is made of its result.
MISTAKES = {
    "objects72": (objects72, "_conditions", lambda names: names[::-1]),
    "nsd-volume": (nsd, "read_design", lambda design: design._replace(images=design.images + 1)),
    "nsd-surface": (nsd, "read_design", lambda design: design._replace(images=design.images + 1)),
    "algonauts2023": (algonauts2023, "_find_images", lambda found: dict([*found.items()][1:] + [*found.items()][:1])),
    "things-fmri": (things_fmri, "read_trials", lambda trials: trials._replace(shown=np.roll(trials.shown, 1))),
    "bold5000": (bold5000, "_read_names", lambda names: names[1:] + names[:1]),
    "arrays": (arrays, "find_rows", lambda found: found._replace(rows=found.rows[::-1])),
}


def score_of_late(planted, world, out):
    """The score of the last layer, by encoding, in the region that is made of it."""
    model, region = dataclasses.replace(world.model, layers=(LATE,)), region_of(planted, LATE)
    return mean(run(planted, model, out, ("encoding",), regions=[region]), "encoding", region, LATE)


@pytest.mark.parametrize("name", WRITERS)
def test_wrong_pictures_are_noticed(name, sets, world, scored, tmp_path, monkeypatch):
    """Names are reversed, numbers count from 1, rows or trials are off by one."""
    assert mean(scored(name), "encoding", region_of(sets(name), LATE), LATE) > 0.65
    module, function, mistake = MISTAKES[name]
    right = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args, **options: mistake(right(*args, **options)))
    assert abs(score_of_late(sets(name), world, tmp_path / "brain")) < 0.2  # chance, as above, for 2 subjects


@pytest.mark.parametrize("name", SCALED)
def test_missed_z_scores_are_noticed(name, sets, world, scored, tmp_path, monkeypatch):
    init = nsd.NsdSubject.__init__
    monkeypatch.setattr(nsd.NsdSubject, "__init__", lambda self, *args, zscore: init(self, *args, zscore=False))
    for module in (things_fmri, bold5000):
        monkeypatch.setattr(module, "z_score", lambda values, *_: values)
    missed = score_of_late(sets(name), world, tmp_path / "brain")
    assert missed < 0.85 * mean(scored(name), "encoding", region_of(sets(name), LATE), LATE)
