"""Files, locks, processes, devices, signals and the terminal: the interface to the operating system and JAX's runtime."""
