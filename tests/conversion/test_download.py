"""Released models over the network, from a server on loopback that can misbehave."""

import dataclasses
import hashlib
import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
import torch
from test_convert import Payload, twin

import convert.download
from convert import CheckpointError, DownloadError, convert_torch_checkpoint
from ipcl_jax import save_encoder, zoo
from ipcl_jax.errors import ConfigError

ROOT = Path(__file__).parents[2]
RECORD = zoo.MODELS["ipcl1"]


class Server(http.server.ThreadingHTTPServer):
    """Serves one file under the release's path, in a chosen manner."""

    def __init__(self, content: bytes):
        self.content, self.manner, self.requests = content, "whole", 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/project_instancenet"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        content, manner = self.server.content, self.server.manner
        if self.path != f"/project_instancenet/{RECORD.file}":
            return self.send_error(404)
        if manner.startswith("http"):
            self.send_response(302)
            self.send_header("Location", manner)
            return self.end_headers()
        if manner == "fails":
            return self.send_error(503)
        if manner == "page":
            content = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"
        if manner == "changed":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if manner == "recovers":
            manner = "truncated" if self.server.requests < 3 else "whole"
        if manner in ("truncated", "stops"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if manner == "stops":
                time.sleep(1)
            self.close_connection = True
            return None
        return self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A stand-in of the real form and size."""
    path = tmp_path_factory.mktemp("release") / "file"
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in twin(fc_dim=4096).state_dict().items()}, "epoch": 100},
        path,
    )
    return path


@pytest.fixture
def serve(monkeypatch):
    """Starts a server for some content, whose digits the zoo then expects; pauses between tries are left out."""
    servers = []

    def start(content: bytes) -> Server:
        record = dataclasses.replace(RECORD, sha256=hashlib.sha256(content).hexdigest()[:10])
        monkeypatch.setattr(zoo, "MODELS", {**zoo.MODELS, "ipcl1": record})
        servers.append(Server(content))
        return servers[-1]

    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# Everything that the second call of a new process does, with its time apart from imports.
SECOND_CALL = """
import dataclasses, json, sys, time
import jax, ipcl_jax, convert
from ipcl_jax import save_encoder, zoo

jax.device_count()
zoo.MODELS = {**zoo.MODELS, "ipcl1": dataclasses.replace(zoo.MODELS["ipcl1"], sha256=sys.argv[1])}
times = []
for _ in range(3):
    start = time.perf_counter()
    encoder = convert.convert_torch_checkpoint("ipcl1")
    times.append(time.perf_counter() - start)
heavy = [name for name in ("torch", "pooch", "requests") if name in sys.modules]
print(json.dumps([times, heavy, encoder.digest(), encoder.name]))
"""


def test_the_first_call_downloads_and_the_second_needs_neither_network_nor_torch(
    released, serve, tmp_path, monkeypatch
):
    server = serve(released.read_bytes())
    monkeypatch.setenv("IPCL_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPCL_JAX_URL", server.url)
    encoder = convert_torch_checkpoint("ipcl1", progress=False)
    assert encoder.name == "ipcl1" and encoder.source == hashlib.sha256(server.content).hexdigest()
    assert encoder.steps == 1_000_800
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {Path(RECORD.file).name, "ipcl1.safetensors"}

    monkeypatch.setenv("IPCL_JAX_URL", "http://127.0.0.1:1/")  # where nobody listens
    command = [sys.executable, "-c", SECOND_CALL, zoo.MODELS["ipcl1"].sha256]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    times, heavy, digest, name = json.loads(done.stdout)
    assert heavy == [] and (digest, name) == (encoder.digest(), "ipcl1")
    assert min(times) < 0.5  # alone on two cores: 0.15 s
    assert server.requests == 1


def small_release() -> bytes:
    return b"not a checkpoint, but that is found out later" * 2000


@pytest.mark.parametrize(
    "manner, message",
    [
        ("changed", "sha256 begins with"),
        ("truncated", "could not be downloaded"),
        ("stops", "could not be downloaded"),
        ("page", "sent a web page"),
        ("fails", "503"),
    ],
)
def test_a_server_that_misbehaves_leaves_nothing_behind(manner, message, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(convert.download, "TIMEOUT", 0.3)  # for a server that stops half way
    server = serve(small_release())
    server.manner = manner
    with pytest.raises(DownloadError, match=message) as caught:
        convert_torch_checkpoint("ipcl1", cache_dir=tmp_path, base_url=server.url, progress=False)
    text = str(caught.value)
    assert server.requests == 3 and "in 3 tries" in text and "\n" not in text
    assert RECORD.file in text and "IPCL_JAX_URL" in text
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_recovers_is_given_the_time(serve, tmp_path):
    server = serve(small_release())
    server.manner = "recovers"
    with pytest.raises(CheckpointError):  # downloaded, and then found to be something else
        convert_torch_checkpoint("ipcl1", cache_dir=tmp_path, base_url=server.url, progress=False)
    assert server.requests == 3


@pytest.mark.parametrize(
    "kind, message", [("pickle", "would have to be called"), ("resnet", "another network")]
)
def test_a_file_with_the_right_digits_and_the_wrong_content(kind, message, serve, tmp_path):
    trace, path, cache = tmp_path / "trace", tmp_path / "file", tmp_path / "cache"
    resnet = {f"layer{i}.0.conv1.weight": torch.zeros(64, 64, 3, 3) for i in range(1, 5)} | {
        "fc.bias": torch.zeros(9)
    }
    torch.save({"state_dict": Payload(trace) if kind == "pickle" else resnet}, path)
    server = serve(path.read_bytes())
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_torch_checkpoint("ipcl1", cache_dir=cache, base_url=server.url, progress=False)
    assert "\n" not in str(caught.value)
    assert not trace.exists() and list(cache.iterdir()) == []


def test_nobody_listens_and_no_room(tmp_path):
    with pytest.raises(DownloadError, match="could not be downloaded from http://127.0.0.1:1/"):
        convert_torch_checkpoint("ipcl1", cache_dir=tmp_path, base_url="http://127.0.0.1:1", progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; give another cache by .IPCL_JAX_CACHE"):
        convert_torch_checkpoint("ipcl1", cache_dir=tmp_path / "file" / "cache", progress=False)


@pytest.mark.slow
def test_damage_in_the_cache_is_mended(released, serve, tmp_path):
    server = serve(released.read_bytes())
    options = {"cache_dir": tmp_path, "base_url": server.url, "progress": False}
    expected = convert_torch_checkpoint("ipcl1", **options).digest()
    converted, download = tmp_path / "ipcl1.safetensors", tmp_path / Path(RECORD.file).name

    converted.write_bytes(converted.read_bytes()[:1000])
    assert convert_torch_checkpoint("ipcl1", **options).digest() == expected
    assert server.requests == 1  # made anew from the download, which is whole

    converted.unlink()
    download.write_bytes(download.read_bytes()[:-1])
    unfinished = tmp_path / ".download"  # as a process leaves it that is killed
    unfinished.mkdir()
    (unfinished / "part").write_bytes(b"half")
    assert convert_torch_checkpoint("ipcl1", **options).digest() == expected
    assert server.requests == 2
    assert {path.name for path in tmp_path.iterdir()} == {converted.name, download.name}


@pytest.mark.slow
def test_a_copy_by_another_version_of_the_conversion_is_made_anew(released, serve, tmp_path):
    server = serve(released.read_bytes())
    options = {"cache_dir": tmp_path, "base_url": server.url, "progress": False}
    expected = convert_torch_checkpoint("ipcl1", **options)
    converted = tmp_path / "ipcl1.safetensors"
    wrong = jax.tree.map(lambda leaf: leaf + 1, expected.variables)
    stale = dataclasses.replace(expected, variables=wrong)
    for header in ({}, {"conversion": "1"}):
        save_encoder(stale, converted, header=header)
        assert convert_torch_checkpoint("ipcl1", **options).digest() == expected.digest()
    assert server.requests == 1


def test_a_copy_that_cannot_be_read_now_is_not_replaced(released, serve, tmp_path, monkeypatch):
    server = serve(released.read_bytes())
    options = {"cache_dir": tmp_path, "base_url": server.url, "progress": False}
    convert_torch_checkpoint("ipcl1", **options)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ipcl_jax.activations.serialize.safe_open", fail)
    with pytest.raises(OSError, match="Input/output"):
        convert_torch_checkpoint("ipcl1", **options)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before and server.requests == 1


@pytest.mark.parametrize("address", ["http://example.org", "ftp://example.org", "file:///etc", "http://[x", "127.0.0.1"])
def test_only_https_or_this_machine_is_asked(address, serve, tmp_path):
    """Neither at first, nor where a server sends one on to."""
    with pytest.raises(DownloadError, match="https only") as refused:
        convert_torch_checkpoint("ipcl1", cache_dir=tmp_path, base_url=address, progress=False)
    assert address in str(refused.value)
    if address == "http://example.org":
        server = serve(small_release())
        server.manner = address
        with pytest.raises(DownloadError, match="https only"):
            convert_torch_checkpoint("ipcl1", cache_dir=tmp_path, base_url=server.url, progress=False)
        assert server.requests == convert.download.TRIES
    assert not any(tmp_path.iterdir())
