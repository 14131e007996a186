"""Read-outs: what an embedding can tell, measured without training anything but a classifier."""
