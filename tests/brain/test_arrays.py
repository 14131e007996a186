"""A user's own arrays as brain data: responses, repeats and regions that were put there, and files that are refused."""

import dataclasses
import itertools

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from ipcl_jax.brain import arrays as module
from ipcl_jax.brain.arrays import open_arrays
from ipcl_jax.errors import ConfigError, InputError
from test_brain_data import matlab73

N, V, R = 6, 40, 3
NAMES = [f"{name}.png" for name in "abcdef"]
ORDER = np.array([3, 1, 5, 0, 4, 2])  # the files hold the images so
SHUFFLED = [NAMES[i] for i in ORDER]
VALUES = np.random.default_rng(0).normal(size=(R, N, V))  # in the order of NAMES


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in NAMES:
        Image.new("RGB", (4, 4)).save(folder / name)
    return [str(folder)]


def h5(path, contents, **options):
    with h5py.File(path, "w") as file:
        for name, array in contents.items():
            file.create_dataset(name, data=array, **(options if np.ndim(array) > 1 else {}))
    return str(path)


def opened(path, images, **asked):
    return open_arrays(str(path), images=images, **asked)


def expected_ceiling(values):
    """Spearman-Brown by the formula, from NumPy's correlations."""
    repeats, found = len(values), []
    for voxel in range(values.shape[-1]):
        pairs = np.corrcoef(values[:, :, voxel])[np.triu_indices(repeats, 1)]
        single = np.clip(pairs.mean(), 0, 1)
        found.append(np.sqrt(repeats * single / (1 + (repeats - 1) * single)))
    return np.array(found)


def same(found, values):
    """Compares with `values` `[R, n, v]`, to float32."""
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-6, atol=1e-7)
    assert found.mean.dtype == found.ceiling.dtype == np.float32
    if len(values) > 1:
        # The root is steep near 0, where 1e-14 of the correlation is 1e-7.
        np.testing.assert_allclose(found.ceiling, expected_ceiling(values), rtol=1e-5, atol=1e-6)
    else:
        assert np.isnan(found.ceiling).all()


FORMS = ("h5", "npz", "v5", "v7.3")


def write(form, folder, contents):
    """Writes arrays, and lists of text, to a file of some form."""
    if form == "h5":
        return h5(folder / "a.h5", contents)
    if form == "npz":
        np.savez(folder / "a.npz", **contents)
        return folder / "a.npz"
    if form == "v5":
        tree = {}
        for name, value in contents.items():
            value = np.array(value, object) if isinstance(value, list) else value
            group, _, last = name.rpartition("/")
            (tree.setdefault(group, {}) if group else tree)[last] = value
        scipy.io.savemat(folder / "a.mat", tree)
    else:
        contents = {name: np.atleast_2d(v) if isinstance(v, np.ndarray) else v for name, v in contents.items()}
        matlab73(folder / "a.mat", **contents)
    return folder / "a.mat"


MASK = np.arange(V) % 3 == 0


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form, images, tmp_path):
    contents = {"betas": VALUES[:, ORDER], "names": SHUFFLED, "regions/V1": MASK.astype(np.uint8)}
    contents["regions/V2"] = (~MASK).astype(float)
    data = opened(write(form, tmp_path, contents), images)
    (subject,) = data.subjects
    assert subject.name == "betas" and list(subject.regions) == ["V1", "V2"]
    assert data.stimuli.names == NAMES and subject.images == tuple(NAMES)
    np.testing.assert_array_equal(subject.regions["V1"], np.flatnonzero(MASK))
    np.testing.assert_array_equal(subject.regions["V2"], np.flatnonzero(~MASK))
    for voxels in subject.regions.values():
        same(subject.read(NAMES, voxels), VALUES[:, :, voxels])
    assert subject.ceiling_kind == "root of Spearman-Brown reliability, 3 repeats"
    asked = [NAMES[i] for i in (4, 0, 3)]
    same(subject.read(asked, np.array([0, 7, 39])), VALUES[:, [4, 0, 3]][:, :, [0, 7, 39]])
    assert subject.read(NAMES, np.array([], int)).mean.shape == (N, 0)


@pytest.mark.parametrize("form", FORMS)
def test_labels_in_every_form(form, images, tmp_path):
    labels = ["V1", "", "V10", "V2"] * (V // 4)
    data = opened(write(form, tmp_path, {"betas": VALUES[0], "names": NAMES, "regions": labels}), images)
    (subject,) = data.subjects
    assert list(subject.regions) == ["V1", "V2", "V10"]
    np.testing.assert_array_equal(subject.regions["V2"], np.arange(3, V, 4))
    assert subject.ceiling_kind == ""
    same(subject.read(NAMES, subject.regions["V10"]), VALUES[:1, :, 2::4])


@pytest.mark.parametrize("kind", [np.int16, np.float64])
def test_numbers_as_labels(kind, images, tmp_path):
    labels = (np.arange(V) % 4).astype(kind)
    (subject,) = opened(h5(tmp_path / "a.h5", {"betas": VALUES[0], "regions": labels}), images).subjects
    assert list(subject.regions) == ["1", "2", "3"]
    np.testing.assert_array_equal(subject.regions["3"], np.arange(3, V, 4))


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (1, 2, 7), "compression": "gzip"}, {"chunks": (3, 1, 40)}, {"chunks": (1, 6, 1)}],
    ids=["contiguous", "small", "rows", "columns"],
)
def test_parts_of_any_size_give_the_same(options, images, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 2000)
    path = h5(tmp_path / "a.h5", {"betas": VALUES[:, ORDER], "names": SHUFFLED}, **options)
    (subject,) = opened(path, images).subjects
    voxels = np.array([0, 1, 2, 9, 21, 22, 38])
    for block, gap in itertools.product((1, 1000, 1 << 27), (1, 1024)):
        monkeypatch.setattr(module, "_BLOCK", block)
        monkeypatch.setattr(module, "_GAP", gap)
        same(subject.read(NAMES[::-1], voxels), VALUES[:, ::-1, voxels])


def test_only_what_is_asked_for_is_read(images, tmp_path, monkeypatch):
    """A damaged chunk elsewhere makes no difference, and one that is asked for is refused."""
    path = h5(tmp_path / "a.h5", {"betas": np.zeros((N, 3_000_000), np.float32)}, chunks=(N, 1000))
    with h5py.File(path, "a") as file:
        file["betas"][:, :1000] = VALUES[0, :, :1]
        file["betas"][2, 2_000_500] = np.nan
    (subject,) = opened(path, images).subjects
    assert list(subject.regions) == ["all"] and len(subject.regions["all"]) == 3_000_000
    read, getitem = [], h5py.Dataset.__getitem__

    def counted(self, place, **more):
        value = getitem(self, place, **more)
        read.append(value.nbytes)
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    found = subject.read(NAMES[1:3], np.array([5, 2_999_999]))
    np.testing.assert_allclose(found.mean, np.stack([VALUES[0, 1:3, 0], [0, 0]], 1), rtol=1e-6)
    assert sum(read) == 2 * 2 * 4  # two images, two voxels
    with pytest.raises(ConfigError, match=r"1 of 2 voxels are not finite.*voxel 2000500, to c.png"):
        subject.read(NAMES, np.array([2_000_499, 2_000_500]))


def test_rows_of_one_image_are_repeats(images, tmp_path):
    trials = np.random.default_rng(2).permutation(R * N)
    rows = VALUES.reshape(R * N, V)[trials]
    names = [NAMES[i % N] for i in trials]
    twice = np.stack([rows, rows + 1])  # and each row was measured twice
    path = h5(tmp_path / "a.h5", {"responses/one": rows, "responses/two": twice, "responses/names": names})
    one, two = opened(path, images).subjects
    assert [subject.name for subject in (one, two)] == ["one", "two"]
    # The first repeat of each image is its first row, and so on.
    ordered = np.stack([[row for row, name in zip(rows, names, strict=True) if name == one] for one in NAMES], 1)
    np.testing.assert_array_equal(np.sort(ordered, 0), np.sort(VALUES, 0))
    same(one.read(NAMES, np.arange(V)), ordered)
    same(two.read(NAMES, np.arange(V)), np.concatenate([ordered, ordered + 1]))
    assert "6 repeats" in two.ceiling_kind
    h5(tmp_path / "b.h5", {"responses": rows[:-1], "names": names[:-1]})
    with pytest.raises(ConfigError, match="some images 2 times and some 3 times"):
        opened(tmp_path / "b.h5", images)


def test_subjects_see_images_of_their_own(images, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["responses/one"], file["responses/two"] = VALUES[0, :4], np.repeat(VALUES[1, 2:], 2, 0)
        file["responses/one"].attrs["images"] = NAMES[:4]
        file["responses/two"].attrs["images"] = [name.removesuffix(".png") for name in np.repeat(NAMES[2:], 2)]
    data = opened(tmp_path / "a.h5", images)
    one, two = data.subjects
    assert one.images == tuple(NAMES[:4]) and two.images == tuple(NAMES[2:])
    assert data.shared == tuple(NAMES[2:4]) and len(data.stimuli.names) == N
    same(one.read(data.shared, np.arange(V)), VALUES[:1, 2:4])
    np.testing.assert_allclose(two.read(NAMES[:1:-1], np.arange(V)).mean, VALUES[1, :1:-1], rtol=1e-6)
    assert any("4 of the 6 stimuli were shown" in note for note in data.notes)
    assert any("2 repeats" in note for note in data.notes)
    with pytest.raises(InputError, match=r"two did not see a.png.*2 of 3 images"):
        two.read(NAMES[:3], np.arange(V))
    assert [subject.name for subject in opened(tmp_path / "a.h5", images, subjects=["TWO"]).subjects] == ["two"]


def test_images_that_are_not_among_the_stimuli(images, tmp_path):
    path = h5(tmp_path / "a.h5", {"betas": VALUES[0, :3], "names": ["a", "b", "x"]})
    with pytest.raises(ConfigError, match="not those of the stimuli: x there"):
        opened(path, images)
    more = h5(tmp_path / "b.h5", {"betas": np.vstack([VALUES[0], VALUES[0]]), "names": [*NAMES, *"ghijkl"]})
    data = opened(more, images)  # of other images the file may have any number
    assert data.subjects[0].images == tuple(NAMES) and "6 of 12 rows" in data.notes[0]


def test_image_numbers_must_be_those_of_all_stimuli(tmp_path):
    """Numbers of some images may count from 0 or from 1; nothing tells which."""
    stimuli = h5(tmp_path / "stimuli.h5", {"images": np.zeros((6, 4, 4, 3), np.uint8)})
    some = h5(tmp_path / "some.h5", {"betas": VALUES[0, :3], "image_id": np.array([5, 1, 3])})
    with pytest.raises(ConfigError, match=r"not those of the stimuli: image_id has no 0, 2, 4"):
        opened(some, [f"{stimuli}:images"])
    every = h5(tmp_path / "every.h5", {"betas": VALUES[0], "image_id": ORDER})
    (subject,) = opened(every, [f"{stimuli}:images"]).subjects
    np.testing.assert_allclose(subject.read(["5"], np.arange(V)).mean[0], VALUES[0, 2], rtol=1e-6)


def test_responses_without_names(images, tmp_path):
    data = opened(h5(tmp_path / "a.h5", {"betas": VALUES}), images)
    assert data.notes == (f"{tmp_path}/a.h5 has no names of images; its rows are taken in the order of the stimuli.",)
    same(data.subjects[0].read(NAMES, np.arange(V)), VALUES)
    with pytest.raises(ConfigError, match="is of 5 images, and there are 6 stimuli"):
        opened(h5(tmp_path / "b.h5", {"betas": VALUES[:, :5]}), images)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["responses/one"], file["responses/two"] = VALUES[:, :4], VALUES
        file["responses/one"].attrs["names"] = NAMES[:4]
    with pytest.raises(ConfigError, match="for some subjects, and none for responses/two"):
        opened(tmp_path / "c.h5", images)


def test_regions_of_each_subject(images, tmp_path):
    contents = {
        "responses/one": VALUES[0], "responses/two": VALUES[0, :, :10], "responses/names": NAMES,
        "regions/one/V1": MASK, "regions/one/V4": ~MASK, "regions/two": ["v", "V1"] * 5,
    }  # fmt: skip
    path = h5(tmp_path / "a.h5", contents)
    one, two = opened(path, images).subjects
    assert list(one.regions) == ["V1", "V4"] and list(two.regions) == ["V1", "v"]
    np.testing.assert_array_equal(two.regions["V1"], np.arange(1, 10, 2))
    one, two = opened(path, images, regions=["v1", "v"]).subjects
    assert list(one.regions) == ["V1"] and list(two.regions) == ["V1", "v"]
    with pytest.raises(ConfigError, match=r"There is no region 'V5'.*Known: V1, V4, v"):
        opened(path, images, regions=["V5"])


def test_regions_of_all_subjects_and_nearest(images, tmp_path):
    contents = {"sub/betas/one": VALUES[0], "sub/betas/two": VALUES[1], "sub/betas/names": NAMES, "regions/far": MASK}
    one, two = opened(h5(tmp_path / "a.h5", contents) + ":sub/betas", images).subjects
    assert list(one.regions) == list(two.regions) == ["far"]
    contents |= {"sub/regions/near": MASK, "sub/regions/two/own": ~MASK}
    one, two = opened(h5(tmp_path / "b.h5", contents) + ":sub/betas", images).subjects
    assert list(one.regions) == ["near"] and list(two.regions) == ["near", "own"]
    contents["sub/betas/regions"] = MASK.astype(int) + 1
    one, two = opened(h5(tmp_path / "c.h5", contents) + ":sub/betas", images).subjects
    assert list(one.regions) == list(two.regions) == ["1", "2"]


@pytest.mark.parametrize(
    "regions, message",
    [
        ({"regions/V1": MASK[1:]}, r"V1 is \[39\] bool, expected a value for each of the 40 voxels of betas"),
        ({"regions/V1": np.ones((4, 10), bool)}, r"V1 is \[4, 10\] bool, expected a value"),
        ({"regions/V1": np.arange(V)}, "V1 is no mask"),
        ({"regions/V1": np.where(MASK, 1, np.nan)}, "V1 is no mask"),
        ({"regions/V1": ["V1", "V2"] * 20}, "V1 is no mask.*Labels of all regions"),
        ({"regions": MASK}, "regions is a mask without a name"),
        ({"regions": MASK.astype(int)}, "regions is a mask without a name"),
        ({"regions": np.arange(V) - 1}, "expected a label for each voxel"),
        ({"regions": np.arange(V) / 2}, "expected a label for each voxel"),
        ({"regions": np.full(V, np.nan)}, "expected a label for each voxel"),
        ({"regions": [""] * V}, "no voxel in a region"),
        ({"regions/betas": MASK}, "regions/betas is a mask without a name"),
        ({"regions/betaz/V1": MASK}, "no subject is named after. Did you mean 'betas'"),
        ({"regions/V1": MASK, "regions/betas/V1": MASK}, "region V1 of betas twice"),
        ({"regions/betas/a/V1": MASK}, "no subject is named after"),
    ],
)
def test_regions_that_are_none(regions, message, images, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, betas=VALUES[0], **regions)
    with pytest.raises(ConfigError, match=message) as refused:
        opened(path, images)
    assert str(path) in str(refused.value)


def test_regions_of_other_subjects_alone(images, tmp_path):
    contents = {"betas/one": VALUES[0], "betas/two": VALUES[0], "regions/one/V1": MASK}
    with pytest.raises(ConfigError, match="regions of other subjects, and none of two"):
        opened(h5(tmp_path / "a.h5", contents), images)
    np.savez(tmp_path / "a.npz", **{"betas": VALUES[0], "regions": MASK, "regions/V1": MASK})
    with pytest.raises(ConfigError, match="both an array regions and arrays regions/NAME"):
        opened(tmp_path / "a.npz", images)


@pytest.mark.parametrize(
    "value, kind", [(np.nan, float), (np.inf, np.float32), (1e300, float)], ids=["nan", "inf", "beyond float32"]
)
def test_responses_that_are_not_finite(value, kind, images, tmp_path):
    values = VALUES[0].astype(kind)
    values[4, [7, 9]] = value
    (subject,) = opened(h5(tmp_path / "a.h5", {"betas": values}), images).subjects
    with pytest.raises(ConfigError, match=r"a.h5:betas: responses of 2 of 40 voxels .* voxel 7, to e.png"):
        subject.read(NAMES, np.arange(V))
    same(subject.read(NAMES[:4], np.arange(V)), VALUES[:1, :4])  # others can be read
    same(subject.read(NAMES, np.arange(7)), VALUES[:1, :, :7])


@pytest.mark.parametrize("voxels", [[3, 2], [2, 2], [-1, 2], [V], [[1]], [1.5]], ids=str)
def test_voxels_that_are_none(voxels, images, tmp_path):
    (subject,) = opened(h5(tmp_path / "a.h5", {"betas": VALUES[0]}), images).subjects
    with pytest.raises(InputError, match="Voxels"):
        subject.read(NAMES, np.array(voxels))


def test_whole_numbers_and_constant_voxels(images, tmp_path):
    values = np.round(VALUES * 100).astype(np.int16)
    values[:, :, 3] = 7
    (subject,) = opened(h5(tmp_path / "a.h5", {"betas": values}), images).subjects
    found = subject.read(NAMES, np.arange(V))
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-6)
    assert found.ceiling[3] == 0 and (found.ceiling > 0).any()
    assert np.isnan(subject.read(NAMES[:1], np.arange(V)).ceiling).all()  # one image tells nothing


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"betas": np.zeros((N, 4), complex)}, "expected responses"),
        ({"betas": np.zeros((N, 4), bool)}, "expected responses"),
        ({"betas": np.zeros((2, 2, N, 4))}, "expected responses"),
        ({"data": np.zeros((N, 4))}, r"named responses, betas, voxels.*It has: data \[6, 4\]"),
        ({"None/one": np.zeros((N, 4))}, "named responses, betas, voxels"),
        ({"betas": VALUES[0], "names": NAMES[:5]}, "the names beside it are 5"),
    ],
)
def test_responses_that_are_none(contents, message, images, tmp_path):
    with pytest.raises(ConfigError, match=message):
        opened(h5(tmp_path / "a.h5", contents), images)


def test_a_file_that_changes_or_goes(images, tmp_path):
    path = h5(tmp_path / "a.h5", {"betas": VALUES[0]})
    (subject,) = opened(path, images).subjects
    h5(path, {"betas": VALUES[0, :, 1:]})
    with pytest.raises(ConfigError, match="a.h5:betas has changed"):
        subject.read(NAMES, np.arange(3))
    (tmp_path / "a.h5").unlink()
    with pytest.raises(ConfigError, match=r"a.h5 can't be read"):
        subject.read(NAMES, np.arange(3))


def test_damage_in_the_part_that_is_read(images, tmp_path):
    path = h5(tmp_path / "a.h5", {"betas": np.random.default_rng(0).normal(size=(N, 400_000))}, chunks=(N, 4000),
              compression="gzip")  # fmt: skip
    with h5py.File(path) as file:
        at = file["betas"].id.get_chunk_info(50).byte_offset
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[at : at + 100] = bytes(100)
    (tmp_path / "a.h5").write_bytes(content)
    (subject,) = opened(path, images).subjects
    assert subject.read(NAMES, np.arange(10)).mean.shape == (N, 10)
    with pytest.raises(ConfigError, match=r"a.h5:betas can't be read"):
        subject.read(NAMES, np.arange(200_000, 200_010))


def test_an_image_that_is_named_twice(images, tmp_path):
    (tmp_path / "list.txt").write_text(f"{images[0]}/a.png\n" * 2)
    with pytest.raises(ConfigError, match="1 of 2 images are named twice"):
        opened(h5(tmp_path / "a.h5", {"betas": VALUES[0, :2]}), [str(tmp_path / "list.txt")])


def test_the_set_is_frozen(images, tmp_path):
    data = opened(h5(tmp_path / "a.h5", {"betas": VALUES[0]}), images)
    assert data.name == "arrays" and data.held_out == frozenset()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"
