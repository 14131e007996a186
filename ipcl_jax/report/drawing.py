"""Import of matplotlib when something is drawn, since it is an optional package."""

from types import ModuleType

from ipcl_jax.errors import require


def load_matplotlib() -> ModuleType:
    """Imports and returns matplotlib with the submodules that reports use.

    Raises:
        MissingPackage: if it isn't installed.
    """
    require("Drawing", "train", "matplotlib")
    import matplotlib
    import matplotlib.figure
    import matplotlib.layout_engine
    import matplotlib.ticker

    return matplotlib
