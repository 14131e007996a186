"""The network, the objective and the training of IPCL in torch, as an independent check.

Written from the system's description and in torch's idiom, without looking at `ipcl_jax`: tests
compare the two. Submodules have the reference's names, so `state_dict()` looks like a released
file's. Images are channel-first here, as in the reference.
"""

import math

import numpy as np
import torch
from torch import nn


class L2Norm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.pow(2).sum(1, keepdim=True).sqrt()


def conv_block(
    inputs: int, outputs: int, side: int, stride: int, padding: int, pooled: bool
) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, side, stride=stride, padding=padding, bias=False),
        nn.GroupNorm(32, outputs, eps=1e-5),
        nn.ReLU(inplace=False),  # in place, a hook on the norm would see the rectified values
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(3, stride=2)] if pooled else []))


def fc_block(inputs: int, outputs: int) -> nn.Sequential:
    norm = nn.BatchNorm1d(outputs, eps=1e-5, momentum=0.1)
    return nn.Sequential(nn.Linear(inputs, outputs), norm, nn.ReLU(inplace=False))


class TorchAlexNetGN(nn.Module):
    """AlexNet with group norm, `[B, 3, H, W]` to `[B, out_dim]`."""

    def __init__(self, out_dim: int = 128, l2norm: bool = True, fc_dim: int = 4096):
        super().__init__()
        self.conv_block_1 = conv_block(3, 96, 11, 4, 2, True)
        self.conv_block_2 = conv_block(96, 256, 5, 1, 2, True)
        self.conv_block_3 = conv_block(256, 384, 3, 1, 1, False)
        self.conv_block_4 = conv_block(384, 384, 3, 1, 1, False)
        self.conv_block_5 = conv_block(384, 256, 3, 1, 1, True)
        self.ave_pool = nn.AdaptiveAvgPool2d((6, 6))
        self.fc6 = fc_block(256 * 6 * 6, fc_dim)
        self.fc7 = fc_block(fc_dim, fc_dim)
        self.fc8 = nn.Sequential(nn.Linear(fc_dim, out_dim))
        self.l2norm = L2Norm() if l2norm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, 6):
            x = getattr(self, f"conv_block_{i}")(x)
        x = self.ave_pool(x).flatten(1)  # (C, H, W)
        x = self.fc8(self.fc7(self.fc6(x)))
        return x if self.l2norm is None else self.l2norm(x)


def all_layers(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every named module's output in one forward pass, under its name."""
    found = {}

    def keep(name: str):
        def hook(module, inputs, output):
            found[name] = output.detach().clone()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def shake(model: nn.Module, seed: int) -> nn.Module:
    """Gives norms scales, offsets and running statistics such as training leaves, not 1 and 0."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator, dtype=like.dtype) * (high - low) + low

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
                module.running_var.copy_(uniform(module.running_var, 0.1, 1.0))
    return model


def images(count: int, height: int, width: int) -> np.ndarray:
    """Coarse patches under fine noise: as normalised photographs, no two alike, `[B, H, W, 3]`."""
    rng = np.random.default_rng(height)
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 5 // width
    patches = rng.normal(size=(count, 5, 5, 3))[:, rows[:, None], columns[None]]
    return (patches + 0.3 * rng.normal(size=patches.shape)).astype(np.float32)


# --- the two layouts ---------------------------------------------------------------------


def channel_last(x: torch.Tensor) -> np.ndarray:
    """`[B, C, H, W]` as `[B, H, W, C]`; anything else unchanged."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().numpy()


def channel_first(x: np.ndarray) -> torch.Tensor:
    """`[B, H, W, C]` as `[B, C, H, W]`."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def to_flax(state_dict: dict[str, torch.Tensor]) -> dict:
    """Torch's parameters (or anything shaped like them, such as momenta) as the JAX model's."""
    variables = {"params": {}, "batch_stats": {}}

    def put(kind: str, module: str, name: str, value: np.ndarray) -> None:
        variables[kind].setdefault(module, {})[name] = np.array(value)  # a copy, not torch's memory

    for key, tensor in state_dict.items():
        block, place, what = key.split(".")
        value = tensor.detach().numpy()
        if block.startswith("conv") and place == "0":
            put("params", f"{block}_conv", "kernel", value.transpose(2, 3, 1, 0))
        elif place == "0" and what == "weight":
            if block == "fc6":
                value = value.reshape(-1, 256, 6, 6).transpose(0, 2, 3, 1).reshape(len(value), -1)
            put("params", f"{block}_linear", "kernel", value.T)
        elif place == "0":
            put("params", f"{block}_linear", "bias", value)
        elif what in ("weight", "bias"):
            put("params", f"{block}_norm", {"weight": "scale", "bias": "bias"}[what], value)
        elif what in ("running_mean", "running_var"):
            put("batch_stats", f"{block}_norm", what.removeprefix("running_"), value)
    return variables


def to_torch(variables: dict) -> dict[str, torch.Tensor]:
    """The JAX model's variables as a state_dict that the twin loads."""
    state_dict = {}

    def put(key: str, value: np.ndarray) -> None:
        state_dict[key] = torch.from_numpy(np.array(value))

    for module, leaves in variables["params"].items():
        block, kind = module.rsplit("_", 1)
        if kind == "conv":
            put(f"{block}.0.weight", np.asarray(leaves["kernel"]).transpose(3, 2, 0, 1))
        elif kind == "linear":
            weight = np.asarray(leaves["kernel"]).T
            if block == "fc6":
                weight = weight.reshape(-1, 6, 6, 256).transpose(0, 3, 1, 2).reshape(len(weight), -1)
            put(f"{block}.0.weight", weight)
            put(f"{block}.0.bias", leaves["bias"])
        else:
            put(f"{block}.1.weight", leaves["scale"])
            put(f"{block}.1.bias", leaves["bias"])
    for module, leaves in variables["batch_stats"].items():
        block = module.removesuffix("_norm")
        put(f"{block}.1.running_mean", leaves["mean"])
        put(f"{block}.1.running_var", leaves["var"])
        state_dict[f"{block}.1.num_batches_tracked"] = torch.tensor(0)
    return state_dict


# --- the objective -----------------------------------------------------------------------


class TorchIPCL:
    """Prototypes, queue, Z and the NCE loss of `[B*n, D]` embeddings, image by image."""

    epsilon = 1e-7

    def __init__(
        self, queue: torch.Tensor, *, n_views: int, n_images: int, temperature: float = 0.07,
        norm_prototype: bool = False, store_prototype: bool = False,
    ):
        self.queue = queue  # [K, D], newest first
        self.Z = None
        self.n_views, self.n_images, self.temperature = n_views, n_images, temperature
        self.norm_prototype, self.store_prototype = norm_prototype, store_prototype
        self.training = True

    def prototypes(self, embeddings: torch.Tensor) -> torch.Tensor:
        mean = torch.stack([group.mean(0) for group in embeddings.detach().split(self.n_views)])
        return nn.functional.normalize(mean) if self.norm_prototype else mean

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        count, n_negatives = len(embeddings), len(self.queue)
        own = self.prototypes(embeddings)
        positive = torch.einsum("ij,ij->i", embeddings, own.repeat_interleave(self.n_views, 0))
        negative = embeddings @ self.queue.clone().T
        score = torch.exp(torch.cat([positive[:, None], negative], 1) / self.temperature)
        if self.Z is None:
            self.Z = score.detach().mean() * self.n_images
        p = score / self.Z
        noise = 1 / self.n_images
        p_own, p_other = p[:, 0], p[:, 1:]
        right = torch.log(p_own / (p_own + n_negatives * noise + self.epsilon)).sum()
        wrong = torch.log(n_negatives * noise / (p_other + n_negatives * noise + self.epsilon)).sum()
        if self.training:
            new = own if self.store_prototype else embeddings.detach()
            self.queue = torch.cat([new, self.queue])[:n_negatives]
        return -(right + wrong) / count


# --- training ----------------------------------------------------------------------------


def one_cycle(start: float, top: float, end: float, batch: int, n_batches: int, pct_start: float) -> float:
    """The paper's one-cycle course, in python's floats."""

    def cos(start: float, end: float, part: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    a1 = int(n_batches * pct_start)
    if batch <= a1:
        return cos(start, top, batch / a1)
    return cos(top, end, (batch - a1) / (n_batches - a1))


class TorchTraining:
    """SGD over accumulated gradients, with learning rate and momentum set at every batch."""

    def __init__(
        self, model: nn.Module, objective: TorchIPCL, *, lr: float, weight_decay: float, accumulate: int,
        n_batches: int, pct_start: float = 0.4, div_factor: float = 1000.0, final_div_factor: float = 1e4,
        momentum: tuple[float, float] = (0.85, 0.95), fused: bool | None = None,
    ):
        self.model, self.objective, self.accumulate, self.n_batches = model, objective, accumulate, n_batches
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=momentum[1], weight_decay=weight_decay, fused=fused
        )
        start = lr / div_factor
        self.courses = {
            "lr": (start, lr, start / final_div_factor),
            "momentum": (momentum[1], momentum[0], momentum[1]),
        }
        self.pct_start = pct_start
        self.batch = 0

    def step(self, views: torch.Tensor) -> float:
        """Trains on one batch of views `[B*n, 3, S, S]`; its loss."""
        return self.advance(views).item()

    def advance(self, views: torch.Tensor) -> torch.Tensor:
        """The same without waiting for a GPU: its loss is a tensor `[]`."""
        self.model.train()
        group = self.optimizer.param_groups[0]
        for name, course in self.courses.items():
            group[name] = one_cycle(*course, self.batch, self.n_batches, self.pct_start)
        loss = self.objective(self.model(views))
        (loss / self.accumulate).backward()
        self.batch += 1
        if self.batch % self.accumulate == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def momenta(self) -> dict[str, torch.Tensor]:
        """Momentum buffers under the parameters' names."""
        state = self.optimizer.state
        return {name: state[p]["momentum_buffer"] for name, p in self.model.named_parameters()}
