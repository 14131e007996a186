"""Using the package takes neither torch nor TensorFlow."""

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
import ipcl_jax

names = [module.name for module in pkgutil.walk_packages(ipcl_jax.__path__, "ipcl_jax.")]
for name in names:
    importlib.import_module(name)
heavy = [name for name in ("torch", "torchvision", "tensorflow") if name in sys.modules]
print(*names)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_no_other_framework_is_imported():
    # A process of its own: in this one, other tests have imported torch.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    expected = {"ipcl_jax.config", "ipcl_jax.models.alexnet_gn", "ipcl_jax.objective", "ipcl_jax.training"}
    assert expected <= set(names)  # the walk really reached the modules
