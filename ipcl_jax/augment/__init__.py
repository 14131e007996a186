"""From a canvas of uint8 pixels to augmented views, on the accelerator."""
