"""THINGS-fMRI, from files that pandas wrote, whose sizes differ along every axis."""

import pickle

import h5py
import numpy as np
import pandas as pd
import pytest

import made_up_things as made_up
from ipcl_jax.brain import pandas_store, things_fmri
from ipcl_jax.brain.repeats import ceiling_r
from ipcl_jax.brain.things_fmri import open_things_fmri
from ipcl_jax.errors import ConfigError, InputError
from made_up_pictures import write_pictures

IMAGES = made_up.TRAIN + made_up.TEST


@pytest.fixture(autouse=True)
def files_are_sound(request, monkeypatch):
    """Skips the check in a subprocess, which takes half a second a file, but where a file is damaged."""
    if "damaged" not in request.node.name:
        monkeypatch.setattr(things_fmri, "check_readable", lambda *path, **options: None)


@pytest.fixture
def truth():
    return made_up.planted()


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "images", [f"{name[:-8]}/{name}" for name in IMAGES])


@pytest.fixture
def folder(tmp_path, truth):
    return made_up.write(tmp_path / "betas_csv", truth)


def expected(truth, images, voxels, *, zscore: bool) -> np.ndarray:
    """The plain computation: z-scores within sessions, then means over the trials of each image."""
    responses, session = truth.responses[voxels].copy(), truth.stimuli["session"].to_numpy()
    if zscore:
        for number in set(session):
            some = responses[:, session == number]
            responses[:, session == number] = (some - some.mean(1)[:, None]) / some.std(1, ddof=1)[:, None]
    shown = truth.stimuli["stimulus"].to_numpy()
    return np.stack([responses[:, shown == name].mean(1) for name in images])


@pytest.mark.parametrize("zscore", [True, False])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("rows", [3, 256])
def test_reads_what_was_planted(tmp_path, truth, pictures, zscore, permuted, rows, monkeypatch):
    monkeypatch.setattr(things_fmri, "_ROWS", rows)  # so that several blocks are read
    root = made_up.write(tmp_path / "betas_csv", truth, permuted=permuted)
    (person,) = open_things_fmri(root, images=pictures, subjects=["sub-01"], zscore=zscore).subjects
    assert sorted(person.images) == sorted(IMAGES)
    images = [IMAGES[i] for i in np.random.default_rng(1).permutation(len(IMAGES))[:11]]
    voxels = np.unique(np.concatenate(list(person.regions.values())))
    np.testing.assert_array_equal(voxels, [*range(6), 8, 9, 13, 14])
    mean, ceiling = person.read(images, voxels)
    # Both compute in float64 and round to float32 once: 1e-6 of values up to about 10.
    np.testing.assert_allclose(mean, expected(truth, images, voxels, zscore=zscore), atol=2e-6)
    assert mean.dtype == ceiling.dtype == np.float32


def test_regions(folder, pictures):
    def regions(*names):
        return open_things_fmri(folder, images=pictures, subjects=["sub-01"], regions=names).subjects[0].regions

    assert {name: list(voxels) for name, voxels in regions().items()} == {"V1": [*range(6)], "FFA": [8, 9, 13, 14]}
    assert list(regions("rFFA")["rFFA"]) == [13, 14]
    assert list(regions("glasser-V1")["glasser-V1"]) == [*range(1, made_up.VOXELS, 2)]
    assert list(regions("glasser-p9-\n46v", "V1")) == ["glasser-p9-\n46v", "V1"]
    notes = open_things_fmri(folder, images=pictures, subjects=["sub-01"]).notes
    assert len(notes) == 1 and notes[0].startswith("sub-01 has no voxels in V2, V3,") and "STS" in notes[0]
    for name, message in (("STS", "no voxels in STS"), ("ffa", "Did you mean 'FFA'"), ("subject_id", "no region"),
                          ("voxel_x", "no region")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            regions(name)


@pytest.mark.parametrize("permuted", [False, True])
def test_ceilings_are_the_files_for_test_images_and_smaller_for_single_trials(tmp_path, truth, pictures, permuted):
    folder = made_up.write(tmp_path / "betas_csv", truth, permuted=permuted)
    (person,) = open_things_fmri(folder, images=pictures, subjects=["sub-01"]).subjects
    voxels, nc = person.regions["V1"], truth.voxels["nc_testset"].to_numpy()[:6] / 100
    np.testing.assert_allclose(person.read(made_up.TEST, voxels).ceiling, np.sqrt(nc), rtol=1e-6)
    snr = nc / (1 - nc) / made_up.REPEATS  # squared
    np.testing.assert_allclose(person.read(made_up.TRAIN, voxels).ceiling, np.sqrt(snr / (snr + 1)), rtol=1e-6)
    both = person.read([made_up.TEST[0], *made_up.TRAIN[:3]], voxels).ceiling
    np.testing.assert_allclose(both, np.sqrt(snr / (snr + (3 + 1 / 3) / 4)), rtol=1e-6)


def test_single_trial_ceilings_are_those_that_the_data_set_publishes():
    """Rows of sub-01_VoxelMetadata.csv that the data set's notebook prints."""
    single = np.array([0, 1.102513, 2.134454, 0.446367, 1.868743, 1.895905, 1.529414, 0.529575])
    testset = np.array([0, 11.799193, 20.743164, 5.105714, 18.601217, 18.824928, 15.709986, 6.005089]) / 100
    found = ceiling_r(testset, (1 - testset) * 12, np.array([1, 1]))
    np.testing.assert_allclose(100 * found**2, single, atol=1e-6)  # printed with 6 decimals


def test_a_planted_ceiling_is_reached():
    """The file's nc, as the data set computes it, gives the correlation of the true signal with the means."""
    rng = np.random.default_rng(0)
    signal, images, repeats = 0.7, 4000, 12
    truth = rng.normal(size=images) * np.sqrt(signal)
    trials = truth + rng.normal(size=(repeats, images)) * np.sqrt(1 - signal)
    z = (trials - trials.mean(1, keepdims=True)) / trials.std(1, keepdims=True)
    noise = z.var(0, ddof=1).mean()
    nc = np.array([(1 - noise) / (1 - noise + noise / repeats)])
    for n in (1, 12):
        found = ceiling_r(nc, (1 - nc) * repeats, np.full(3, n))
        # The error of a correlation over 4000 images is below (1 - r^2) / sqrt(4000) = 0.005; three times that.
        assert abs(found[0] - np.corrcoef(truth, trials[:n].mean(0))[0, 1]) < 0.015


def test_held_out_and_stimuli(tmp_path, folder, pictures):
    made_up.write(folder, made_up.planted(2), "sub-02")
    data = open_things_fmri(tmp_path, images=pictures, subjects=["sub-02", "sub-01"])
    assert data.held_out == frozenset(made_up.TEST) and data.stimuli.names == sorted(IMAGES)
    assert [person.name for person in data.subjects] == ["sub-02", "sub-01"] and set(data.shared) == set(IMAGES)


def test_openneuro_names(tmp_path, folder, truth, pictures):
    for old, new in (("ResponseData.h5", "task-things_voxel-wise-responses.h5"),
                     ("StimulusMetadata.csv", "task-things_stimulus-metadata.tsv"),
                     ("VoxelMetadata.csv", "task-things_voxel-metadata.tsv")):  # fmt: skip
        (folder / f"sub-01_{old}").rename(folder / f"sub-01_{new}")
    truth.voxels.to_csv(folder / "sub-01_task-things_voxel-metadata.tsv", index=False, sep="\t")
    assert open_things_fmri(folder, images=pictures, subjects=["sub-01"]).subjects[0].images


def test_nothing_is_unpickled(folder, pictures, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    for name in ("loads", "load", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    (person,) = open_things_fmri(folder, images=pictures, subjects=["sub-01"]).subjects
    person.read(IMAGES, person.regions["V1"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [1, 2, 999, 1001, 9840])
def test_labels_are_read_off_a_pickle(protocol, count):
    labels = np.array([*range(count)][::-1], object)
    assert pandas_store._listed(pickle.dumps(labels, protocol)) == labels.tolist()
    mixed = np.array(["voxel_id", *range(count)], object)
    assert pandas_store._listed(pickle.dumps(mixed, protocol)) == mixed.tolist()


@pytest.mark.parametrize("value", [[1.5], [None], [[1]], [1, (2, 3)], [np.int64(3)], [{1: 2}], [True]])
def test_other_pickles_have_no_labels(value):
    labels = np.empty(len(value), object)
    labels[:] = value
    assert pandas_store._listed(pickle.dumps(labels)) is None
    assert pandas_store._listed(b"no pickle") is None


def test_unreadable_labels_are_noted(folder, truth, pictures):
    def spoil(path, labels):
        with h5py.File(path, "a") as file:
            del file["ResponseData/block0_items"]
            items = file.create_dataset("ResponseData/block0_items", (1,), h5py.vlen_dtype(np.uint8))
            items[0] = np.frombuffer(pickle.dumps(labels), np.uint8)

    count = len(truth.stimuli)
    spoil(folder / "sub-01_ResponseData.h5", [float(place) for place in range(count)])
    data = open_things_fmri(folder, images=pictures, subjects=["sub-01"])
    assert "no readable trial numbers" in " ".join(data.notes)
    voxels = data.subjects[0].regions["V1"]
    np.testing.assert_allclose(
        data.subjects[0].read(IMAGES, voxels).mean, expected(truth, IMAGES, voxels, zscore=True), atol=2e-6
    )  # as above


def spoil(truth, what: str) -> made_up.Planted:
    responses, stimuli, voxels = (some.copy() for some in truth)
    match what:
        case "ids off by one":
            voxels["voxel_id"] += 1
        case "a voxel less":
            voxels = voxels[1:]
        case "a trial less":
            stimuli = stimuli.drop(np.flatnonzero(stimuli["trial_type"] == "train")[2])
        case "trials off by one":
            stimuli["trial_id"] += 1
        case "a trial twice":
            stimuli.loc[1, "trial_id"] = 0
        case "a voxel twice":
            voxels.loc[1, "voxel_id"] = 0
        case "another subject":
            stimuli["subject_id"] = 2
        case "catch trials":
            stimuli.loc[3, "trial_type"] = "catch"
        case "both kinds":
            stimuli.loc[np.flatnonzero(stimuli["stimulus"] == made_up.TEST[0])[0], "trial_type"] = "train"
        case "a test trial less":
            place = np.flatnonzero(stimuli["stimulus"] == made_up.TEST[0])[0]
            stimuli.loc[place, ["stimulus", "trial_type"]] = [made_up.TRAIN[0], "train"]
        case "no region":
            voxels["V1"] = 7
        case "ceilings":
            voxels.loc[2, "nc_testset"] = 101.0
        case "no ceilings":
            voxels = voxels.drop(columns="nc_testset")
        case "other images":
            stimuli["stimulus"] = stimuli["stimulus"].str.replace("dog", "cat")
        case "half ids":
            voxels["voxel_id"] = voxels["voxel_id"] + 0.5
    return made_up.Planted(responses, stimuli, voxels)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("ids off by one", "voxel_id 0 to 22, and the table of voxels 23 with 1 to 23; they don't belong together"),
        ("a voxel less", "23 voxels .* and the table of voxels 22"),
        ("a trial less", "27 trials and the table of stimuli 26"),
        ("trials off by one", "trial_id differ"),
        ("a trial twice", "same trial_id twice"),
        ("a voxel twice", "same voxel_id twice"),
        ("another subject", "is of subject 2, not of sub-01"),
        ("catch trials", "trial_type 'catch'"),
        ("both kinds", "candelabra_01b.jpg both as a training and as a test image"),
        ("a test trial less", r"test images of \[2, 3\] trials"),
        ("no region", "'V1' has other values than 0 and 1"),
        ("ceilings", "nc_testset outside"),
        ("no ceilings", "no column 'nc_testset'"),
        ("other images", "lacks 4 of the 17 images of THINGS-fMRI, such as cat_01s.jpg"),
        ("half ids", "'voxel_id' holds something else than whole numbers"),
    ],
)
def test_refuses(tmp_path, truth, pictures, what, message):
    root = made_up.write(tmp_path / "betas_csv", spoil(truth, what))
    with pytest.raises(ConfigError, match=message) as error:
        open_things_fmri(root, images=pictures, subjects=["sub-01"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite numbers, in or near voxel 3"),
                                                (7.0, "session 2: 1 of 6 voxels .* such as voxel 3")])  # fmt: skip
def test_refuses_voxels_without_responses(tmp_path, truth, pictures, value, message):
    truth.responses[3, truth.stimuli["session"] == 2] = value
    root = made_up.write(tmp_path / "betas_csv", truth)
    (person,) = open_things_fmri(root, images=pictures, subjects=["sub-01"]).subjects
    with pytest.raises(ConfigError, match=message):
        person.read(IMAGES, person.regions["V1"])
    assert np.isfinite(person.read(IMAGES, person.regions["FFA"]).mean).all()


def test_refuses_other_arguments(folder, pictures):
    with pytest.raises(ConfigError, match="no sub-02_ResponseData.h5 or sub-02_task"):
        open_things_fmri(folder, images=pictures)
    with pytest.raises(ConfigError, match="no subject 'sub-04'"):
        open_things_fmri(folder, images=pictures, subjects=["sub-04"])
    (person,) = open_things_fmri(folder, images=pictures, subjects=["sub-01"]).subjects
    with pytest.raises(InputError, match="did not see cat"):
        person.read(["cat"], person.regions["V1"])
    with pytest.raises(InputError, match="no voxel 7"):
        person.read(IMAGES, np.array([7]))


def test_refuses_other_and_damaged_files(folder, truth, pictures):
    path = folder / "sub-01_ResponseData.h5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ConfigError, match="can't be read"):
        open_things_fmri(folder, images=pictures, subjects=["sub-01"])
    pd.DataFrame(truth.responses).add_prefix("t").to_hdf(path, key="ResponseData", mode="w", format="table")
    with pytest.raises(ConfigError, match="no table in pandas' fixed format"):
        open_things_fmri(folder, images=pictures, subjects=["sub-01"])
    pd.DataFrame(truth.responses).add_prefix("t").to_hdf(path, key="Other", mode="w")
    with pytest.raises(ConfigError, match="no table ResponseData; it has Other"):
        open_things_fmri(folder, images=pictures, subjects=["sub-01"])
    pd.DataFrame(truth.responses).add_prefix("t").to_hdf(path, key="ResponseData", mode="w")
    with pytest.raises(ConfigError, match="lacks a column voxel_id"):
        open_things_fmri(folder, images=pictures, subjects=["sub-01"])
