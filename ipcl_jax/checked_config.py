"""A base class for config dataclasses that check types, choices and ranges of their fields on creation."""

import contextlib
import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from typeguard import TypeCheckError, check_type

from ipcl_jax.errors import ConfigError, near_miss

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_checking: ContextVar[bool] = ContextVar("checking", default=True)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Creates configs without checks within its `with` block; see `check`."""
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)


def check(config: "DataclassInstance") -> None:
    """Checks a config and the configs in its fields, such as those made under `unchecked`.

    Raises:
        ConfigError: with the field, its value and what is allowed.
    """
    for section in dataclasses.fields(config):
        if isinstance(value := getattr(config, section.name), Checked):
            check(value)
    if isinstance(config, Checked):
        config.__post_init__()


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return typing.get_type_hints(kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """Base class of configs: raises ConfigError on creation if a field has a value that is not allowed.

    Attributes:
        section: prefix of the fields' names on the command line.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not _checking.get():
            return
        kind: type = type(self)
        for entry in dataclasses.fields(self):
            self._check_type(entry.name, _hints(kind)[entry.name])
        self._check()

    def _check(self) -> None:
        """Checks ranges and combinations of values; subclasses override it."""

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
        """Raises ConfigError if a field (names separated by blanks) has a value not allowed; None always is."""
        for name in names.split():
            value = getattr(self, name)
            if value is not None and not allowed(value):
                shown = " ".join(f"{x:g}" for x in value) if isinstance(value, tuple) else f"{value}"
                raise ConfigError(f"{self._flag(name)} is {shown}; {expected}.")

    def _positive(self, names: str) -> None:
        self._each(names, lambda value: value > 0, "it must be greater than zero")
