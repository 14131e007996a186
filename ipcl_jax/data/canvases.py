"""Memory for batches of images that is used again once nothing refers to it."""

import math
from collections import deque

import numpy as np


class Canvases:
    """Canvases of batches; see `loading`.

    Fresh memory would cost a third of the time that decoding takes, as it has to be mapped and zeroed first.
    An array that is taken comes back by itself: its memory belongs to an object that hands it back when it
    is deleted, and that every view of the array, and every JAX array that aliases it, keeps alive.

    Args:
        canvas: (H, W) in pixels.
        keep: how many batches' memory is kept while nothing uses it.
    """

    def __init__(self, canvas: tuple[int, int], keep: int):
        self._canvas = canvas
        self._keep = keep
        self._free: deque[np.ndarray] = deque(maxlen=keep)  # its methods are safe among threads

    def __reduce__(self) -> tuple:
        return Canvases, (self._canvas, self._keep)

    def take(self, number: int) -> np.ndarray:
        """Canvases `[number, H, W, 3]` uint8 that may hold earlier images."""
        shape = (number, *self._canvas, 3)
        size = math.prod(shape) + 64
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.zeros(size, np.uint8)
        if memory.size != size:
            memory = np.zeros(size, np.uint8)
        return np.asarray(_Lent(memory, shape, self._free))


class _Lent:
    """The owner of an array: hands its memory back when neither the array nor any view of it is left."""

    def __init__(self, memory: np.ndarray, shape: tuple[int, ...], free: deque[np.ndarray]):
        self._memory, self._free = memory, free
        # JAX's CPU backend takes an array aligned to 64 bytes as it is, and copies any other.
        address = memory.ctypes.data + -memory.ctypes.data % 64
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": "|u1", "data": (address, False)}

    def __del__(self) -> None:
        self._free.append(self._memory)
