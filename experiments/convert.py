"""Lists the released models, and converts any model to a PyTorch, safetensors or Orbax file.

python experiments/convert.py --list
python experiments/convert.py ipcl1 --to safetensors --out ipcl1.safetensors
python experiments/convert.py runs/ipcl_smoke --to torch --out ipcl_smoke.pth
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from ipcl_jax.activations.serialize import export_orbax, save_encoder
from ipcl_jax.commands.running import exit_code
from ipcl_jax.conversion import conversion, open_encoder
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import check_writable, expand_home
from ipcl_jax.zoo import MODELS


@dataclass(frozen=True)
class Convert:
    """Lists the released models, and converts any model to a PyTorch, safetensors or Orbax file."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """A released model's name, a PyTorch file, a safetensors file, or the folder of a run."""
    list: bool = False
    """Show the released models."""
    to: Literal["torch", "safetensors", "orbax"] = "torch"
    """`torch` can be loaded by the PyTorch release, `safetensors` by this package without PyTorch; `orbax` is a
    folder."""
    out: Path | None = None
    """The file (for orbax the folder) to write."""


def released_models() -> Table:
    """Returns a table of the released models."""
    table = Table("name", "trained on", "what", "outputs", "kNN", "linear", "sha256", title="Released models")
    for record in MODELS.values():
        linear = "–" if record.linear is None else f"{record.linear:.1f}"
        table.add_row(
            record.name, record.trained_on, record.notes, str(record.out_dim), f"{record.knn:.1f}", linear,
            record.sha256 or "–",
        )  # fmt: skip
    return table


def convert(options: Convert) -> str:
    """Writes a model; returns a line that says which and where."""
    if options.model is None:
        raise ConfigError("No model given; give a name, a file or a run's folder, or --list.")
    if options.out is None:
        raise ConfigError("Nowhere to write to; give --out.")
    out = expand_home(options.out)
    if out.exists():
        raise ConfigError(f"{out} is there already; give another --out, or remove it.")
    check_writable(out)
    encoder = open_encoder(options.model)
    {"torch": conversion().save_torch, "safetensors": save_encoder, "orbax": export_orbax}[options.to](encoder, out)
    return f"{encoder} -> {out}"


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = tyro.cli(Convert)
    if options.list:
        make_console().print(released_models(), "kNN and linear: published ImageNet top-1 in percent.")
        return 0
    return exit_code(lambda: print(convert(options)))


if __name__ == "__main__":
    sys.exit(main())
