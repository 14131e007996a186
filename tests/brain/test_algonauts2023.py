"""The training data of Algonauts 2023: rows, hemispheres, images of several subjects, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from ipcl_jax.brain.algonauts2023 import open_algonauts2023
from ipcl_jax.errors import ConfigError, InputError
from made_up_algonauts import NAMES, SIZES, picture, write_subject

SEEN = {"subj01": [13, 27, 700, 4, 61], "subj05": [700, 5, 13, 65000]}  # the data set's own are in ascending order


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    root = tmp_path_factory.mktemp("algonauts")
    return root, {name: write_subject(root, name, seen, seed=len(seen)) for name, seen in SEEN.items()}


def test_responses_are_those_of_the_files(made_up, monkeypatch):
    root, planted = made_up
    data = open_algonauts2023(root)
    assert data.name == "algonauts2023" and [subject.name for subject in data.subjects] == list(SEEN)
    assert data.shared == ("nsd-00013", "nsd-00700") and not data.held_out
    for subject in data.subjects:
        responses, labels = planted[subject.name]
        assert subject.images == tuple(f"nsd-{number:05d}" for number in SEEN[subject.name])
        whole = subject.read(subject.images, np.arange(sum(SIZES)))
        np.testing.assert_array_equal(whole.mean, responses)
        assert whole.mean.dtype == whole.ceiling.dtype == np.float32
        assert np.isnan(whole.ceiling).all() and subject.ceiling_kind == ""
        order, voxels = [3, 0, 2], np.array([0, 5, 12, 13, 29])
        monkeypatch.setattr("ipcl_jax.brain.algonauts2023._ROWS", 2)
        found = subject.read([subject.images[row] for row in order], voxels).mean
        np.testing.assert_array_equal(found, responses[order][:, voxels])
        for voxels in (np.arange(3), np.arange(20, 22), np.arange(0)):
            found = subject.read(subject.images[:2], voxels)
            np.testing.assert_array_equal(found.mean, responses[:2][:, voxels])
            assert len(found.ceiling) == len(voxels)
        assert list(subject.regions) == ["early", "midventral", "ventral"]
        np.testing.assert_array_equal(subject.regions["ventral"], np.flatnonzero(labels == 5))
    assert data.notes == ("subj01 has no vertices in lateral.", "subj05 has no vertices in lateral.")


def test_regions_by_name(made_up):
    root, planted = made_up
    labels = planted["subj05"][1]

    def regions(*asked):
        return open_algonauts2023(root, subjects=["subj05"], regions=asked).subjects[0].regions

    assert list(regions("streams:early", "all-vertices")) == ["early", "all-vertices"]
    np.testing.assert_array_equal(regions("all-vertices")["all-vertices"], np.arange(sum(SIZES)))
    one = regions("rh.streams:early", "lh.streams:early")
    both = np.concatenate([one["lh.early"], one["rh.early"]])
    np.testing.assert_array_equal(both, np.flatnonzero(labels == 1))
    assert one["lh.early"].max() < SIZES[0] <= one["rh.early"].min()


def test_an_image_of_several_subjects_is_one(made_up, tmp_path):
    root, _ = made_up
    data = open_algonauts2023(root)
    numbers = sorted({*SEEN["subj01"], *SEEN["subj05"]})
    assert list(data.stimuli.names) == [f"nsd-{number:05d}" for number in numbers]
    for place, number in enumerate(numbers):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data.stimuli[place]))), picture(number))
    for number in numbers:
        (tmp_path / f"nsd-{number:05d}.png").write_bytes(bytes([number % 256]))
    other = open_algonauts2023(root, stimuli=[str(tmp_path)])
    assert other.stimuli.names == data.stimuli.names and other.stimuli[2] == bytes([numbers[2]])


def refuses(match, root, **options):
    with pytest.raises(ConfigError, match=match) as error:
        open_algonauts2023(root, **options)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused(tmp_path):
    refuses("no subjects in", tmp_path)
    responses, labels = write_subject(tmp_path, "subj03", [3, 9, 12])
    refuses("no subject 'subj04' .*subj03", tmp_path, subjects=["subj04"])
    refuses("named twice", tmp_path, subjects=["subj03"] * 2)
    refuses("no atlas stream .*'streams'", tmp_path, regions=["stream"])
    refuses("no region 'central'", tmp_path, regions=["streams:central"])
    refuses("no vertices in lateral", tmp_path, regions=["streams:lateral"])
    images, fmri = (tmp_path / "subj03/training_split" / f"training_{part}" for part in ("images", "fmri"))
    masks = tmp_path / "subj03/roi_masks"
    last = images / "train-0003_nsd-00012.png"
    last.rename(images / "train-0004_nsd-00012.png")
    refuses("train-0004_nsd-00012.png should be train-0003", tmp_path)
    (images / "train-0004_nsd-00012.png").rename(images / "train-0003_nsd-00009.png")
    refuses("has an image twice", tmp_path)
    (images / "train-0003_nsd-00009.png").rename(images / "3.png")
    refuses("3.png isn't named as", tmp_path)
    (images / "3.png").unlink()
    refuses(r"lh_training_fmri.npy is float32 \[3, 13\], expected float32 \[2 images, vertices\]", tmp_path)
    Image.fromarray(picture(12)).save(last)
    wrong = responses[:, SIZES[0] :].copy()
    wrong[1, 4] = np.nan
    np.save(fmri / "rh_training_fmri.npy", wrong)
    subject = open_algonauts2023(tmp_path).subjects[0]
    with pytest.raises(ConfigError, match="rh_training_fmri.npy has responses that are no finite"):
        subject.read(subject.images, np.arange(30))
    assert np.isfinite(subject.read(subject.images, np.arange(17)).mean).all()
    with pytest.raises(InputError, match="subj03 has 0 to 29"):
        subject.read(subject.images, np.arange(31))
    np.save(fmri / "rh_training_fmri.npy", wrong.astype(object))
    refuses("rh_training_fmri.npy can't be read", tmp_path)
    np.save(fmri / "rh_training_fmri.npy", wrong[:, :-1])
    refuses(r"rh.streams_challenge_space.npy is \[17\], and responses have 16 vertices", tmp_path)
    (fmri / "rh_training_fmri.npy").unlink()
    refuses("no file .*rh_training_fmri.npy", tmp_path)
    np.save(fmri / "rh_training_fmri.npy", responses[:, SIZES[0] :])
    np.save(masks / "mapping_streams.npy", {0: "Unknown", 1: "early", 2: "midventral"})
    refuses("the label 5, which has no name", tmp_path)
    assert NAMES[5] == "ventral" and 5 in labels
