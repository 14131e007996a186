"""The bank: what was put in comes back, for the epoch that it is of and no other."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipcl_jax.errors import ConfigError
from ipcl_jax.run import bank as module
from ipcl_jax.run.bank import Bank
from ipcl_jax.run.checkpoints import SaveFailed
from ipcl_jax.training.state import Prototypes

STEPS, B, D = 3, 4, 5


def row(step: int) -> Prototypes:
    rng = np.random.default_rng(step)
    index = jnp.asarray(rng.permutation(B), jnp.int32)
    return Prototypes(jnp.asarray(rng.normal(size=(B, D)), jnp.float32), index, index % 2)


SHAPES = Prototypes(
    jax.ShapeDtypeStruct((B, D), jnp.float32), jax.ShapeDtypeStruct((B,), jnp.int32), jax.ShapeDtypeStruct((B,), jnp.int32)
)


def opened(folder) -> Bank:
    return Bank(folder, SHAPES, STEPS)


def rows_of(references) -> list[int | None]:
    """Which step's row is in each place, None for a missing one; everything is compared."""
    found = []
    for place in range(STEPS):
        rows = slice(place * B, (place + 1) * B)
        held = [
            step for step in range(1, 20)
            if np.array_equal(references.embeddings[rows], row(step).embeddings)
            and np.array_equal(references.index[rows], row(step).index)
            and np.array_equal(references.label[rows], row(step).label)
        ]  # fmt: skip
        assert held or (references.index[rows] == -1).all()
        found.append(held[0] if held else None)
    return found


def test_an_epochs_rows_come_back(tmp_path):
    with opened(tmp_path / "bank") as bank:
        assert bank.is_new and rows_of(bank.of_epoch(1)) == [None] * 3
        for step in range(1, 5):
            bank.put(step, row(step))
        assert rows_of(bank.of_epoch(2)) == [4, None, None]
        # The first row has been overwritten; what is there is of another epoch, and doesn't count.
        assert rows_of(bank.of_epoch(1)) == [None, 2, 3]


def test_another_process_goes_on(tmp_path):
    with opened(tmp_path) as bank:
        for step in (1, 2, 3, 4):
            bank.put(step, row(step))
        bank.wait()
    with opened(tmp_path) as bank:
        assert not bank.is_new
        bank.put(5, row(5))
        bank.put(6, row(6))
        assert rows_of(bank.of_epoch(2)) == [4, 5, 6]
        assert np.load(tmp_path / "step.npy").tolist() == [4, 5, 6]


def test_a_damaged_row_is_left_out(tmp_path):
    with opened(tmp_path) as bank:
        for step in (1, 2, 3):
            bank.put(step, row(step))
        bank.wait()
        values = np.load(tmp_path / "embeddings.npy", mmap_mode="r+")
        values[1, 2, 3] += 1e-3
        values.flush()
        found = bank.of_epoch(1)
        np.testing.assert_array_equal(found.index.reshape(STEPS, B) >= 0, [[True] * B, [False] * B, [True] * B])


@pytest.mark.parametrize("shapes", [(STEPS + 1, B, D), (STEPS, B + 1, D), (STEPS, B, D + 1)])
def test_files_of_other_shapes_are_replaced(tmp_path, shapes):
    with opened(tmp_path) as bank:
        bank.put(1, row(1))
    steps, images, width = shapes
    index = jax.ShapeDtypeStruct((images,), jnp.int32)
    with Bank(tmp_path, Prototypes(jax.ShapeDtypeStruct((images, width), jnp.float32), index, index), steps) as bank:
        assert bank.is_new and (bank.of_epoch(1).index == -1).all()
        assert bank.of_epoch(1).embeddings.shape == (steps * images, width)


def test_a_file_that_is_no_array_is_replaced(tmp_path):
    with opened(tmp_path) as bank:
        bank.put(1, row(1))
    (tmp_path / "label.npy").write_bytes(b"not an array")
    with opened(tmp_path) as bank:
        assert bank.is_new and rows_of(bank.of_epoch(1)) == [None] * 3


@pytest.mark.parametrize(("done", "expected"), [(2, [1, 2, None]), (3, [1, 2, 3]), (4, [4, 2, 3]), (5, [4, 5, 3])])
def test_rows_of_an_earlier_versions_checkpoint_are_taken_over(tmp_path, done, expected):
    held = {(step - 1) % STEPS: row(step) for step in range(1, done + 1)}  # as that version wrote them
    empty = Prototypes(jnp.zeros((B, D)), jnp.full(B, -1), jnp.full(B, -1))
    rows = jax.tree.map(lambda *leaves: np.stack(leaves), *(held.get(place, empty) for place in range(STEPS)))
    with opened(tmp_path) as bank:
        bank.adopt(done, rows)
        assert np.load(tmp_path / "step.npy").tolist() == [step or 0 for step in expected]
        epoch = -(-done // STEPS)
        own = [step if step and (step - 1) // STEPS == epoch - 1 else None for step in expected]
        assert rows_of(bank.of_epoch(epoch)) == own


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 10))
    with pytest.raises(ConfigError, match="Make room"):
        opened(tmp_path / "bank")
    assert not list((tmp_path / "bank").iterdir())


def test_a_row_that_cant_be_written_ends_the_run(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path) as bank:
        monkeypatch.setattr(module.os, "pwrite", fails)
        bank.put(1, row(1))
        with pytest.raises(SaveFailed, match="No space left on device.*give the same command"):
            bank.wait()
