"""A run is bound to its config and its images: what else there may be in its folder, and that nothing is touched."""

import gzip
import json

import pytest

from ipcl_jax.config import Data, Train
from ipcl_jax.data.base import digest
from ipcl_jax.errors import ConfigError
from ipcl_jax.run.folder import IMAGES, check_folder, claim_folder, rebind, refuse_lost_checkpoints


class Listed:
    """A source of which only the listing is looked at."""

    def __init__(self, *stamps: str):
        self._stamps = stamps

    def __len__(self) -> int:
        return len(self._stamps)

    def stamps(self):
        return iter(self._stamps)

    def identity(self) -> str:
        return digest(self._stamps)


TRAIN = [f"a/{i}.png {100 + i} {1000 + i}" for i in range(10)]
VAL = ["b/0.png 5 6", "b/1.png 7 8"]


def sources(train=TRAIN, val=VAL) -> dict:
    return {"train": Listed(*train), "val": Listed(*val)}


def claim(config: Train, images: dict) -> tuple:
    """What a run does with its folder."""
    folder, changed = check_folder(config, images)
    claim_folder(folder, config, images)
    return folder, changed


@pytest.fixture
def folder(tmp_path):
    config = Train(name="x", out=str(tmp_path / "run"))
    assert claim(config, sources()) == (tmp_path / "run", "")
    return tmp_path / "run"


def config(folder, **data) -> Train:
    return Train(name="x", out=str(folder), data=Data(**data))


def contents(folder) -> dict:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_same_images_go_on(folder):
    before = contents(folder)
    assert check_folder(config(folder), sources()) == (folder, "")
    assert claim(config(folder), sources()) == (folder, "")
    assert contents(folder) == before
    lines = gzip.decompress((folder / IMAGES).read_bytes()).decode().splitlines()
    assert lines[1:] == TRAIN + VAL
    assert json.loads(lines[0])["train"]["count"] == 10


OTHERS = {
    "10 training images then, 11 now; the first that differs is none then, a/10.png now": (
        [*TRAIN, "a/10.png 1 1"], VAL,
    ),
    "10 training images then, 9 now; the first that differs is a/3.png then, a/4.png now": (
        TRAIN[:3] + TRAIN[4:], VAL,
    ),
    "10 training images then, 5 now; the first that differs is a/5.png then, none now": (TRAIN[:5], VAL),
    "10 training images then, 10 now; the first that differs is a/7.png, which has changed since": (
        [*TRAIN[:7], "a/7.png 9999 1", *TRAIN[8:]], VAL,
    ),
    "all with the names and sizes that they had, but changed since, such as a/2.png": (
        [*TRAIN[:2], "a/2.png 102 5555", *TRAIN[3:]], VAL,
    ),
    "2 held-out images then, 2 now; the first that differs is b/1.png then, b/new 1.png now": (
        TRAIN, [VAL[0], "b/new 1.png 7 8"],
    ),
    "10 training images then, 1 now; the first that differs is a/1.png then, none now; 2 held-out images then, 3 now": (
        TRAIN[:1], [*VAL, "b/2.png 1 1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", OTHERS)
def test_other_images_are_refused_and_nothing_is_touched(folder, message):
    before = contents(folder)
    for look in (check_folder, claim):
        with pytest.raises(ConfigError) as refused:
            look(config(folder), sources(*OTHERS[message]))
        assert message in str(refused.value) and "\n" not in str(refused.value)
        assert "--data.accept-other-images" in str(refused.value)
    assert contents(folder) == before


def test_other_images_are_taken_where_they_are_accepted_and_the_record_of_those_before_is_kept(folder):
    noted = (folder / IMAGES).read_bytes()
    for number, count in ((1, 8), (2, 5)):
        for _ in range(2):  # until a checkpoint is saved
            _, changed = claim(config(folder, accept_other_images=True), sources(TRAIN[:count]))
            assert f"{count} now" in changed
        rebind(folder, sources(TRAIN[:count]))
        assert (folder / "images-before-1.txt.gz").read_bytes() == noted
        assert (folder / f"images-before-{number}.txt.gz").exists()
        assert claim(config(folder), sources(TRAIN[:count])) == (folder, "")  # from now on


def test_a_killed_process_leaves_a_folder_that_can_be_begun(tmp_path):
    """Between the images and the config, or while either is written."""
    folder = tmp_path / "run"
    claim(config(folder), sources())
    whole = contents(folder)
    for left in ([IMAGES], [IMAGES, ".config.json.77.part"], [f".{IMAGES}.77.part"]):
        for path in folder.iterdir():
            path.unlink()
        for name in left:
            (folder / name).write_bytes(b"half")
        claim(config(folder), sources())
        assert {path: content for path, (content, _) in contents(folder).items() if path.name == "config.json"} == {
            path: content for path, (content, _) in whole.items() if path.name == "config.json"
        }
        assert gzip.decompress((folder / IMAGES).read_bytes())


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds no run"):
        check_folder(config(tmp_path), sources())


def test_a_run_of_an_earlier_version_goes_on_and_its_images_are_noted(folder):
    (folder / IMAGES).unlink()
    assert claim(config(folder), sources()) == (folder, "")
    assert (folder / IMAGES).exists()


def test_a_damaged_note_of_images_is_said(folder):
    content = (folder / IMAGES).read_bytes()
    for damaged in (b"", content[:20], b"nothing", gzip.compress(b"[]\n")):
        (folder / IMAGES).write_bytes(damaged)
        with pytest.raises(ConfigError, match=f"{IMAGES}, the list of the run.s images, is damaged"):
            check_folder(config(folder), sources())


@pytest.mark.parametrize("left", ["metrics.jsonl", "log.txt", "damaged-7"])
def test_a_run_without_its_checkpoints_is_not_begun_anew(folder, left):
    refuse_lost_checkpoints(folder)
    (folder / left).mkdir() if left == "damaged-7" else (folder / left).touch()
    with pytest.raises(ConfigError, match=f"holds {left} of a run, but no checkpoint to go on from"):
        refuse_lost_checkpoints(folder)
