"""What several test files share."""

import argparse
import concurrent.futures
import os
import struct
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from PIL import Image
from torch import nn

import saliency_map
from cli import options as cli_options
from cli.pages import Dataset, figure_saver
from cli.run import run
from figure_utils import TITLE_BAND
from files.course import package_file
from visualizers.replay import replayed

ROOT = Path(__file__).resolve().parents[2]
HALF_WEIGHTS = "squeezenet1_1-imagenet1k_v1-half.pth"
CONTENT = bytes(range(256)) * 400
Answer = Callable[[BaseHTTPRequestHandler], None]
SMALL = "shufflenet_v2_x0_5"  # 1.4 million parameters


def course_folder() -> Path | None:
    """The folder of the course's data, if the environment names one."""
    folder = os.environ.get("CS7643_DATA")
    return Path(folder).resolve() if folder else None


def network_state(model: nn.Module) -> tuple:
    """All that a visualizer must give back as it was: modules, tensors, modes, gradients, hooks."""
    hooks = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    return (
        [
            (name, id(module), module.training, type(module).forward)
            for name, module in model.named_modules()
        ],
        [tuple(len(getattr(module, name)) for name in hooks) for module in model.modules()],
        ["forward" in vars(module) for module in model.modules()],
        [
            (name, id(p), p.requires_grad, p.grad is None, p.detach().clone())
            for name, p in model.named_parameters()
        ],
        [(name, b.clone()) for name, b in model.named_buffers()],
    )


def same_state(before: tuple, after: tuple) -> bool:
    """Whether two results of `network_state` are equal, tensors bit by bit."""
    return before[:3] == after[:3] and all(
        all(
            x.dtype == y.dtype and torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
            for x, y in zip(a, b, strict=True)
        )
        for i in (3, 4)
        for a, b in zip(before[i], after[i], strict=True)
    )


def within(seconds: float, work: Callable, *arguments):
    """Return what a call gives; raise TimeoutError where it takes longer, for no test to hang."""
    future: concurrent.futures.Future = concurrent.futures.Future()

    def done():
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=done, daemon=True).start()
    return future.result(seconds)


def run_script(
    name: str, *arguments: object, cwd: Path | None = None, timeout: float = 300, **environment
) -> subprocess.CompletedProcess:
    """Run a root script as a user does; returns the completed process with text output."""
    return warm.run(ROOT / name, *arguments, cwd=cwd, timeout=timeout, **environment)


def assert_one_line_error(result: subprocess.CompletedProcess, *message: str) -> None:
    """The script ended with one clear line on standard error that has these words in it, and no
    output.
    """
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    assert all(word in lines[0] for word in message), result.stderr
    assert result.stdout == ""


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A real HTTP server on this machine that answers every request by `answer(handler)`; gives its
    address.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                answer(self)
            except OSError:  # the client has gone
                self.close_connection = True

        do_CONNECT = do_GET  # what a proxy is asked for https

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

        def handle_error(self, *_):
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def whole(content: bytes) -> Answer:
    """Send the content."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def hangs(handler):
    """Accept and never answer."""
    time.sleep(60)


def drips(handler):
    """Send a few bytes a second, for ever."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b".")
        time.sleep(0.02)


def breaks(handler):
    """Promise the content, send half of it, close."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[: len(CONTENT) // 2])


def missing(handler):
    handler.send_error(404)


@contextmanager
def without_privileges() -> Iterator[Path]:
    """Run as somebody whom file permissions bind (root is not bound), in an open temporary
    folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        if not hasattr(os, "geteuid"):
            pytest.skip("permissions are tried on POSIX systems only")
        user = os.geteuid()
        Path(folder).chmod(0o777)
        try:
            if user == 0:
                os.seteuid(65534)
            yield Path(folder)
        finally:
            os.seteuid(user)


class Bomb:
    """Unpickling it runs code: it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as figure:
        return np.asarray(figure.convert("RGB"))


def tiles(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    return list(
        np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    )


def quick(*arguments) -> int:
    """The script without Captum's attributions, in this process."""

    def make_figures(session):
        for page in Dataset(session).pages("saliency maps"):
            saliency_map.draw_manual(session.model, page, figure_saver(session, page))

    return run(
        saliency_map.__doc__, saliency_map.add_options, make_figures, [str(a) for a in arguments]
    )


def one_line(capsys, *message: str) -> None:
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and ": error: " in err, err
    assert all(word in err for word in message), err


def options(*arguments) -> argparse.Namespace:
    """The options of a script that takes photos."""
    parser = cli_options.make_parser("a test")
    cli_options.add_photo_options(parser, "images", "labels", "num", "chunk")
    return parser.parse_args([*map(str, arguments)])


def script(work, *arguments, add_options=lambda parser: None) -> int:
    """Run `work(session)` as a script does."""
    return run("a test", add_options, work, [*map(str, arguments)])


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A small piece of a real photo, which every format keeps well."""
    with Image.open(package_file("skimage", "data/chelsea.png")) as photo:
        return (
            photo.convert("RGB").crop((100, 50, 100 + 4 * size[0], 50 + 4 * size[1])).resize(size)
        )


def difference(a, b) -> float:
    """The mean absolute difference of two pictures in grey levels."""
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG: length, name, content, checksum."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size, with hardly any content."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + content + png_chunk(b"IEND", b"")


def tile_of(path: Path, column: int, columns: int, above: int = 0) -> np.ndarray:
    """A tile of the last row of a class visualization's figure, or of a row above it."""
    with Image.open(path) as image:
        left = image.width - 230 * (columns - column)
        top = image.height - 236 - above * (230 + TITLE_BAND)
        return np.asarray(image.convert("RGB"))[top : top + 224, left : left + 224]


def in_threads(work: Callable, arguments: Iterable[tuple]) -> None:
    """Call a function with each of these arguments at the same time."""
    threads = [threading.Thread(target=work, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def names(folder: Path) -> set[str]:
    """The names of what is in a folder."""
    return {path.name for path in folder.iterdir()}


# What style transfer prints with right losses.
ALL_ZERO = """\
Content Loss Maximum error is 0.000
Gram Matrix Maximum error is 0.000
Style Loss Error is 0.000
TV Loss Error is 0.000
"""

# A user's file with networks, beside a file helper.py that says how many CLASSES there are.
NETWORKS = """
import torch
from helper import CLASSES
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 7, stride=8), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        self.arch = "the network's own"
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(self.body(x.mul_(2)).mean(dim=(2, 3)))


ready = Net()
number = 5


def damaged():
    raise KeyError("no such key")


def without_scores():
    return Net().body
"""


def replayed_and_not(monkeypatch, module, run):
    """Return what `run` returns when its steps, evaluated in `module`, are replayed and when not."""
    recorded = []

    def noting(evaluate, *others):
        replay = replayed(evaluate, *others)
        recorded.append(replay is not evaluate)
        return replay

    monkeypatch.setattr(module, "replayed", noting)
    results = run()
    assert recorded and all(recorded)
    monkeypatch.setattr(module, "replayed", lambda evaluate, *_: evaluate)
    return results, run()
