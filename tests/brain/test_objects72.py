"""The 72 objects of the paper, from a stand-in whose sizes differ along every axis."""

from io import BytesIO

import h5py
import numpy as np
import pytest
from PIL import Image

import made_up_objects72 as made_up
from ipcl_jax.brain.objects72 import open_objects72
from ipcl_jax.errors import ConfigError, InputError
from made_up_pictures import write_pictures

REGIONS = list(made_up.SIZES)


@pytest.fixture(autouse=True)
def files_are_sound(request, monkeypatch):
    """Skips the check in a subprocess, which takes half a second a file, but where a file is damaged."""
    if "damaged" not in request.node.name:
        monkeypatch.setattr("ipcl_jax.brain.objects72.check_readable", lambda *path, **options: None)


@pytest.fixture
def truth():
    return made_up.planted()


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", [f"{name}.png" for name in made_up.CONDITIONS[::-1]])


@pytest.fixture
def folder(tmp_path, truth):
    made_up.write(tmp_path / "ExploringObjectsData_SECTORS.mat", *truth)
    return tmp_path


def kept(truth, region: str, subject: int, threshold: float = 0.3) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return truth[0][region][subject][truth[1][region][subject][:, 0] > threshold]


@pytest.mark.parametrize("subject", [0, 2])
def test_reads_what_was_planted(folder, truth, pictures, subject):
    data = open_objects72(folder, images=pictures)
    assert [person.name for person in data.subjects] == ["subject01", "subject03"]
    person = data.subjects[subject // 2]
    assert person.images == made_up.CONDITIONS == data.shared and list(person.regions) == REGIONS
    order = np.random.default_rng(1).permutation(9)[:7]
    for region in REGIONS:
        mean, ceiling = person.read([made_up.CONDITIONS[i] for i in order], person.regions[region])
        np.testing.assert_array_equal(mean, kept(truth, region, subject)[:, order].T.astype(np.float32))
        assert mean.dtype == ceiling.dtype == np.float32 and np.isnan(ceiling).all() and person.ceiling_kind == ""


def test_voxels_are_numbered_in_the_files_order_before_any_is_left_out(folder, truth, pictures):
    person = open_objects72(folder, images=pictures, regions=["aOTC"]).subjects[1]
    with np.errstate(invalid="ignore"):
        place = np.flatnonzero(truth[1]["aOTC"][2][:, 0] > 0.3)
    np.testing.assert_array_equal(person.regions["aOTC"], 7 + 3 + place)  # after EarlyV's 7 and pOTC's 3


def test_several_regions_are_read_at_once(folder, truth, pictures):
    person = open_objects72(folder, images=pictures, regions=["aOTC", "EarlyV"]).subjects[0]
    assert list(person.regions) == ["aOTC", "EarlyV"]
    voxels = np.concatenate([person.regions["EarlyV"], person.regions["aOTC"]])
    expected = np.concatenate([kept(truth, "EarlyV", 0), kept(truth, "aOTC", 0)])
    np.testing.assert_array_equal(person.read(made_up.CONDITIONS, voxels).mean, expected.T.astype(np.float32))


def test_pixels_are_matched_by_name(folder, pictures):
    stimuli = open_objects72(folder, images=pictures).stimuli
    assert stimuli.names == list(made_up.CONDITIONS)
    found = [np.asarray(Image.open(BytesIO(stimuli[i])))[0, 0, 0] for i in range(9)]
    assert found == list(range(9))[::-1]  # the pictures were written in reverse order


def test_options(folder, truth, pictures):
    data = open_objects72(folder, images=pictures, skip=(), min_reliability=-1, min_voxels=6)
    assert [person.name for person in data.subjects] == ["subject01", "subject02", "subject03"]
    assert [len(data.subjects[1].regions[region]) for region in REGIONS] == [5, 3, 9]  # all with a number
    assert len(data.notes) == 5 and "subject01 has only 4 voxels in EarlyV" in data.notes[0]
    assert "subject02 is left out" in open_objects72(folder, images=pictures).notes[0]


def test_the_other_file(tmp_path, truth, pictures):
    path = made_up.write(tmp_path / "ExploringObjectsData_GRADIENT.mat", *truth, parts="GRADIENT")
    assert len(open_objects72(tmp_path, images=pictures, parts="GRADIENT").subjects) == 2
    with pytest.raises(ConfigError, match="no struct SECTORS; it has GRADIENT"):
        open_objects72(path, images=pictures)


def spoil(truth, what: str) -> dict:
    betas, reliability = truth
    conditions = list(made_up.CONDITIONS)
    match what:
        case "transposed":
            betas["pOTC"][0] = betas["pOTC"][0].T
        case "short reliability":
            reliability["pOTC"][0] = reliability["pOTC"][0][1:]
        case "no reliability":
            del reliability["pOTC"]
        case "a NaN":
            betas["pOTC"][0][-1, 3] = np.nan
        case "a subject less":
            betas["pOTC"].pop()
        case "a name twice":
            conditions[3] = conditions[4]
        case "unreliable":
            reliability["pOTC"][0][:] = 0.1
        case "other images":
            conditions[0] = "zebra"
    return {"betas": betas, "reliability": reliability, "conditions": conditions}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("transposed", r"Betas.pOTC of subject01 is float64 \[9, 8\], expected numbers \[voxels, 9\]"),
        ("short reliability", r"has 8 voxels, and its Reliability is \[7\]"),
        ("no reliability", "pOTC is not a cell array|has 8 voxels, and its Reliability"),
        ("a NaN", "Betas.pOTC of subject01 has responses that are not finite"),
        ("a subject less", "different numbers of subjects by region"),
        ("a name twice", "condition 'object04' twice"),
        ("unreliable", "no voxel with a Reliability above 0.3"),
        ("other images", "lacks 1 of the 9 images of the 72 objects, such as zebra"),
    ],
)
def test_refuses(tmp_path, truth, pictures, what, message):
    path = made_up.write(tmp_path / "file.mat", **spoil(truth, what))
    with pytest.raises(ConfigError, match=message) as error:
        open_objects72(path, images=pictures)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": ["subject02"]}, "left out by skip"),
        ({"subjects": ["subject09"]}, "no subject 'subject09'"),
        ({"regions": ["V9"]}, "no region 'V9'"),
        ({"regions": ["pOTC", "pOTC"]}, "named twice"),
    ],
)
def test_refuses_what_is_not_there(folder, pictures, options, message):
    with pytest.raises(ConfigError, match=message):
        open_objects72(folder, images=pictures, **options)


def test_refuses_other_and_damaged_files(tmp_path, pictures):
    with pytest.raises(ConfigError, match="no ExploringObjectsData_SECTORS.mat in"):
        open_objects72(tmp_path, images=pictures)
    with h5py.File(tmp_path / "new.mat", "w") as file:
        file["SECTORS"] = 1
    with pytest.raises(ConfigError, match="7.3"):
        open_objects72(tmp_path / "new.mat", images=pictures)
    (tmp_path / "no.mat").write_bytes(b"MATLAB 5.0 MAT-file" * 20)
    with pytest.raises(ConfigError, match="can't be read"):
        open_objects72(tmp_path / "no.mat", images=pictures)


@pytest.mark.parametrize("voxels", [[6, 5], [6, 6], [0], [10_000], [0.5], []])
def test_refuses_wrong_voxels(folder, pictures, voxels):
    """Voxel 0 was left out for its reliability."""
    with pytest.raises(InputError):
        open_objects72(folder, images=pictures).subjects[0].read(made_up.CONDITIONS, np.array(voxels))


def test_two_pictures_of_one_object_are_refused(folder, pictures):
    pictures = write_pictures(folder / "b", [f"{place}/{name}.png" for place in "xy" for name in made_up.CONDITIONS])
    with pytest.raises(ConfigError, match="two images for the 72 objects: x/object00.png and y/object00.png"):
        open_objects72(folder, images=pictures)
