"""Profiler traces of some steps of a run."""

from pathlib import Path

import jax

WARM = 5  # steps before a trace begins, for compilation and for caches to fill


class Trace:
    """Writes a trace of host and devices, for Perfetto and XProf; use it in a `with` statement.

    Args:
        folder: where to write; not created if `steps` is 0.
        steps: number of steps to trace, after the first WARM.
    """

    def __init__(self, folder: Path, steps: int):
        self._folder, self._steps, self._seen, self._open = folder, steps, 0, False

    def before_step(self) -> bool:
        """Starts or ends the trace when due; call it before each step. True if this ended the trace."""
        self._seen += 1
        if self._steps and self._seen == WARM + 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._open = True
        return self._seen == WARM + 1 + self._steps and self._end()

    def _end(self) -> bool:
        if ended := self._open:
            jax.profiler.stop_trace()
            self._open = False
        return ended

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_) -> None:
        self._end()
