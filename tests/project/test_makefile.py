"""Each kind of fault once: it works, or one line says what to do, and earlier results are
untouched.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

# --- The Makefile, in places that are not like ours ---


@pytest.fixture
def unpacked(tmp_path):
    """The Makefile and a requirements.txt, without git, in a folder whose name has spaces and other
    letters.
    """
    folder = tmp_path / "my wörk (1) & 猫"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.txt").write_text("")
    (folder / "writeup.py").write_text("print('figures made')\n")
    return folder


def make(folder, *arguments, **environment):
    """Run make there; what the make that runs these tests was given does not count."""
    own = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MAKEFLAGS", "MAKEOVERRIDES", "VENV")
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, env=own | environment
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
@pytest.mark.slow
def test_make_figures_in_an_odd_folder_and_with_an_environment_of_ones_own(unpacked, tmp_path):
    result = make(unpacked, "figures", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0 and "figures made" in result.stdout, result.stderr
    (unpacked / ".venv").rename(tmp_path / "own environment")
    result = make(unpacked, "figures", f"VENV={tmp_path / 'own environment'}")
    assert result.returncode == 0 and "figures made" in result.stdout, result.stderr
    assert not (unpacked / ".venv").exists()


@needs_make
def test_make_says_what_is_missing(unpacked, tmp_path):
    for target in ("figures", "lint", "test-fast"):
        result = make(unpacked, target, "VENV=/no such place")
        assert result.returncode == 2
        assert "VENV=/no such place: there is no bin/python in it\n" in result.stderr
    old = tmp_path / "python2"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 8); exec(sys.argv[2])' \"$@\"\n"
    )
    old.chmod(0o755)
    result = make(unpacked, "figures", f"PYTHON={old}")
    assert result.returncode == 2 and "Python 3.10 or newer is needed, this is 3.8" in result.stderr
    bare = tmp_path / "bare"
    bare.write_text(
        f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    bare.chmod(0o755)
    result = make(unpacked, "figures", f"PYTHON={bare}")
    assert result.returncode == 2 and "apt install python3-venv" in result.stderr
    assert not Path(unpacked / ".venv").exists()
