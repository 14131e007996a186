"""How processes end: SIGTERM and Ctrl-C as a wish that the loop fulfils between two steps, and helpers with their parent."""

import functools
import multiprocessing
import os
import signal
import threading
from types import FrameType


class Interruption:
    """Within its `with` block, notes a signal instead of dying of it.

    The first SIGTERM or SIGINT sets `received`; a second one acts as usual, so a run that
    hangs can still be stopped.

    Attributes:
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_) -> None:
        self._restore()


@functools.cache
def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that ended; it would wait for work forever.

    In a process that multiprocessing did not start, nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
