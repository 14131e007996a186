"""Files of activations that can't be written, or gone on with."""

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from ipcl_jax.activations.formats import check_format, export, format_of
from ipcl_jax.activations.layout import rounded
from ipcl_jax.activations.store import FeatureFile, Layer
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.zoo import MODELS

NAMES = ["a.png", "b.png", "c.png"]
DIGESTS = np.array([letter * 64 for letter in "abc"], "S64")


def begin(path, dtype="float32", names=NAMES, digests=DIGESTS, **options) -> FeatureFile:
    return FeatureFile(
        path, names=names, layers={"fc7": Layer((2,), np.dtype(dtype))}, attributes={"model": "m"},
        digests=lambda count: digests[:count], **options,
    )  # fmt: skip


def write(file: FeatureFile, count: int, value: float = 1.0) -> None:
    digests = [digest.decode() for digest in DIGESTS[file.rows : file.rows + count]]
    file.write({"fc7": np.full((count, 2), value, np.float32)}, digests)


@pytest.mark.parametrize("value", [1e5, -1e5, 65520])
def test_a_value_too_large_for_the_file_is_refused(value, tmp_path):
    with begin(tmp_path / "a.h5", "float16") as file:
        write(file, 1, 65504)  # the largest
        with pytest.raises(
            OverflowError, match=r"b.png: fc7 reaches .*e\+0.*, too much for float16; use float32"
        ):
            write(file, 1, value)
        assert file.rows == 1


def test_a_row_too_small_for_the_file_is_refused(tmp_path):
    with begin(tmp_path / "a.h5", "float16") as file:
        file.write(
            {"fc7": np.float32([[0, 0], [1, 1e-9]])}, ["0" * 64] * 2
        )  # 1e-9 of a row's largest is nothing
        with pytest.raises(InputError, match="c.png: fc7 reaches 1e-05, too little for float16; use float32"):
            file.write({"fc7": np.float32([[1e-5, 0]])}, ["0" * 64])


def test_float16_errs_by_what_its_docstring_says():
    rng = np.random.default_rng(0)
    peaks = 2.0 ** rng.uniform(-14, 15.9, (2000, 1))
    rows = (peaks * rng.choice([-1, 1], (2000, 50)) * 10 ** rng.uniform(-6, 0, (2000, 50))).astype(np.float32)
    rows[:, :1] = peaks
    kept = rounded(rows, np.dtype("float16"), layer="fc7", images=["a"] * len(rows)).astype(np.float64)
    assert (np.abs(kept - rows) <= 2.0**-11 * np.abs(rows.astype(np.float64)).max(1, keepdims=True)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_layer_and_image(value, tmp_path):
    for dtype in ("float32", "float16"):
        with begin(tmp_path / "a.h5", dtype) as file:
            with pytest.raises(InputError, match="fc7 of b.png is not a finite number everywhere"):
                file.write({"fc7": np.float32([[0, 1], [1, value], [value, 1]])}, ["0" * 64] * 3)
            file.write({"fc7": np.float32([[0, 1], [1, value], [1, 1]])}, ["0" * 64] * 3, unreadable=[1])
            file.publish()
        with h5py.File(tmp_path / "a.h5") as written:
            np.testing.assert_array_equal(written["fc7"][:], [[0, 1], [np.nan, np.nan], [1, 1]])
        os.remove(tmp_path / "a.h5")


def test_rows_that_are_there_are_skipped_wherever_a_batch_begins(tmp_path):
    with begin(tmp_path / "a.h5") as file:
        write(file, 2, 1.0)
        values = np.float32([[1, 1], [2, 2], [3, 3]])
        file.write({"fc7": values[:1]}, ["0" * 64], first=1)  # all there
        file.write({"fc7": values[1:]}, ["0" * 64] * 2, first=1)
        with pytest.raises(RuntimeError, match="before row 3"):
            file.write({"fc7": values}, ["0" * 64] * 3, first=4)
        file.publish()
    with h5py.File(tmp_path / "a.h5") as written:
        assert written["fc7"][:, 0].tolist() == [1, 1, 3]


def test_a_file_without_all_its_rows_never_gets_its_name(tmp_path):
    with begin(tmp_path / "a.h5") as file:
        write(file, 2)
        with pytest.raises(RuntimeError, match="2 of 3 rows"):
            file.publish()
    assert not (tmp_path / "a.h5").exists()


def unfinished(path: Path) -> None:
    with begin(path) as file:
        write(file, 2)


def finished(path: Path) -> None:
    with begin(path) as file:
        write(file, 3)
        file.publish()


@pytest.mark.parametrize("before", [unfinished, finished])
def test_a_replaced_image_is_seen_in_a_finished_file_and_in_an_unfinished_one(before, tmp_path):
    before(tmp_path / "a.h5")
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    now = DIGESTS.copy()
    now[1] = b"d" * 64
    rows = 2 if before is unfinished else 3
    with pytest.raises(ConfigError, match=f"other images: 1 of {rows} have changed .* first of them b.png"):
        begin(tmp_path / "a.h5", digests=now)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there
    with begin(tmp_path / "a.h5", digests=now, in_cache=True) as file:  # the cache computes anew
        assert file.rows == 0 and not file.complete
    begin(tmp_path / "a.h5").close()


def test_an_image_that_is_not_done_yet_may_change(tmp_path):
    unfinished(tmp_path / "a.h5")
    now = DIGESTS.copy()
    now[2] = b"d" * 64
    with begin(tmp_path / "a.h5", digests=now) as file:
        assert file.rows == 2


@pytest.mark.parametrize("before", [unfinished, finished])
def test_rows_of_other_code_are_refused(before, tmp_path, monkeypatch):
    before(tmp_path / "a.h5")
    monkeypatch.setattr("ipcl_jax.activations.store.code_version", lambda: "9.9, other")
    with pytest.raises(ConfigError, match=r"another request:\n  code: .* there, 9.9, other here"):
        begin(tmp_path / "a.h5")
    with begin(tmp_path / "a.h5", in_cache=True) as file:
        assert file.rows == 0 and not file.complete


def test_a_file_from_before_code_was_recorded_is_of_other_code(tmp_path):
    finished(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        assert file["fc7"].attrs["code"] == file.attrs["code"]
        request = json.loads(file.attrs["request"])
        del request["code"]
        file.attrs["request"] = json.dumps(request)
    with pytest.raises(ConfigError, match="code: an earlier version there"):
        begin(tmp_path / "a.h5")


SECOND = """
import sys
from pathlib import Path
from test_store import begin
begin(Path(sys.argv[1]))
"""


def test_a_second_process_is_kept_out(tmp_path):
    with begin(tmp_path / "a.h5") as file:
        write(file, 1)
        file.save()
        command = [sys.executable, "-c", SECOND, str(tmp_path / "a.h5")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=100)
        said = done.stderr.splitlines()[-1]
        assert f"Another process ({os.getpid()} on " in said and "remove" not in said, done.stderr
        with pytest.raises(ConfigError, match="Another process"):  # a thread of this one neither
            begin(tmp_path / "a.h5")
        write(file, 1)
    with begin(tmp_path / "a.h5") as file:
        assert file.rows == 2


def complete(path: Path, started) -> None:
    started.set()
    with begin(path, wait=True) as file:
        assert file.complete


def test_a_second_process_may_wait_and_has_the_result_of_the_first(tmp_path):
    context = multiprocessing.get_context("spawn")
    with begin(tmp_path / "a.h5") as file:
        write(file, 1)
        started = context.Event()
        second = context.Process(target=complete, args=(tmp_path / "a.h5", started))
        second.start()
        assert started.wait(100)
        second.join(0.5)
        assert second.is_alive()
        write(file, 2)
        file.publish()
    second.join(100)
    assert second.exitcode == 0 and os.listdir(tmp_path) == ["a.h5"]


def test_a_file_that_is_open_elsewhere_is_not_called_damaged(tmp_path):
    finished(tmp_path / "a.h5")
    with open(tmp_path / "a.h5") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)  # as HDF5 does
        for in_cache in (True, False):
            with pytest.raises(ConfigError, match="open for writing|another process is writing it") as caught:
                begin(tmp_path / "a.h5", in_cache=in_cache)
            assert "emove" not in str(caught.value)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("", (), {"free": 10}))
    with pytest.raises(ConfigError, match="would take 0.0 GB, and the disk has 0.0 GB left"):
        begin(tmp_path / "a.h5")
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_of_a_file_that_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"'caf\\udce9.png' is no text in UTF-8"):
        begin(tmp_path / "a.h5", names=["a.png", "b.png", os.fsdecode(b"caf\xe9.png")])
    for function in ("create", "FeatureFile._save_journal"):
        with monkeypatch.context() as patched:
            patched.setattr(f"ipcl_jax.activations.store.{function}", lambda *_, **__: full())
            with pytest.raises(OSError, match="No space left"):
                begin(tmp_path / "a.h5")
    assert os.listdir(tmp_path) == []
    with begin(tmp_path / "a.h5"):
        pass  # interrupted before the first row
    assert os.listdir(tmp_path) == []


def full():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_runs_full_costs_no_rows(tmp_path, monkeypatch):
    with (
        pytest.raises(OSError, match="No space left on device: '.*a.h5.part'"),
        begin(tmp_path / "a.h5") as file,
    ):
        write(file, 1)
        file.save()
        with monkeypatch.context() as patched:
            patched.setattr("ipcl_jax.activations.store.sync_to_disk", lambda path: full())
            write(file, 1)
            file.save()
    with begin(tmp_path / "a.h5") as file:
        assert file.rows in (1, 2)


def test_a_link_to_another_disk_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.h5").symlink_to(tmp_path / "disk" / "a.h5")
    finished(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").is_symlink() and os.listdir(tmp_path / "disk") == ["a.h5"]
    with begin(tmp_path / "a.h5") as file:
        assert file.complete


def test_a_journal_that_cannot_be_is_refused(tmp_path):
    with begin(tmp_path / "a.h5") as file:
        write(file, 1)
    journal = tmp_path / "a.h5.part.json"
    for text in ('{"request": {}, "rows": 4}', '{"request": 3, "rows": 1}', "[]", "{"):
        journal.write_text(text)
        with pytest.raises(ConfigError, match="a.h5.part.json"):
            begin(tmp_path / "a.h5")


def test_formats(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="No format 'hdf'.*Known: h5, mat, npz"):
        check_format("hdf", 1)
    with pytest.raises(ConfigError, match="MATLAB's format 5 ends at 2 GB"):
        check_format("mat", 1 << 31)
    with begin(tmp_path / "a.h5", "float16") as file:
        write(file, 3)
        export(file.finish(), tmp_path / "a.mat", "mat")  # MATLAB has no float16
    assert scipy.io.loadmat(tmp_path / "a.mat")["fc7"].dtype == np.float32


def test_the_ending_of_a_name_says_the_format_in_any_letters():
    endings = {"h5": "h5", "H5": "h5", "hdf5": "h5", "HDF": "h5", "NPZ": "npz", "mat": "mat"}
    for ending, format in endings.items():
        assert format_of(Path(f"acts.v2.{ending}")) == format_of(Path(f"a.{ending}"), format) == format
        for other in {"h5", "npz", "mat"} - {format}:
            with pytest.raises(ConfigError, match=f"ends in '.{ending}', and {other} is asked for"):
                format_of(Path(f"acts.{ending}"), other)
    assert format_of(Path("acts")) == "h5" and format_of(Path("acts"), "npz") == "npz"
    for ending in ("npy", "csv", "pt", "parquet", "h5x"):
        for format in (None, "h5"):
            with pytest.raises(ConfigError, match=r"no format .*\.h5, \.hdf5, \.hdf, \.npz, \.mat"):
                format_of(Path(f"acts.{ending}"), format)


def test_every_layer_has_a_name_of_its_own_in_matlab():
    from ipcl_jax.models import make_model

    for model in {record.model.arch: record.model for record in MODELS.values()}.values():
        names = [name.replace(".", "_") for name in make_model(model).layer_names]
        assert len(set(names)) == len(names)
        assert all(name.isidentifier() and name[0].isalpha() and len(name) < 64 for name in names)
