"""Checkpoints that are damaged, and folders that are taken."""

import shutil

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ipcl_jax.errors import ConfigError
from ipcl_jax.run.checkpoints import Checkpoints, RestoreFailed, SaveFailed
from ipcl_jax.system.seals import SEAL, seal


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


@pytest.mark.slow
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


def test_a_missing_seal_is_made_up_for_once_the_checkpoint_could_be_read(folder):
    (folder / "checkpoints" / "2" / SEAL).unlink()  # killed before it was written
    assert restored(folder) == (2, [])
    for path in files(folder, 2):
        path.write_bytes(b"")
    step, said = restored(folder)
    assert step == 1 and "step 2 is damaged" in said[0]


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_cannot_be_read_and_has_no_seal_is_left_in_place(folder):
    (folder / "checkpoints" / "2" / SEAL).unlink()
    for path in files(folder, 2):
        path.write_bytes(b"")
    before = contents(folder)
    for _ in range(2):  # the second time it still has no seal
        with (
            pytest.raises(RestoreFailed, match="step 2 in .* can't be read.*left as it is.*were not written yet"),
            Checkpoints(folder, keep=2) as checkpoints,
        ):
            checkpoints.restore(SHAPES)
    assert contents(folder) == before
    (folder / "checkpoints" / "2").rename(folder / "elsewhere")  # as the message advises
    assert restored(folder) == (1, [])


def test_a_state_of_another_shape_is_no_damage(folder):
    before = contents(folder)
    wide = SHAPES.replace(values=jax.ShapeDtypeStruct((301, 70), jnp.float32, sharding=SHAPES.step.sharding))
    with Checkpoints(folder, keep=2) as checkpoints:
        with pytest.raises(ConfigError, match=r"values is float32 \[300, 70\] there, and float32 \[301, 70\] here"):
            checkpoints.restore(wide)
    assert contents(folder) == before


@pytest.mark.parametrize("error", [MemoryError("no memory"), OSError(5, "Input/output error")])
def test_an_error_that_says_nothing_about_the_checkpoint_is_said_as_it_is(folder, monkeypatch, error):
    """Of memory while it is restored, of the disk while its checksums are looked at."""
    def fail(*_, **__):
        raise error

    before = contents(folder)
    where = "orbax.checkpoint.Checkpointer.restore" if isinstance(error, MemoryError) else "ipcl_jax.system.seals.sha256"
    monkeypatch.setattr(where, fail)
    with Checkpoints(folder, keep=2) as checkpoints, pytest.raises(OSError, match=str(error.args[-1])):
        checkpoints.restore(SHAPES)
    monkeypatch.undo()
    assert contents(folder) == before and restored(folder) == (2, [])


def test_what_was_put_aside_stays(folder):
    for turn in (1, 2):
        with Checkpoints(folder, keep=2) as checkpoints:
            checkpoints.restore(SHAPES)
            checkpoints.save(state_of(2))
            checkpoints.wait()
        flip(max(files(folder, 2), key=lambda path: path.stat().st_size))
        assert restored(folder)[0] == 1
        assert len(list(folder.glob("damaged-2*"))) == turn


def test_a_seal_that_cannot_be_written_is_said(folder, monkeypatch):
    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ipcl_jax.run.checkpoints.seal", fail)
    with (
        pytest.raises(SaveFailed, match="checksums can't be written.*No space left"),
        Checkpoints(folder, keep=2) as checkpoints,
    ):
        checkpoints.save(state_of(3))
        checkpoints.wait()


def test_a_field_of_an_earlier_version_is_read(folder):
    class Renamed(flax.struct.PyTreeNode):
        step: Array
        logs: Array

    shapes = Renamed(SHAPES.step, SHAPES.values)
    with Checkpoints(folder, keep=2) as checkpoints:
        with pytest.raises(ConfigError, match="logs is missing"):
            checkpoints.restore(shapes)
        state = checkpoints.restore(shapes, earlier={"logs": ("values", jnp.exp)})
    np.testing.assert_allclose(state.logs, jnp.exp(state_of(2).values), rtol=1e-6)


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
    with Checkpoints(folder, keep=2), pytest.raises(ConfigError, match="Another process is using"):
        Checkpoints(folder, keep=2)
    assert restored(folder) == (2, [])


def test_a_full_disk_keeps_what_is_there(folder, monkeypatch):
    with Checkpoints(folder, keep=2) as checkpoints:
        monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
        with pytest.raises(SaveFailed, match="step 3 can't be written.*no room.*complete one is of step 2"):
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
