"""The starter, made once."""

import os
from pathlib import Path

import pytest
import warm
from filelock import FileLock
from solutions import write

from course.make_starter import starter_files
from files.atomic import ROOT


@pytest.fixture(scope="session")
def starter_zip() -> dict[str, bytes]:
    return starter_files(ROOT)


@pytest.fixture
def starter(starter_zip, tmp_path) -> Path:
    return write(starter_zip, tmp_path / "starter")


@pytest.fixture(scope="session")
def hidden(tmp_path_factory) -> Path:
    """Inputs that students do not have, with the solution's values; drawn by one of the workers."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    path = shared / "hidden.npz"
    with FileLock(shared / "hidden.lock"):
        if not path.is_file():
            folders = [str(ROOT), str(ROOT / "tests/support")]
            program = (
                f"import sys; sys.path[:0] = {folders}; import solutions; from course import hidden"
            )
            program += "; sys.exit(hidden.main(sys.argv[1:]))"
            done = warm.run("-c", program, "--seed", 7, "--out", path)
            assert done.returncode == 0, done.stderr
    return path
