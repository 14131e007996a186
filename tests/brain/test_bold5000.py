"""BOLD5000's release 2, from volumes whose sizes differ along every axis."""

import gzip

import numpy as np
import pytest

import made_up_bold5000 as made_up
from ipcl_jax.brain import bold5000
from ipcl_jax.brain.bold5000 import open_bold5000
from ipcl_jax.brain.repeats import RepeatMeans, ceiling_r
from ipcl_jax.errors import ConfigError, InputError
from made_up_pictures import write_pictures

NAMES = made_up.names_of("CSI1")
IMAGES = tuple(dict.fromkeys(name for session in NAMES for name in session))
REGIONS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")


@pytest.fixture(scope="module")
def sessions():
    return made_up.planted()


@pytest.fixture(scope="module")
def everything(tmp_path_factory, sessions):
    """The data of CSI1 and the pictures, which tests of what is right share."""
    place = tmp_path_factory.mktemp("bold5000")
    kinds = {"n": "ImageNet", "C": "COCO", "c": "Scene"}
    write_pictures(place / "pictures", [f"{kinds[name[0]]}/{name}" for name in IMAGES])
    return made_up.write(place / "data", sessions), (str(place / "pictures"),)


def opened(everything, **options):
    folder, pictures = everything
    return open_bold5000(folder, images=pictures, **{"subjects": ["CSI1"]} | options)


def flat(sessions, voxels) -> list[np.ndarray]:
    """Responses `[T, V]` of each session in float64, with voxels numbered as rows of a C array."""
    return [some.reshape(-1, some.shape[-1])[voxels].T.astype(np.float64) for some in sessions]


def scaled(responses):
    return [(some - some.mean(0)) / some.std(0, ddof=1) for some in responses]


@pytest.mark.parametrize("zscore", [True, False])
@pytest.mark.parametrize("volumes", [1, 4, 8])
def test_reads_what_was_planted(everything, sessions, zscore, volumes, monkeypatch):
    monkeypatch.setattr(bold5000, "_VOLUMES", volumes)  # the sessions have 6 or 7
    (person,) = opened(everything, zscore=zscore).subjects
    assert person.images == IMAGES and tuple(person.regions) == REGIONS
    voxels = np.unique(np.concatenate(list(person.regions.values())))
    images = [IMAGES[i] for i in np.random.default_rng(1).permutation(len(IMAGES))[:31]]
    mean, ceiling = person.read(images, voxels)
    responses = flat(sessions, voxels)
    trials = np.concatenate(scaled(responses) if zscore else responses)
    shown = np.concatenate(NAMES)
    expected = np.stack([trials[shown == name].mean(0) for name in images])
    # Means are kept in float32: 1e-7 of values up to about 50, for each of up to 5 trials added.
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
    repeated = [name for name in IMAGES if (shown == name).sum() > 1]
    noise = np.mean([trials[shown == name].var(0, ddof=1) for name in repeated], 0)
    signal = np.maximum((1 if zscore else trials.var(0, ddof=1)) - noise, 0)
    inverse = np.mean([1 / (shown == name).sum() for name in images])
    np.testing.assert_allclose(ceiling, np.sqrt(signal / (signal + noise * inverse)), rtol=1e-4, atol=1e-3)
    assert mean.dtype == ceiling.dtype == np.float32 and 0 < ceiling.mean() < 1


def test_regions_join_hemispheres_and_leave_out_voxels_without_responses(everything):
    data, masks = opened(everything), made_up.masks_of("CSI1")
    outside = np.ravel_multi_index(made_up.OUTSIDE, made_up.SHAPE)
    for region in REGIONS:
        both = np.flatnonzero(masks[f"LH{region}"] | masks[f"RH{region}"])
        np.testing.assert_array_equal(data.subjects[0].regions[region], both[both != outside])
    assert len(data.notes) == 1 and "CSI1: 1 of" in data.notes[0] and "in RSC" in data.notes[0]
    regions = opened(everything, regions=["RHPPA", "LOC"]).subjects[0].regions
    np.testing.assert_array_equal(regions["RHPPA"], np.flatnonzero(masks["RHPPA"]))
    assert list(regions) == ["RHPPA", "LOC"]


@pytest.mark.parametrize("subject", ["CSI2", "CSI4"])
def test_other_subjects(tmp_path, subject):
    """Masks of other names, and fewer sessions."""
    sessions, masks = made_up.planted(subject), made_up.masks_of(subject)
    folder = made_up.write(tmp_path / "data", sessions, subject)
    pictures = write_pictures(tmp_path / "pictures", [name for some in made_up.names_of(subject) for name in some])
    data = open_bold5000(folder, images=pictures, subjects=[subject])
    right = "RHRRSC" if subject == "CSI2" else "RHRSC"
    both = np.flatnonzero(masks["LHRSC"] | masks[right])[:-1]  # the last has no responses
    np.testing.assert_array_equal(data.subjects[0].regions["RSC"], both)
    name = made_up.names_of(subject)[0][0]
    shown = np.concatenate(made_up.names_of(subject))
    expected = np.concatenate(scaled(flat(sessions, both)))[shown == name].mean(0)
    np.testing.assert_allclose(data.subjects[0].read([name], both).mean[0], expected, atol=1e-5)


def test_single_trials_have_a_ceiling_from_the_others_repeats(everything):
    (person,) = opened(everything).subjects
    voxels = person.regions["LOC"]
    single = [name for name in IMAGES if name.startswith("n0")]
    repeated = [name for name in IMAGES if name.startswith("concert")]
    both = [person.read(images, voxels).ceiling for images in (single, repeated)]
    r, R = (some[both[0] > 0].astype(np.float64) for some in both)
    # Spearman & Brown: the squared ceiling of m averaged trials from that of one, m the same for all these images.
    np.testing.assert_allclose(R**2, 5 * r**2 / (1 + 4 * r**2), rtol=1e-5)  # float32


def test_ceilings_are_the_planted_ones():
    """Many images shown four times: the estimate meets the planted share of signal."""
    rng, images, signal = np.random.default_rng(0), 2000, np.array([0.0, 0.2, 0.5, 0.9])
    truth = np.sqrt(signal) * rng.normal(size=(images, 4))
    means = RepeatMeans(np.full(images, 4), 4)
    for _ in range(4):
        for image in range(images):
            means.add(image, truth[image] + np.sqrt(1 - signal) * rng.normal(size=4))
    np.testing.assert_allclose(means.noise, 1 - signal, rtol=0.06)  # 6000 degrees of freedom: sd 0.018
    found = ceiling_r(1 - means.noise, means.noise, np.full(9, 4))
    for voxel in (1, 2, 3):
        reached = np.corrcoef(truth[:, voxel], means.mean[:, voxel])[0, 1]
        # Three times the sd of the estimate at a signal of 0.2, where it is largest: 0.01.
        assert abs(found[voxel] - reached) < 0.03
        assert abs(found[voxel] - np.sqrt(signal[voxel] / (signal[voxel] + (1 - signal[voxel]) / 4))) < 0.03


def test_without_repeats_there_is_no_ceiling():
    means = RepeatMeans(np.ones(3, int), 2)
    means.add(1, np.array([1.0, 2.0]))
    assert np.isnan(means.noise).all() and np.isnan(ceiling_r(1 - means.noise, means.noise, np.ones(3))).all()


def test_prefixes_of_repeats_are_removed(tmp_path, everything, sessions):
    folder = made_up.write(tmp_path / "data", sessions)
    path = folder / "CSI1_imgnames.txt"
    path.write_text(path.read_text().replace("concert", "rep_concert"))
    assert open_bold5000(folder, images=everything[1], subjects=["CSI1"]).subjects[0].images == IMAGES


def test_a_compressed_file_is_decompressed_once(everything, monkeypatch):
    """Going back in a compressed file means to start again."""
    (person,) = opened(everything).subjects
    restarts, rewind = [], gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda reader: restarts.append(reader) or rewind(reader))
    monkeypatch.setattr(bold5000, "_VOLUMES", 2)
    person.read(IMAGES[:2], person.regions["LOC"])
    assert not restarts


@pytest.fixture
def folder(tmp_path, sessions):
    return made_up.write(tmp_path / "data", sessions)


BETAS = "CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{:02}.nii.gz"


def spoil(folder, sessions, what: str) -> None:
    third, spm = folder / BETAS.format(3), folder / "spm" / "sub-CSI1"
    left, names = spm / "sub-CSI1_mask-LHPPA.nii.gz", folder / "CSI1_imgnames.txt"
    mask = made_up.masks_of("CSI1")["LHPPA"]
    match what:
        case "a session less":
            third.unlink()
        case "a session twice":
            (folder / "again").mkdir()
            (folder / "again" / third.name).hardlink_to(third)
        case "a trial less":
            made_up.save(third, sessions[2][..., 1:])
        case "transposed":
            made_up.save(third, sessions[2].transpose(2, 1, 0, 3))
        case "a name less":
            names.write_text(names.read_text().split("\n", 1)[1])
        case "an empty name":
            names.write_text("\n" + names.read_text())
        case "no mask":
            left.unlink()
        case "two masks":
            made_up.save(spm / "sub-CSI1_mask-LHLO.nii.gz", mask)
        case "a mask's grid":
            made_up.save(left, mask.transpose(2, 1, 0))
        case "a flipped mask":
            made_up.save(left, mask, made_up.AFFINE * [-1, 1, 1, 1])
        case "probabilities":
            made_up.save(left, mask * np.linspace(0.1, 1, mask.size, dtype=np.float32).reshape(mask.shape))
        case "an empty mask":
            made_up.save(left, mask * 0)
        case "a mask beside the brain":
            for side in "LR":
                beside = np.zeros_like(mask)
                beside[made_up.OUTSIDE] = 1
                made_up.save(spm / f"sub-CSI1_mask-{side}HPPA.nii.gz", beside)
        case "no NIfTI":
            third.write_bytes(b"nothing")
        case "no brain mask":
            (folder / "CSI1_brainmask.nii.gz").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a session less", "no CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-03.nii.gz in"),
        ("a session twice", "leave only one of them"),
        ("a trial less", "sessions of CSI1 hold 96 trials, and CSI1_imgnames.txt 97 names"),
        ("transposed", r"ses-03.nii.gz is \[3, 4, 5, 6\], expected \[5, 4, 3, trials\]"),
        ("a name less", "97 trials, and CSI1_imgnames.txt 96 names"),
        ("an empty name", "has empty lines"),
        ("no mask", "no sub-CSI1_mask-LHPPA.nii.gz"),
        ("two masks", "two masks of CSI1's LHLOC"),
        ("a mask's grid", r"LHPPA.nii.gz is \[3, 4, 5\], expected \[5, 4, 3\]"),
        ("a flipped mask", "LHPPA.nii.gz has another affine than the brain mask"),
        ("probabilities", "is no mask: it has 6 different values"),
        ("an empty mask", "is no mask: it has 1 different values"),
        ("a mask beside the brain", "1 of 1 voxels of CSI1's PPA have no responses"),
        ("no NIfTI", "ses-03.nii.gz can't be read as NIfTI"),
        ("no brain mask", "no CSI1_brainmask.nii.gz"),
    ],
)
def test_refuses(folder, everything, sessions, what, message):
    spoil(folder, sessions, what)
    with pytest.raises(ConfigError, match=message) as error:
        open_bold5000(folder, images=everything[1], subjects=["CSI1"])
    assert "\n" not in str(error.value)


def test_a_flipped_mask_can_be_forced(folder, everything, sessions):
    spoil(folder, sessions, "a flipped mask")
    assert open_bold5000(folder, images=everything[1], subjects=["CSI1"], ignore_affines=True).subjects


@pytest.mark.parametrize(("value", "trials", "message"), [
    (np.nan, [2], "ses-04.nii.gz has responses that are not finite numbers, such as in voxel {}"),
    (1.5, slice(None), "ses-04.nii.gz: 1 of .* voxels are the same in all trials, such as voxel {}"),
])  # fmt: skip
def test_refuses_voxels_without_responses(folder, everything, sessions, value, trials, message):
    voxel = int(np.flatnonzero(made_up.masks_of("CSI1")["LHPPA"])[2])
    values = sessions[3].copy()
    values[(*np.unravel_index(voxel, made_up.SHAPE), trials)] = value
    made_up.save(folder / BETAS.format(4), values)
    (person,) = open_bold5000(folder, images=everything[1], subjects=["CSI1"]).subjects
    with pytest.raises(ConfigError, match=message.format(voxel)):
        person.read(IMAGES, person.regions["PPA"])


def test_refuses_a_file_that_ends_early(folder, everything):
    path = folder / BETAS.format(15)
    (person,) = open_bold5000(folder, images=everything[1], subjects=["CSI1"]).subjects
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ConfigError, match="ses-15.nii.gz is damaged after its header"):
        person.read(IMAGES, person.regions["PPA"])


def test_refuses_other_arguments(everything):
    with pytest.raises(ConfigError, match="no subject 'CSI5'"):
        opened(everything, subjects=["CSI5"])
    with pytest.raises(ConfigError, match="no region 'FFA'"):
        opened(everything, regions=["FFA"])
    with pytest.raises(ConfigError, match="no CSI1_GLMbetas-TYPEB-FITHRF_ses-01.nii.gz"):
        opened(everything, version="TYPEB-FITHRF")
    (person,) = opened(everything).subjects
    with pytest.raises(InputError, match="named twice"):
        person.read([IMAGES[0], IMAGES[0]], person.regions["PPA"])
    with pytest.raises(InputError, match="no voxel 1000"):
        person.read(IMAGES, np.array([1000]))
