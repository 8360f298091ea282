"""Files that are whole or absent: atomic writing, checksums, and downloads that give up. Standard library only."""

import contextlib
import hashlib
import os
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from errors import InputError, cause, quoted

ROOT = Path(__file__).resolve().parent.parent  # outputs go here, whatever the working directory
PATIENCE = 5.0  # seconds without progress after which a download is given up
MINIMUM_RATE = 4096  # bytes a second under which a download counts as hung
LARGEST = 64  # megabytes that a download may have when nothing else is expected


def is_file(path: Path) -> bool:
    """Whether that is a file; not where the name is impossible or the folder cannot be searched."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Whether that is a folder; not where the name is impossible or the folder above cannot be searched."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; rename it on success, remove it on any failure.
    The folder is made when missing.

    Raises:
        InputError: the folder or the file cannot be written (read-only, disk full, a folder of that name, …).
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {quoted(path)}: {cause(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the sha256 checksum of a file's bytes, as 64 hexadecimal digits.

    Raises:
        InputError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"cannot read {quoted(path)}: {cause(error)}") from error
    return digest.hexdigest()


class _WebOnly(urllib.request.BaseHandler):
    """Refuses whatever no other handler opens."""

    def unknown_open(self, request: urllib.request.Request):
        raise urllib.error.URLError(f"only http and https addresses are opened, not {request.type}")


def _web_opener() -> urllib.request.OpenerDirector:
    """Return what opens http and https addresses, by the usual proxies, and follows redirections to no others."""
    opener = urllib.request.OpenerDirector()
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme in ("http", "https")}
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _WebOnly(),
    ):
        opener.add_handler(handler)
    return opener


class _Fetch(threading.Thread):
    """Fetches a URL into a file beside the main thread, which watches: name look-up knows no time limit of its own."""

    def __init__(self, url: str, target: Path, most: int):
        super().__init__(daemon=True)
        self.url, self.target, self.most = url, target, most
        self.received, self.cancelled = 0, False
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with _web_opener().open(self.url, timeout=PATIENCE) as response, self.target.open("wb") as file:
                self._check_size(getattr(response, "length", None) or 0)
                while not self.cancelled and (block := response.read1(1 << 16)):
                    file.write(block)
                    self.received += len(block)
                    self._check_size(self.received)
                # read1 takes a broken connection for the end of the file
                if not self.cancelled and getattr(response, "length", None):
                    raise ConnectionError(f"the connection broke, {response.length} bytes are missing")
        except Exception as error:
            self.error = error
        if self.cancelled:
            self.target.unlink(missing_ok=True)

    def _check_size(self, size: int) -> None:
        if size > self.most << 20:
            raise ValueError(f"it is larger than the {self.most} MB that are expected at most")


def download(url: str, path: Path, sha256: str, most: int = LARGEST) -> None:
    """Download `url` to `path`, whole and verified, or not at all.

    Args:
        url: an http or https address; the usual proxy variables are honoured.
        path: the file to write.
        sha256: the expected checksum, or the first digits of it.
        most: megabytes that the file may have.

    Raises:
        InputError: another kind of address, also after a redirection; no connection, a broken one, less than 4 kB/s
            over 5 seconds; a larger file, or another one than expected.
    """
    with atomic_write(path) as temporary:
        fetch = _Fetch(url, temporary, most)
        try:
            _watch(fetch)
        finally:
            fetch.cancelled = True
        if fetch.error:
            inner = getattr(fetch.error, "reason", fetch.error)  # what is inside a URLError
            raise InputError(f"cannot download {url}: {cause(inner)}")
        if not sha256_of(temporary).startswith(sha256):
            raise InputError(f"{url} returned another file than expected (checksum does not begin with {sha256[:8]})")


def _watch(fetch: _Fetch) -> None:
    """Wait for a download as long as it makes progress."""
    while fetch.is_alive():
        before, deadline = fetch.received, time.monotonic() + PATIENCE
        while fetch.is_alive() and time.monotonic() < deadline:
            fetch.join(0.1)
        if fetch.is_alive() and fetch.received - before < MINIMUM_RATE * PATIENCE:
            raise InputError(f"gave up downloading {fetch.url}: hardly any data in {PATIENCE:.0f} seconds")
