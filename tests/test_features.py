"""Files of activations that can't be written, or gone on with."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ipcl_jax.errors import ConfigError
from ipcl_jax.features import FeatureFile, Layer
from ipcl_jax.formats import check_format, export

NAMES = ["a.png", "b.png", "c.png"]


def begin(path, dtype="float32", names=NAMES) -> FeatureFile:
    return FeatureFile(path, names=names, layers={"fc7": Layer((2,), np.dtype(dtype))}, attributes={"model": "m"})


def write(file: FeatureFile, count: int, value: float = 1.0) -> None:
    file.write({"fc7": np.full((count, 2), value, np.float32)}, ["0" * 64] * count)


def test_a_value_too_large_for_the_file_is_refused(tmp_path):
    with begin(tmp_path / "a.h5", "float16") as file:
        with pytest.raises(OverflowError, match="fc7 reaches 1e\\+05, too much for float16; use float32"):
            write(file, 1, 1e5)
        assert file.rows == 0


SECOND = """
import sys
from pathlib import Path
from test_features import begin
begin(Path(sys.argv[1]))
"""


def test_a_second_process_is_kept_out(tmp_path):
    with begin(tmp_path / "a.h5") as file:
        write(file, 1)
        file.save()
        command = [sys.executable, "-c", SECOND, str(tmp_path / "a.h5")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=100)
        assert "another process is writing it" in done.stderr.splitlines()[-1], done.stderr


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("", (), {"free": 10}))
    with pytest.raises(ConfigError, match="would take 0.0 GB, and the disk has 0.0 GB left"):
        begin(tmp_path / "a.h5")
    assert not any(tmp_path.iterdir())


def test_a_journal_that_cannot_be_is_refused(tmp_path):
    with begin(tmp_path / "a.h5") as file:
        write(file, 1)
    journal = tmp_path / "a.h5.part.json"
    for text in ('{"request": {}, "rows": 4}', '{"request": 3, "rows": 1}', "[]", "{"):
        journal.write_text(text)
        with pytest.raises(ConfigError, match="a.h5.part.json"):
            begin(tmp_path / "a.h5")


def test_formats(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="No format 'hdf'.*Known: h5, mat, npz, zarr"):
        check_format("hdf", 1)
    with pytest.raises(ConfigError, match="MATLAB's format 5 ends at 2 GB"):
        check_format("mat", 1 << 31)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ConfigError, match="pip install zarr"):
        check_format("zarr", 1)
    with begin(tmp_path / "a.h5", "float16") as file:
        write(file, 3)
    export(file.part, tmp_path / "a.mat", "mat")  # MATLAB has no float16
    assert scipy.io.loadmat(tmp_path / "a.mat")["fc7"].dtype == np.float32
