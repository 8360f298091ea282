"""A solution's functions are found and called, whatever the edition calls them, and faults of other
files do not matter.
"""

import json
import sys

import pytest

from checker import solution as solutions
from checker.editions import TABLE
from checker.solution import Missing, Solution, cells


@pytest.fixture(autouse=True)
def _modules(monkeypatch, tmp_path):
    """The packages are those of the test's folder, and what it imports is gone afterwards."""
    before = dict(sys.modules)
    for name in [name for name in before if name.partition(".")[0] in solutions.EXPORTS]:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(solutions, "FAILED_IMPORTS", [])
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


def write(root, name: str, text: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    "edition, file, source",
    [
        (
            "cs182",
            "deeplearning/network_visualization.py",
            "def update_class_visulization(*given): return given",
        ),
        (
            "cs231n-2021",
            "cs231n/net_visualization_pytorch.py",
            "def class_visualization_update_step(*given): return given",
        ),
        (
            "eecs",
            "network_visualization.py",
            "def class_visualization_step(*given, **by_name): return given, by_name",
        ),
    ],
)
def test_arguments_stand_in_the_editions_order(edition, file, source, tmp_path):
    write(tmp_path, file, source)
    step = Solution(tmp_path, TABLE[edition]).function("class_visualization")
    names = ("img", "target_y", "model", "l2_reg", "learning_rate")
    assert (
        step(**{name: name for name in names})
        == {
            "cs182": ("model", "target_y", "l2_reg", "learning_rate", "img"),
            "cs231n-2021": ("img", "model", "target_y", "l2_reg", "learning_rate"),
            "eecs": (
                ("img", "target_y", "model"),
                {"l2_reg": "l2_reg", "learning_rate": "learning_rate"},
            ),
        }[edition]
    )


def test_an_import_that_fails_matters_only_where_its_name_is_used(tmp_path):
    text = """
from no_such_package_of_anybody import *
import another_one
def content_loss(a, b, c): return F.relu(c)
def gram_matrix(features, normalize=True): return another_one
"""
    write(tmp_path, "style_transfer.py", text)
    solution = Solution(tmp_path, TABLE["eecs"])
    import torch

    zero = solution.function("content_loss")(
        content_weight=1, content_current=2, content_original=-torch.ones(1)
    )
    assert zero.item() == 0  # F is what the courses' helpers hand on
    with pytest.raises(NameError):
        solution.function("gram_matrix")(features=1)
    assert "no_such_package_of_anybody" in solutions.FAILED_IMPORTS[0]


def test_a_file_of_the_own_package_is_imported_alone(tmp_path):
    write(tmp_path, "visualizers/__init__.py", "raise ValueError")
    write(tmp_path, "visualizers/saliency_map.py", "class SaliencyMap: pass")
    write(tmp_path, "visualizers/fooling_image.py", "syntax error")
    write(
        tmp_path,
        "visualizers/gradcam.py",
        "from visualizers import SaliencyMap\n"
        "class GradCam:\n    def grad_cam(self, X, y, model): return SaliencyMap",
    )
    solution = Solution(tmp_path, TABLE["a3"])
    assert solution.function("grad_cam")(X=0, y=0, model=0).__name__ == "SaliencyMap"
    with pytest.raises(SyntaxError):
        solution.function("fooling_image")


def test_what_is_not_there_is_missing(tmp_path):
    write(tmp_path, "style_transfer.py", "")
    solution = Solution(tmp_path, TABLE["eecs"])
    for item in ("saliency_map", "tv_loss"):  # no file; no function
        with pytest.raises(Missing):
            solution.function(item)


def test_root_scripts_are_not_run_but_for_their_definitions(tmp_path):
    script = """
import torch
SIZE = 3
open("written", "w")
class SaliencyMap:
    def compute_saliency_maps(self, X, y, model):
        return SIZE
"""
    write(tmp_path, "saliency_visualization.py", script)
    solution = Solution(tmp_path, TABLE["a3-2023"])
    assert solution.function("saliency_map")(X=0, y=0, model=0) == 3
    assert not (tmp_path / "written").exists()


def test_of_a_notebook_only_definitions_are_run(tmp_path):
    code = [
        "import math, no_such_package_of_anybody\nfrom no_such_package_of_anybody import thing",
        "%matplotlib inline\n!exit 1\nSCALE = 3\nopen('written', 'w')\ndef scaled(x):\n    return "
        "SCALE * x",
        "def broken(x:\n    return x",
        "%%bash\nexit 1",
        "class Kept:\n    value = scaled(2)",
    ]
    path = tmp_path / "notebook.ipynb"
    path.write_text(
        json.dumps({"cells": [{"cell_type": "code", "source": source} for source in code]})
    )
    module = cells(path)
    assert module.scaled(2) == module.Kept.value == 6 and not (tmp_path / "written").exists()
    with pytest.raises(SyntaxError) as caught:
        module.broken(1)
    assert caught.value.filename == f"{path} cell 3"
    with pytest.raises(NotImplementedError, match="absent"):
        module.absent(1)
