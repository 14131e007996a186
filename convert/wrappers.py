"""The network among a file's tensors: what wrapped it is taken off, what was kept beside it is left out."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from .errors import CheckpointError

# Under these keys a training script keeps a state_dict in the dict that it saves.
KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "encoder", "weights")

# DataParallel and torch.compile, around a network or a part of it: they hold nothing of their own.
_TRANSPARENT = {"module", "_orig_mod"}
# Attributes under which trainers keep the network; what else they hold (heads, queues) is theirs.
_TRAINERS = {
    "backbone", "base_encoder", "base_model", "base_network", "encoder", "encoder_q", "model", "net", "network",
    "online_encoder", "student", "trunk",
}  # fmt: skip
# Running averages of the network under training; one counts only where nothing else is there.
_AVERAGES = {"ema", "encoder_k", "model_ema", "momentum_encoder", "target_encoder", "teacher"}
# What the networks that we know begin with.
_PARTS = {f"conv_block_{i}" for i in range(1, 6)} | {"conv1", "bn1"} | {f"layer{i}" for i in range(1, 5)}


def unwrap(tensors: Mapping[str, Any], *, origin: str) -> tuple[dict[str, Any], list[str]]:
    """The tensors of the network, by its own names.

    Args:
        tensors: by the names in a file, such as `module.encoder_q.conv1.weight`.
        origin: the file, for messages.

    Returns:
        The tensors of the network, and what was done to find them, a phrase each.

    Raises:
        CheckpointError: if there are several networks, and none of them is the one that was trained.
    """
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    transparent = set()
    for name, tensor in tensors.items():
        parts = str(name).split(".")
        transparent |= _TRANSPARENT & set(parts)
        parts = [part for part in parts if part not in _TRANSPARENT]
        count = next((i for i, part in enumerate(parts) if part not in _TRAINERS | _AVERAGES), len(parts))
        prefix, rest = "".join(f"{part}." for part in parts[:count]), ".".join(parts[count:])
        if rest in groups[prefix]:
            raise CheckpointError(
                f"{origin} has {prefix}{rest} twice, once inside a wrapper and once without."
            )
        groups[prefix][rest] = tensor

    networks = [prefix for prefix, group in groups.items() if _PARTS & {name.split(".")[0] for name in group}]
    trained = [prefix for prefix in networks if not _AVERAGES & set(prefix.split("."))]
    candidates = trained or networks
    if len(candidates) > 1:
        shown = ", ".join(repr(prefix) if prefix else "no prefix" for prefix in candidates)
        raise CheckpointError(
            f"{origin} holds {len(candidates)} networks, under {shown}; keep the tensors of one and save them alone."
        )
    taken = candidates[0] if candidates else ""
    remarks = [f"took off '{name}.'" for name in sorted(transparent)]
    if taken:
        remarks.append(f"took the network under '{taken}'")
    network = groups.pop(taken, {})
    others = {prefix + name: tensor for prefix, group in groups.items() for name, tensor in group.items()}
    if others and not taken:  # not in a trainer, a network has nothing beside it
        return network | others, remarks
    if others:
        left = sorted({name.split(".")[0] for name in others})
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        remarks.append(f"left out {len(others)} tensors beside it ({', '.join(left[:5])}{more})")
    return network, remarks
