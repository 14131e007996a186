"""Data loading: sources of images, decoding, and batches of canvases."""
