"""All benchmarks of one machine in one command."""

import tempfile
import time
from pathlib import Path

import jax

from ipcl_jax.benchmarks.inputs import loading, views
from ipcl_jax.benchmarks.material import write_jpegs
from ipcl_jax.benchmarks.network import Precision, step
from ipcl_jax.benchmarks.readouts import extract, knn
from ipcl_jax.benchmarks.training_run import train
from ipcl_jax.benchmarks.turns import Measured, device, save
from ipcl_jax.report.drawing import load_matplotlib

# Memory bandwidth in GB/s, from the manufacturers' data sheets.
_BANDWIDTH = {
    "H100 80GB HBM3": 3350, "H100 PCIe": 2000, "H200": 4800, "A100-SXM4-80GB": 2039, "A100-SXM4-40GB": 1555,
    "L40S": 864, "RTX 4090": 1008, "V100": 900, "T4": 320,
}  # fmt: skip
_GOALS: dict[Precision, int] = {"float32": 12_000, "bfloat16": 22_000}  # views/s, of one H100


def gpu(out: Path = Path("gpu.json"), images: int = 128) -> list[Measured]:
    """Runs every benchmark on one GPU machine in less than nine minutes; writes a JSON file and a figure beside it.

    Args:
        out: the JSON file; the figure has its name and ends in .png.
        images: in a batch, five views of each; on a CPU use 4.
    """
    start = time.perf_counter()
    rounds, steps = (7, 60) if images >= 32 else (2, 12)
    tables = [views(images, rounds)]
    for precision in _GOALS:
        cost = step(images, cost=True, precision=precision)
        tables.append(cost)
        for with_views in (False, True):
            table = step(images, rounds, with_views=with_views, precision=precision, accumulate=20)
            if not with_views:
                table.facts |= _bandwidth(table, cost)
            tables.append(table)
    tables += [extract(images=8 * images, rounds=2), knn(rounds=3)]
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), max(8 * images, 200))
        source = f"folder:{folder}"
        tables.append(loading(source, batch_size=images, rounds=2, threads=8))
        for precision in _GOALS:
            options = f"--config ipcl_alexnet_gn --data.source {source} --precision {precision}".split()
            options += ["--batch-size", str(images), "--epochs", "1000"]
            tables.append(train(tuple(options), steps))
    save(tables, out)
    _draw(tables, out.with_suffix(".png"))
    print(f"{device()}: {time.perf_counter() - start:.0f} s; {out} and {out.with_suffix('.png')}")
    return tables


def _bandwidth(table: Measured, cost: Measured) -> dict[str, float]:
    """Returns the memory traffic of a step in GB/s, by XLA's cost analysis, and its share of the card's bandwidth."""
    seconds = table.facts["views of a batch"] / table.summary()["ours"]["median"]
    moved = cost.facts["moved, GB"] / seconds
    facts = {"moved, GB/s": moved}
    for name, bandwidth in _BANDWIDTH.items():
        if name in jax.devices()[0].device_kind:
            facts["share of the card's bandwidth"] = moved / bandwidth
    return facts


def _draw(tables: list[Measured], path: Path) -> None:
    """Draws views a second of the step and of training runs, as bars, with their goals."""
    shown = [table for table in tables if table.unit == "views/s" and table.name != "views"]
    figure = load_matplotlib().figure.Figure(figsize=(8, 0.5 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row, table in enumerate(shown):
        of = table.summary()["ours"]
        error = [[of["median"] - of["lowest"]], [of["highest"] - of["median"]]]
        axes.barh(row, of["median"], color="#0072B2", height=0.6, xerr=error, ecolor="#222222", capsize=3)
        axes.annotate(
            f" {of['median']:,.0f}",
            (of["highest"], row),
            va="center",
            xytext=(4, 0),
            textcoords="offset points",
        )
    for precision, goal in _GOALS.items():
        if max(table.summary()["ours"]["highest"] for table in shown) > goal / 4:
            axes.axvline(goal, color="#D55E00", linestyle="--")
            axes.annotate(f"goal, {precision}", (goal, len(shown) - 0.4), color="#D55E00", ha="center")
    axes.set_yticks(range(len(shown)), [table.name for table in shown])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(f"views/s on {device()} (median; line: lowest to highest)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
