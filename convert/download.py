"""Download of the released models' files into the cache, with a check of their sha256."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ipcl_jax.errors import ConfigError, MissingPackage
from ipcl_jax.system.cache import CACHE_VARIABLE, sha256
from ipcl_jax.system.files import check_writable
from ipcl_jax.system.locks import folder_lock
from ipcl_jax.zoo import BASE_URL, Released

if TYPE_CHECKING:
    import pooch
    import requests

URL_VARIABLE = "IPCL_JAX_URL"
TIMEOUT = 30.0  # seconds without a byte until a try counts as failed
TRIES = 3
_UNFINISHED = ".download"  # folder in the cache for files that are being downloaded


class DownloadError(ConfigError, OSError):
    """A released file can't be downloaded; an incomplete file is removed."""


def fetch(
    record: Released, cache: Path, *, base_url: str | None = None, progress: bool = True
) -> tuple[Path, str]:
    """Returns the file of a released model, from the cache or downloaded.

    Interrupted downloads start again. A second process waits for the first.

    Args:
        record: the model; not the untrained one, which has no file.
        cache: folder of released models, created if it doesn't exist.
        base_url: address before `record.file`; by default $IPCL_JAX_URL or the release's.
        progress: draw a progress bar.

    Returns:
        The file and its sha256.

    Raises:
        DownloadError: if the server can't be reached, refuses, or sends another file; or if the address
            (or one that it redirects to) is neither https nor on this machine.
    """
    assert record.file is not None and record.sha256 is not None
    target = cache / Path(record.file).name
    check_writable(target, f"give another cache by ${CACHE_VARIABLE}")
    cache.mkdir(parents=True, exist_ok=True)
    with folder_lock(cache):  # so that two processes don't download the same file
        if target.exists():
            if (digest := sha256(target)).startswith(record.sha256):
                return target, digest  # otherwise it was damaged after the download, and is replaced
        url = (base_url or os.environ.get(URL_VARIABLE) or BASE_URL).rstrip("/") + "/"
        _check_address(url)
        return target, _download(record, url, target, progress=progress)


def _check_address(url: str) -> None:
    """Raises DownloadError for an address that is neither https nor on this machine."""
    scheme, host = "", None
    with contextlib.suppress(ValueError):  # raised by urlsplit if it isn't an address
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    if scheme != "https" and not (scheme == "http" and host in ("localhost", "127.0.0.1", "::1")):
        raise DownloadError(
            f"{url} is not used: models are downloaded by https only (or http from this machine itself). "
            f"Give another address by ${URL_VARIABLE}, or download the file yourself and give its path."
        )


def _download(record: Released, url: str, target: Path, *, progress: bool) -> str:
    """Downloads a file, checks it and moves it to `target`; returns its sha256."""
    try:
        import pooch
        from requests.exceptions import RequestException
    except ModuleNotFoundError as error:
        if error.name not in ("pooch", "requests", "tqdm"):
            raise
        raise MissingPackage(
            f"Downloading {record.name} needs pooch, which is not installed: pip install 'ipcl_jax[convert]'."
        ) from None

    def follow(answer: "requests.Response", **_: object) -> None:
        if answer.is_redirect:
            _check_address(urljoin(answer.url, answer.headers["location"]))

    transfer = pooch.HTTPDownloader(
        progressbar=progress, timeout=TIMEOUT, chunk_size=1 << 20, hooks={"response": follow}
    )
    digest = ""

    def transfer_and_check(address: str, file: str, pup: "pooch.Pooch") -> None:
        nonlocal digest
        transfer(address, file, pup)
        digest = sha256(Path(file))
        if not digest.startswith(record.sha256 or ""):
            raise ValueError(_wrong_file(Path(file), digest, record))  # pooch tries again

    folder = target.parent / _UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    pooch.get_logger().setLevel("WARNING")
    try:
        pup = pooch.create(folder, url, registry={record.file: None}, retry_if_failed=TRIES - 1)
        Path(pup.fetch(record.file, downloader=transfer_and_check)).replace(target)
    except DownloadError:
        raise
    except (ValueError, RequestException, OSError) as error:
        raise DownloadError(
            f"{record.name} could not be downloaded from {url}{record.file} in {TRIES} tries: {error}. "
            f"Nothing was kept. Try again, or give a mirror by ${URL_VARIABLE}, or download the file "
            "yourself and give its path instead of the name."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return digest


def _wrong_file(file: Path, digest: str, record: Released) -> str:
    """Describes a downloaded file that is not the released one."""
    what = "a web page" if is_web_page(file) else "a file"
    return (
        f"the server sent {what} of {file.stat().st_size:,} bytes whose sha256 begins with {digest[:10]}, "
        f"but that of the release begins with {record.sha256}"
    )


def is_web_page(path: Path) -> bool:
    """Returns whether a file begins like HTML, such as a server's error message."""
    with open(path, "rb") as file:
        return file.read(512).lstrip()[:1] == b"<"
