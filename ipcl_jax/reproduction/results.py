"""Results of rows: verdicts, the folder that keeps them, and the table."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ipcl_jax.comparison.folder import Folder
from ipcl_jax.reproduction.published import Row
from ipcl_jax.system.files import atomic, read_json

Verdict = Literal["ok", "off", "not run"]

_ROUNDING = 1e-9  # of a difference that equals the tolerance


@dataclass(frozen=True)
class Result:
    """Our value of a row.

    Attributes:
        row: the row, with the published value.
        value: ours, in the row's unit; None if it wasn't computed.
        details: what it was computed from, JSON-compatible.
        missing: the options of the command that it lacks, if it wasn't computed.
    """

    row: Row
    value: float | None
    details: Mapping[str, object] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Our value less the published one."""
        return None if self.value is None else self.value - self.row.published

    @property
    def verdict(self) -> Verdict:
        """`off` if the difference is larger than the tolerance, or our value exceeds the published bound by more."""
        if self.difference is None:
            return "not run"
        off = self.difference if self.row.bound else abs(self.difference)
        return "ok" if off <= self.row.tolerance + _ROUNDING and math.isfinite(off) else "off"

    def cells(self) -> tuple[str, ...]:
        """Returns the row of a table, as `COLUMNS`."""
        row, digits = self.row, {"%": 1, "r": 3}.get(self.row.unit, 0)
        unit = f" {row.unit}" if row.unit == "%" else ""
        ours = "–" if self.value is None else f"{self.value:.{digits}f}{unit}"
        difference = "–" if self.difference is None else f"{self.difference:+.{digits}f}"
        published = f"{'below ' * row.bound}{row.published:.{digits}f}{unit}"
        return row.id, ours, published, f"{difference} ({row.tolerance:g})", self.verdict


COLUMNS = ("row", "ours", "published", "difference (tolerance)", "verdict")
"""Titles of `Result.cells`."""


def to_json(results: Iterable[Result], settings: Mapping[str, Any]) -> str:
    """Converts results to JSON text, the same for equal results.

    Args:
        results: of all rows that were asked for.
        settings: what they were computed with.
    """
    rows = [
        {
            "id": result.row.id, "what": result.row.what, "unit": result.row.unit, "ours": result.value,
            "published": result.row.published, "bound": result.row.bound, "difference": result.difference,
            "tolerance": result.row.tolerance, "reason": result.row.reason, "verdict": result.verdict,
            "missing": list(result.missing), "details": dict(result.details),
        }
        for result in results
    ]  # fmt: skip
    return json.dumps({"settings": dict(settings), "rows": rows}, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


class Kept:
    """The folder that keeps values of rows, so that a command that was killed goes on.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self, row: Row, key: Mapping[str, object]) -> tuple[float, dict] | None:
        """Returns the value and details that were kept; None if there are none, or they were made by something else.

        Args:
            row: the row.
            key: all that the value depends on, JSON-compatible.

        Raises:
            ConfigError: if the file can't be read.
        """
        path = self._file(row)
        if not path.is_file():
            return None
        found = read_json(path)
        if found.get("made_by") != json.loads(json.dumps(dict(key))):
            return None
        return float(found["value"]), found["details"]

    def write(self, row: Row, key: Mapping[str, object], value: float, details: Mapping[str, object]) -> None:
        """Keeps a value; see `read`."""
        found = {"row": row.id, "value": value, "details": dict(details), "made_by": dict(key)}
        with atomic(self._file(row)) as part:
            part.write_text(json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")

    def _file(self, row: Row) -> Path:
        return self.path / f"{row.id.replace('/', '_')}.json"


class GrowingFolder(Folder):
    """The folder of a comparison to which models can be added.

    Scores of a model don't depend on the other models, so each is bound to its own part of the description.
    """

    def check_bound(self, description: dict[str, Any]) -> None:
        """Raises ConfigError if the folder, or a model, was begun with something else."""
        super().check_bound(description | {"models": {}})
        for name, own in description["models"].items():
            Folder(self.path / "models" / name).check_bound(own)

    def bind(self, description: dict[str, Any]) -> None:
        """Records what is compared, or checks that it is what the folder and each model were begun with.

        Raises:
            ConfigError: if it was begun with something else.
        """
        super().bind(description | {"models": {}})
        for name, own in description["models"].items():
            Folder(self.path / "models" / name).bind(own)
