"""What figures share: the import of matplotlib, an optional package; colours and lines; and how a file is written."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

from ipcl_jax.errors import require
from ipcl_jax.system.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
"""Suffixes of the files that `save` writes."""

# Okabe and Ito's palette for colour-blind readers, without the yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
INK, FAINT = "#222222", "#E4E4E4"
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "ipcl_jax", "pdf.fonttype": 42, "text.color": INK, "text.parse_math": False,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": "#999999",
}  # fmt: skip
"""matplotlib's settings; names with a dollar sign are no formulas."""


def load_matplotlib() -> ModuleType:
    """Imports and returns matplotlib with the submodules that reports use.

    Raises:
        MissingPackage: if it isn't installed.
    """
    require("Drawing", "train", "matplotlib")
    import matplotlib
    import matplotlib.figure
    import matplotlib.layout_engine
    import matplotlib.lines
    import matplotlib.patches
    import matplotlib.ticker

    return matplotlib


def line_style(number: int) -> dict:
    """Returns the colour and dashes of a line: seven colours, first solid, then dashed, then dotted."""
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dash}


def short_name(name: str) -> str:
    """Shortens a name of more than 28 characters in its middle."""
    return name if len(name) <= 28 else f"{name[:12]}…{name[-15:]}"


def short_names(names: Sequence[str]) -> list[str]:
    """Shortens names that are all different; where short ones are alike, they end with their place, from 1."""
    short = [short_name(" ".join(name.split())) for name in names]
    return [f"{name} ({place})" if short.count(name) > 1 else name for place, name in enumerate(short, 1)]


def save(figure: "Figure", path: Path | BinaryIO, *, dpi: int = 200) -> None:
    """Writes a figure, a file atomically; equal figures give equal bytes.

    Args:
        figure: to write.
        path: .png, .svg or .pdf, or an open file for a PNG.
        dpi: dots per inch.
    """
    if not isinstance(path, Path):
        figure.savefig(path, format="png", dpi=dpi)
        return
    kind = path.suffix[1:].lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with atomic(path) as part:
        figure.savefig(part, format=kind, dpi=dpi, metadata=undated.get(kind))
