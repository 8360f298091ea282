"""Whole or absent: atomic writing, checksums, downloads from real local servers that behave and
misbehave.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from helpers import (
    CONTENT,
    ROOT,
    breaks,
    drips,
    hangs,
    in_threads,
    missing,
    serving,
    whole,
    without_privileges,
)

from errors import InputError
from files import download as downloads
from files.atomic import atomic_write, sha256_of
from files.download import download

SHA256 = hashlib.sha256(CONTENT).hexdigest()


def hangs_after_headers(handler):
    handler.send_response(200)
    handler.end_headers()
    time.sleep(60)


def babbles(handler):
    handler.wfile.write(b"this is not HTTP\r\n\r\n")


def closes(handler):
    handler.close_connection = True


def circles(handler):
    handler.send_response(302)
    handler.send_header("Location", "/")
    handler.end_headers()


@pytest.fixture
def impatient(monkeypatch):
    """Local servers only, and half a second of patience."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "PATIENCE", 0.5)


# --- Downloads ---


def test_a_download_arrives_whole(impatient, tmp_path):
    target = tmp_path / "new folder" / "file"
    with serving(whole(CONTENT)) as url:
        download(f"{url}/file", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_download_goes_through_the_proxy(impatient, monkeypatch, tmp_path):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the variables of its first use
    with serving(whole(CONTENT)) as url:
        monkeypatch.setenv("http_proxy", url)
        download("http://no-such-host.invalid/file", tmp_path / "file", SHA256[:8])
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.slow
def test_a_slow_download_that_goes_on_is_waited_for(impatient, monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "MINIMUM_RATE", 20)

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        for start in range(0, len(CONTENT), len(CONTENT) // 8):
            handler.wfile.write(CONTENT[start : start + len(CONTENT) // 8])
            time.sleep(0.15)

    with serving(answer) as url:
        download(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("earlier", [None, b"an earlier file"])
@pytest.mark.parametrize(
    "answer, message",
    [
        pytest.param(hangs, "hardly any data|timed out", marks=pytest.mark.slow),
        pytest.param(hangs_after_headers, "hardly any data|timed out", marks=pytest.mark.slow),
        pytest.param(drips, "hardly any data", marks=pytest.mark.slow),
        (breaks, "51200 bytes are missing"),
        (babbles, "cannot download"),
        (closes, "cannot download"),
        (missing, "Not Found"),
        (circles, "redirect"),
        (whole(CONTENT[1:]), "another file than expected"),
        (whole(b""), "another file than expected"),
    ],
)
def test_a_download_that_fails_leaves_the_folder_as_it_was(
    impatient, tmp_path, answer, message, earlier
):
    target = tmp_path / "file"
    if earlier:
        target.write_bytes(earlier)
    with serving(answer) as url, pytest.raises(InputError) as caught:
        download(f"{url}/file", target, SHA256)
    assert re.search(message, str(caught.value)) and url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == (
        [("file", earlier)] if earlier else []
    )


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x", "http://no-such-host.invalid/x", "nonsense", "http://"]
)
def test_an_address_that_leads_nowhere_is_one_line(impatient, tmp_path, url):
    with pytest.raises(InputError, match=r"^(cannot download|gave up downloading) [^\n]*$"):
        download(url, tmp_path / "file", "")
    assert not list(tmp_path.iterdir())


# --- Writing ---


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "one"
    for failure in (KeyboardInterrupt, SystemExit, RuntimeError):
        with pytest.raises(failure), atomic_write(path) as temporary:
            temporary.write_text("two")
            raise failure
        assert path.read_text() == "one" and [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "below", Path("/proc/nowhere/file")):
        with (
            pytest.raises(InputError, match=r"^cannot write '[^\n]*$"),
            atomic_write(path) as temporary,
        ):
            temporary.write_text("text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_without_the_right_to_write_is_named():
    with without_privileges() as folder:
        (folder / "locked").mkdir(mode=0o555)
        with (
            pytest.raises(InputError, match=r"^cannot write '.*locked/file': Permission denied$"),
            atomic_write(folder / "locked" / "file") as temporary,
        ):
            temporary.write_text("text")
        (folder / "secret").touch(mode=0)
        with pytest.raises(InputError, match=r"^cannot read '.*secret': Permission denied$"):
            sha256_of(folder / "secret")


def test_a_full_disk_is_one_line_and_leaves_the_earlier_file(tmp_path):
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from errors import InputError
from files.atomic import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write(Path("file")) as temporary:
        temporary.write_bytes(bytes(2000))
except InputError as error:
    print(error)
"""
    (tmp_path / "file").write_text("earlier")
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout == "cannot write 'file': File too large\n" and not result.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "earlier")]


@pytest.mark.parametrize("name", ["x" * 255, "猫" * 85], ids=len)
def test_names_may_be_as_long_as_file_systems_allow(tmp_path, name):
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_bytes(CONTENT)
    assert (tmp_path / name).read_bytes() == CONTENT


def test_many_writers_of_one_file_leave_one_of_theirs(tmp_path):
    contents = [bytes([i]) * 200_000 for i in range(8)]

    def write(content):
        for _ in range(5):
            with atomic_write(tmp_path / "file") as temporary:
                temporary.write_bytes(content)

    in_threads(write, [(content,) for content in contents])
    assert (tmp_path / "file").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


# --- Words ---


def test_checksum(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    assert sha256_of(tmp_path / "file") == SHA256
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        sha256_of(tmp_path / "absent")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX's")
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "device")
    with pytest.raises(InputError, match="device"), atomic_write(tmp_path / "device") as path:
        path.write_bytes(b"x")
    assert (tmp_path / "device").is_fifo() and len(list(tmp_path.iterdir())) == 1
