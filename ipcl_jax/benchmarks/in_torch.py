"""The benchmarks' work in torch, in a process of its own.

In the same process torch's threads, which spin for a while after their work, would take the cores from JAX. torch is
imported in the other process only. The network and views in torch are those that the tests compare with.
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
"""Folder of the network and the views in torch, among the tests; only a clone has it."""


def twin(name: str) -> ModuleType:
    """Imports `torch_twin` or `torch_views` from the tests."""
    spec = importlib.util.spec_from_file_location(name, TWINS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module {name} in {TWINS}.", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TorchProcess:
    """A process that runs a function in torch each time it is asked to; a context manager.

    Args:
        build: called in that process once with `arguments`; returns the function, which takes no
            arguments and returns an array. One of the functions below.
        arguments: of `build`; they are pickled.
    """

    def __init__(self, build: Callable, *arguments):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, end = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(end, build, arguments), daemon=True)
        self._process.start()
        end.close()  # only the other process holds it, so that recv fails here if that process dies

    def run(self) -> tuple[float, np.ndarray]:
        """Runs the function and waits until torch's threads stop spinning; returns the seconds it took, and its result."""
        self._pipe.send(True)
        seconds, result = self._pipe.recv()
        time.sleep(0.3)
        return seconds, result

    def __enter__(self) -> "TorchProcess":
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


def views(images: list[np.ndarray], parameters: list[dict], options: Views) -> Callable[[], np.ndarray]:
    """Makes views of images `[h, w, 3]` uint8 with given parameters, image by image: `[views, S, S, 3]` float32."""
    render = _views(images, parameters, options)
    return lambda: render().permute(0, 2, 3, 1).numpy()


def _views(images: list[np.ndarray], parameters: list[dict], options: Views) -> Callable:
    """As `views`, but returns tensors `[views, 3, S, S]`."""
    import torch

    torch_views = twin("torch_views")
    mean, std = (torch.tensor(values)[:, None, None] for values in (options.mean, options.std))
    pictures = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]

    def render() -> torch.Tensor:
        rendered = []
        for b, picture in enumerate(pictures):
            image = picture.float() / 255
            for drawn in parameters[b * options.per_image : (b + 1) * options.per_image]:
                rendered.append((torch_views.view(image, drawn, options.size) - mean) / std)
        return torch.stack(rendered)

    return render


def fc7(checkpoint: str, files: list[str]) -> Callable[[], np.ndarray]:
    """Computes fc7 of image files as the PyTorch release does: `[files, 4096]` float32.

    Each image is opened, resized, cropped and normalised in the loop; a batch has 32 images; a hook on fc7
    stores its output.
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
    """Does a training step from given variables and queue; its result is the loss, `[]`.

    Args:
        variables: of AlexNet-GN, as arrays.
        queue: `[K, D]`.
        config: the run.
        n_images: number N of training images.
        steps_per_epoch: batches of an epoch, for the learning rate.
        material: either the views `[B*n, S, S, 3]` to train on in every step, or the arguments of `views`.
    """
    import torch

    torch_twin = twin("torch_twin")
    model = torch_twin.TorchAlexNetGN()
    model.load_state_dict(torch_twin.to_torch(variables))
    schedule, n_views = config.schedule, config.views.per_image
    objective = torch_twin.TorchIPCL(
        torch.from_numpy(queue), n_views=n_views, n_images=n_images, temperature=config.objective.temperature
    )
    training = torch_twin.TorchTraining(
        model, objective, lr=config.optim.lr, weight_decay=config.optim.weight_decay,
        accumulate=config.accumulate, n_batches=config.epochs * steps_per_epoch,
        pct_start=schedule.pct_start, div_factor=schedule.div_factor,
        final_div_factor=schedule.final_div_factor, momentum=schedule.momentum[::-1],
    )  # fmt: skip
    if len(material) == 1:
        given = torch_twin.channel_first(*material)
        return lambda: np.array(training.step(given))
    make = _views(*material)
    return lambda: np.array(training.step(make()))


def kneighbours(queries: np.ndarray, references: np.ndarray, k: int) -> Callable[[], np.ndarray]:
    """Finds the k references of highest cosine with each query: their rows `[queries, k]`."""
    import torch
    from torch.nn.functional import normalize

    asked, known = (normalize(torch.from_numpy(x)) for x in (queries, references))

    def search() -> np.ndarray:
        chunks = (torch.topk(chunk @ known.T, k).indices for chunk in asked.split(128))
        return torch.cat(list(chunks)).numpy()

    return search
