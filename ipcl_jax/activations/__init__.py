"""Models, and the activations of their layers: in memory, on disk and in the cache."""
