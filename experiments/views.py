"""Draws examples of the augmented views that a network would be trained on, one image a row.

    python experiments/views.py --config ipcl_smoke
    python experiments/views.py --config ipcl_alexnet_gn --data.source sample --views.rotation 20

The first column is the image itself. Any field of a recipe can follow, as with `train.py`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ipcl_jax.commands import recipes
from ipcl_jax.commands.running import exit_code
from ipcl_jax.config import Train
from ipcl_jax.data.sources import open_source
from ipcl_jax.errors import ConfigError
from ipcl_jax.report.gallery import contact_sheet, draw_sheet
from ipcl_jax.system.files import atomic, check_writable, expand_home

_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Sheet(Train):
    """Draws examples of the augmented views that a network would be trained on, one image a row."""

    out: str | None = None
    """Picture to write, .png or .jpg; by default views.png. An existing picture is replaced."""
    images: int = 6
    """Rows: training images, evenly spaced over all."""


def draw(config: Sheet) -> Path:
    """Writes the picture.

    Args:
        config: the recipe, the path of the picture and its number of images.

    Returns:
        The picture's path.

    Raises:
        ConfigError: if the recipe can't run, or the picture would replace a file that is no picture.
    """
    path = _picture_path(config.out or "views.png")
    if config.images < 1:
        raise ConfigError(f"--images is {config.images}; it must be greater than zero.")
    source = open_source(config.data.source, "train", dir=config.data.dir)
    picture = draw_sheet(contact_sheet(source, config, n_images=config.images))
    with atomic(path) as part:
        picture.save(part, Image.registered_extensions()[path.suffix.lower()], quality=95)
    return path


def _picture_path(out: str) -> Path:
    path = expand_home(out)
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out is {out}; a picture's name ends in {', '.join(_SUFFIXES)}.")
    if path.is_dir():
        raise ConfigError(f"--out is {out}, which is a folder; give a file in it.")
    if path.exists():
        try:
            Image.open(path).close()
        except UnidentifiedImageError:
            raise ConfigError(f"{out} is there already and no picture; give another --out.") from None
    check_writable(path)
    return path


def main() -> int:
    """Runs the command line; returns the exit code."""

    def show() -> None:
        config = recipes.load(sys.argv[1:], __doc__.splitlines()[0], Sheet)
        print(f"Views of {config.name}, seed {config.seed}: {draw(config)}")

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
