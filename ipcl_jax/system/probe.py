"""Checks that a file can be read, in a subprocess, because a library may crash or hang.

The C libraries that read HDF5 and MATLAB files do so on some damaged files. The subprocess runs this module as a
script, which imports nothing else of the package.
"""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import psutil

_SECONDS, _BYTES_A_SECOND = 30, 20e6  # on a slow machine, from a slow disk
_COPIES = 4  # of what is read: as it is in the file, in float64 (twice as large), and in another order
_SMALL = 1 << 24  # bytes; larger datasets are not read as a check alone


def check_readable(path: Path, format: Literal["hdf5", "mat"], *, whole: bool = False) -> None:
    """Raises ConfigError if a file can't be read, or makes the library that reads it crash or hang.

    Args:
        path: the file.
        format: HDF5, or MATLAB's version 5.
        whole: read all values, and raise if they don't fit into memory; otherwise read metadata and small datasets.

    Raises:
        ConfigError: naming the file and what is wrong.
    """
    from ipcl_jax.errors import ConfigError

    seconds = _SECONDS + path.stat().st_size / _BYTES_A_SECOND
    command = [sys.executable, "-P", __file__, format, str(path), str(free_memory() if whole else 0)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        reason = f"after {seconds:.0f} seconds it was still being read; it is damaged"
    else:
        if done.returncode == 0:
            return
        said = done.stderr.strip().splitlines() or [""]
        crash = f"the library that reads it crashed (signal {-done.returncode}); it is damaged"
        reason = said[-1] if done.returncode > 0 else crash
    raise ConfigError(f"{path} can't be read: {reason}")


def free_memory() -> int:
    """Returns how many bytes can be read from a file with the memory that is free now."""
    return psutil.virtual_memory().available // _COPIES


def check_memory(needed: int, room: int) -> None:
    """Raises MemoryError if `needed` bytes are more than `room`.

    Args:
        needed: bytes to be read.
        room: from `free_memory`.

    Raises:
        MemoryError: with the size that the file declares.
    """
    if needed > room:
        raise MemoryError(
            f"it says that it holds {needed / 1e9:,.1f} GB; with their copies that is more than the memory that is free"
        )


def _read_hdf5(path: str, room: int) -> None:
    import h5py

    datasets = []

    def visit(name: str, item: h5py.HLObject) -> None:
        for attribute in item.attrs:
            item.attrs[attribute]
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            datasets.append(item)

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
        if room:
            check_memory(sum(item.nbytes for item in datasets), room)
        for item in datasets:
            if room or item.nbytes < _SMALL:
                item[()]
            elif item.chunks:
                item.id.chunk_iter(lambda chunk: None)


def _read_mat(path: str, room: int) -> None:
    import scipy.io

    check_memory(_unpacked(path), room)
    scipy.io.loadmat(path, simplify_cells=True)


def _unpacked(path: str) -> int:
    """Counts the bytes of a MATLAB version 5 file after decompression (MathWorks, MAT-File Format, 1999)."""
    import struct
    import zlib

    total = 0
    with open(path, "rb") as file:
        head, content = file.read(128), file.read()
    order, at = ">" if head[126:] == b"MI" else "<", 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, at)
        part = content[at + 8 : at + 8 + size]
        if kind == 15:  # miCOMPRESSED
            unpack = zlib.decompressobj()
            while piece := unpack.decompress(part, 1 << 24):
                total, part = total + len(piece), unpack.unconsumed_tail
        else:
            total += len(part)
        at += 8 + size
    return total


if __name__ == "__main__":
    try:
        {"hdf5": _read_hdf5, "mat": _read_mat}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    except BlockingIOError:  # HDF5 locks a file while writing it
        sys.exit("another process is writing it")
    except Exception as error:  # damaged files raise almost anything
        sys.exit(str(error) or type(error).__name__)
