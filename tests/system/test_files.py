"""Files of one's own: where they can be written, and whole or not at all."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from command_line import refused
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import atomic, check_writable, expand_home, read_file, read_json


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**21 + 3])
def test_a_file_is_read_whole(size, tmp_path):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert read_file(tmp_path / "file") == content


def test_a_file_or_a_folder_is_whole_or_not_there(tmp_path):
    for made in (tmp_path / "deep" / "file", tmp_path / "deep" / "folder"):
        for fails in (True, False):
            try:
                with atomic(made) as part:
                    part.mkdir() if made.name == "folder" else part.write_text("new")
                    assert not made.exists() and part.parent == made.parent
                    if fails:
                        raise KeyError
            except KeyError:
                assert os.listdir(made.parent) == ([] if made.name == "file" else ["file"])
    assert sorted(os.listdir(made.parent)) == ["file", "folder"]
    with pytest.raises(KeyError), atomic(tmp_path / "deep" / "file") as part:
        part.write_text("newer")
        raise KeyError
    assert (tmp_path / "deep" / "file").read_text() == "new"
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "gone" / "file", parents=False) as part:
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
    assert expand_home("~/a") == tmp_path / "a"
    assert str(expand_home("~1.png")) == "~1.png"


@pytest.fixture
def read_only(tmp_path):
    """A disk that can't be written to, by root neither."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
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


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    happened = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda at: happened.append(os.readlink(f"/proc/self/fd/{at}")) or sync(at)
    )
    monkeypatch.setattr(Path, "replace", lambda part, to: happened.append("named") or rename(part, to))
    with atomic(tmp_path / "a") as part:
        part.write_text("new")
    assert happened == [str(part), "named", str(tmp_path)]
    happened.clear()
    with atomic(tmp_path / "b") as part:
        (part / "deep").mkdir(parents=True)
        (part / "deep" / "file").write_text("new")
    named = happened.index("named")
    assert set(happened[:named]) == {str(part), str(part / "deep"), str(part / "deep" / "file")}
    happened.clear()
    with atomic(tmp_path / "c", durable=False) as part:
        part.write_text("new")
    assert happened == ["named"]


def test_what_a_link_leads_to_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    for there in (True, False):
        target, link = tmp_path / "disk" / f"{there}", tmp_path / f"link-{there}"
        if there:
            target.write_text("old")
        link.symlink_to(target)
        with atomic(link) as part:
            assert part.parent == target.parent
            part.write_text("new")
        assert link.is_symlink() and target.read_text() == "new" and not target.is_symlink()


def test_permissions_are_those_of_any_file_or_of_the_one_that_is_replaced(tmp_path):
    def write(path):
        with atomic(path) as part:
            os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
        return path.stat().st_mode & 0o777

    before = os.umask(0o027)
    try:
        assert write(tmp_path / "new") == 0o640
        (tmp_path / "new").chmod(0o664)
        assert write(tmp_path / "new") == 0o664
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127])
def test_a_name_may_be_as_long_as_names_are(tmp_path, name):
    with atomic(tmp_path / name) as part:
        part.write_text("new")
    assert os.listdir(tmp_path) == [name]


def test_two_threads_that_write_a_file_each_write_all_of_it(tmp_path):
    def write(text):
        with atomic(tmp_path / "a") as part:
            part.write_text(text)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [letter * 100_000 for letter in "abcdefgh" * 4]))
    assert len(set((tmp_path / "a").read_text())) == 1 and os.listdir(tmp_path) == ["a"]
