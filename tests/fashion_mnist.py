"""Writes Fashion-MNIST's files as a folder of images, `train/<class>/*.png` and `val/<class>/*.png`.

    apt-get install dataset-fashion-mnist
    python tests/fashion_mnist.py /usr/share/datasets/fashion-mnist fashion

It is a data set that nothing here was tuned on; no test needs it.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = "top trouser pullover dress coat sandal shirt sneaker bag boot".split()

if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    for split, stem in (("train", "train"), ("val", "t10k")):
        pixels = np.frombuffer(gzip.open(source / f"{stem}-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
        labels = np.frombuffer(gzip.open(source / f"{stem}-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
        for i, (image, label) in enumerate(zip(pixels.reshape(-1, 28, 28), labels, strict=True)):
            path = target / split / CLASSES[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
