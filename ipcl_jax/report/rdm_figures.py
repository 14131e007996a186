"""Figures of representational geometry: RDMs, scores by layer, and CKA between layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ipcl_jax.report.drawing import load_matplotlib

TITLES = {"rsa": "RSA", "encoding": "encoding", "versa": "voxel-encoding RSA"}


def draw_rdms(rdms: dict[str, np.ndarray], categories: Sequence[str], path: Path | BinaryIO) -> None:
    """Draws RDMs of layers, each scaled to its own range, with lines between categories.

    Args:
        rdms: `[N, N]` of each layer.
        categories: of the N images, which are sorted by category.
        path: the picture to write, or a file for a PNG.
    """
    matplotlib = load_matplotlib()
    rows = -(-len(rdms) // 4)
    columns = -(-len(rdms) // rows)
    figure = matplotlib.figure.Figure((3.2 * columns, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    edges, labels = _borders(categories)
    for axis, (layer, matrix) in zip(axes, rdms.items(), strict=False):
        seen = matrix[np.triu_indices(len(matrix), 1)]
        drawn = axis.imshow(matrix, vmin=seen.min(), vmax=seen.max(), cmap="viridis", interpolation="nearest")
        for edge in edges[1:-1]:
            axis.axhline(edge - 0.5, color="white", linewidth=0.8)
            axis.axvline(edge - 0.5, color="white", linewidth=0.8)
        middle = [(start + end - 1) / 2 for start, end in zip(edges, edges[1:], strict=False)]
        axis.set_yticks(middle if axis is axes[0] else [], labels if axis is axes[0] else [], fontsize=7)
        axis.set_xticks([])
        axis.set_title(layer, fontsize=10)
        figure.colorbar(drawn, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)
    for axis in axes[len(rdms) :]:
        axis.axis("off")
    figure.savefig(path, dpi=110)


def _borders(categories: Sequence[str]) -> tuple[list[int], list[str]]:
    """Returns the indices where the category changes, with 0 and N, and the categories' names.

    With more than 30 categories, or none, the N images count as one.
    """
    count = len(categories)
    edges = [0, *(i for i in range(1, count) if categories[i] != categories[i - 1]), count]
    labels = [categories[edge] for edge in edges[:-1]]
    if len(labels) > 30 or not any(labels):
        return [0, count], [f"{count} images"]
    return edges, labels


def draw_layers(measures: dict[str, dict], path: Path) -> None:
    """Draws each layer's score as a bar, each subject's as a dot, and the noise ceiling as a band.

    Args:
        measures: `scores`, `by_subject`, `ceiling` and optionally `sem` of each measure.
        path: the picture to write.
    """
    matplotlib = load_matplotlib()
    layers = list(next(iter(measures.values()))["scores"])
    size = max(4.5, 0.38 * len(layers) + 1.5) * len(measures), 4.2
    figure = matplotlib.figure.Figure(size, layout="constrained")
    for axis, (name, found) in zip(
        figure.subplots(1, len(measures), squeeze=False).ravel(), measures.items(), strict=True
    ):
        values = [found["scores"][layer] for layer in layers]
        sem = [found["sem"][layer] for layer in layers] if found.get("sem") else None
        places = np.arange(len(layers))
        axis.bar(places, values, yerr=sem, color="#4878a8", error_kw={"linewidth": 1})
        for place, layer in enumerate(layers):
            dots = found["by_subject"][layer]
            axis.plot([place] * len(dots), dots, ".", color="#222222", markersize=3, alpha=0.6)
        if found["ceiling"] is not None:
            low, high = found["ceiling"]
            if high > low:
                axis.axhspan(low, high, color="#bbbbbb", alpha=0.6, label="noise ceiling")
            else:
                axis.axhline(low, color="#888888", linestyle="--", label="noise ceiling")
            axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(places, layers, rotation=60, ha="right", fontsize=8)
        axis.set_title(TITLES[name], fontsize=10)
        axis.set_ylabel(found.get("method", "Pearson's r"))
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def draw_alignment(scores: dict, path: Path) -> None:
    """Draws matrices of CKA between layers, biased and debiased.

    Args:
        scores: with cka_biased, cka_debiased, model and, if there are two, other_model.
        path: the picture to write.
    """
    matplotlib = load_matplotlib()
    kinds = ("biased", "debiased")
    rows, columns = (list(scores["cka_biased"]), list(next(iter(scores["cka_biased"].values()))))
    side = max(3.0, 0.24 * len(rows) + 1.6)
    figure = matplotlib.figure.Figure((2 * side + 0.8, side), layout="constrained")
    for axis, kind in zip(figure.subplots(1, 2), kinds, strict=True):
        table = scores[f"cka_{kind}"]
        matrix = [[table[row][column] for column in columns] for row in rows]
        drawn = axis.imshow(matrix, vmin=0, vmax=1, cmap=matplotlib.colormaps["magma"])
        axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
        axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.set_title(f"CKA, {kind}", fontsize=10)
        axis.set_ylabel(scores["model"])
        axis.set_xlabel(scores.get("other_model", scores["model"]))
    figure.colorbar(drawn, ax=figure.axes, shrink=0.8)
    figure.savefig(path, dpi=110)
