"""The page of a training run, `report.html`: one self-contained HTML file.

Equal runs give equal pages.
"""

import dataclasses
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from ipcl_jax.config import Train
from ipcl_jax.data.base import Source
from ipcl_jax.readout.spread import collapse_warning
from ipcl_jax.report.curves import curves, share
from ipcl_jax.report.html import Neighbours, image, list_table, neighbour_rows, section, write_page
from ipcl_jax.run.history import METRICS, Columns, History

_RETRIEVAL = (
    "Instance retrieval: of two new views of each held-out image, the share whose nearest view is the other view of "
    "the same image."
)
_NETWORKS = {"alexnet_gn": "An AlexNet-GN", "resnet18": "A ResNet-18", "resnet50": "A ResNet-50"}
_EMPTY = '<p class="empty card">Nothing has been measured yet.</p>'


@dataclass(frozen=True)
class ContactSheet:
    """Images and augmented views of them."""

    originals: Sequence[np.ndarray]
    """Each `[h, w, 3]` uint8."""
    views: np.ndarray
    """`[images, n, S, S, 3]` uint8, before normalisation."""


def environment(sources: Mapping[str, Source]) -> dict[str, str]:
    """Returns a run's devices, images (from the sources `train` and `val`) and versions of packages."""
    devices, images = jax.devices(), sources["train"]
    packages = ("jax", "flax", "optax", "grain", "dm-pix", "numpy")
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "images": f"{len(images):,} to train on, {len(sources['val']):,} held out",
        "classes": ", ".join(images.classes[:30]) or "none: images without labels",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def write_report(
    run_dir: Path,
    *,
    config: Train,
    environment: Mapping[str, str],
    resume: str,
    classes: int = 0,
    contact_sheet: ContactSheet | None = None,
    neighbours: Neighbours | None = None,
    history: History | None = None,
) -> Path:
    """Writes a run's page from its metrics, atomically.

    Args:
        run_dir: folder of the run, where `Record` writes the metrics.
        config: of the run.
        environment: from `environment`.
        resume: the command that resumes the run.
        classes: number of classes; 0 without labels.
        contact_sheet: examples of views.
        neighbours: examples of nearest neighbours.
        history: of the run, as far as it was read before; reading it all takes seconds for a long run.

    Returns:
        The page, `run_dir/report.html`.
    """
    run_dir, chance = Path(run_dir), 1 / classes if classes else None
    history = (history or History(run_dir)).read()
    steps, epochs = history.steps, history.epochs
    before = next((line for line in epochs if line["epoch"] == 0), {})
    now = epochs[-1] if epochs and epochs[-1]["epoch"] > 0 else {}
    done = now.get("epoch", 0)
    views, queue = config.views.per_image, config.objective.queue_size
    lead = f"{_NETWORKS[config.model.arch]} learns from images ({config.data.source}) "
    if config.objective.name == "categories":
        lead += f"and their labels: it is trained to classify each of the {views} views of an image."
    else:
        lead += (
            f"without labels: each of the {views} views of an image is pulled towards their mean embedding, the "
            f"image's prototype, and pushed away from a queue of {queue:,} embeddings of earlier views."
        )
    drawn = curves(steps, epochs, chance)
    body = [
        section("Training", _RETRIEVAL if "retrieval" in before | now else "", drawn or _EMPTY),
        section("Views", *_contact_sheet(contact_sheet)) if contact_sheet else "",
        section("Nearest neighbours", *neighbour_rows(neighbours)) if neighbours else "",
        section("Configuration", *_config(config)),
        section("Environment", "", f'<div class="section whole card">{list_table(environment)}</div>'),
        section(
            "Resuming",
            "This command resumes the run from its newest checkpoint.",
            f'<div class="card"><pre><code>{escape(resume)}</code></pre></div>',
        ),
    ]
    percent = f"{100 * min(1, done / config.epochs):.0f}"
    head = [
        f'<div class="track" role="progressbar" aria-label="Epochs done" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width: {percent}%"></div></div>',
        '<div class="tiles">', *_tiles(config, steps, before, now, chance), "</div>",
        *(f'<p class="alert">{escape(text)}</p>' for text in _alerts(config, steps, now)),
    ]  # fmt: skip
    path = run_dir / "report.html"
    write_page(
        path,
        title=config.name,
        kicker="finished" if done >= config.epochs else "in progress" if len(steps["step"]) else "not started",
        lead=lead,
        head="\n".join(head),
        body=body,
        footer=f"Every number on this page is in {METRICS} beside it.",
    )
    return path


# --- headline ----------------------------------------------------------------------------


def _tiles(config: Train, steps: Columns, before: Mapping, now: Mapping, chance: float | None) -> list[str]:
    def tile(label: str, value: str, *notes: str, flagged: bool = False) -> str:
        note = "<br>".join(filter(None, notes))
        return (
            f'<div class="tile card{" flagged" * flagged}"><p class="label">{label}</p>'
            f'<p class="value">{value}</p><p class="note">{note}</p></div>'
        )

    def untrained(name: str) -> str:
        return f"untrained {share(before[name])}" if before.get(name) is not None else ""

    last = {name: column[-1] for name, column in steps.items() if len(column)}
    rank, cosine = now.get("effective_rank"), before.get("mean_cosine")
    loss, speed = (now.get(name, last.get(name)) for name in ("loss", "views_per_second"))
    aim = tile("Instance retrieval", share(now.get("retrieval")), untrained("retrieval"))
    if "top1" in now or "top1" in before:
        aim = tile("Accuracy top-1", share(now.get("top1")), untrained("top1"))
    tiles = [
        tile("Epochs", f"{now.get('epoch', 0)} <small>of {config.epochs}</small>",
             f"{last.get('step', 0):,.0f} steps"),
        aim,
        tile("Mean cosine", _number(now.get("mean_cosine"), "{:.3f}"),
             f"untrained {cosine:.3f}" if cosine is not None else "",
             f"effective rank {rank:.1f} of {config.model.out_dim}" if rank is not None else "",
             flagged=collapse_warning(now) is not None),
        tile("Loss", _number(loss, "{:#.4g}"), "mean of the epoch" if now else "last step" if last else ""),
        tile("Speed", f"{_number(speed, '{:,.0f}')} <small>views/s</small>"),
    ]  # fmt: skip
    if "knn_top1" in now or "knn_top1" in before:
        note = f"chance {share(chance)}" if chance is not None else ""
        tiles.insert(1, tile("kNN top-1", share(now.get("knn_top1")), untrained("knn_top1"), note))
    return tiles


def _alerts(config: Train, steps: Columns, now: Mapping) -> list[str]:
    alerts = []
    if warning := collapse_warning(now):
        alerts.append(warning)
    if "loss" in steps and len(lost := steps["step"][np.isinf(steps["loss"])]):
        alerts.append(f"The loss stopped being a finite number at step {lost[0]:,.0f}.")
    if count := now.get("unreadable"):
        alerts.append(f"{count:,.0f} image{'s' * (count != 1)} could not be read.")
    return alerts


# --- pictures ----------------------------------------------------------------------------


def _contact_sheet(sheet: ContactSheet) -> tuple[str, str]:
    n = sheet.views.shape[1]
    columns = f'style="grid-template-columns: 1.2fr repeat({n}, minmax(0, 1fr))"'
    rows = [f'<div class="row head" {columns}><div>image</div><div>views</div></div>']
    for number, (original, views) in enumerate(zip(sheet.originals, sheet.views, strict=True), 1):
        cells = [f'<figure class="first">{image(original, f"image {number}")}</figure>']
        cells += [
            f'<figure class="plain">{image(view, f"image {number}, view {index}")}</figure>'
            for index, view in enumerate(views, 1)
        ]
        rows.append(f'<div class="row" {columns}>{"".join(cells)}</div>')
    about = "Images, and the views that the network is trained on: cropped, recoloured and mirrored at random."
    return about, f'<div class="pictures card">{"".join(rows)}</div>'


# --- words and tables --------------------------------------------------------------------


def _config(config: Train) -> tuple[str, str]:
    groups: dict[str, dict] = {"run": {}}
    usual = dataclasses.asdict(Train(name=config.name))
    changed = set()
    for name, value in dataclasses.asdict(config).items():
        group, items = (name, value) if isinstance(value, dict) else ("run", {name: value})
        standard = usual[name] if isinstance(value, dict) else usual
        groups.setdefault(group, {}).update({key: _value(item) for key, item in items.items()})
        changed |= {(group, key) for key, item in items.items() if item != standard[key]}
    cards = []
    for group, items in groups.items():
        own = {key for where, key in changed if where == group}
        cards.append(f'<div class="section card"><h3>{group}</h3>{list_table(items, own)}</div>')
    about = "Bold values differ from the defaults." if changed else ""
    return about, f'<div class="sections">{"".join(cards)}</div>'


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(_value(item) for item in value)
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else form.format(value)
