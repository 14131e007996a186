"""What activations depend on: the code and the images' bytes."""

import hashlib
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import ipcl_jax
from ipcl_jax.activations import provenance
from ipcl_jax.activations.compute import stream
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.projection import make_projection
from ipcl_jax.activations.provenance import CODE, code_version, image_digests
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.config import Model

PACKAGE = Path(ipcl_jax.__file__).parent


def test_the_version_changes_with_any_edit_and_only_then(tmp_path, monkeypatch):
    found = code_version()
    assert re.fullmatch(r"[^,]+, [0-9a-f]{16}", found)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "activations/provenance.py"))
    for pattern in CODE:
        for path in PACKAGE.glob(pattern):
            copy = tmp_path / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # as git may write them on Windows
    again = code_version.__wrapped__
    assert again() == found
    (tmp_path / "zoo.py").write_text("x = 1\n")  # no part of it
    assert again() == found
    for edited in ("models/alexnet_gn.py", "data/decode.py", "activations/projection.py"):
        with open(tmp_path / edited, "a") as file:
            file.write("# edited\n")
        assert again() != found
        found = again()
    (tmp_path / "activations/compute.py").unlink()
    with pytest.raises(FileNotFoundError, match="compute.py"):
        again()


# Code that runs while activations are computed and has no part in their values: it checks, finds files, or lets the
# bytes in, which have a sha256 of their own.
NO_PART = {
    "__init__.py",
    "activations/__init__.py",
    "activations/description.py",
    "config.py",
    "data/sample.py",
    "data/sources.py",
    "errors.py",
    "system/cache.py",
    "system/distributed.py",  # the mesh of devices
    "system/files.py",
    "system/probe.py",
    "zoo.py",
}


def test_the_version_knows_all_code_that_computes():
    used = set()

    def note(frame, event, argument):
        path = frame.f_code.co_filename
        if path.startswith(str(PACKAGE) + os.sep):
            used.add(os.path.relpath(path, PACKAGE))

    encoder = init_encoder(Model(fc_dim=24), size=64)  # of a kind that no other test has compiled
    layers = {"conv_block_1": make_projection(0, 7 * 7 * 96, 5), "fc7": None}
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        stimuli = open_stimuli(["sample"])
        next(stream(encoder, stimuli, Reader(make_transform("stimulus", 64), 4, 1), layers))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    decisive = {str(path.relative_to(PACKAGE)) for pattern in CODE for path in PACKAGE.glob(pattern)}
    assert {"data/decode.py", "activations/compute.py", "activations/extract.py", "models/alexnet_gn.py"} <= used
    assert used - decisive <= NO_PART, "add it to provenance.CODE, or here"


def test_digests_are_those_that_batches_have(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(bytes(range(i)))
    for stimuli in (open_stimuli([str(tmp_path)]), open_stimuli(["sample"])):
        batches = Reader(make_transform("stimulus", 64), 4, 1).batches(stimuli)
        batch = next(batches)
        assert image_digests(stimuli, 4, threads=2).tolist() == [digest.encode() for digest in batch.sha256]
        batches.close()


def test_a_missing_file_has_no_digest_and_a_failing_disk_is_an_error(tmp_path):
    class Images:
        names = ("a", "b")

        def __getitem__(self, i):
            raise self.error

    images = Images()
    for images.error in (FileNotFoundError(2, "gone"), PermissionError(13, "no")):
        assert image_digests(images, 2, threads=1).tolist() == [b"", b""]
    images.error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        image_digests(images, 2, threads=1)


def test_many_images_are_read_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(provenance, "_TASKS", 3)
    images = [np.full((2, 2, 3), i, np.uint8) for i in range(10)]
    right = [hashlib.sha256(image.tobytes()).hexdigest().encode() for image in images]
    assert image_digests(images, 10, threads=4).tolist() == right
    assert image_digests(images, 0, threads=4).tolist() == []
