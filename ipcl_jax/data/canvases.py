"""Reuse of the memory of batches that are no longer referenced."""

import math
from collections import deque

import numpy as np


class Canvases:
    """A pool of memory for the canvases of batches; see `loader`.

    Mapping and zeroing fresh memory would take a third of the time that decoding takes. Memory returns to the pool by
    itself: it belongs to an object that puts it back when deleted, and that is kept alive by every view of the
    array, and by every JAX array that aliases it.

    Args:
        canvas: (H, W) in pixels.
        keep: largest number of batches whose unused memory is kept.
    """

    def __init__(self, canvas: tuple[int, int], keep: int):
        self._canvas = canvas
        self._keep = keep
        self._free: deque[np.ndarray] = deque(maxlen=keep)  # its methods are thread-safe

    def __reduce__(self) -> tuple:
        return Canvases, (self._canvas, self._keep)

    def take(self, number: int) -> np.ndarray:
        """Returns canvases `[number, H, W, 3]` uint8, uninitialised: they may hold earlier images."""
        shape = (number, *self._canvas, 3)
        size = math.prod(shape) + 64
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.zeros(size, np.uint8)
        if memory.size != size:
            memory = np.zeros(size, np.uint8)
        return np.asarray(_Owner(memory, shape, self._free))


class _Owner:
    """The owner of an array's memory: returns it to the pool when neither the array nor a view of it is left."""

    def __init__(self, memory: np.ndarray, shape: tuple[int, ...], free: deque[np.ndarray]):
        self._memory, self._free = memory, free
        # JAX's CPU backend aliases an array that is aligned to 64 bytes, and copies any other.
        address = memory.ctypes.data + -memory.ctypes.data % 64
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": "|u1", "data": (address, False)}

    def __del__(self) -> None:
        self._free.append(self._memory)
