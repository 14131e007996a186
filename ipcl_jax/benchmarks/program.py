"""Reads a program that XLA has compiled for a GPU: its kernels, and the bytes they move."""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_WIDTH = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
    "bf16": 2,
    "f16": 2,
    "f32": 4,
    "f64": 8,
}
# Instructions that name memory and start nothing.
_NAMING = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "constant",
    "after-all",
    "copy-done",
    "opt-barrier",
}
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(body|condition|to_apply|calls|true_computation|false_computation|branch_computations)="
    r"\{?(%[\w.\-]+(?:, %[\w.\-]+)*)"
)


class Kernel(NamedTuple):
    """A kernel, or a copy, that a program starts."""

    moved: float  # bytes of its operands and results, of all its starts
    starts: int  # how often the program starts it: more than once in a loop
    kind: str  # convolution, product, reduction, elementwise, copy, or the instruction's name
    name: str
    origin: str  # the operation in the traced function


class Program(NamedTuple):
    """The kernels of a program."""

    always: list[Kernel]
    sometimes: list[Kernel]  # in loops of unknown length, and in the branch of a conditional that moves most

    def summary(self) -> dict[str, int]:
        """Counts the kernels that are always started, by kind, most frequent first."""
        counts: dict[str, int] = {}
        for kernel in self.always:
            counts[kernel.kind] = counts.get(kernel.kind, 0) + kernel.starts
        return dict(sorted(counts.items(), key=lambda item: -item[1]))


def moved(kernels: list[Kernel]) -> float:
    """Sums the bytes that kernels move."""
    return sum(kernel.moved for kernel in kernels)


def read_program(text: str) -> Program:
    """Lists the kernels of a compiled program.

    The bytes are those of a kernel's operands and results, and of an operand that is sliced those of the slices; what a
    cache still holds is counted too. A loop's kernels count once for each of its iterations; if the number of these
    isn't known, one iteration counts as sometimes started. Of a conditional's branches, the one that moves least counts
    as always taken.

    Args:
        text: optimized HLO, `compiled.as_text()`.
    """
    computations = _computations(text)
    program = Program([], [])
    _collect(computations, "", 1, program)
    return program


def _computations(text: str) -> dict[str, list[str]]:
    """Splits a module into its computations' lines, by name; the entry's name is empty."""
    found: dict[str, list[str]] = {}
    for match in re.finditer(r"^(ENTRY )?%([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        entry, name, body = match.groups()
        found["" if entry else name] = body.splitlines()
    return found


def _collect(computations: dict[str, list[str]], computation: str, starts: int, program: Program) -> None:
    """Adds the kernels of one computation, which is run `starts` times, to a program."""
    sizes: dict[str, int] = {}
    for name, shape, operation, rest in _instructions(computations[computation]):
        sizes[name] = size(shape)
        called = dict(_CALLED.findall(rest))
        if operation in _NAMING or operation.endswith("-done"):
            continue
        if operation == "while":
            count = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
            if count:
                _collect(computations, called["body"][1:], starts * int(count[1]), program)
            else:
                _collect(computations, called["condition"][1:], starts, program)
                body = Program([], [])
                _collect(computations, called["body"][1:], starts, body)
                program.sometimes.extend(body.always)
        elif operation == "call":
            _collect(computations, called["to_apply"][1:], starts, program)
        elif operation == "conditional":
            branches = []
            for branch in _NAME.findall(" ".join(called.values())):
                branches.append(Program([], []))
                _collect(computations, branch, starts, branches[-1])
            branches.sort(key=lambda branch: moved(branch.always))
            program.always.extend(branches[0].always)
            program.sometimes.extend(branches[-1].always)
        else:
            operands = [sizes.get(operand, 0) for operand in _operands(rest)]
            total = float(sizes[name] + sum(operands))
            if operation == "fusion":
                total = _moved_by_fusion(computations[called["calls"][1:]], operands, sizes[name])
            origin = re.search(r'op_name="([^"]*)"', rest)
            kernel = Kernel(
                total * starts, starts, _kind(name, operation, rest), name, origin[1] if origin else ""
            )
            program.always.append(kernel)


def _moved_by_fusion(lines: list[str], operands: list[int], result: int) -> float:
    """Computes the bytes that a fused kernel reads and writes.

    Of an operand that is only sliced, the slices count; and of one that is updated in place, the update.
    """
    instructions = {name: (shape, operation, rest) for name, shape, operation, rest in _instructions(lines)}
    users: dict[str, list[tuple[str, int]]] = {name: [] for name in instructions}  # and the operand's place
    for name, (_, _, rest) in instructions.items():
        for place, operand in enumerate(_operands(rest)):
            if operand in users:
                users[operand].append((name, place))

    @functools.cache
    def share(name: str) -> float:
        """Returns the share of an instruction's elements that are read."""
        total = 0.0
        for user, place in users[name]:
            shape, operation, _ = instructions[user]
            if operation in ("convert", "bitcast"):
                total += share(user)
            elif operation in ("slice", "dynamic-slice", "gather") and place == 0:
                total += share(user) * elements(shape) / elements(instructions[name][0])
            elif operation != "dynamic-update-slice" or place:
                return 1.0
        return min(total, 1.0) if users[name] else 1.0

    total = float(result)
    for name, (shape, operation, rest) in instructions.items():
        if operation == "parameter":
            total += operands[int(rest.split(")")[0])] * share(name)
        elif operation == "dynamic-update-slice":
            total += size(instructions[_operands(rest)[1]][0]) - size(shape)
    return total


def _operands(rest: str) -> list[str]:
    """Returns the names of an instruction's operands, given the text after its opening parenthesis."""
    return _NAME.findall(rest.split("), ")[0])


def _instructions(lines: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yields each instruction's name, shape, operation, and the rest of its line."""
    for line in lines:
        if match := _INSTRUCTION.match(line):
            name, shape, operation, rest = match.groups()
            yield name, shape, operation, rest


def _kind(name: str, operation: str, rest: str) -> str:
    """Names what a kernel does."""
    if operation == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', rest)
        called = target[1] if target else ""
        return (
            "convolution"
            if "$conv" in called
            else "product"
            if "gemm" in called or "matmul" in called
            else called
        )
    if operation == "fusion":
        if "gemm" in name or "dot" in name:
            return "product"
        return "reduction" if "reduce" in name else "elementwise"
    return "copy" if operation.startswith("copy") else operation


def size(shape: str) -> int:
    """Computes the bytes of an HLO shape, such as `f32[2,3]{1,0}`, or of a tuple's parts together."""
    return sum(_WIDTH.get(kind, 0) * math.prod(sides) for kind, sides in _arrays(shape))


def elements(shape: str) -> int:
    """Counts the elements of an HLO shape, or of a tuple's parts together."""
    return sum(math.prod(sides) for _, sides in _arrays(shape))


def _arrays(shape: str) -> Iterator[tuple[str, list[int]]]:
    """Yields type and sides of an HLO shape, or of each of a tuple's parts."""
    for kind, sides in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        yield kind, [int(side) for side in sides.split(",") if side]
