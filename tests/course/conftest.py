"""The starter, made once."""

from pathlib import Path

import pytest
from solutions import write

from course.make_starter import starter_files
from files.atomic import ROOT


@pytest.fixture(scope="session")
def starter_zip() -> dict[str, bytes]:
    return starter_files(ROOT)


@pytest.fixture
def starter(starter_zip, tmp_path) -> Path:
    return write(starter_zip, tmp_path / "starter")
