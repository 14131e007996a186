"""The registry of sets of brain data, how subjects and regions are named, and the checks that all sets share."""

import dataclasses
import importlib
import inspect
import sys
import types

import h5py
import numpy as np
import pytest
from PIL import Image

from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.brain.choice import choose_regions, choose_subjects
from ipcl_jax.brain.sources import SETS, Reading, check_brain, open_brain
from ipcl_jax.errors import ConfigError

NSD = tuple(f"subj{number:02}" for number in range(1, 9))


@pytest.mark.parametrize(
    "given, available, chosen",
    [
        ((), NSD, NSD),
        (None, NSD, NSD),
        (("all",), NSD, NSD),
        (("1",), NSD, ("subj01",)),
        (("07", "2"), NSD, ("subj07", "subj02")),
        (("subj01",), NSD, ("subj01",)),
        ("subj01", NSD, ("subj01",)),
        (("Subj-1", "SUBJ8"), NSD, ("subj01", "subj08")),
        (("1", "CSI3"), ("CSI1", "CSI2", "CSI3"), ("CSI1", "CSI3")),
        (("sub-2",), ("sub-01", "sub-02"), ("sub-02",)),
        (("one",), ("One", "two"), ("One",)),
        (("12",), ("s1", "s2", "s12"), ("s12",)),
        (("1",), ("1", "s1"), ("1",)),
    ],
)
def test_subjects_as_users_write_them(given, available, chosen):
    assert choose_subjects(given, available) == chosen


@pytest.mark.parametrize(
    "given, available, message",
    [
        (("9",), NSD, "There is no subject '9' in FILE.*Known: subj01, subj02"),
        (("sub01",), NSD, "There is no subject 'sub01' in FILE. Did you mean 'subj01'"),
        (("1",), ("a1", "b1"), "1 can be subject a1 or b1; write the whole name"),
        (("1", "01"), NSD, "subject subj01 is named twice"),
        (("",), ("one",), "There is no subject ''"),
        (("-",), ("one",), "There is no subject '-'"),
    ],
)
def test_subjects_that_there_are_not(given, available, message):
    with pytest.raises(ConfigError, match=message):
        choose_subjects(given, available, where="FILE")


def test_regions_as_users_write_them():
    known = ("V1", "v2", "FFA", "ffa")
    assert choose_regions(("v1", "V2", "ffa"), known) == ("V1", "v2", "ffa")
    assert choose_regions(("V1", "all"), known) == choose_regions((), known) == known
    for given, message in (
        (("Ffa",), "Ffa can be region FFA or ffa"),
        (("V4",), "There is no region 'V4'.*Known: FFA, V1, ffa, v2"),
        (("V1", "v1"), "region V1 is named twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_regions(given, known)


class Person(Subject):
    ceiling_kind = ""

    def __init__(self, name, images=("a", "b"), **regions):
        self.name, self.images = name, tuple(images)
        self.regions = {region: np.arange(count) for region, count in regions.items()}

    def read(self, images, voxels):
        shape = len(self.rows(images)), len(voxels)
        return Responses(np.zeros(shape, np.float32), np.zeros(shape[1], np.float32))


def a_set(*subjects, names=("a", "b", "c")):
    stimuli = types.SimpleNamespace(names=names, categories=[""] * len(names))
    return BrainData("made", subjects, stimuli, notes=("first",))


def test_a_region_that_a_subject_lacks():
    one, two = Person("one", V1=3, V4=2), Person("two", V1=1, V4=0, V2=1)
    data = check_brain(a_set(one, two))
    assert [list(subject.regions) for subject in data.subjects] == [["V1", "V4"], ["V1", "V2"]]
    assert list(two.regions) == ["V1", "V4", "V2"]  # what was given is left as it was
    assert data.notes == (
        "first",
        "V4 is left out for two, where it has no voxels.",
        "V2 is left out for one, where it has no voxels.",
    )
    assert check_brain(a_set(one), ["V4"]).notes == ("first",)
    for regions in (["V1", "v4"], ["atlas:V4"]):
        with pytest.raises(ConfigError, match="made: two has no voxels in V4.*it has voxels in V1, V2"):
            check_brain(a_set(one, two), regions)
    assert check_brain(a_set(one, two), ["atlas"]).notes == data.notes  # V4 was not asked for by name
    with pytest.raises(ConfigError, match="three has no voxels in V4.*voxels in none"):
        check_brain(a_set(Person("three", V4=0)), ["V4"])


@pytest.mark.parametrize(
    "data, message",
    [
        (a_set(), "made has no subjects"),
        (a_set(Person("one", V1=1), Person("two", V2=1)), "no region has voxels in every subject.*one: V1; two: V2"),
        (a_set(Person("one", V1=0)), "no region has voxels in every subject.*one: none"),
        (a_set(Person("one")), "no region has voxels in every subject"),
        (a_set(Person("one", ("a", "x", "y"), V1=1)), "2 of the 3 images that one saw .* 3 stimuli, such as x"),
        (a_set(Person("one", ("a", "a"), V1=1)), "one has no images, or has one twice"),
        (a_set(Person("one", (), V1=1)), "one has no images, or has one twice"),
        (a_set(Person("one", V1=1), names=("a", "b", "b")), "1 stimuli have the name of another one"),
    ],
)
def test_sets_that_do_not_fit_together(data, message):
    with pytest.raises(ConfigError, match=message):
        check_brain(data)


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_a_function_that_takes_what_is_passed_on(name):
    module = name.replace("-", "_")
    opener = getattr(importlib.import_module(f"ipcl_jax.brain.{module}"), f"open_{module}")
    _, *parameters = inspect.signature(opener).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    assert {"subjects", "regions"} < names and len(names & {"images", "stimuli"}) == 1
    assert names - {"subjects", "regions", "images", "stimuli"} <= {f.name for f in dataclasses.fields(Reading)}


def test_options_stand_in_the_set_that_has_them():
    """Each option's docstring begins with the sets that have it."""
    source = inspect.getsource(Reading)
    for field in dataclasses.fields(Reading):
        about = source.split(f"\n    {field.name}: ")[1].split('"""')[1]
        titles = {"nsd": "NSD", "bold5000": "BOLD5000", "things_fmri": "THINGS-fMRI", "objects72": "72 objects"}
        for name, title in titles.items():
            opener = getattr(importlib.import_module(f"ipcl_jax.brain.{name}"), f"open_{name}")
            assert (field.name in inspect.signature(opener).parameters) == (title in about.partition(":")[0])


@pytest.fixture
def made(monkeypatch):
    """A set in the place of NSD, and what its function was given."""
    seen = {}

    def open_nsd(root, *, subjects=(), regions=("streams",), space="volume", zscore=True, stimuli=None):
        seen.update(root=root, subjects=subjects, regions=regions, space=space, zscore=zscore, stimuli=stimuli)
        return a_set(Person("one", V1=2, V4=0))

    module = types.ModuleType("ipcl_jax.brain.nsd")
    module.open_nsd = open_nsd
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def test_a_set_is_opened_with_what_was_given(made, tmp_path):
    data = open_brain(f"nsd:{tmp_path}")
    assert made == {
        "root": tmp_path, "subjects": (), "regions": ("streams",), "space": "volume", "zscore": True, "stimuli": None
    }  # fmt: skip
    assert data.reading == {"space": "volume", "zscore": True} and len(data.notes) == 2
    reading = Reading(zscore=False)
    data = open_brain(f"nsd:{tmp_path}", subjects=["1"], regions=["V1"], images=["a"], reading=reading)
    assert made == {
        "root": tmp_path, "subjects": ["1"], "regions": ["V1"], "space": "volume", "zscore": False, "stimuli": ["a"]
    }  # fmt: skip
    assert data.reading == {"space": "volume", "zscore": False}
    with pytest.raises(ConfigError, match="sessions is no option of nsd.*Known: space, zscore"):
        open_brain(f"nsd:{tmp_path}", reading=Reading(sessions=3))
    with pytest.raises(ConfigError, match="one has no voxels in V4"):
        open_brain(f"nsd:{tmp_path}", regions=["V4"])


@pytest.mark.parametrize(
    "spec, message",
    [
        ("nds:/data", "nds:/data is no set of brain data.* Did you mean 'nsd'"),
        ("brain.h5", "brain.h5 is no set of brain data.*arrays:FILE"),
        ("", "is no set of brain data"),
        ("nsd:", "nsd: lacks the path"),
        ("nsd:/no/such/place", "There is no file or folder /no/such/place"),
        ("arrays:none.h5", "arrays comes without its images"),
    ],
)
def test_specs_that_name_nothing(spec, message):
    with pytest.raises(ConfigError, match=message):
        open_brain(spec)


def test_arrays_from_file_to_responses(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    (tmp_path / "images").mkdir()
    for name in "abcde":
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{name}.png")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mine/sub-01"], file["mine/sub-02"], file["mine/names"] = values, values[:, :4], list("abcde")
        file["regions/sub-01/V1"], file["regions/sub-01/V2"] = np.arange(8) < 3, np.arange(8) > 5
        file["regions/sub-02/V1"], file["regions/sub-02/V2"] = np.arange(4) > 1, np.zeros(4, bool)
    spec, asked = f"arrays:{tmp_path}/a.h5:mine", {"images": [str(tmp_path / "images")]}
    data = open_brain(spec, **asked)
    assert [list(subject.regions) for subject in data.subjects] == [["V1", "V2"], ["V1"]]
    assert data.notes == ("V2 is left out for sub-02, where it has no voxels.",) and data.reading == {}
    with pytest.raises(ConfigError, match="sub-02 has no voxels in V2"):
        open_brain(spec, regions=["v2"], **asked)
    (two,) = open_brain(spec, subjects=["2"], regions=["v1"], **asked).subjects
    np.testing.assert_array_equal(two.read(["e.png", "a.png"], two.regions["V1"]).mean, values[[4, 0], 2:4])
    with pytest.raises(ConfigError, match="zscore is no option of arrays. It has no options"):
        open_brain(spec, reading=Reading(zscore=True), **asked)
