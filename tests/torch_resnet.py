"""ResNet-18 and ResNet-50 in torch, as an independent check.

Written from He et al. 2016 and in torch's idiom, without looking at `ipcl_jax`: tests compare the two.
Submodules have torchvision's names, so `state_dict()` looks like a file of its. Images are channel-first.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from torch_twin import L2Norm, shake

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


class Residual(nn.Module):
    """What both kinds of block do: the subclass says what `branch` is."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm):
        super().__init__()
        self.relu = nn.ReLU(inplace=False)  # in place, a hook on the norm would see the rectified values
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, norm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.branch(x) + shortcut)


class Basic(Residual):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm):
        super().__init__(inputs, width, stride, norm)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Residual):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm):
        super().__init__(inputs, 4 * width, stride, norm)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class TorchResNet(nn.Module):
    """A ResNet, `[B, 3, H, W]` to `[B, out_dim]`."""

    def __init__(self, arch: str, norm: str = "group", out_dim: int = 128, l2norm: bool = True):
        super().__init__()
        block, counts = {"resnet18": (Basic, (2, 2, 2, 2)), "resnet50": (Bottleneck, (3, 4, 6, 3))}[arch]
        make_norm = {"group": group_norm, "batch": nn.BatchNorm2d}[norm]
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(64)
        self.relu = nn.ReLU(inplace=False)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for i, (width, count) in enumerate(zip((64, 128, 256, 512), counts, strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(block(inputs, width, 2 if i > 0 and j == 0 else 1, make_norm))
                inputs = width * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, out_dim)
        self.l2norm = L2Norm() if l2norm else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.fc(self.avgpool(x).flatten(1))
        return x if self.l2norm is None else self.l2norm(x)


def weather(model: nn.Module, images: torch.Tensor, seed: int) -> nn.Module:
    """Norms as training leaves them, in place; returns the model.

    Scales and offsets are drawn, smaller scales for what a block adds to its shortcut. Running
    statistics are near those of some images, so that activations keep their size through sixteen
    blocks, but not equal to them.
    """
    shake(model, seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Residual):
                last = module.bn2 if isinstance(module, Basic) else module.bn3
                last.weight *= 0.25
        for module in norms:
            module.momentum = 1.0  # the statistics of this batch alone
        model.train()(images)
        for module in norms:
            module.momentum = 0.1
            factor = torch.rand(module.running_var.shape, generator=generator) + 0.5
            module.running_mean += 0.3 * (factor - 1) * module.running_var.sqrt()
            module.running_var *= factor
    return model.eval()


def to_flax(state_dict: dict[str, torch.Tensor]) -> dict:
    """Torch's parameters and statistics (or gradients under their names) as the JAX model's variables."""
    variables = {"params": {}, "batch_stats": {}}
    for key, tensor in state_dict.items():
        module, leaf = key.rsplit(".", 1)
        value, kind = tensor.detach().numpy(), "params"
        if leaf == "num_batches_tracked":
            continue
        if leaf.startswith("running_"):
            kind, leaf = "batch_stats", leaf.removeprefix("running_")
        elif leaf == "weight":
            leaf = "scale" if value.ndim == 1 else "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        variables[kind].setdefault(module.replace(".", "_"), {})[leaf] = np.array(value)  # a copy
    return variables
