"""Brain data in every form that is read, in the order of the stimuli, and what is wrong with some."""

import h5py
import numpy as np
import pytest
import scipy.io
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist, squareform

from ipcl_jax.brain.names import match_names
from ipcl_jax.brain.rdms import read_rdms
from ipcl_jax.brain.responses import read_responses
from ipcl_jax.errors import ConfigError

STIMULI = ("faces/a.jpg", "faces/b.jpg", "scenes/c.jpg", "scenes/d.jpg", "scenes/e.jpg")
ORDER = np.array([3, 1, 0, 4, 2])  # the files hold the images so
NAMES = [STIMULI[i].split("/")[1] for i in ORDER]


@pytest.fixture
def rdms():
    rng = np.random.default_rng(0)
    return np.stack([squareform(pdist(rng.normal(size=(5, 9)))) for _ in range(2)])


@pytest.fixture
def responses():
    return np.random.default_rng(1).normal(size=(3, 5, 7))


def shuffled(rdms):
    return rdms[:, ORDER][:, :, ORDER]


def matlab73(path, **arrays):
    """MATLAB's file of version 7.3: HDF5 with axes reversed, after a block of its own."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            if isinstance(array, list):
                cells = [
                    file.create_dataset(f"#refs#/{name}{i}", data=_text73(text)) for i, text in enumerate(array)
                ]
                file[name] = np.array([[cell.ref for cell in cells]], h5py.ref_dtype)
                file[name].attrs["MATLAB_class"] = np.bytes_(b"cell")
            else:
                file[name] = array.T


def _text73(text):
    """Text as MATLAB stores it: UTF-16 in a column, and the shape (0, 0) instead of no text."""
    return np.array([[ord(letter)] for letter in text], np.uint16) if text else np.zeros(2, np.uint64)


def write(form, path, key, array, names=None):
    if form == "npz":
        np.savez(path, **{key: array}, **({"names": names} if names else {}))
    elif form == "v5":
        cells = {"names": np.array(names, object)} if names else {}
        scipy.io.savemat(path, {key: array, **cells})
    elif form == "v7.3":
        matlab73(path, **{key: array}, **({"names": names} if names else {}))
    else:
        with h5py.File(path, "w") as file:
            file[key] = array
            if names:
                file["names"] = names


FORMS = {"h5": "brain.h5", "npz": "brain.npz", "v5": "brain.mat", "v7.3": "brain.mat"}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_in_the_order_of_names(form, rdms, responses, tmp_path):
    path = tmp_path / FORMS[form]
    write(form, path, "rdms", shuffled(rdms), NAMES)
    found = read_rdms(str(path), STIMULI)
    np.testing.assert_array_equal(found.rdms, rdms)
    assert found.by_name
    write(form, path, "betas", responses[:, ORDER], NAMES)
    found = read_responses(str(path), STIMULI)
    np.testing.assert_array_equal(found.subjects["betas"], responses)
    assert found.by_name
    write(form, path, "betas", responses[0])
    found = read_responses(f"{path}:betas", STIMULI)
    np.testing.assert_array_equal(found.subjects["betas"], responses[:1])
    assert not found.by_name


def test_vectors_and_single_rdms(rdms, tmp_path):
    np.savez(tmp_path / "a.npz", rdms=np.stack([squareform(one) for one in rdms]), other=np.ones(4))
    np.testing.assert_array_equal(read_rdms(str(tmp_path / "a.npz"), STIMULI).rdms, rdms)
    np.savez(tmp_path / "b.npz", mine=rdms[0])
    np.testing.assert_array_equal(read_rdms(str(tmp_path / "b.npz"), STIMULI).rdms, rdms[:1])


def test_rsatoolboxs_own_files(rdms, tmp_path):
    made = RDMs(
        np.stack([squareform(one) for one in shuffled(rdms)]), pattern_descriptors={"stimulus": NAMES}
    )
    made.save(str(tmp_path / "rsa.hdf5"), file_type="hdf5")
    found = read_rdms(str(tmp_path / "rsa.hdf5"), STIMULI)
    np.testing.assert_array_equal(found.rdms, rdms)
    assert found.by_name


def test_subjects_with_voxels_of_their_own(responses, tmp_path):
    with h5py.File(tmp_path / "brain.h5", "w") as file:
        file["responses/one"], file["responses/two"] = responses[:, ORDER], responses[:2, ORDER, :4]
        file["responses/names"] = NAMES
    found = read_responses(str(tmp_path / "brain.h5"), STIMULI)
    assert list(found.subjects) == ["one", "two"] and found.by_name
    np.testing.assert_array_equal(found.subjects["two"], responses[:2, :, :4])


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"rdms": np.zeros((2, 4, 4))}, "is of 4 images, and there are 5 stimuli"),
        ({"rdms": np.zeros((5, 4))}, "no single array of that kind"),
        ({"a": np.zeros((5, 5)), "b": np.zeros((5, 5))}, r"It has: a \[5, 5\] float64, b"),
        ({"rdms": np.eye(5)}, "not zero on its diagonal"),
        ({"rdms": np.arange(25.0).reshape(5, 5)}, "not symmetric"),
        ({"rdms": np.full((5, 5), np.nan)}, "not finite"),
        ({"rdms": np.zeros((5, 5)), "names": list("abcdx")}, "not those of the stimuli: x there"),
        ({"rdms": np.zeros((5, 5)), "names": list("abcdd")}, "'d' more than once"),
        ({"rdms": np.zeros((5, 5)), "names": list("abcd")}, "the names beside it are 4"),
    ],
)
def test_rdms_that_are_none(arrays, message, tmp_path):
    np.savez(tmp_path / "brain.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        read_rdms(str(tmp_path / "brain.npz"), STIMULI)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"betas": np.zeros((4, 7))}, "is of 4 images, and there are 5 stimuli"),
        ({"betas": np.zeros(5)}, r"is \[5\] float64, expected responses"),
        ({"betas": np.full((5, 2), np.inf)}, "not finite"),
        ({"data": np.zeros((5, 7))}, "named responses, betas, voxels.*It has: data"),
    ],
)
def test_responses_that_are_none(arrays, message, tmp_path):
    np.savez(tmp_path / "brain.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        read_responses(str(tmp_path / "brain.npz"), STIMULI)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "brain.h5").write_bytes(b"nothing")
    for spec, message in (
        ("brain.h5", "can't be read"),
        ("none.npz", "There is no file"),
        ("brain.csv", "its name ends in .h5"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_rdms(str(tmp_path / spec), STIMULI)


SHUFFLED = [STIMULI[i] for i in ORDER]


def h5(path, attributes=(), **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
        for place, name, value in attributes:
            file[place].attrs[name] = value
    return str(path)


@pytest.mark.parametrize(
    "name", ["names", "Names", "filenames", "stimulus_id", "image_names", "stimuli", "conditions", "what"]
)
@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5)])
def test_names_are_found_whatever_they_are_called(name, shape, responses, tmp_path):
    np.savez(tmp_path / "a.npz", betas=responses[:, ORDER], **{name: np.array(SHUFFLED).reshape(shape)})
    found = read_responses(str(tmp_path / "a.npz"), STIMULI)
    np.testing.assert_array_equal(found.subjects["betas"], responses)
    assert found.by_name and not found.notes


@pytest.mark.parametrize("place", ["sub01__names", "names", "info__names", "sub01__info__names"])
def test_names_beside_the_array_in_a_group(place, responses, tmp_path):
    arrays = {"sub01__betas": responses[:, ORDER], place: SHUFFLED, "sub02__betas": responses}
    path = h5(tmp_path / "a.h5", **arrays, **({"sub02__names": STIMULI} if "sub01" in place else {}))
    found = read_responses(f"{path}:sub01/betas", STIMULI)
    np.testing.assert_array_equal(found.subjects["sub01/betas"], responses)
    assert found.by_name


@pytest.mark.parametrize("place", ["sub01/betas", "sub01", "/"])
def test_names_in_an_attribute(place, responses, tmp_path):
    path = h5(tmp_path / "a.h5", [(place, "stimuli", SHUFFLED)], sub01__betas=responses[:, ORDER])
    np.testing.assert_array_equal(
        read_responses(f"{path}:sub01/betas", STIMULI).subjects["sub01/betas"], responses
    )


def test_of_several_texts_the_one_that_fits_counts(rdms, responses, tmp_path):
    kinds = ["face", "face", "scene", "scene", "scene"]
    np.savez(tmp_path / "a.npz", betas=responses[:, ORDER], a_category=kinds, names=SHUFFLED)
    np.testing.assert_array_equal(
        read_responses(str(tmp_path / "a.npz"), STIMULI).subjects["betas"], responses
    )
    np.savez(tmp_path / "c.npz", betas=responses[:, ORDER], table=np.stack([kinds, SHUFFLED], 1))
    np.testing.assert_array_equal(
        read_responses(str(tmp_path / "c.npz"), STIMULI).subjects["betas"], responses
    )
    made = RDMs(
        np.stack([squareform(one) for one in shuffled(rdms)]),
        pattern_descriptors={"category": kinds, "stimulus": NAMES},
        rdm_descriptors={"subject": ["one", "two"]},
    )
    made.save(str(tmp_path / "rsa.hdf5"), file_type="hdf5")
    found = read_rdms(str(tmp_path / "rsa.hdf5"), STIMULI)
    np.testing.assert_array_equal(found.rdms, rdms)
    assert found.by_name


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"kind": ["face"] * 5}, r"not those of the stimuli: face there \(kind\)"),
        ({"a": STIMULI, "b": SHUFFLED}, "different orders, a and b"),
        ({"stimulus_id": [3, 1, 0, 4, 2]}, r"3, 1, 0 there \(stimulus_id\)"),
    ],
)
def test_text_that_is_not_understood_is_refused(arrays, message, responses, tmp_path):
    np.savez(tmp_path / "a.npz", betas=responses, **arrays)
    with pytest.raises(ConfigError, match=message):
        read_responses(str(tmp_path / "a.npz"), STIMULI)


def test_names_of_another_subject_are_not_taken(responses, tmp_path):
    path = h5(tmp_path / "a.h5", sub01__betas=responses, sub02__betas=responses, sub02__names=SHUFFLED)
    with pytest.raises(
        ConfigError, match="no names of images in its own group, and sub02/names is in another group"
    ):
        read_responses(f"{path}:sub01/betas", STIMULI)


def test_numbers_are_names_where_stimuli_are_numbered(responses, tmp_path):
    rows = [str(10 * i) for i in range(5)]  # stimuli that are rows of an HDF5 dataset
    np.savez(tmp_path / "a.npz", betas=responses[:, ORDER], stimulus_id=10 * ORDER)
    np.testing.assert_array_equal(read_responses(str(tmp_path / "a.npz"), rows).subjects["betas"], responses)
    np.savez(tmp_path / "b.npz", betas=responses, image_id=np.arange(1, 6))  # the rows' own numbers
    found = read_responses(str(tmp_path / "b.npz"), STIMULI)
    np.testing.assert_array_equal(found.subjects["betas"], responses)
    assert not found.by_name


def test_one_row_a_trial_becomes_repeats(responses, tmp_path):
    trials = np.random.default_rng(2).permutation(15)  # 3 of each of 5 images
    names = [STIMULI[i % 5] for i in trials]
    np.savez(tmp_path / "a.npz", betas=responses.reshape(15, 7)[trials], names=names)
    found = read_responses(str(tmp_path / "a.npz"), STIMULI)
    np.testing.assert_allclose(found.subjects["betas"].mean(0), responses.mean(0))
    np.testing.assert_array_equal(np.sort(found.subjects["betas"], 0), np.sort(responses, 0))
    assert found.notes == (f"{tmp_path}/a.npz:betas: 3 repeats of each image, by names.",)
    np.savez(tmp_path / "a.npz", betas=responses.reshape(15, 7)[trials][:-1], names=names[:-1])
    with pytest.raises(ConfigError, match="some images 2 times and some 3 times"):
        read_responses(str(tmp_path / "a.npz"), STIMULI)


def test_a_subset_is_chosen_by_name(rdms, responses, tmp_path):
    shown = STIMULI[3], STIMULI[0]
    np.savez(tmp_path / "a.npz", betas=responses[:, ORDER], rdms=shuffled(rdms), names=SHUFFLED)
    found = read_responses(str(tmp_path / "a.npz"), shown)
    np.testing.assert_array_equal(found.subjects["betas"], responses[:, [3, 0]])
    assert "2 of 5 rows are of the 2 stimuli, by names" in found.notes[0]
    np.testing.assert_array_equal(
        read_rdms(f"{tmp_path}/a.npz:rdms", shown).rdms, rdms[:, [3, 0]][:, :, [3, 0]]
    )
    with pytest.raises(ConfigError, match="names has no scenes/f.jpg"):
        read_responses(str(tmp_path / "a.npz"), (*STIMULI, "scenes/f.jpg"))


@pytest.mark.parametrize(
    "there, here",
    [
        (["\ufeffcafe\u0301.png", "b.png"], ["café.png", "b.png"]),  # NFD in one file, NFC in the other
        (["faces\\1.png", "scenes\\1.png"], ["faces/1.png", "scenes/1.png"]),
        (["faces/1", "scenes/1"], ["faces/1.png", "scenes/1.png"]),
        (["1.png", "2.png"], ["set/faces/1.jpg", "set/scenes/2.jpg"]),
        (["faces/1.png", "scenes/1.png"], ["val/faces/1.png", "val/scenes/1.png"]),
        (["x_0.25", "x_0.5"], ["x_0.25.png", "x_0.5.png"]),
    ],
)
def test_names_are_matched_where_that_is_unambiguous(there, here):
    assert match_names(there[::-1], here) == [[1], [0]]


@pytest.mark.parametrize(
    "there, here",
    [(["1.png", "1.jpg"], ["1.bmp"]), (["1", "2"], ["faces/1.png", "scenes/1.png"]), (["a"], ["b"])],
)
def test_ambiguous_names_are_not_matched(there, here):
    assert match_names(there, here) is None
