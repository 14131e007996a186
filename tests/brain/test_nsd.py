"""The Natural Scenes Dataset: responses against plain NumPy, three formats against each other, and what is refused."""

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
from PIL import Image

import made_up_nsd
from ipcl_jax.brain.nsd import SESSIONS, open_nsd
from ipcl_jax.errors import ConfigError, InputError
from made_up_nsd import BETAS, SURFACE, VOLUME, VOXELS, write, write_session

# Means of three numbers near 1 in float32.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def reference(stored: np.ndarray, numbers: np.ndarray, zscore: bool = True) -> tuple[np.ndarray, ...]:
    """Images, their mean responses `[n, V]` and ceilings `[V]` from `[S, T, V]` int16, image by image in float64."""
    trials = stored / 300
    if zscore:
        trials = np.stack([(session - session.mean(0)) / session.std(0) for session in trials])
    trials, numbers = trials.reshape(-1, trials.shape[-1]), numbers.ravel()
    images = np.unique(numbers)
    mean = np.stack([trials[numbers == image].mean(0) for image in images])
    count = np.array([(numbers == image).sum() for image in images])
    noise = sum(
        trials[numbers == image].var(0, ddof=1) * (n - 1) for image, n in zip(images, count, strict=True) if n > 1
    )
    noise = noise / (count - 1).sum()
    ncsnr2 = np.maximum(trials.var(0) - noise, 0) / noise
    return images, mean, np.sqrt(ncsnr2 / (ncsnr2 + (1 / count).mean()))


def folder(root, subject="subj01", space="func1pt8mm"):
    return root / "nsddata_betas/ppdata" / subject / space / BETAS


@pytest.fixture(autouse=True)
def files_are_checked_without_a_process(request, monkeypatch):
    """A process that checks a file first takes half a second, and would be most of the time here."""
    if "damaged" not in request.node.name:
        monkeypatch.setattr("ipcl_jax.brain.nsd.check_readable", lambda *_, **__: None)
        monkeypatch.setattr("ipcl_jax.activations.stimuli.check_readable", lambda *_, **__: None)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    return write(tmp_path_factory.mktemp("nsd"), subjects=("subj01", "subj06"), formats=("hdf5", "nii.gz", "mgh"))


@pytest.mark.parametrize("zscore", [True, False])
@pytest.mark.parametrize("sessions", [1, 2, 3])
def test_means_and_ceilings_equal_plain_numpy(made_up, sessions, zscore):
    data = open_nsd(made_up.root, subjects=["subj06", "subj01"], sessions=sessions, zscore=zscore)
    assert [subject.name for subject in data.subjects] == ["subj06", "subj01"] and data.name == "nsd"
    for subject in data.subjects:
        stored, numbers = (of[subject.name][:sessions] for of in (made_up.stored, made_up.numbers))
        images, mean, ceiling = reference(stored, numbers, zscore)
        assert subject.images == tuple(f"nsd-{image:05d}" for image in images)
        found = subject.read(subject.images, np.arange(VOXELS))
        assert found.mean.dtype == found.ceiling.dtype == np.float32 and found.mean.shape == mean.shape
        np.testing.assert_allclose(found.mean, mean, **CLOSE, err_msg=subject.name)
        # Without z-scores squares of up to 20 percent are subtracted from each other; the root near 0 is steep.
        np.testing.assert_allclose(found.ceiling, ceiling, atol=1e-6 if zscore else 1e-4)
    assert np.nanmax(np.abs(mean - reference(stored, numbers, not zscore)[1])) > 0.1, "sessions differ in unit"


def test_three_formats_hold_the_same(made_up, tmp_path):
    surface = open_nsd(made_up.root, subjects=["subj01"], sessions=3, space="surface").subjects[0]
    hdf5 = open_nsd(made_up.root, subjects=["subj01"], sessions=3).subjects[0]
    only = write(tmp_path, formats=("nii.gz",))
    np.testing.assert_array_equal(only.labels, made_up.labels)  # of the same seed
    for number, stored in enumerate(made_up.stored["subj01"], 1):
        write_session(tmp_path, "subj01", number, stored, ("nii.gz",))
    nifti = open_nsd(tmp_path, sessions=3).subjects[0]
    assert not list(folder(tmp_path).glob("*.hdf5"))
    voxels = np.array([0, 1, 4, 5, 6, 34, 35, 60, 61, 62, 100, 139])  # ends of rows, planes and hemispheres
    images = hdf5.images[::-2]
    expected = hdf5.read(images, voxels)
    for other in (nifti, surface):
        assert other.images == hdf5.images and other.regions.keys() == hdf5.regions.keys()
        for name in hdf5.regions:
            np.testing.assert_array_equal(other.regions[name], hdf5.regions[name])
        found = other.read(images, voxels)
        np.testing.assert_allclose(found.mean, expected.mean, **CLOSE)  # the surface is rounded to float32
        np.testing.assert_allclose(found.ceiling, expected.ceiling, atol=1e-5)
    whole = hdf5.read(hdf5.images, np.arange(VOXELS)).mean
    np.testing.assert_array_equal(expected.mean, whole[::-2][:, voxels])


@pytest.mark.parametrize("chunks", [None, (1, 4, 7, 5), (4, 2, 7, 3), True])
def test_hdf5_files_in_other_chunks(made_up, tmp_path, chunks, monkeypatch):
    monkeypatch.setattr("ipcl_jax.brain.nsd_sessions._PART", 2000)  # several parts in a session
    write(tmp_path, subjects=("subj01", "subj06"))
    for path in folder(tmp_path).iterdir():
        with h5py.File(path, "r+") as file:
            data = file["betas"][()]
            del file["betas"]
            file.create_dataset("betas", data=data, chunks=chunks)
    found, expected = (
        open_nsd(root, subjects=["subj01"], sessions=3).subjects[0] for root in (tmp_path, made_up.root)
    )
    for voxels in (np.arange(3, VOXELS, 2), np.array([77]), np.arange(0)):
        read, wanted = (subject.read(expected.images, voxels) for subject in (found, expected))
        np.testing.assert_array_equal(read.mean, wanted.mean)
        np.testing.assert_array_equal(read.ceiling, wanted.ceiling)


def test_a_session_is_read_in_parts(made_up, monkeypatch):
    for space in ("volume", "surface"):
        subject = open_nsd(made_up.root, subjects=["subj01"], sessions=2, space=space).subjects[0]
        voxels = np.arange(1, VOXELS, 3)
        expected = subject.read(subject.images, voxels)
        monkeypatch.setattr("ipcl_jax.brain.nsd._COLUMNS", 7)
        monkeypatch.setattr("ipcl_jax.brain.trials._ROWS", 2)
        monkeypatch.setattr("ipcl_jax.brain.nsd_sessions._PART", 2000)
        found = subject.read(subject.images, voxels)
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_allclose(found.ceiling, expected.ceiling, rtol=1e-6)  # sums in another order
        monkeypatch.undo()


def test_pictures_belong_to_their_names(made_up):
    data = open_nsd(made_up.root, sessions=2)
    seen = sorted({int(number) for subject in data.subjects for number in made_up.numbers[subject.name][:2].flat})
    assert list(data.stimuli.names) == [f"nsd-{number:05d}" for number in seen]
    for place, number in enumerate(seen):
        np.testing.assert_array_equal(data.stimuli[place], made_up_nsd.picture(number))
    assert set(data.shared) == set(data.subjects[0].images) & set(data.subjects[1].images)


def test_images_in_a_folder(made_up, tmp_path):
    expected = open_nsd(made_up.root, sessions=1)
    for number in {int(name[4:]) for name in expected.stimuli.names} | {3}:
        Image.fromarray(made_up_nsd.picture(number)).save(tmp_path / f"train-0001_nsd-{number:05d}.png")
    data = open_nsd(made_up.root, sessions=1, stimuli=[str(tmp_path)])
    assert data.stimuli.names == expected.stimuli.names and data.stimuli.categories == [""] * len(data.stimuli.names)
    for place, name in enumerate(data.stimuli.names):
        assert data.stimuli[place] == (tmp_path / f"train-0001_{name}.png").read_bytes()
    gone = tmp_path / f"train-0001_{data.stimuli.names[2]}.png"
    gone.rename(tmp_path / f"shared0001_{data.stimuli.names[2].replace('-', '')}.png")  # as the data set, from 1
    with pytest.raises(ConfigError, match=f"lacks 1 of .* images, such as {data.stimuli.names[2]}.*counts from 1"):
        open_nsd(made_up.root, sessions=1, stimuli=str(tmp_path))
    gone.with_name(f"a_{data.stimuli.names[0]}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=f"Two of the images .* are {data.stimuli.names[0]}"):
        open_nsd(made_up.root, sessions=1, stimuli=str(tmp_path))


def test_regions_by_name(made_up):
    regions = open_nsd(made_up.root, sessions=1).subjects[0].regions
    assert list(regions) == ["early", "midventral", "ventral"]
    for label, name in ((1, "early"), (2, "midventral"), (5, "ventral")):
        np.testing.assert_array_equal(regions[name], np.flatnonzero(made_up.labels == label))
        assert regions[name].dtype == np.int64
    # A place in the files: x + X (y + Y z) is the voxel at [z, y, x] in HDF5 and at [x, y, z] in NIfTI.
    path = folder(made_up.root) / "betas_session01"
    with h5py.File(f"{path}.hdf5") as file:
        betas = file["betas"][()]
    atlas = nibabel.load(made_up.root / "nsddata/ppdata/subj01/func1pt8mm/roi/streams.nii.gz").get_fdata()
    z, y, x = np.unravel_index(regions["ventral"], VOLUME[::-1])
    assert (atlas[x, y, z] == 5).all() and (atlas == 5).sum() == len(x)
    np.testing.assert_array_equal(betas[:, z, y, x], nibabel.load(f"{path}.nii.gz").get_fdata()[x, y, z].T)

    def names(*asked, **options):
        return list(open_nsd(made_up.root, sessions=1, regions=asked, **options).subjects[0].regions)

    assert names("streams:ventral") == ["ventral"]
    assert names("streams:ventral", "streams:early") == ["early", "ventral"]
    assert names("streams:ventral", "streams") == ["early", "midventral", "ventral"]
    assert names("lh.streams:ventral", "rh.streams:ventral") == ["lh.ventral", "rh.ventral"]
    both = open_nsd(made_up.root, sessions=1, regions=["rh.streams:early"], space="surface").subjects[0].regions
    np.testing.assert_array_equal(both["rh.early"], np.flatnonzero(made_up.labels[SURFACE[0] :] == 1) + SURFACE[0])
    data = open_nsd(made_up.root, sessions=1)
    assert data.notes == ("subj01 has no voxels in lateral.", "subj06 has no voxels in lateral.")


def test_an_atlas_of_one_region_needs_no_names(made_up, tmp_path):
    write(tmp_path)
    roi = tmp_path / "nsddata/ppdata/subj01/func1pt8mm/roi"
    for name, labels in (("nsdgeneral", made_up.labels == 1), ("other", made_up.labels)):
        image = nibabel.Nifti1Image(made_up_nsd.volume(labels.astype(np.float32) - (name == "none")), np.eye(4))
        nibabel.save(image, roi / f"{name}.nii.gz")
    regions = open_nsd(tmp_path, sessions=1, regions=["nsdgeneral"]).subjects[0].regions
    np.testing.assert_array_equal(regions["nsdgeneral"], np.flatnonzero(made_up.labels == 1))
    with pytest.raises(ConfigError, match=r"several regions, .* names is missing: .*other\.mgz\.ctab"):
        open_nsd(tmp_path, sessions=1, regions=["other"])


def test_the_ceiling_is_the_planted_one(tmp_path):
    ncsnr = np.linspace(0, 2, VOXELS)
    made_up = write(tmp_path, sessions=6, trials=120, ncsnr=ncsnr)
    subject = open_nsd(tmp_path, sessions=6).subjects[0]
    found = subject.read(subject.images, np.arange(VOXELS))
    planted = np.sqrt(ncsnr**2 / (ncsnr**2 + 1 / 3))
    # 240 images x 3: the noise's variance has a relative error of sqrt(2 / 480) = 6 %. At ncsnr .8, where signal is .4
    # of the variance, this is .02 of r, and more below, where the ceiling is steep; the mean over voxels is nearer.
    clear = ncsnr > 0.8
    assert np.abs(found.ceiling - planted)[clear].max() < 0.1
    assert abs((found.ceiling - planted)[clear].mean()) < 0.01
    assert np.abs(found.ceiling - planted)[~clear].mean() < 0.15
    assert subject.ceiling_kind and (found.ceiling >= 0).all() and (found.ceiling <= 1).all()
    # What it means: a perfect model's correlation with the means.
    perfect = made_up.signal[subject.numbers]
    reached = [np.corrcoef(perfect[:, v], found.mean[:, v])[0, 1] for v in range(VOXELS)]
    assert abs((found.ceiling - reached)[clear].mean()) < 0.01


def test_without_repeats_there_is_no_ceiling(made_up):
    subject = open_nsd(made_up.root, subjects=["subj01"], sessions=1).subjects[0]
    numbers, count = np.unique(made_up.numbers["subj01"][0], return_counts=True)
    single = [f"nsd-{number:05d}" for number in numbers[count == 1]]
    assert len(single) > 1 and np.isnan(subject.read(single, np.arange(9)).ceiling).all()
    assert np.isfinite(subject.read(subject.images, np.arange(9)).ceiling).all() == (count.max() > 1)


# --- what is refused -----------------------------------------------------------------------


def refuses(match, root, **options):
    with pytest.raises(ConfigError, match=match) as error:
        open_nsd(root, **{"sessions": 3} | options)
    assert "\n" not in str(error.value)


def test_missing_sessions_are_named(tmp_path):
    write(tmp_path, subjects=("subj01", "subj04"))
    refuses(r"lacks 37 files of 40 sessions: betas_session04.hdf5, .*sessions=3", tmp_path, sessions=None)
    refuses(r"subj04.* lacks 27 files of 30", tmp_path, sessions=None, subjects=["subj04"])
    refuses("sessions is 31; subj04 has 30", tmp_path, sessions=31)
    refuses("sessions is 0", tmp_path, sessions=0)
    (folder(tmp_path) / "betas_session02.hdf5").unlink()
    refuses(r"lacks 1 files of 3 sessions: betas_session02.hdf5\. Download .*sessions=1", tmp_path)
    assert len(open_nsd(tmp_path, sessions=1).subjects) == 2
    refuses(r"no folder .*fsaverage", tmp_path, space="surface")
    write_session(tmp_path, "subj01", 1, np.ones((12, VOXELS), np.int16), ("mgh",))
    (folder(tmp_path, space="fsaverage") / "rh.betas_session01.mgh").unlink()
    right = r"lacks 1 files of 1 sessions: rh.betas_session01.mgh\. Download them\."
    refuses(right, tmp_path, space="surface", sessions=1)
    assert sum(SESSIONS.values()) == 284


def test_unknown_names_are_refused(made_up):
    refuses("There is no subject 'subj07' .*subj06", made_up.root, subjects=["subj07"])
    refuses("named twice", made_up.root, subjects=["subj01", "subj01"])
    refuses("no atlas .*stream.nii.gz.*Did you mean 'streams'", made_up.root, regions=["stream"])
    refuses("no atlas .*lh.stream.mgz.*Did you mean 'lh.streams'", made_up.root, regions=["stream"], space="surface")
    refuses("no region 'central'.*Did you mean 'ventral'", made_up.root, regions=["streams:central"])
    refuses("no voxels in lateral", made_up.root, regions=["streams:lateral"])
    refuses("no region", made_up.root, regions=[":early"])
    refuses("space is 'fsaverage'.*Known: surface, volume", made_up.root, space="fsaverage")
    refuses("betas is 'fithrf'.*'betas_fithrf'", made_up.root, betas="fithrf")
    refuses("resolution is 'func1p8mm'.*'func1pt8mm'", made_up.root, resolution="func1p8mm")
    refuses("No regions", made_up.root, regions=[])
    refuses("no subjects in", made_up.root / "nsddata")


def test_damaged_sessions_are_refused(tmp_path):
    write(tmp_path)
    path = folder(tmp_path) / "betas_session02.hdf5"
    whole = path.read_bytes()

    def store(**data):
        path.unlink()
        with h5py.File(path, "w") as file:
            for name, values in data.items():
                file[name] = values

    good = np.arange(12 * VOXELS, dtype=np.int16).reshape(12, *VOLUME[::-1])
    store(beta=good)
    refuses("session02.hdf5: the dataset betas is none", tmp_path)
    store(betas=good.astype(np.float32))
    refuses(r"session02.hdf5: .* float32 \[12, 4, 7, 5\], expected int16", tmp_path)
    store(betas=good[:, :, :, :4])
    refuses(r"session02.hdf5 has 12 trials of \[4, 7, 4\], and .*session01.hdf5 has 12 of \[5, 7, 4\]", tmp_path)
    store(betas=good[:11])
    refuses("session02.hdf5 has 11 trials", tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    refuses("session02.hdf5 can't be read", tmp_path)
    for number in (1, 2, 3):
        write_session(tmp_path, "subj01", number, good[:11].reshape(11, VOXELS), ("hdf5",))
    refuses("has 11 trials; the design has 480 in 40 sessions, 12 each", tmp_path)


def test_damaged_images_are_refused(tmp_path):
    write(tmp_path, formats=("nii.gz", "mgh"))
    path = folder(tmp_path) / "betas_session02.nii.gz"
    stored = np.asarray(nibabel.load(path).dataobj)
    nibabel.save(nibabel.Nifti1Image(stored / np.float32(300), np.eye(4)), path)
    refuses(r"session02.nii.gz is float32 \[5, 7, 4, 12\], expected int16", tmp_path)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(1 / 300, 0)
    nibabel.save(image, path)
    refuses("session02.nii.gz scales its numbers by 0.0033", tmp_path)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), path)
    subject = open_nsd(tmp_path, sessions=3).subjects[0]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ConfigError, match="session02.nii.gz can't be read"):
        subject.read(subject.images, np.arange(VOXELS))
    path = folder(tmp_path, space="fsaverage") / "rh.betas_session03.mgh"
    made_up_nsd.save_surface(path, np.ones((SURFACE[1], 1, 1, 11), np.float32))
    refuses("lh.betas_session03.mgh has 12 trials, and .*rh.betas_session03.mgh has 11", tmp_path, space="surface")
    made_up_nsd.save_surface(path, np.ones((SURFACE[1], 1, 1, 12), np.int16))
    refuses("rh.betas_session03.mgh is .*i2.*|int16.*expected float32", tmp_path, space="surface")


def test_voxels_without_responses_are_left_out(tmp_path):
    made_up = write(tmp_path, formats=("hdf5", "mgh"))
    stored = made_up.stored["subj01"]
    gone = np.flatnonzero(made_up.labels == 2)[[0, 3]]
    zero = stored[1].copy()
    zero[:, gone] = 0  # as the data set has it where a session has no data
    write_session(tmp_path, "subj01", 2, zero, ("hdf5",))
    values = (stored[2] / 300).astype(np.float32)
    values[:, gone] = np.nan  # as on the surface
    write_session(tmp_path, "subj01", 3, values, ("mgh",))
    for space, session in (("volume", "02.hdf5"), ("surface", "03.mgh")):
        data = open_nsd(tmp_path, sessions=3, space=space)
        subject = data.subjects[0]
        assert data.notes[0].startswith("subj01: 2 of ") and "no responses in a session" in data.notes[0]
        np.testing.assert_array_equal(
            subject.regions["midventral"], np.setdiff1d(np.flatnonzero(made_up.labels == 2), gone)
        )
        with pytest.raises(ConfigError, match=f"session{session}: 2 of 140 voxels are constant or .* {gone[0]}"):
            subject.read(subject.images, np.arange(VOXELS))
        kept = np.setdiff1d(np.arange(VOXELS), gone)
        _, mean, _ = reference(stored, made_up.numbers["subj01"])
        np.testing.assert_allclose(subject.read(subject.images, kept).mean, mean[:, kept], rtol=1e-5, atol=1e-5)


def test_one_trial_that_is_no_number_is_refused(tmp_path):
    made_up = write(tmp_path, formats=("mgh",))
    values = (made_up.stored["subj01"][2] / 300).astype(np.float32)
    values[11, 70] = np.inf
    write_session(tmp_path, "subj01", 3, values, ("mgh",))
    subject = open_nsd(tmp_path, sessions=3, space="surface").subjects[0]
    with pytest.raises(ConfigError, match="lh.betas_session03.mgh: 1 of 2 voxels .* voxel 70"):
        subject.read(subject.images, np.array([69, 70]))
    assert np.isfinite(subject.read(subject.images, np.array([69, 71])).mean).all()


def test_a_design_that_does_not_fit_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "nsddata/experiments/nsd/nsd_expdesign.mat"
    order, images = made_up_nsd.design(12, 0)

    def store(**values):
        scipy.io.savemat(path, {"masterordering": order, "subjectim": images} | values)

    store(masterordering=order - 1)
    refuses("masterordering has values from 0 to 159, expected whole numbers from 1 to 160", tmp_path)
    store(masterordering=order + 1)
    refuses("masterordering has values from 2 to 161", tmp_path)
    store(subjectim=images - 1)
    refuses("subjectim has values from 0", tmp_path)
    store(subjectim=images.T)
    refuses(r"subjectim \[160, 8\]", tmp_path)
    store(subjectim=np.maximum(images, images[:, :1]))
    refuses("names an image twice", tmp_path)
    store(masterordering=order[:, :470])
    refuses("470 in 40 sessions, 11.75 each", tmp_path)
    store(subjectim=images + 2000)
    refuses("lacks .* images, such as nsd-02", tmp_path)
    path.unlink()
    refuses("no file .*nsd_expdesign.mat", tmp_path)


def test_other_damaged_files_are_refused(tmp_path):
    write(tmp_path)
    design = tmp_path / "nsddata/experiments/nsd/nsd_expdesign.mat"
    stimuli = tmp_path / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    atlas = tmp_path / "nsddata/ppdata/subj01/func1pt8mm/roi/streams.nii.gz"
    for path in (stimuli, atlas, design):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refuses(f"{path.name} (can't be read|has no dataset)", tmp_path)
    stimuli.unlink()
    write(tmp_path / "other")
    (tmp_path / "other/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5").unlink()
    refuses("no file .*nsd_stimuli.hdf5 with the images; download it, or name other images", tmp_path / "other")


def test_atlases_that_do_not_fit_are_refused(tmp_path):
    made_up = write(tmp_path)
    roi = tmp_path / "nsddata/ppdata/subj01/func1pt8mm/roi"
    names = tmp_path / "nsddata/freesurfer/subj01/label/streams.mgz.ctab"
    atlas = np.asarray(nibabel.load(roi / "streams.nii.gz").dataobj)
    nibabel.save(nibabel.Nifti1Image(atlas.T, np.eye(4)), roi / "streams.nii.gz")
    refuses(r"streams.nii.gz is \[4, 7, 5\], and the sessions are \[5, 7, 4\]", tmp_path)
    nibabel.save(nibabel.Nifti1Image(atlas + np.float32(0.5), np.eye(4)), roi / "streams.nii.gz")
    refuses("streams.nii.gz holds float32 numbers that are no labels", tmp_path)
    nibabel.save(nibabel.Nifti1Image(atlas, np.eye(4)), roi / "streams.nii.gz")
    names.write_text("0 Unknown\n1 early\n2 midventral\n")
    refuses("the label 5, which has no name", tmp_path)
    names.write_text("1 early\n2 early\n5 ventral\n")
    refuses("the label 2 or its name 'early' is there twice", tmp_path)
    names.write_text("early 1\n")
    refuses("'early 1' is no number with a name", tmp_path)
    names.write_text("0 Unknown 0 0 0 0\n1 early 255 0 0 0\n2 midventral 0 255 0 0\n5 ventral 0 0 255 0\n")
    assert list(open_nsd(tmp_path, sessions=1).subjects[0].regions) == ["early", "midventral", "ventral"]
    made_up_nsd.write_atlas(tmp_path, made_up.labels, ("subj01",), name="copy")
    refuses("both have a region 'early'", tmp_path, regions=["streams", "copy"])


def test_what_can_not_be_read_is_said(made_up):
    subject = open_nsd(made_up.root, subjects=["subj01"], sessions=1).subjects[0]
    for voxels in ([3, 2], [2, 2], [0.5, 1], [[1, 2]], [-1, 2], [0, 140]):
        with pytest.raises(InputError, match="oxels"):
            subject.read(subject.images, np.array(voxels))
    with pytest.raises(InputError, match="did not see nsd-9"):
        subject.read(["nsd-99999"], np.arange(2))
    empty = subject.read([], np.arange(2))
    assert empty.mean.shape == (0, 2) and np.isnan(empty.ceiling).all()
