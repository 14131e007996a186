"""Augmentation: makes views of uint8 canvases, on the accelerator."""
