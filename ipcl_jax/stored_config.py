"""Configs as JSON, and what two of them have not in common."""

import dataclasses
import json
from collections.abc import Mapping

from ipcl_jax.config import LinearProbe, Train


def to_json(config: Train | LinearProbe) -> str:
    """The whole config as JSON text, the same for equal configs."""
    return json.dumps(dataclasses.asdict(config), indent=2)


# Fields that change where, when or how fast a run goes, but not what it computes.
_CIRCUMSTANCE = (
    "out", "max_steps", "profile_steps", "checkpoints", "distributed", "hosts",
    "data.dir", "data.threads", "data.workers", "data.accept_other_images",
)  # fmt: skip


def differences(config: Train | LinearProbe, stored: dict) -> list[str]:
    """Fields in which a config departs from one read back from JSON.

    Fields that can't change the result (threads, folders, when to stop) don't count. A field that the
    earlier run's version did not have yet stands at its default, which is what that version did.

    Args:
        config: the config asked for.
        stored: what `json.loads` gives for the config of an earlier run.

    Returns:
        Lines such as `optim.lr: 0.03 there, 0.01 here`; empty if the runs are the same.
    """
    here, defaults = (_flatten(json.loads(to_json(c))) for c in (config, type(config)(name="")))
    return [
        line
        for name, line in unlike(defaults | _flatten(stored), here).items()
        if not any(name == c or name.startswith(c + ".") for c in _CIRCUMSTANCE)
    ]


def unlike(there: Mapping[str, object], here: Mapping[str, object]) -> dict[str, str]:
    """Fields that two requests have not in common: a line for each, such as `lr: 0.03 there, 0.01 here`."""
    return {
        name: f"{name}: {there.get(name, 'not set')} there, {here.get(name, 'not set')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    }


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
