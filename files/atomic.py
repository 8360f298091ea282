"""Files that are whole or absent, also when a signal comes; checksums. Standard library only."""

import contextlib
import hashlib
import itertools
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from errors import InputError, cause, quoted

ROOT = Path(__file__).resolve().parent.parent  # outputs go here, whatever the working directory
STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def is_file(path: Path) -> bool:
    """Return True for a file; False where the name is impossible or may not be looked up."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Return True for a folder; False where the name is impossible or may not be looked up."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: renamed on success, removed on failure.

    The folder is made when missing.

    Raises:
        InputError: the folder or the file cannot be written (read-only, disk full, a folder of that
            name, …).
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):  # such as /dev/stdout
            raise InputError(f"cannot write {quoted(path)}: it is a device, not a file")
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {quoted(path)}: {cause(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def unwinding_signals() -> Iterator[list[int]]:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions, so that temporary files go; yield them.

    An exception raised during an import can abort the interpreter, so the signal is then raised
    again a little later; and also where other code has swallowed the exception.
    """
    before, received, timers = {}, [], []
    owner = sys._getframe(2)  # below contextlib's own

    def stop(number, frame):
        received.append(number)
        inner = itertools.takewhile(
            lambda f: f is not owner, (f for f, _ in traceback.walk_stack(frame))
        )
        importing = any(f.f_code.co_filename.startswith("<frozen importlib") for f in inner)
        timers.append(threading.Timer(0.1 if importing else 2, signal.raise_signal, (number,)))
        timers[-1].daemon = True
        timers[-1].start()
        if not importing:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    with contextlib.suppress(ValueError):  # not in the main thread
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as in the background of a shell
                before[number] = signal.signal(number, stop)
    try:
        yield received
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


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
