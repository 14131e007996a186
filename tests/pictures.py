"""Images for tests of views, and the views that torch makes of them in float64."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import numpy as np
import torch
from PIL import Image

import torch_views
from ipcl_jax.augment import views
from ipcl_jax.config import Views

torch.set_num_threads(1)  # images are small, and torch's threads would keep JAX's waiting


def photograph(name: str, height: int, width: int) -> np.ndarray:
    """A piece of one of scikit-image's photographs, `[height, width, 3]` uint8."""
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    with Image.open(folder / name) as file:
        return np.asarray(file.convert("RGB").resize((640, 640)))[40 : 40 + height, 60 : 60 + width]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def on_canvas(images: list[np.ndarray], height: int = 256, width: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Images on canvases whose rest is white, so that anything read outside of an image shows."""
    canvas = np.full((len(images), height, width, 3), 255, np.uint8)
    for image, place in zip(images, canvas, strict=True):
        seen = place.reshape(width, height, 3) if image.shape[0] > height else place
        seen[: image.shape[0], : image.shape[1]] = image
    return canvas, np.array([image.shape[:2] for image in images], np.int32)


def all_kinds() -> list[np.ndarray]:
    """Landscape, portrait, square, full, smaller than the canvas, a pixel high, a pixel wide."""
    return [
        photograph("astronaut.png", 256, 341),
        photograph("chelsea.png", 400, 256),
        photograph("coffee.png", 256, 256),
        photograph("rocket.jpg", 256, 512),
        photograph("chelsea.png", 60, 90),
        photograph("astronaut.png", 91, 40),
        noise(256, 341),
        noise(500, 256),
        noise(40, 50),
        noise(1, 200),
        noise(200, 1),
        noise(1, 1),
    ]


@partial(jax.jit, static_argnums=2)
def drawn(keys: jax.Array, sizes: jax.Array, options: Views) -> views.ViewParameters:
    return jax.vmap(lambda key, size: views.sample_view(key, size, options))(keys, sizes)


def choice(parameters: views.ViewParameters, i: int) -> dict:
    given = {name: values for name, values in parameters._asdict().items() if values is not None}
    return {name: np.asarray(values)[i].tolist() for name, values in given.items()}


def without_normalising(rendered: jax.Array, options: Views) -> np.ndarray:
    return np.asarray(rendered, np.float64) * np.array(options.std) + np.array(options.mean)


def reference(image: np.ndarray, chosen: dict, options: Views) -> np.ndarray:
    """One view `[S, S, 3]` in [0, 1], by the formulas in float64."""
    planes = torch.from_numpy(image.copy()).permute(2, 0, 1).double() / 255
    return torch_views.view(planes, chosen, options.size, options).permute(1, 2, 0).numpy()


def largest_error(images, parameters, rendered, options: Views) -> float:
    n = len(rendered) // len(images)
    pixels = without_normalising(rendered, options)
    errors = [
        np.abs(pixels[i] - reference(images[i // n], choice(parameters, i), options)).max()
        for i in range(len(rendered))
    ]
    return max(errors)


# Compiled once for each size and options; tests share it.
make_views = partial(jax.jit, static_argnums=3)(views.make_views)
render_views = partial(jax.jit, static_argnums=3)(views.render_views)
