"""Finding the network among a file's tensors: wrappers' prefixes are removed, a trainer's other tensors left out."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from .errors import CheckpointError

# Keys under which training scripts store a state_dict in the dict that they save.
KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "encoder", "weights")

# Prefixes of DataParallel and torch.compile, which wrap a network or a part of it and add no tensors.
_TRANSPARENT = {"module", "_orig_mod"}
# Attributes under which trainers store the network; their other tensors (heads, queues) don't belong to it.
_TRAINERS = {
    "backbone", "base_encoder", "base_model", "base_network", "encoder", "encoder_q", "model", "net", "network",
    "online_encoder", "student", "trunk",
}  # fmt: skip
# Running averages of the trained network; used only if the file has no other network.
_AVERAGES = {"ema", "encoder_k", "model_ema", "momentum_encoder", "target_encoder", "teacher"}
# First parts of the tensors' names in this package's networks.
_PARTS = {f"conv_block_{i}" for i in range(1, 6)} | {"conv1", "bn1"} | {f"layer{i}" for i in range(1, 5)}


def unwrap(tensors: Mapping[str, Any], *, origin: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the tensors of the network, without prefixes in their names.

    Args:
        tensors: by the names in a file, such as `module.encoder_q.conv1.weight`.
        origin: the file, for messages.

    Returns:
        The tensors of the network, and a phrase for each change.

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
    if others and not taken:  # without a trainer's prefix, other tensors are an error that from_torch reports
        return network | others, remarks
    if others:
        left = sorted({name.split(".")[0] for name in others})
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        remarks.append(f"left out {len(others)} tensors beside it ({', '.join(left[:5])}{more})")
    return network, remarks
