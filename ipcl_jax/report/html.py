"""Pages that need no other file and no network, and the pieces that they are made of."""

import base64
import io
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from ipcl_jax.system.files import atomic


def write_page(
    path: Path, *, title: str, kicker: str, lead: str, head: str, body: Sequence[str], footer: str
) -> None:
    """Writes a page; safe while an older one is being read.

    Args:
        path: the page.
        title: of the page, plain text like kicker, lead and footer.
        kicker: what kind of page it is.
        lead: what it says, in a sentence or two.
        head: HTML below the lead.
        body: HTML of each section; empty ones are left out.
        footer: where its numbers are.
    """
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    words = {name: escape(text) for name, text in dict(title=title, kicker=kicker, lead=lead).items()}
    page = template.substitute(words, head=head, body="\n".join(filter(None, body)), footer=escape(footer))
    with atomic(path) as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")


def section(title: str, about: str, content: str, *, level: int = 2) -> str:
    """A part of a page; title and about are plain text."""
    about = f'<p class="about">{escape(about)}</p>' if about else ""
    return f"<section><h{level}>{escape(title)}</h{level}>{about}{content}</section>"


def list_table(items: Mapping[str, object], marked: Set[str] = frozenset()) -> str:
    """Names and values, one a row; the marked ones stand out."""
    rows = (
        f'<tr><th scope="row">{escape(name)}</th>'
        f"<td{' class=set' * (name in marked)}>{escape(str(value))}</td></tr>"
        for name, value in items.items()
    )
    return f"<table>{''.join(rows)}</table>"


def image(pixels: np.ndarray, alt: str, *, side: int = 176) -> str:
    """An image `[h, w, 3]` uint8 as a JPEG of at most that many pixels a side."""
    picture, file = Image.fromarray(pixels).convert("RGB"), io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=84, optimize=True)
    return embedded(file.getvalue(), "jpeg", alt)


def embedded(data: bytes, kind: str, alt: str) -> str:
    """An encoded picture (kind `jpeg` or `png`) as part of the page."""
    text = base64.b64encode(data).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{text}">'


@dataclass(frozen=True)
class Neighbours:
    """LockHeld-out images and the training images whose embeddings lie nearest."""

    queries: Sequence[np.ndarray]
    """Q images, each `[h, w, 3]` uint8."""
    neighbours: Sequence[Sequence[np.ndarray]]
    """For each query its nearest training images, best first."""
    cosines: np.ndarray
    """`[Q, neighbours]`."""
    query_labels: Sequence[str] | None = None
    """Class names; None without labels."""
    neighbour_labels: Sequence[Sequence[str]] | None = None
    """Class names; None without labels."""


def neighbour_rows(found: Neighbours) -> tuple[str, str]:
    """What is to be seen, in words, and a row of pictures for each query."""
    labelled = found.query_labels is not None and found.neighbour_labels is not None
    classes = found.query_labels or [""] * len(found.queries)
    near_classes = found.neighbour_labels or [[""] * len(near) for near in found.neighbours]
    rows = []
    for q, (query, near) in enumerate(zip(found.queries, found.neighbours, strict=True)):
        columns = f'style="grid-template-columns: 1.2fr repeat({len(near)}, minmax(0, 1fr))"'
        own = classes[q]
        picture = image(query, "held-out image" + f": {own}" * bool(own))
        cells = [f'<figure class="first">{picture}<figcaption>{_class(own)}</figcaption></figure>']
        for i, neighbour in enumerate(near):
            label, cosine = near_classes[q][i], f"{found.cosines[q][i]:.2f}"
            frame = "plain" if not labelled else "framed right" if label == own else "framed wrong"
            picture = image(neighbour, f"neighbour {i + 1}{': ' * bool(label)}{label}, cosine {cosine}")
            cells.append(
                f'<figure class="{frame}">{picture}<figcaption>{_class(label)}'
                f'<span class="cosine">{cosine}</span></figcaption></figure>'
            )
        rows.append(f'<div class="row" {columns}>{"".join(cells)}</div>')
    about = "LockHeld-out images, and the training images whose embeddings have the highest cosine with theirs."
    about += " Green frames: the same class; orange: another." if labelled else ""
    return about, f'<div class="pictures pairs card">{"".join(rows)}</div>'


def _class(name: str) -> str:
    return f'<span class="class" title="{escape(name)}">{escape(name)}</span>' if name else ""
