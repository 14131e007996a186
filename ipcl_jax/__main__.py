"""Runs the command `ipcl` as `python -m ipcl_jax`."""

import sys

from ipcl_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
