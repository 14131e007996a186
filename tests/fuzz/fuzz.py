"""Fuzzing: files that are damaged or made up, given to everything that reads files.

    python tests/fuzz/fuzz.py --inputs 4000 --seed 23 --out docs/fuzz.md

Each input is a valid file that was changed in one to six places: bits, bytes, numbers, text, pieces removed, inserted
or copied from other files. Reading it must succeed, or raise one of the reader's own errors that names the file.
Anything else counts as a crash: another error, a signal, more than ten seconds, a program started, code run, a
connection opened, or another file written. The memory is limited to two gigabytes; the table shows how much was used.
Readers that start a process for each file get a tenth of the inputs. The files of torch and safetensors hold a few small
tensors, so that most changes affect their format; all are refused as too small for a network.
"""

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))

from guard import guarded, little_memory
from targets import TARGETS

NUMBERS = (0, 1, 2**7 - 1, 2**15 - 1, 50_000, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
TEXTS = (
    b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"[[[[[[[[", b"NaN", b"../../../../tmp/x", b"\x00", b"\xff\xfe",
    b"cos\nsystem\n", b"}", b'"', b"\n", b"99999999999999999999",
)  # fmt: skip


FOUND = """
## What was found, and mended

By changed files, four crashes: a cell array in a `.mat` that takes SciPy 1.17 down with it, an attribute that HDF5
reads forever (both kept in `tests/fuzz/found/`; such files are now tried in a process of their own first), unfinished
activations that HDF5 opens but can't close, and a name in a list of images that begins with `~`, which Python takes
for a user. And one message that did not name its file.

By files made up for it (`tests/fuzz/test_hostile.py`), that are now refused by name: a JPEG of a few hundred bytes
that says it has 65,500 x 65,500 pixels, and a PNG a pixel wide that grows by gigabytes when its shorter side is made
224; PostScript in a `.jpg`, for which Pillow would start a program; a tensor that repeats one number a trillion
times; descriptions of models with impossible fields, or a name that is a path; JSON that is nested too deeply; arrays
in HDF5, `.npz` and `.mat` that unpack to more than the memory. Names with brackets in them are now printed as they
are.
"""


@dataclass
class Finding:
    """What came of the inputs to one reader.

    Attributes:
        inputs: tried.
        read: without an error.
        refused: with an error that is the reader's own.
        crashes: anything else, by what it was; each with the input that showed it, in hexadecimal.
        megabytes: by which the process grew.
    """

    inputs: int = 0
    read: int = 0
    refused: int = 0
    crashes: dict[str, tuple[str, str]] = field(default_factory=dict)
    megabytes: float = 0

    def row(self, name: str) -> str:
        """A line of the table."""
        counts = f"{self.inputs:,} | {self.read:,} | {self.refused:,} | {len(self.crashes)}"
        return f"| {name} | {counts} | {self.megabytes:,.0f} |"


@st.composite
def changed(draw, seeds: tuple[tuple[str, bytes], ...]) -> tuple[str, bytes]:
    """A sound file with some changes, and its place."""
    place, sound = draw(st.sampled_from(seeds))
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 6))):
        # Headers are where formats say how large and of what kind everything is.
        near = draw(st.sampled_from((64, 512, len(content) or 1)))
        at = draw(st.integers(0, min(near, len(content))))
        match draw(st.sampled_from(("bit", "byte", "number", "text", "cut", "end", "copy", "other"))):
            case "bit" if at < len(content):
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if at < len(content):
                content[at] = draw(st.integers(0, 255))
            case "number":
                size = draw(st.sampled_from((1, 2, 4, 8)))
                number = draw(st.sampled_from(NUMBERS)) % 256**size
                content[at : at + size] = number.to_bytes(size, draw(st.sampled_from(("little", "big"))))
            case "text":
                content[at : at + draw(st.integers(0, 8))] = draw(st.sampled_from(TEXTS))
            case "cut":
                del content[at : at + draw(st.integers(1, 64))]
            case "end":
                del content[at:]
            case "copy":
                start = draw(st.integers(0, len(content)))
                content[at:at] = content[start : start + draw(st.integers(1, 256))]
            case "other":
                _, other = draw(st.sampled_from(seeds))
                content[at:] = other[at:]
    return place, bytes(content)


def try_inputs(name: str, inputs: int, start: int) -> Finding:
    """Gives a reader so many inputs, in this process."""
    target, finding = TARGETS[name](), Finding()
    inputs = inputs // 10 if target.slow else inputs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        target.prepare(folder)

        def attempt(place: str, content: bytes) -> list[str]:
            """What happened that mustn't."""
            (folder / "LATEST").write_text(json.dumps([place, content.hex()]))
            (folder / place).write_bytes(content)
            with guarded(folder) as seen:
                try:
                    target.read(folder, place)
                    finding.read += 1
                except target.errors as error:
                    finding.refused += 1
                    if str(folder / (place if target.named is None else target.named)) not in str(error):
                        return [*seen, f"{type(error).__name__} names no file: {error}"]
                except Exception as error:
                    frame = traceback.extract_tb(error.__traceback__)[-1]
                    where = f"{Path(frame.filename).name}:{frame.lineno}"
                    return [*seen, f"{type(error).__name__} at {where}: {str(error)[:100]}"]
            return seen

        for sound in target.seeds * 2:  # whatever is imported late is there now
            attempt(*sound)
        finding.read = finding.refused = 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        originals = dict(target.seeds)

        @seed(start)
        @settings(
            max_examples=inputs, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(changed(target.seeds))
        def go(one: tuple[str, bytes]) -> None:
            finding.inputs += 1
            for problem in attempt(*one):
                finding.crashes.setdefault(problem, (one[0], one[1].hex()))
            (folder / one[0]).write_bytes(originals[one[0]])

        with little_memory():
            go()
        finding.megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return finding


def fuzz(name: str, inputs: int, start: int = 0) -> Finding:
    """Gives a reader so many inputs, in a process of its own, which a crash may take with it."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [
            sys.executable,
            __file__,
            "--within",
            "--only",
            name,
            "--inputs",
            str(inputs),
            "--seed",
            str(start),
        ]
        surroundings = os.environ | {"TMPDIR": temporary, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, text=True, capture_output=True, env=surroundings, check=False)
        if done.returncode == 0:
            return Finding(**json.loads(done.stdout.splitlines()[-1])[name])
        latest = next(Path(temporary).glob("*/LATEST"), None)
        shown = latest.read_text() if latest else '["", ""]'
        reason = f"exit code {done.returncode}: {done.stderr[-2000:]}"
        return Finding(inputs=inputs, crashes={reason: tuple(json.loads(shown))})


def main(
    inputs: int = 1000,
    seed: int = 0,
    out: Path | None = None,
    only: tuple[str, ...] = (),
    within: bool = False,
) -> None:
    """Fuzzes every reader and prints the table.

    Args:
        inputs: for each reader.
        seed: of the changes.
        out: file to write the table to.
        only: names of some readers.
        within: try them in this process, which a crash takes with it, and print the findings as JSON.
    """
    if within:
        print(json.dumps({name: asdict(try_inputs(name, inputs, seed)) for name in only or TARGETS}))
        return
    lines = ["| reader | inputs | read | refused | crashes | MB more |", "|---|---|---|---|---|---|"]
    total = crashes = 0
    for name in only or TARGETS:
        finding = fuzz(name, inputs, seed)
        total, crashes = total + finding.inputs, crashes + len(finding.crashes)
        lines.append(finding.row(name))
        print(lines[-1], flush=True)
        for problem, (place, content) in finding.crashes.items():
            print(f"  {problem}\n    {place}: {content[:400]}", flush=True)
    lines.append(f"| all | {total:,} | | | {crashes} | |")
    print(lines[-1])
    if out:
        about = __doc__.split("\n\n")[2].strip()
        out.write_text(f"# Fuzzing\n\n{about}\n\n" + "\n".join(lines) + "\n" + FOUND, encoding="utf-8")


if __name__ == "__main__":
    logging.getLogger("absl").setLevel(logging.ERROR)
    tyro.cli(main)
