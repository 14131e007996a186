"""`python -m ipcl_jax` is the command `ipcl`."""

import sys

from ipcl_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
