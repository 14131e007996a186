"""Self-contained HTML pages, which need no other file and no network, and their elements."""

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
    """Writes a page atomically.

    Args:
        path: the page.
        title: of the page, plain text like kicker, lead and footer.
        kicker: the line above the title: the kind of page.
        lead: a summary of one or two sentences.
        head: HTML below the lead.
        body: HTML of each section; empty ones are left out.
        footer: the file with the page's numbers.
    """
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    words = {name: escape(text) for name, text in dict(title=title, kicker=kicker, lead=lead).items()}
    page = template.substitute(words, head=head, body="\n".join(filter(None, body)), footer=escape(footer))
    with atomic(path) as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")


def section(title: str, about: str, content: str, *, level: int = 2) -> str:
    """Returns a section of a page; title and about are plain text, content is HTML."""
    about = f'<p class="about">{escape(about)}</p>' if about else ""
    return f"<section><h{level}>{escape(title)}</h{level}>{about}{content}</section>"


def list_table(items: Mapping[str, object], marked: Set[str] = frozenset()) -> str:
    """Returns a table of names and values, one a row; the marked ones are bold."""
    rows = (
        f'<tr><th scope="row">{escape(name)}</th>'
        f"<td{' class=set' * (name in marked)}>{escape(str(value))}</td></tr>"
        for name, value in items.items()
    )
    return f"<table>{''.join(rows)}</table>"


def image(pixels: np.ndarray, alt: str, *, side: int = 176) -> str:
    """Returns an image `[h, w, 3]` uint8 as an embedded JPEG, shrunk to at most `side` pixels."""
    picture, file = Image.fromarray(pixels).convert("RGB"), io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=84, optimize=True)
    return embedded(file.getvalue(), "jpeg", alt)


def embedded(data: bytes, kind: str, alt: str) -> str:
    """Returns an encoded picture (kind `jpeg` or `png`) as an HTML element with its data."""
    text = base64.b64encode(data).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{text}">'


def by_width(broad: bytes, narrow: bytes, alt: str, *, per_inch: int = 148) -> str:
    """Returns a figure in two forms, of which a narrow screen shows the second; in 256 colours, a third of the size.

    Args:
        broad: PNG with its dots per inch.
        narrow: the same for a narrow screen.
        alt: the figure in words.
        per_inch: the broad form is shown with so many of the page's pixels an inch, or what the page has room for.
    """
    forms = []
    for data in (broad, narrow):
        drawn, file = Image.open(io.BytesIO(data)), io.BytesIO()
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        forms.append((file.getvalue(), round(drawn.width / drawn.info["dpi"][0] * per_inch)))
    (data, width), (small, _) = forms
    text = base64.b64encode(small).decode()
    source = f'<source media="(max-width: 720px)" srcset="data:image/png;base64,{text}">'
    shown = embedded(data, "png", alt).replace("<img ", f'<img width="{width}" ', 1)
    return f'<figure class="paper card"><picture>{source}{shown}</picture></figure>'


def wide_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of HTML cells, whose first row holds the names of the columns."""
    lines = [f"<tr>{''.join(cells)}</tr>" for cells in rows]
    return f'<div class="wide-table card"><table>{"".join(lines)}</table></div>'


def cell(text: str, kind: str = "td", *, below: str = "", bold: bool = False) -> str:
    """Returns a cell of a table, `td` or `th`, with a small second line `below`."""
    below = f"<small>{escape(below)}</small>" if below else ""
    text = f"<b>{escape(text)}</b>" if bold else escape(text)
    return f"<{kind}>{text}{below}</{kind}>"


@dataclass(frozen=True)
class Neighbours:
    """LockHeld-out images and the training images whose embeddings are nearest to theirs."""

    queries: Sequence[np.ndarray]
    """Q images, each `[h, w, 3]` uint8."""
    neighbours: Sequence[Sequence[np.ndarray]]
    """For each query its nearest training images, nearest first."""
    cosines: np.ndarray
    """`[Q, neighbours]`."""
    query_labels: Sequence[str] | None = None
    """Class names; None without labels."""
    neighbour_labels: Sequence[Sequence[str]] | None = None
    """Class names; None without labels."""


def neighbour_rows(found: Neighbours) -> tuple[str, str]:
    """Returns an explanation in words, and a row of pictures for each query."""
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
