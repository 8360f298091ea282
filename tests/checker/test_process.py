"""The process of an item: whatever code does there is one line with its place."""

import os

import numpy as np
import pytest
import torch
from helpers import within
from solutions import RIGHT, outcome, put

import check
from checker import process

HOSTILE = {
    "while True:\n    pass": ("error", "not done after 2 s"),
    "import time\ntime.sleep(1000)": ("error", "not done after 2 s"),
    "import sys\nsys.exit(0)": ("error", "SystemExit: 0"),
    "import os\nos._exit(0)": ("error", "ended with status 0 before the check was done"),
    "import os\nos.kill(os.getpid(), 9)": ("error", "ended with status -9"),
    "import ctypes\nctypes.string_at(0)": ("error", "ended with status -11"),
    "return 1 / 0": ("error", "ZeroDivisionError: division by zero"),
    "raise KeyboardInterrupt": ("error", "KeyboardInterrupt"),
    "raise MemoryError": ("error", "MemoryError"),
    "return self.forward(*[content_weight] * 3)": ("error", "RecursionError"),
    "raise NotImplementedError": ("missing", "not written yet"),
    "return None": ("missing", "nothing is given back"),
    "return 3.0": ("wrong", "got float"),
    "return content_current.detach().sum()": ("wrong", "the loss has no gradient"),
    "return content_current": ("wrong", "got shape (1, 4, 5, 6)"),
    "return content_current.sum() * float('nan')": ("wrong", "not finite"),
    "print('hello', flush=True)\n{right}": ("wrong", "prints 'hello', which nobody asked for"),
    "import os\nos.write(1, b'past Python')\n{right}": ("wrong", "prints 'past Python'"),
    "import os\nos.system('echo from a shell')\n{right}": ("wrong", "prints 'from a shell'"),
    "torch.set_default_dtype(torch.float64)\n{right}": (
        "wrong",
        "torch.get_default_dtype() is changed and left so",
    ),
    "torch.nn.functional.relu = torch.sigmoid\n{right}": (
        "wrong",
        "torch.nn.functional.relu is changed",
    ),
    "import os\nassert os.environ['CUDA_VISIBLE_DEVICES'] == ''\n{right}": ("ok", ""),
    "import os\nos.chdir('/')\n{right}": ("wrong", "the working directory is changed"),
    "import subprocess\nsubprocess.Popen(['sleep', '1000'])\n{right}": ("ok", ""),
    # What is above the process: its watcher.
    "import os\nos.kill(os.getppid(), 9)\nimport time\ntime.sleep(1000)": ("error", "was ended"),
    "import os\nos.kill(os.getppid(), 19)\n{right}": ("error", "not done after 2 s"),
    "import os\nos.killpg(0, 9)": ("error", "ended with status -9"),
    "import os\nfor _ in range(5):\n    os.fork()\nwhile True:\n    pass": ("error", "after 2 s"),
    "import resource as r\nassert 0 < r.getrlimit(r.RLIMIT_CPU)[0] <= 130\n{right}": ("ok", ""),
    "import resource as r\nassert r.getrlimit(r.RLIMIT_CORE)[0] == 0\n{right}": ("ok", ""),
    # Limits, and what it writes where the results go.
    "x = bytearray(6 << 30)": ("error", "MemoryError"),
    "with open('big', 'wb') as file:\n    file.write(bytes(200 << 20))": ("error", "too large"),
    "import os\nos.closerange(3, 256)\n{right}": ("error", "ended with status 1"),
    "import os\nfor i in range(3, 64):\n    os.dup2(1, i)\n{right}": ("error", "was ended"),
    # Messages: the first line of a few letters, whatever the exception does.
    "raise ValueError('first\\nsecond' * 9999999)": ("error", "ValueError: first ("),
    "raise ValueError('x' * 30_000_000)": ("error", f"ValueError: {'x' * 200} ("),
    "class E(Exception):\n    def __str__(self):\n        raise self\nraise E": ("error", "E ("),
    "import sys\nsys.modules.clear()\n{right}": ("error", "ended with status 1"),
}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the exit statuses are those of POSIX")
@pytest.mark.parametrize("body", HOSTILE)
def test_whatever_code_does_is_one_line(body, solution):
    put(solution, "content_loss", body.format(right=RIGHT["content_loss"]))
    status, message = HOSTILE[body]
    patience = 2 if "2 s" in message else check.PATIENCE
    found = within(150, outcome, solution, "content_loss", patience)
    assert found.status == status and message in found.message and "\n" not in found.message, found
    assert status == "ok" or "(style_modules/content_loss.py line " in found.message, found


@pytest.mark.slow
def test_the_line_is_the_one_where_it_happens(solution):
    lines = (solution / "style_modules/content_loss.py").read_text().splitlines()
    first = next(i for i, line in enumerate(lines, start=1) if "Raises:" in line) + 3
    for body, offset in (
        ("x = 1\nx / 0", 1),
        ("while True:\n    x = 1", 0),
        ("x = 1\nx = 2\nprint(x)\nreturn content_current.sum()", 2),
    ):
        put(solution, "content_loss", body)
        found = outcome(solution, "content_loss", patience=2 if "while" in body else 60)
        assert any(
            f"line {first + offset + more})" in found.message for more in (0, "while" in body)
        ), found


@pytest.mark.slow
def test_files_that_do_not_compile_or_are_missing(solution):
    (solution / "visualizers/saliency_map.py").write_text("def broken(:\n")
    found = outcome(solution, "saliency_map")
    assert found.status == "error" and "SyntaxError" in found.message, found
    assert "(visualizers/saliency_map.py line 1)" in found.message
    (solution / "style_modules/tv_loss.py").unlink()
    found = outcome(solution, "tv_loss")
    assert found.status == "missing" and "there is no such file" in found.message, found
    for name in ("grad_cam", "content_loss"):  # of the same packages
        assert outcome(solution, name).status == "ok"
    (solution / "visualizers/gradcam.py").write_text("def broken(:\n")
    assert outcome(solution, "saliency_captum").status == "ok"  # which needs neither of them


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, items",
    [
        ("saliency_map.py", ("saliency_captum",)),
        ("gradcam.py", ("gradcam_captum",)),
        ("style_utils.py", ("style_transfer",)),
        ("visualizers/gradcam.py", ("custom_relu", "guided_grad_cam")),
        ("style_modules/tv_loss.py", ("tv_loss", "feature_inversion")),
        ("style_modules/style_loss.py", ("gram_matrix", "style_loss", "feature_inversion")),
    ],
)
def test_a_file_that_a_student_has_not_written_is_missing_and_costs_its_own_items(
    file, items, solution
):
    (solution / file).unlink()
    for name in items:
        found = outcome(solution, name)
        assert (found.status, found.message) == ("missing", f"there is no such file ({file})")
    if file.startswith("style_modules"):
        assert outcome(solution, "style_transfer").status == "ok"


def test_of_a_message_the_first_line_counts():
    class Fails(Exception):
        def __str__(self):
            raise self

    assert process._first_line(ValueError("first\nsecond")) == "first"
    assert process._first_line(Fails()) == process._first_line(ValueError()) == ""


@pytest.mark.parametrize(
    "name, change",
    [
        ("torch.is_grad_enabled()", lambda _: torch.set_grad_enabled(False)),
        ("torch.get_default_dtype()", lambda _: torch.set_default_dtype(torch.float64)),
        ("torch.relu", lambda patch: patch.setattr(torch, "relu", torch.sigmoid)),
        ("numpy.geterr()", lambda _: np.seterr(divide="raise")),
        ("the working directory", lambda patch: patch.chdir("/")),
    ],
)
def test_what_solutions_share_is_watched(name, change, monkeypatch):
    before, errors = process._globals(), np.geterr()
    assert process._changed(before) == []
    try:
        change(monkeypatch)
        assert process._changed(before) == [name]
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        np.seterr(**errors)
