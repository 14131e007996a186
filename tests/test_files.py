"""Files of one's own: where they can be written, and whole or not at all."""

import os
import subprocess

import pytest

from commands import refused
from ipcl_jax.errors import ConfigError
from ipcl_jax.files import at_home, check_writable, read_json, whole


def test_a_file_or_a_folder_is_whole_or_not_there(tmp_path):
    for made in (tmp_path / "deep" / "file", tmp_path / "deep" / "folder"):
        for fails in (True, False):
            try:
                with whole(made) as part:
                    part.mkdir() if made.name == "folder" else part.write_text("new")
                    assert not made.exists() and part.parent == made.parent
                    if fails:
                        raise KeyError
            except KeyError:
                assert os.listdir(made.parent) == ([] if made.name == "file" else ["file"])
    assert sorted(os.listdir(made.parent)) == ["file", "folder"]
    with pytest.raises(KeyError), whole(tmp_path / "deep" / "file") as part:
        part.write_text("newer")
        raise KeyError
    assert (tmp_path / "deep" / "file").read_text() == "new"
    with pytest.raises(FileNotFoundError), whole(tmp_path / "gone" / "file", parents=False) as part:
        part.write_text("new")
    assert not (tmp_path / "gone").exists()


def test_what_is_no_json_object_is_named(tmp_path):
    path = tmp_path / "a.json"
    for text in ("{", "[]", "3", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ConfigError, match=str(path)):
            read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_a_tilde_is_the_home_only_where_it_can_be(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/a") == tmp_path / "a"
    assert str(at_home("~1.png")) == "~1.png"


@pytest.fixture
def read_only(tmp_path):
    """A disk that can't be written to, by root neither."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_every_command_refuses_a_place_that_cannot_be_written_before_it_begins(read_only, tmp_path):
    with pytest.raises(ConfigError, match="disk is read-only, or another user's; give another --out"):
        check_writable(read_only / "deep" / "a")
    (tmp_path / "cache").mkdir()
    out, sample, layer = read_only / "out", ("--data.source", "sample"), ("--layers", "fc7")
    lines = refused(
        tmp_path / "cache",
        ("train.py", "--config", "ipcl_smoke", "--out", out),
        ("views.py", "--config", "ipcl_smoke", "--out", f"{out}.png"),
        ("extract.py", "ipcl16", "sample", *layer, "--out", f"{out}.h5"),
        ("linear.py", "ipcl16", *sample, *layer, "--out", out),
        ("knn.py", "ipcl16", *sample, "--k", "3", "--json", out),
        ("rsa.py", "ipcl16", "sample", *layer, "--out", out),
        ("report.py", "ipcl16", *sample, "--k", "3", "--out", out),
        ("convert.py", "ipcl16", "--to", "safetensors", "--out", out),
        ("prepare.py", tmp_path / "cache", out),
    )
    assert all(str(out) in line and "is read-only" in line for line in lines), lines
