"""What a run's newest checkpoint holds."""

from pathlib import Path

import jax
import numpy as np

from ipcl_jax.run.checkpoints import Checkpoints


def leaves(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by path."""
    import orbax.checkpoint as ocp

    with Checkpoints(folder, keep=2) as checkpoints:
        step = checkpoints.latest_step()
    path = (folder / "checkpoints" / str(step) / "default").absolute()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
