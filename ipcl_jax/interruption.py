"""SIGTERM and Ctrl-C as a wish that the loop fulfils between two steps."""

import signal
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
