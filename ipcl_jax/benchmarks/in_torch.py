"""The same work in torch, in a process of its own: what the benchmarks compare with.

In one process torch's threads, which spin for a while after their work, would keep the cores from
JAX. torch is imported in that process only, and the network and views are those that the
tests compare with.
"""

import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, Train, Views

TWINS = Path(__file__).parents[2] / "tests"
"""Where the network and the views are in torch: beside the tests that compare with them, in a clone."""


def twin(name: str) -> ModuleType:
    """Imports `torch_twin` or `torch_views` from where they are."""
    spec = importlib.util.spec_from_file_location(name, TWINS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module {name} in {TWINS}.", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, *_) -> None:
        self._pipe.send(False)
        self._process.join()


def _serve(pipe, build: Callable, arguments: tuple) -> None:
    import torch

    torch.set_num_threads(2)
    work = build(*arguments)
    while pipe.recv():
        start = time.perf_counter()
        result = work()
        pipe.send((time.perf_counter() - start, result))


def views(images: list[np.ndarray], choices: list[dict], options: Views) -> Callable[[], np.ndarray]:
    """Views of images `[h, w, 3]` uint8 with given choices, image by image: `[views, S, S, 3]` float32."""
    render = _views(images, choices, options)
    return lambda: render().permute(0, 2, 3, 1).numpy()


def _views(images: list[np.ndarray], choices: list[dict], options: Views) -> Callable:
    """As `views`, but `[views, 3, S, S]` tensors."""
    import torch

    torch_views = twin("torch_views")
    mean, std = (torch.tensor(values)[:, None, None] for values in (options.mean, options.std))
    pictures = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]

    def render() -> torch.Tensor:
        rendered = []
        for b, picture in enumerate(pictures):
            image = picture.float() / 255
            for choice in choices[b * options.per_image : (b + 1) * options.per_image]:
                rendered.append((torch_views.view(image, choice, options.size) - mean) / std)
        return torch.stack(rendered)

    return render


def fc7(checkpoint: str, files: list[str]) -> Callable[[], np.ndarray]:
    """fc7 of image files in the reference's way: `[files, 4096]` float32.

    Each image is opened, resized, cropped and normalised in the loop; 32 make a batch; a hook on fc7
    keeps its output.
    """
    import torch

    model = twin("torch_twin").TorchAlexNetGN().eval()
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


def step(
    variables: dict, queue: np.ndarray, config: Train, n_images: int, steps_per_epoch: int, *material
) -> Callable[[], np.ndarray]:
    """A training step from given variables and queue, `[]` its loss.

    Args:
        variables: of AlexNet-GN, as arrays.
        queue: `[K, D]`.
        config: the run.
        n_images: number N of training images.
        steps_per_epoch: batches of an epoch, for the learning rate.
        material: either the views `[B*n, S, S, 3]` to train on each time, or what `views` takes, to make them.
    """
    import torch

    beside = twin("torch_twin")
    model = beside.TorchAlexNetGN()
    model.load_state_dict(beside.to_torch(variables))
    schedule, n_views = config.schedule, config.views.per_image
    objective = beside.TorchIPCL(
        torch.from_numpy(queue), n_views=n_views, n_images=n_images, temperature=config.objective.temperature
    )
    training = beside.TorchTraining(
        model, objective, lr=config.optim.lr, weight_decay=config.optim.weight_decay,
        accumulate=config.accumulate, n_batches=config.epochs * steps_per_epoch,
        pct_start=schedule.pct_start, div_factor=schedule.div_factor,
        final_div_factor=schedule.final_div_factor, momentum=schedule.momentum[::-1],
    )  # fmt: skip
    if len(material) == 1:
        given = beside.channel_first(*material)
        return lambda: np.array(training.step(given))
    make = _views(*material)
    return lambda: np.array(training.step(make()))


def kneighbours(queries: np.ndarray, references: np.ndarray, k: int) -> Callable[[], np.ndarray]:
    """Rows of the k references of highest cosine with each query, `[queries, k]`."""
    import torch
    from torch.nn.functional import normalize

    asked, known = (normalize(torch.from_numpy(x)) for x in (queries, references))

    def search() -> np.ndarray:
        chunks = (torch.topk(chunk @ known.T, k).indices for chunk in asked.split(128))
        return torch.cat(list(chunks)).numpy()

    return search
