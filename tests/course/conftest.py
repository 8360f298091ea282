"""The starter, made once."""

from pathlib import Path

import pytest
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
    """Inputs that students do not have, with the solution's values."""
    path = tmp_path_factory.mktemp("hidden") / "hidden.npz"
    path.write_bytes(hidden_values(7))
    return path
