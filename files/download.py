"""Downloads: verified, of a limited size, and given up when they hang. Standard library only."""

import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from errors import InputError, cause
from files.atomic import atomic_write, sha256_of

PATIENCE = 5.0  # seconds without progress after which a download is given up
MINIMUM_RATE = 4096  # bytes a second under which a download counts as hung
LARGEST = 64  # megabytes that a download may have when nothing else is expected


def download(url: str, path: Path, sha256: str, most: int = LARGEST) -> None:
    """Download `url` to `path`, whole and verified, or not at all.

    Args:
        url: an http or https address; the usual proxy variables are honoured.
        path: the file to write.
        sha256: the expected checksum, or the first digits of it.
        most: megabytes that the file may have.

    Raises:
        InputError: another kind of address, also after a redirection; no connection, a broken one,
            less than 4 kB/s over 5 seconds; a larger file, or another one than expected.
    """
    with atomic_write(path) as temporary:
        try:
            _fetch(url, temporary, most)
        except Exception as error:  # http.client raises nearly anything
            reason = getattr(error, "reason", error)  # what is inside a URLError
            raise InputError(f"cannot download {url}: {cause(reason)}") from error
        if not sha256_of(temporary).startswith(sha256):
            raise InputError(
                f"{url} returned another file than expected (checksum does not begin with "
                f"{sha256[:8]})"
            )


def _fetch(url: str, target: Path, most: int) -> None:
    """Write what an address holds into a file, as long as it comes and is not too large."""
    _check_address(url)
    opener = urllib.request.build_opener(_WebOnly())
    with opener.open(url, timeout=PATIENCE) as response, target.open("wb") as file:
        _check_size(getattr(response, "length", None) or 0, most)
        received = counted = 0
        deadline = time.monotonic() + PATIENCE
        while block := response.read1(1 << 16):
            file.write(block)
            received += len(block)
            _check_size(received, most)
            if time.monotonic() > deadline:
                if received - counted < MINIMUM_RATE * PATIENCE:
                    raise TimeoutError(f"gave up, hardly any data in {PATIENCE:.0f} seconds")
                counted, deadline = received, time.monotonic() + PATIENCE
        # read1 takes a broken connection for the end of the file
        if getattr(response, "length", None):
            raise ConnectionError(f"the connection broke, {response.length} bytes are missing")


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections within the web; urllib's own follows them to FTP, too."""

    def redirect_request(self, request, response, code, message, headers, address):
        _check_address(address)
        return super().redirect_request(request, response, code, message, headers, address)


def _check_address(url: str) -> None:
    if not re.match(r"(?i)https?:", url):
        raise urllib.error.URLError("only http and https addresses are opened")


def _check_size(size: int, most: int) -> None:
    if size > most << 20:
        raise ValueError(f"it is larger than the {most} MB that are expected at most")
