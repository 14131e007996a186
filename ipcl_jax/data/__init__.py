"""From files to batches of canvases: sources of images, decoding, loading."""
