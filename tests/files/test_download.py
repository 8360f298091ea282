"""Downloads: only from the web, and of no more than is expected; from real local servers."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import CONTENT, serving, smooth, whole

from errors import InputError
from files.download import LARGEST, download
from image_utils import image_from_url


def leads_to(address: str):
    """Redirect to an address."""

    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", address)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def promises(megabytes: int):
    """Promise a file of that size, and send its beginning."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(megabytes << 20))
        handler.end_headers()
        handler.wfile.write(CONTENT)

    return answer


def pours(handler):
    """Send a megabyte at a time, for ever, without a promise."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 20))


@pytest.fixture(autouse=True)
def locally(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def secret(tmp_path) -> Path:
    """A picture on this machine, which no address may bring."""
    smooth().save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


def test_only_the_web_is_opened(tmp_path, secret, monkeypatch):
    for address in (
        secret.as_uri(),
        "ftp://127.0.0.1/secret.png",
        "data:image/png;base64,AAAA",
        str(secret),
    ):
        for proxy in ("", "http://127.0.0.1:9"):
            monkeypatch.setenv("ftp_proxy", proxy)
            with pytest.raises(
                InputError, match=f"^cannot download {re.escape(address)}: "
            ) as caught:
                image_from_url(address)
            assert "only http and https" in str(caught.value) or "unknown url type" in str(
                caught.value
            )
    assert "image" not in [path.name for path in tmp_path.iterdir()]


def test_also_after_a_redirection(secret):
    for address in (secret.as_uri(), "ftp://127.0.0.1/secret.png", "data:image/png;base64,AAAA"):
        with (
            serving(leads_to(address)) as url,
            pytest.raises(InputError, match=r"only http and https|not allowed"),
        ):
            image_from_url(url)


def test_redirections_within_the_web_are_followed(tmp_path, secret):
    with serving(whole(secret.read_bytes())) as there, serving(leads_to(f"{there}/photo")) as here:
        assert np.array_equal(image_from_url(here), smooth())


@pytest.mark.parametrize("answer", [promises(65), pours])
def test_a_picture_larger_than_64_megabytes_is_refused(answer):
    assert LARGEST == 64
    with (
        serving(answer) as url,
        pytest.raises(InputError, match=r"^cannot download http[^\n]* than the 64 MB"),
    ):
        image_from_url(url)


def test_a_file_larger_than_expected_is_refused(tmp_path):
    large = bytes(2 << 20)
    with serving(whole(large)) as url:
        with pytest.raises(
            InputError, match="it is larger than the 1 MB that are expected at most"
        ):
            download(url, tmp_path / "file", "", most=1)
        assert not list(tmp_path.iterdir())
        download(url, tmp_path / "file", hashlib.sha256(large).hexdigest(), most=2)
    assert (tmp_path / "file").read_bytes() == large
    with serving(whole(CONTENT)) as url:
        download(url, tmp_path / "file", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "file").read_bytes() == CONTENT
