"""The same work in torch, in a process of its own: what the benchmarks compare with.

In one process torch's threads, which spin for a while after their work, would keep the cores from
JAX. torch is imported in that process only, and the network and views are those that the
tests compare with.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, Views


class Beside:
    """Work that is done again and again in another process, asleep in between.

    Args:
        build: called there once with `arguments`; returns the work, a function without
            arguments whose result is an array. One of the functions below.
        arguments: what can be pickled.
    """

    def __init__(self, build: Callable, *arguments):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, end = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(end, build, arguments), daemon=True)
        self._process.start()
        end.close()  # the worker's alone, so that its death is noticed here

    def run(self) -> tuple[float, np.ndarray]:
        """Seconds that the work took, and its result; returns when torch's threads have stopped spinning."""
        self._pipe.send(True)
        seconds, result = self._pipe.recv()
        time.sleep(0.3)
        return seconds, result

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(False)
        self._process.join()


def _serve(pipe, build: Callable, arguments: tuple) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import torch

    torch.set_num_threads(2)
    work = build(*arguments)
    while pipe.recv():
        start = time.perf_counter()
        result = work()
        pipe.send((time.perf_counter() - start, result))


def views(images: list[np.ndarray], choices: list[dict], options: Views) -> Callable[[], np.ndarray]:
    """Views of images `[h, w, 3]` uint8 with given choices, image by image: `[views, S, S, 3]` float32."""
    import torch
    import torch_views

    mean, std = (torch.tensor(values)[:, None, None] for values in (options.mean, options.std))
    images = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]

    def render() -> np.ndarray:
        rendered = []
        for b, image in enumerate(images):
            image = image.float() / 255
            for choice in choices[b * options.per_image : (b + 1) * options.per_image]:
                rendered.append((torch_views.view(image, choice, options.size) - mean) / std)
        return torch.stack(rendered).permute(0, 2, 3, 1).numpy()

    return render


def fc7(checkpoint: str, files: list[str]) -> Callable[[], np.ndarray]:
    """fc7 of image files in the reference's way: `[files, 4096]` float32.

    Each image is opened, resized, cropped and normalised in the loop; 32 make a batch; a hook on fc7
    keeps its output.
    """
    import torch
    from torch_twin import TorchAlexNetGN

    model = TorchAlexNetGN().eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    kept = []
    model.fc7.register_forward_hook(lambda module, inputs, output: kept.append(output))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def transform(file: str) -> torch.Tensor:
        image = Image.open(file).convert("RGB")
        short = min(image.size)
        image = image.resize([int(224 * side / short) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (round((side - 224) / 2) for side in image.size)
        pixels = np.array(image.crop((left, top, left + 224, top + 224)))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(mean).div_(std)

    def extract() -> np.ndarray:
        kept.clear()
        with torch.no_grad():
            for start in range(0, len(files), 32):
                model(torch.stack([transform(file) for file in files[start : start + 32]]))
        return torch.cat(kept).numpy()

    return extract
