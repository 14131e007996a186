"""A record of the programs that JAX compiles."""

import time
from typing import NamedTuple

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_CACHED = "/jax/compilation_cache/cache_hits"
_LONG = 1.0  # seconds from which a program is named


class Program(NamedTuple):
    """A compiled program."""

    name: str
    seconds: float  # to compile it, or to read it from the cache
    done: float  # by time.perf_counter


class Compilations:
    """Records which programs are compiled within its `with` block, and how long each takes.

    Attributes:
        programs: in the order in which they were compiled.
        cached: number of them that were read from the compilation cache.
    """

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.cached = 0

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_duration_secs_listener(self._note_program)
        jax.monitoring.register_event_listener(self._note_event)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note_program)
        jax.monitoring.unregister_event_listener(self._note_event)

    def facts(self) -> dict[str, str | float]:
        """Returns seconds of compilation, and the programs that took long, by name."""
        slow = sorted((p for p in self.programs if p.seconds >= _LONG), key=lambda p: -p.seconds)
        parts = [f"{program.name} {program.seconds:.1f} s" for program in slow]
        if others := len(self.programs) - len(slow):
            parts.append(f"{others} more")
        if self.cached:
            parts.append(f"{self.cached} of all from the cache")
        return {
            "compilation, s": sum(program.seconds for program in self.programs),
            "compiled": ", ".join(parts) or "nothing",
        }

    def _note_program(self, event: str, duration_secs: float, **about: str | int) -> None:
        if event == _COMPILED:
            name = str(about.get("fun_name", "a program")).removeprefix("jit(").removesuffix(")")
            self.programs.append(Program(name, duration_secs, time.perf_counter()))

    def _note_event(self, event: str, **_: str | int) -> None:
        self.cached += event == _CACHED
