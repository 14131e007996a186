"""Models and what their layers compute for images: in memory, on disk, in the cache."""
