"""Dataclasses that check their fields when an instance is made: types, choices, finite numbers, and rules of their own."""

import contextlib
import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, get_args, get_origin

from typeguard import TypeCheckError, check_type

from ipcl_jax.errors import ConfigError, near_miss

_checking: ContextVar[bool] = ContextVar("checking", default=True)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Within its `with` block configs are made without being checked; see `check`."""
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)


def check(config: object) -> None:
    """Checks a config, and those in its fields, once more.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """
    for section in dataclasses.fields(config):
        if isinstance(value := getattr(config, section.name), Checked):
            check(value)
    if isinstance(config, Checked):
        config.__post_init__()


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return typing.get_type_hints(kind)


class Checked:
    """A config that raises ConfigError while it is made, if a field has a value that it can't have.

    Attributes:
        section: what stands before its fields' names on the command line.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not _checking.get():
            return
        for entry in dataclasses.fields(self):
            self._check_type(entry.name, _hints(type(self))[entry.name])
        self._check()

    def _check(self) -> None:
        """Checks ranges, and what goes together."""

    def _flag(self, name: str) -> str:
        return f"--{self.section}{name.replace('_', '-')}"

    def _check_type(self, name: str, hint: object) -> None:
        value = getattr(self, name)
        try:
            check_type(value, hint)
        except TypeCheckError:
            if get_origin(hint) is Literal:
                raise ConfigError(
                    f"{self._flag(name)} is {value!r}.{near_miss(str(value), get_args(hint))}"
                ) from None
            expected = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
            raise ConfigError(
                f"{self._flag(name)} is {value!r}, of type {type(value).__name__}; expected {expected}."
            ) from None
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{self._flag(name)} is {value}; expected finite numbers.")

    def _each(self, names: str, allowed: Callable[[Any], bool], expected: str) -> None:
        """Refuses fields, named with blanks in between, with a value that is not allowed; None always is."""
        for name in names.split():
            value = getattr(self, name)
            if value is not None and not allowed(value):
                shown = " ".join(f"{x:g}" for x in value) if isinstance(value, tuple) else f"{value}"
                raise ConfigError(f"{self._flag(name)} is {shown}; {expected}.")

    def _positive(self, names: str) -> None:
        self._each(names, lambda value: value > 0, "it must be greater than zero")
