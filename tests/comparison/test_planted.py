"""Every set of brain data from files to scores: what is planted in stand-ins is found, and lost by a mistake.

In each stand-in one region is made of a model's early layer, one of its last, and one of noise (`planted_sets`).
"""

import dataclasses

import numpy as np
import pytest
from planted_sets import LAYERS, LATE, NULL, WRITERS, make_world

from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.brain import algonauts2023, arrays, bold5000, nsd, objects72, things_fmri
from ipcl_jax.brain.sources import Reading, open_brain
from ipcl_jax.comparison.compare import Plan, compare
from ipcl_jax.comparison.folder import Folder
from ipcl_jax.errors import InputError
from ipcl_jax.measures.options import MeasureOptions

OF_SUBJECTS = ("encoding", "versa", "rsa", "conwell2024", "sparse-positive")
OF_HALVES = ("konkle2022", "konkle2022-classic")  # of four subjects or more
HALVED = ("objects72", "nsd-volume", "algonauts2023", "bold5000", "arrays")
# Of fc7 units vary by 0.04, so that the published penalty of 0.1 leaves no weight. Two folds take a third of the time
# of five. Standardised units vary by far more than penalties of 0.1 to 10, so that predictions are not the others' mean.
OPTIONS = MeasureOptions(conwell_dimensions=200, sparse_alpha=0.03, sparse_folds=2, konkle_standardise="all")


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


@pytest.fixture(scope="module", params=WRITERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def planted(name, world, tmp_path_factory):
    return WRITERS[name](tmp_path_factory.mktemp(name), world)


@pytest.fixture(scope="module")
def layers(name, planted, world, tmp_path_factory):
    measures = OF_SUBJECTS + (OF_HALVES if name in HALVED else ())
    return run(planted, world.model, tmp_path_factory.mktemp("out") / "brain", measures).layers


def run(planted, model, out, measures, *, regions=None, **reading):
    names = {"nsd": "streams:", "algonauts2023": "streams:"}.get(planted.spec.partition(":")[0], "")
    data = open_brain(
        planted.spec, images=planted.stimuli, regions=[names + region for region in regions or planted.regions],
        reading=Reading(**{**planted.reading, **reading}),
    )  # fmt: skip
    plan = Plan(planted.spec, data, "shared", (model,), measures, OPTIONS)
    folder = Folder(out)
    with folder.locked():
        reader = Reader(model.transform, batch_size=16)
        return compare(plan, folder, reader, memory=1 << 30, progress=lambda *_: None)[0]


def means(layers, measure, region):
    """Scores by layer, averaged over subjects."""
    rows = [row for row in layers if (row.measure, row.region) == (measure, region)]
    return {layer: np.mean([row.score for row in rows if row.layer == layer]) for layer in LAYERS}


def test_the_planted_layer_is_first_by_every_measure(name, planted, layers):
    measures = {row.measure for row in layers}
    for measure in measures:
        for region, layer in planted.regions.items():
            if layer is not NULL:
                found = means(layers, measure, region)
                print(name, measure, region, {k: round(float(v), 2) for k, v in found.items()})
                assert max(found, key=found.get) == layer, (measure, region, found)


def test_a_region_of_noise_is_at_chance(name, planted, layers):
    (region,) = (region for region, layer in planted.regions.items() if layer is NULL)
    for measure in {row.measure for row in layers}:
        found = means(layers, measure, region)
        print('NULL', name, measure, region, {k: round(float(v), 3) for k, v in found.items()})


def test_ceilings_are_the_planted_ones(name, planted, layers):
    for row in layers:
        if row.measure == "encoding":
            print('CEIL', name, row.region, row.subject, row.ceiling, planted.ceilings.get(row.subject))


def test_the_papers_measure_is_refused_for_few_subjects(name, planted, world, tmp_path):
    if name in HALVED:
        pytest.skip("four subjects")
    for measure in OF_HALVES:
        with pytest.raises(InputError, match=f"{measure} averages RDMs over halves of the subjects, and [23] can't be"):
            run(planted, world.model, tmp_path / "brain", (measure,))


def roll_conditions(patch):
    read = objects72._conditions
    patch.setattr(objects72, "_conditions", lambda *args: (lambda names: names[1:] + names[:1])(read(*args)))


def shift_numbers(patch):
    read = nsd.read_design
    patch.setattr(nsd, "read_design", lambda path: nsd.Design(read(path).order, read(path).images + 1))


def roll_rows(patch):
    find = algonauts2023._find_images
    patch.setattr(algonauts2023, "_find_images", lambda folder: dict(np.roll(list(find(folder).items()), 1, 0).tolist()))


def roll_trials(patch):
    read = things_fmri.read_trials
    patch.setattr(
        things_fmri, "read_trials", lambda *args: (lambda found: found._replace(shown=np.roll(found.shown, 1)))(read(*args))
    )


def roll_names(patch):
    read = bold5000._read_names
    patch.setattr(bold5000, "_read_names", lambda path: np.roll(read(path), 1).tolist())


def roll_matches(patch):
    find = arrays.find_rows
    patch.setattr(
        arrays, "find_rows", lambda *args, **how: (lambda found: found._replace(rows=np.roll(found.rows, 1, 0)))(find(*args, **how))
    )


OFF_BY_ONE = {
    "objects72": roll_conditions, "nsd-volume": shift_numbers, "nsd-surface": shift_numbers,
    "algonauts2023": roll_rows, "things-fmri": roll_trials, "bold5000": roll_names, "arrays": roll_matches,
}  # fmt: skip


def score_of_late(planted, world, out, **reading):
    (region,) = (region for region, layer in planted.regions.items() if layer == LATE)
    model = dataclasses.replace(world.model, layers=(LATE,))
    rows = run(planted, model, out, ("encoding",), regions=[region], **reading).layers
    return np.mean([row.score for row in rows])


def test_a_picture_that_is_off_by_one_is_noticed(name, planted, world, tmp_path, monkeypatch):
    OFF_BY_ONE[name](monkeypatch)
    print('OFF', name, score_of_late(planted, world, tmp_path / "brain"))


def test_missed_z_scores_are_noticed(name, planted, world, layers, tmp_path, monkeypatch):
    print('Z', name, score_of_late(planted, world, tmp_path / "brain", zscore=False) if 'zscore' in Reading.__dataclass_fields__ and name in ("nsd-volume","nsd-surface","things-fmri","bold5000") else None)
