"""Names of labels in an array file that holds a pickled dictionary, read without running what a pickle can run.

NumPy stores a dictionary by pickling an array with one entry. Its operations are interpreted here; they can only build
that array's description, text, whole numbers and dictionaries. Anything else is refused, and nothing is imported or
called.
"""

import pickletools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ipcl_jax.errors import ConfigError

_LARGEST = 1 << 20  # bytes; the data set's files have less than a thousand
_NAMES = {  # of what an array's description refers to; the module was renamed in NumPy 2
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES",
    "BINBYTES", "SHORT_BINSTRING",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Name(NamedTuple):
    """What a pickle refers to by name; never looked up."""

    module: str
    name: str


class _Made(NamedTuple):
    """What a pickle would make by a call; never made."""

    function: Any
    state: list


def read_label_names(path: Path) -> dict[int, str]:
    """Reads a dictionary from label to name.

    Args:
        path: as NumPy's `save` writes one.

    Returns:
        Names by label.

    Raises:
        ConfigError: if it is missing or holds anything else.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file {path}, which names the labels of an atlas.")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            content = file.read()
        if shape != () or dtype != np.dtype(object):
            raise ValueError(f"it is {dtype} {list(shape)}")
        found = _interpret(content)
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} is no dictionary from labels to names ({error}). Download it again.") from None
    if not found or not all(type(label) is int and type(name) is str for label, name in found.items()):
        raise ConfigError(f"{path} is no dictionary from whole numbers to text. Download it again.")
    return found


def _interpret(content: bytes) -> dict:
    """Returns the one entry of a pickled array with one entry, a dictionary."""
    stack: list = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list:
        place = len(stack) - 1 - stack[::-1].index(_MARK)
        found = stack[place + 1 :]
        del stack[place:]
        return found

    for code, argument, position in pickletools.genops(content):
        name = code.name
        if name in _VALUES:
            stack.append(argument)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            referred = tuple(str(argument).split(" ", 1)) if name == "GLOBAL" else (stack.pop(-2), stack.pop())
            if referred not in _NAMES:
                raise ValueError(f"it refers to {'.'.join(map(str, referred))}")
            stack.append(_Name(*referred))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "APPEND":
            value = stack.pop()
            _of(list, stack[-1]).append(value)
        elif name == "APPENDS":
            values = since_mark()
            _of(list, stack[-1]).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _of(dict, stack[-1]).update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name == "REDUCE":
            stack.pop()
            stack.append(_Made(_of(_Name, stack.pop()), []))
        elif name == "BUILD":
            state = stack.pop()
            _of(_Made, stack[-1]).state.append(state)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it has the operation {name} at byte {position}")
    array = _of(_Made, stack[-1])
    if len(stack) != 1 or array.function.name != "_reconstruct" or len(array.state) != 1:
        raise ValueError("it is no array")
    _, shape, _, _, entries = array.state[0]
    if shape != () or len(entries) != 1:
        raise ValueError(f"it has {len(entries)} entries")
    return _of(dict, entries[0])


def _of(kind: type, value: Any) -> Any:
    """Returns a value of a certain type."""
    if type(value) is not kind:
        raise ValueError(f"it has a {type(value).__name__} where a {kind.__name__} is expected")
    return value
