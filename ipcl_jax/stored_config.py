"""Configs as JSON, and the fields in which two of them differ."""

import dataclasses
import json
from collections.abc import Mapping

from ipcl_jax.config import LinearProbe, Train


def to_json(config: Train | LinearProbe) -> str:
    """Converts a config to JSON text, the same for equal configs."""
    return json.dumps(dataclasses.asdict(config), indent=2)


# Fields that affect where, when or how fast a run is computed, but not its result.
_NO_EFFECT_ON_RESULT = (
    "out", "max_steps", "profile_steps", "log_every", "checkpoints", "distributed", "hosts",
    "data.dir", "data.threads", "data.workers", "data.accept_other_images",
)  # fmt: skip


def differences(config: Train | LinearProbe, stored: dict) -> list[str]:
    """Compares a config with that of an earlier run, read from JSON.

    Ignores fields that can't change the result (threads, folders, when to stop). A field that is missing because
    an earlier version did not have it has its default, which is what that version did.

    Args:
        config: the new config.
        stored: the earlier config, as `json.loads` returns it.

    Returns:
        A line per difference, such as `optim.lr: 0.03 there, 0.01 here`; empty if the results would be the same.
    """
    here, defaults = (flatten_fields(json.loads(to_json(c))) for c in (config, type(config)(name="")))
    return [
        line
        for name, line in differing_fields(defaults | flatten_fields(stored), here).items()
        if not any(name == c or name.startswith(c + ".") for c in _NO_EFFECT_ON_RESULT)
    ]


def differing_fields(there: Mapping[str, object], here: Mapping[str, object]) -> dict[str, str]:
    """Compares two flat mappings; returns a line by field that differs, such as `lr: 0.03 there, 0.01 here`."""
    return {
        name: f"{name}: {there.get(name, 'not set')} there, {here.get(name, 'not set')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    }


def flatten_fields(tree: dict, prefix: str = "") -> dict:
    """Flattens nested dicts to one with keys such as `optim.lr`."""
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= flatten_fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
