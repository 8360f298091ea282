"""A run: an error is one line, a defect keeps its traceback, and torch comes after the options."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, script

from errors import InputError


def test_a_script_that_goes_well(tmp_path, capsys):
    seen = []
    assert (
        script(
            lambda session: seen.append(session.options.extra),
            "--out",
            tmp_path,
            "--extra",
            "3",
            add_options=lambda parser: parser.add_argument("--extra", type=int),
        )
        == 0
    )
    assert seen == [3] and capsys.readouterr() == ("", "")


def raises(error):
    def work(_):
        raise error

    return work


@pytest.mark.parametrize(
    "work, status, message",
    [
        (raises(InputError("two\nlines of 'words'")), 2, "two lines of 'words'"),
        (raises(KeyboardInterrupt()), 130, "interrupted"),
        (raises(KeyboardInterrupt("stopped at 7")), 130, "stopped at 7"),
        (
            lambda _: torch.empty(1 << 60),
            2,
            "out of memory; smaller pictures, a smaller --chunk or --device cpu need less",
        ),
        (raises(torch.OutOfMemoryError("CUDA out of memory.")), 2, "out of memory"),
        (lambda _: np.empty(1 << 50, np.uint8), 2, "out of memory"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, capsys, work, status, message):
    assert script(work, "--out", tmp_path) == status
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and ": error: " in err and message in err


def test_a_defect_keeps_its_traceback(tmp_path):
    for error in (RuntimeError("a defect"), ValueError("a defect"), KeyError("a defect")):
        with pytest.raises(type(error), match="a defect"):
            script(raises(error), "--out", tmp_path)


def test_notices_and_quiet(tmp_path, caplog):
    def work(_):
        logging.getLogger("data_utils").warning("a notice")

    level = logging.getLogger().level
    script(work, "--out", tmp_path)
    assert caplog.messages == ["a notice"]
    script(work, "--out", tmp_path, "--quiet")
    assert caplog.messages == ["a notice"] and logging.getLogger().level == level


def test_nothing_heavy_is_imported_before_the_options_are_read(tmp_path):
    for arguments, status in ((["--help"], 0), (["--num", "x"], 2)):
        command = [sys.executable, "-X", "importtime", ROOT / "saliency_map.py", *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        imported = {
            line.rpartition("|")[2].strip()
            for line in result.stderr.splitlines()
            if "import time" in line
        }
        assert result.returncode == status and "cli.run" in imported
        assert not imported & {"torch", "numpy", "matplotlib", "PIL", "captum", "tqdm"}
