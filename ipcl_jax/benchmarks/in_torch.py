"""The benchmarks' work in torch: functions that are called in a `TorchProcess`, each returning the work to do.

The network and the views are those that the tests compare with.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ipcl_jax.benchmarks.torch_process import Setting, twin
from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, Train, Views

if TYPE_CHECKING:
    import torch

Work = Callable[[], "torch.Tensor"]


def views(setting: Setting, images: list[np.ndarray], parameters: list[dict], options: Views) -> Work:
    """Makes views of images `[h, w, 3]` uint8 with given parameters, one by one: `[views, S, S, 3]` float32."""
    render = _views(setting, images, parameters, options)
    return lambda: render().permute(0, 2, 3, 1)


def _views(setting: Setting, images: list[np.ndarray], parameters: list[dict], options: Views) -> Work:
    """As `views`, but returns `[views, 3, S, S]`."""
    import torch

    torch_views = twin("torch_views")
    mean, std = (
        torch.tensor(values, device=setting.device)[:, None, None] for values in (options.mean, options.std)
    )
    pictures = [torch.from_numpy(image).permute(2, 0, 1).contiguous().to(setting.device) for image in images]

    def render() -> torch.Tensor:
        rendered = []
        for b, picture in enumerate(pictures):
            image = picture.float() / 255
            for drawn in parameters[b * options.per_image : (b + 1) * options.per_image]:
                rendered.append((torch_views.view(image, drawn, options.size) - mean) / std)
        return torch.stack(rendered)

    return render


def fc7(setting: Setting, variables: dict, files: list[str]) -> Work:
    """Computes fc7 of image files, in batches of 32: `[files, 4096]` float32 on the CPU.

    Not compiled, it works as the PyTorch release does: one image after the other is opened, resized, cropped and
    normalised, and a hook on fc7 stores its output. Compiled, images are read by as many threads as there are cores,
    and the network ends at fc7.
    """
    import torch

    model: Any = _network(setting, variables).eval()
    kept = []

    def keep(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        kept.append(output)

    if setting.compiled:
        model.fc8, model.l2norm = torch.nn.Identity(), None
    else:
        model.fc7.register_forward_hook(keep)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def transform(file: str) -> torch.Tensor:
        image = Image.open(file).convert("RGB")
        short = min(image.size)
        image = image.resize([int(224 * side / short) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (round((side - 224) / 2) for side in image.size)
        pixels = np.array(image.crop((left, top, left + 224, top + 224)))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(mean).div_(std)

    def batches() -> Iterator[torch.Tensor]:
        if setting.compiled:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                images = iter(pool.map(transform, files))
                for start in range(0, len(files), 32):
                    yield torch.stack([next(images) for _ in files[start : start + 32]])
        else:
            for start in range(0, len(files), 32):
                yield torch.stack([transform(file) for file in files[start : start + 32]])

    def extract() -> torch.Tensor:
        kept.clear()
        with torch.no_grad():
            for batch in batches():
                output = model(_placed(setting, batch))
                if setting.compiled:
                    kept.append(output)
        return torch.cat(kept).cpu()

    return extract


def step(
    setting: Setting,
    variables: dict,
    queue: np.ndarray,
    config: Train,
    n_images: int,
    steps_per_epoch: int,
    *material,
) -> Work:
    """Does a training step from given variables and queue; its result is the loss, `[]`.

    Args:
        setting: how torch works.
        variables: of AlexNet-GN, as arrays.
        queue: `[K, D]`.
        config: the run.
        n_images: number N of training images.
        steps_per_epoch: batches of an epoch, for the learning rate.
        material: either the views `[B*n, S, S, 3]` to train on in every step, or the arguments of `views`.
    """
    import torch

    torch_twin = twin("torch_twin")
    model = _network(setting, variables)
    schedule, n_views = config.schedule, config.views.per_image
    objective = torch_twin.TorchIPCL(
        torch.from_numpy(queue).to(setting.device), n_views=n_views, n_images=n_images,
        temperature=config.objective.temperature,
    )  # fmt: skip
    # In one operation, where the twin takes one image after the other.
    objective.prototypes = lambda embeddings: embeddings.detach().unflatten(0, (-1, n_views)).mean(1)
    training = torch_twin.TorchTraining(
        model, objective, lr=config.optim.lr, weight_decay=config.optim.weight_decay,
        accumulate=config.accumulate, n_batches=config.epochs * steps_per_epoch,
        pct_start=schedule.pct_start, div_factor=schedule.div_factor,
        final_div_factor=schedule.final_div_factor, momentum=schedule.momentum[::-1], fused=setting.on_gpu or None,
    )  # fmt: skip
    if len(material) == 1:
        given = _placed(setting, torch_twin.channel_first(*material))
        return lambda: training.advance(given)
    make = _views(setting, *material)
    return lambda: training.advance(_placed(setting, make()))


def kneighbours(setting: Setting, queries: np.ndarray, references: np.ndarray, k: int) -> Work:
    """Finds the k references of highest cosine with each query: their rows `[queries, k]`."""
    import torch
    from torch.nn.functional import normalize

    asked, known = (normalize(torch.from_numpy(x).to(setting.device)) for x in (queries, references))

    def search() -> torch.Tensor:
        return torch.cat([torch.topk(chunk @ known.T, k).indices for chunk in asked.split(128)])

    return search


def _network(setting: Setting, variables: dict) -> "torch.nn.Module":
    """Returns AlexNet-GN, which takes and returns float32 whatever the setting's precision."""
    import torch

    torch_twin = twin("torch_twin")
    model = torch_twin.TorchAlexNetGN()
    model.load_state_dict(torch_twin.to_torch(variables))
    model = model.to(setting.device, memory_format=_format(setting))
    network, device, lower = model.forward, setting.device, setting.precision == "bfloat16"

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=lower):
            return network(images).float()

    model.forward = forward
    if setting.compiled:
        model.compile()
    return model


def _placed(setting: Setting, images: "torch.Tensor") -> "torch.Tensor":
    """Returns images `[B, 3, S, S]` on the setting's device, in the network's memory format."""
    return images.to(setting.device, memory_format=_format(setting))


def _format(setting: Setting) -> "torch.memory_format":
    import torch

    return torch.channels_last if setting.on_gpu else torch.contiguous_format
