"""The interface to the operating system and JAX's runtime: files, locks, processes, devices, signals, the terminal."""
