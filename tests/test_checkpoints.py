"""Checkpoints that are damaged, and folders that are taken."""

import shutil

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ipcl_jax.checkpoints import SEAL, Checkpoints, SaveFailed, seal
from ipcl_jax.errors import ConfigError


class State(flax.struct.PyTreeNode):
    step: Array
    values: Array


def state_of(step: int) -> State:
    return State(jnp.asarray(step, jnp.int32), jax.random.normal(jax.random.key(step), (300, 70)))


SHAPES = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), jax.device_put(state_of(0), jax.devices()[0])
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A run with checkpoints of steps 1 and 2."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(step))
        checkpoints.wait()
    return tmp_path


def files(folder, step):
    return sorted(
        path
        for path in (folder / "checkpoints" / str(step)).rglob("*")
        if path.is_file() and path.name != SEAL
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def restored(folder) -> tuple[int, list[str]]:
    """The step that is restored, and what is said of newer ones."""
    with Checkpoints(folder, keep=2) as checkpoints:
        state = checkpoints.restore(SHAPES)
        step = int(state.step)
        np.testing.assert_array_equal(state.values, state_of(step).values)
        return step, checkpoints.damaged


def test_sound_checkpoints_are_read_without_a_word(folder):
    assert restored(folder) == (2, [])
    assert not list(folder.glob("damaged*"))


def test_a_flipped_bit_in_any_file_is_noticed(folder):
    for number, path in enumerate(files(folder, 2)):
        content = path.read_bytes()
        if not content:
            continue
        flip(path)
        step, said = restored(folder)
        assert step == 1 and len(said) == 1, path
        assert "The checkpoint of step 2 is damaged" in said[0] and path.name in said[0]
        kept = folder / "damaged-2"
        assert kept.is_dir() and restored(folder) == (1, [])  # put aside once
        (kept / path.relative_to(folder / "checkpoints" / "2")).write_bytes(content)
        kept.rename(folder / "checkpoints" / "2")
        assert restored(folder) == (2, []), number


def test_a_lost_file_is_noticed(folder):
    lost = files(folder, 2)[-1]
    lost.unlink()
    step, said = restored(folder)
    assert step == 1 and f"{lost.name} is missing" in said[0]


def test_damage_without_a_seal_is_noticed_by_reading(folder):
    (folder / "checkpoints" / "2" / SEAL).unlink()  # killed before it was written
    assert restored(folder) == (2, [])
    for path in files(folder, 2):
        path.write_bytes(b"")
    step, said = restored(folder)
    assert step == 1 and "step 2 is damaged" in said[0]


def test_the_run_goes_on_past_what_was_damaged(folder):
    flip(max(files(folder, 2), key=lambda path: path.stat().st_size))
    with Checkpoints(folder, keep=2) as checkpoints:
        assert int(checkpoints.restore(SHAPES).step) == 1
        for step in (2, 3):
            checkpoints.save(state_of(step))
        checkpoints.wait()
    assert restored(folder) == (3, [])
    assert (folder / "damaged-2").is_dir()


def test_nothing_sound_is_an_error_that_names_all(folder):
    for step in (1, 2):
        flip(max(files(folder, step), key=lambda path: path.stat().st_size))
    with Checkpoints(folder, keep=2) as checkpoints, pytest.raises(ConfigError, match="can be read") as error:
        checkpoints.restore(SHAPES)
    assert "step 1 is damaged" in str(error.value) and "step 2 is damaged" in str(error.value)
    assert (folder / "damaged-1").is_dir() and (folder / "damaged-2").is_dir()


def test_one_process_at_a_time(folder):
    with Checkpoints(folder, keep=2), pytest.raises(ConfigError, match="Another process is at work"):
        Checkpoints(folder, keep=2)
    assert restored(folder) == (2, [])


def test_a_full_disk_keeps_what_is_there(folder, monkeypatch):
    with Checkpoints(folder, keep=2) as checkpoints:
        monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
        with pytest.raises(SaveFailed, match="step 3 can't be written.*no room.*whole is of step 2"):
            checkpoints.save(state_of(3))
    monkeypatch.undo()
    assert restored(folder) == (2, [])


def test_what_goes_wrong_while_writing_is_said_once(folder):
    def broken():
        raise ValueError("a broken disk")

    with (
        pytest.raises(SaveFailed, match="A checkpoint can't be written.*a broken disk"),
        Checkpoints(folder, keep=2) as checkpoints,
    ):
        checkpoints.save(state_of(3))
        checkpoints._manager.wait_until_finished = broken  # which closing asks again
        checkpoints.wait()


def test_a_checkpoint_that_is_gone_is_not_sealed(tmp_path):
    """A newer one may take its place just before; a folder with nothing but a seal would pass for a checkpoint."""
    seal(tmp_path / "7")
    assert not (tmp_path / "7").exists()
