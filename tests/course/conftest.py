"""The starter, made once."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from solutions import write

from course.make_starter import hidden_values, starter_files
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
            path.write_bytes(hidden_values(7))
    return path
