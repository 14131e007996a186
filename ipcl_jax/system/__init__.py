"""What the operating system, the disk and JAX's runtime give: files, locks, processes, devices, signals, the terminal."""
