"""Matplotlib, imported when something is drawn, since whoever only computes needn't have it."""

from types import ModuleType

from ipcl_jax.errors import require


def load_matplotlib() -> ModuleType:
    """Imports matplotlib with the parts that the pages and pictures use.

    Raises:
        MissingPackage: if it isn't installed.
    """
    require("Drawing", "train", "matplotlib")
    import matplotlib
    import matplotlib.figure
    import matplotlib.layout_engine
    import matplotlib.ticker

    return matplotlib
