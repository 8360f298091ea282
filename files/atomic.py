"""Files that are whole or absent: atomic writing and checksums. Standard library only."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from errors import InputError, cause, quoted

ROOT = Path(__file__).resolve().parent.parent  # outputs go here, whatever the working directory


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
