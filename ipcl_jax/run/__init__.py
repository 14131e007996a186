"""A run and its folder: the training loop, checkpoints, metrics, and the measurements after each epoch."""
