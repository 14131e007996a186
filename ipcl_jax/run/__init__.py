"""A run in its folder: the loop, checkpoints, metrics and what is measured after each epoch."""
