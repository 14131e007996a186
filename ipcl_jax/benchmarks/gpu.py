"""All benchmarks of one machine in one command, for a card that is lent for minutes."""

import contextlib
import functools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ipcl_jax.benchmarks.figure import draw
from ipcl_jax.benchmarks.inputs import loading, views
from ipcl_jax.benchmarks.material import write_jpegs
from ipcl_jax.benchmarks.network import step
from ipcl_jax.benchmarks.readouts import extract, knn
from ipcl_jax.benchmarks.torch_process import TorchFailed
from ipcl_jax.benchmarks.training_run import train
from ipcl_jax.benchmarks.turns import Against, Measured, prepare_torch, save
from ipcl_jax.benchmarks.worker import TableFailed, Worker
from ipcl_jax.system.files import atomic, check_writable


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A table to measure.

    Attributes:
        name: for messages, and for the table if it isn't measured.
        seconds: expected on an H100, with compilation.
        measure: function of a module, which returns the table.
        options: its arguments; if there is `against` and torch fails, it is called again without it.
    """

    name: str
    seconds: float
    measure: Callable[..., Measured]
    options: dict = field(default_factory=dict)


def gpu(
    out: Path = Path("gpu.json"), images: int = 128, minutes: float = 8.0, against: Against | None = None
) -> int:
    """Runs every benchmark on one GPU machine within some minutes; writes a JSON file and a figure beside it.

    The tables are measured in the order of their value, and the file is written after each, so that it has what was
    measured if the command is killed. A table that fails, hangs or crashes is named in the file, and the next one
    follows. A table is not begun if less time is left than it is expected to take on an H100. The tables of the step
    with views, of the whole run and of the step alone have priority, in bfloat16 and then in float32.

    Args:
        out: the JSON file; the figure has its name and ends in .png, and needs matplotlib.
        images: in a batch, five views of each; on a CPU use 4.
        minutes: that the command may take; on a CPU 60.
        against: torch does the same work on the same device.

    Returns:
        The exit code: 1 if a table failed.
    """
    check_writable(out)
    prepare_torch(against)
    with tempfile.TemporaryDirectory() as folder:
        return run_tables(plan(Path(folder, "jpegs"), images, against), out, minutes, Path(folder))


def plan(folder: Path, images: int, against: Against | None = None) -> list[Planned]:
    """Lists the tables, most valuable first.

    Args:
        folder: for the JPEGs, which are written when they are needed.
        images: in a batch.
        against: as for `gpu`.
    """
    threads, longer = os.cpu_count() or 1, bool(against)
    rounds, steps = (5 if against else 7, 400) if images >= 32 else (2, 12)
    torch: dict = {"against": against}
    network = torch | ({"compiled": True} if against else {})
    from_jpegs = functools.partial(_from_jpegs, folder, images, steps)
    tables = []
    for precision in ("bfloat16", "float32"):
        options = {"images": images, "rounds": rounds, "precision": precision, "accumulate": 20} | network
        recipe = (
            f"--config ipcl_alexnet_gn --data.source folder:{folder} --precision {precision} --epochs 1000"
        )
        recipe += f" --data.threads {threads} --data.workers auto --batch-size {images}"
        tables += [
            Planned(
                name=f"step with views, {precision}", seconds=60 + 60 * longer,
                measure=step, options=options | {"with_views": True},
            ),
            Planned(
                name=f"train, {precision}", seconds=50,
                measure=from_jpegs, options={"measure": train, "options": tuple(recipe.split()), "steps": steps},
            ),
            Planned(name=f"step, {precision}", seconds=15 + 35 * longer, measure=step, options=options),
        ]  # fmt: skip
    tables += [
        Planned(
            name="extract", seconds=25 + 35 * longer,
            measure=extract, options={"images": 8 * images, "rounds": 2} | network,
        ),
        Planned(name="knn", seconds=10 + 20 * longer, measure=knn, options={"rounds": 3} | torch),
        Planned(
            name="views", seconds=10 + 20 * longer,
            measure=views, options={"images": images, "rounds": rounds} | torch,
        ),
        Planned(
            name="loading", seconds=15, measure=from_jpegs,
            options={
                "measure": loading, "source": f"folder:{folder}", "batch_size": images, "rounds": 2,
                "threads": threads,
            },
        ),
    ]  # fmt: skip
    return tables


def _from_jpegs(
    folder: Path, images: int, steps: int, /, measure: Callable[..., Measured], **options
) -> Measured:
    """Calls `measure` with some options, once there are JPEGs for that many steps in a folder."""
    if not folder.exists():
        with atomic(folder, durable=False) as part:
            part.mkdir()
            made = max(8 * images, 200)
            write_jpegs(part, made)
            for i in range(made, (steps + 1) * images * 20 // 19):  # every 20th is held out
                os.link(part / f"{i % made}.jpg", part / f"{i}.jpg")
    return measure(**options)


def run_tables(tables: list[Planned], out: Path, minutes: float, folder: Path) -> int:
    """Measures tables one after the other, and writes a JSON file and a figure after each.

    A table may take twice its expected time, or its share of what is left if that is more; then it is stopped.

    Args:
        tables: most valuable first.
        out: the file. Besides the tables it has `failed` and `left_out`, the reasons by the names of tables that could
            not be measured; `unfinished`, the name of the table that was being measured when the file was written;
            `seconds` so far.
        minutes: that everything may take.
        folder: for temporary files.

    Returns:
        1 if a table failed, else 0.
    """
    begin = time.monotonic()
    measured: list[Measured] = []
    failed: dict[str, str] = {}
    left_out: dict[str, str] = {}

    def passed() -> float:
        return time.monotonic() - begin

    def left() -> float:
        return 60 * minutes - passed()

    def write(unfinished: str | None = None) -> None:
        more = {"failed": failed, "left_out": left_out, "unfinished": unfinished}
        save(measured, out, seconds=round(passed(), 1), **more)

    def measure(table: Planned, options: dict, limit: float) -> None:
        try:
            measured.append(worker.measure(table.measure, options, limit))
        except TableFailed as error:
            failed[table.name] = str(error)
            print(f"FAILED: {table.name}: {error}", file=sys.stderr, flush=True)

    with _sigterm_raises(), Worker(folder) as worker:
        for place, table in enumerate(tables):
            if left() < table.seconds:
                left_out[table.name] = (
                    f"expected to take {table.seconds:.0f} s, of {max(left(), 0):.0f} s left"
                )
                print(f"LEFT OUT: {table.name}: {left_out[table.name]}", file=sys.stderr, flush=True)
                continue
            write(table.name)
            print(f"\n[{passed():.0f} s] {table.name}", flush=True)
            share = left() * table.seconds / sum(other.seconds for other in tables[place:])
            limit = max(2 * table.seconds, share)
            measure(table, table.options, min(limit, left()))
            torch_failed = failed.get(table.name, "").startswith(TorchFailed.__name__)
            if torch_failed and table.options.get("against") and left() > 0:
                measure(table, table.options | {"against": None}, min(limit, left()))
            write(table.name)
            _draw(measured, out.with_suffix(".png"))
    write()
    print(f"\n{passed():.0f} s, {len(measured)} tables: {out}")
    for title, names in (("failed", failed), ("left out", left_out)):
        if names:
            print(f"{title}: {', '.join(names)}")
    return int(bool(failed))


def _draw(tables: list[Measured], path: Path) -> None:
    """Draws a figure, or prints why it can't be drawn."""
    try:
        draw(tables, path)
    except Exception as error:  # the measurements are worth more than their figure
        print(f"No figure: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Ends the command on SIGTERM by an exception, so that its processes end and temporary files are removed."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
