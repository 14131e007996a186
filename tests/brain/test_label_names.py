"""Names of labels are read from pickled dictionaries as pickle reads them, and nothing in a pickle is run."""

import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipcl_jax.brain.label_names import read_label_names
from ipcl_jax.errors import ConfigError

NAMES = {0: "Unknown", 1: "OFA", 2: "FFA-1", 300: "mTL-faces", 70000: "aTL-faces", 2**40: "é", 5: "OFA"}


def stored(value: object, protocol: int) -> bytes:
    """What `numpy.save` writes with a pickle of some protocol; NumPy took 3 up to version 1, and takes 4 since."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    box = np.empty((), object)
    box[()] = value
    return file.getvalue() + pickle.dumps(box, protocol)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("names", [NAMES, {-1: "out"}, {i: f"area {i % 30}" for i in range(2000)}])
def test_dictionaries_are_read(tmp_path, names, protocol):
    path = tmp_path / "mapping.npy"
    path.write_bytes(stored(names, protocol))
    assert read_label_names(path) == names
    content = path.read_bytes()  # as NumPy 1 named its module: by a line, or with its length
    older = content.replace(b"cnumpy._core.", b"cnumpy.core.").replace(b"\x16numpy._core.", b"\x15numpy.core.")
    assert older != content
    path.write_bytes(older)
    assert read_label_names(path) == names
    np.save(path, names)
    assert read_label_names(path) == names


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [lambda runs: runs, lambda runs: {1: "V1", 2: runs}, lambda runs: {runs: "V1"}])
def test_code_is_refused_and_not_run(tmp_path, inside, protocol):
    made, path = tmp_path / "made", tmp_path / "mapping.npy"
    path.write_bytes(stored(inside(Runs(str(made))), protocol))
    with pytest.raises(ConfigError, match="mapping.npy is no dictionary from labels to names"):
        read_label_names(path)
    assert not made.exists()
    np.load(path, allow_pickle=True)
    assert made.exists(), "the test's own file runs code if it is unpickled"


OTHERS = [{}, [1, "V1"], "V1", 3, None, {"V1": 1}, {1: 2}, {1.5: "V1"}, {True: "V1"}, {(1,): "V1"}, {1: {2: "V1"}}]


@pytest.mark.parametrize("value", OTHERS)
def test_other_values_are_refused(tmp_path, value):
    path = tmp_path / "mapping.npy"
    path.write_bytes(stored(value, 4))
    with pytest.raises(ConfigError, match="mapping.npy is no dictionary"):
        read_label_names(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "mapping.npy"
    with pytest.raises(ConfigError, match="no file .*mapping.npy"):
        read_label_names(path)
    np.save(path, np.arange(3))
    with pytest.raises(ConfigError, match=r"it is int64 \[3\]"):
        read_label_names(path)
    np.save(path, np.array([NAMES, NAMES]))
    with pytest.raises(ConfigError, match=r"it is object \[2\]"):
        read_label_names(path)
    path.write_bytes(pickle.dumps(NAMES))
    with pytest.raises(ConfigError, match="no dictionary"):
        read_label_names(path)
    path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
        read_label_names(path)


@given(st.data())
def test_damage_gives_names_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    content = bytearray(stored(NAMES, data.draw(st.sampled_from([3, 4]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else content)
    try:
        found = read_label_names(path)
    except ConfigError:
        return
    assert all(type(label) is int and type(name) is str for label, name in found.items())
