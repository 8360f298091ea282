"""The table of editions: what a folder is recognised as, and that every row can be asked."""

import json
import re
import textwrap

import pytest
import solutions
from helpers import ROOT

import check
from checker import process
from checker.editions import TABLE, TAKES, recognised
from checker.items import ITEMS, of_edition, place
from checker.solution import Solution
from course.mistakes import RIGHT

NOTEBOOK = "NetworkVisualization-PyTorch.ipynb"
# Edition → files that a solution of it holds, with what stands in them.
FOLDERS = {
    "assignment": {"cli/session.py": "", "visualizers/gradcam.py": ""},
    "homework": {"cs7643/__init__.py": "", NOTEBOOK: ""},
    "a3-2023": {"saliency_visualization.py": "", "style_modules/tv_loss.py": ""},
    "a3": {"saliency_map.py": "", "visualizers/gradcam.py": ""},
    "cs231n": {
        "cs231n/net_visualization_pytorch.py": "",
        "cs231n/style_transfer_pytorch.py": "",
        NOTEBOOK: "",
    },
    "cs231n-2021": {"cs231n/net_visualization_pytorch.py": "", "Network_Visualization.ipynb": ""},
    "cs231n-2018": {"cs231n/layers.py": "", NOTEBOOK: ""},
    "cs182": {"deeplearning/network_visualization.py": "", "NetworkVisualization.ipynb": ""},
    "eecs": {
        "network_visualization.py": "def make_adversarial_attack(",
        "style_transfer.py": "def style_loss(",
        "network_visualization.ipynb": "",
    },
    "eecs-2019": {
        "network_visualization.ipynb": '"def make_adversarial_attack(X, target_y, model):"'
    },
    "eecs-2022": {
        "network_visualization.py": "def make_adversarial_attack(",
        "style_transfer.py": "def guided_gram_matrix(",
    },
    "": {"README.md": "", "layers.py": ""},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_tells_its_edition(name, tmp_path):
    for file, text in FOLDERS[name].items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    assert recognised(tmp_path) == name


def test_every_edition_has_a_test_of_its_mark():
    assert set(FOLDERS) == {*TABLE, ""}


@pytest.mark.parametrize("name", TABLE)
def test_a_row_says_of_each_item_where_it_is_and_how_it_is_called(name):
    edition = TABLE[name]
    assert {item.name for item in of_edition(name)} == set(edition.asks)
    for item in of_edition(name):
        where = place(edition, item.name)
        assert where.file and where.name and (where.takes or item.name not in TAKES), item
        question, points = item.editions[name]
        assert question == edition.asks[item.name] and points > 0


def test_what_only_our_starter_asks_for_is_no_part_of_another_editions_points():
    ours = {item.name for item in ITEMS if item.name.endswith("_captum")} | {"guided_grad_cam"}
    assert not any(ours & set(TABLE[name].asks) for name in TABLE if name != "assignment")


@pytest.mark.parametrize("name", TABLE)
def test_of_an_empty_folder_everything_is_missing_under_its_own_file(name, tmp_path, monkeypatch):
    for item in of_edition(name):
        (tmp_path / item.name).mkdir()
        monkeypatch.chdir(tmp_path / item.name)
        found = process._measured(item.name, Solution(tmp_path / "absent", TABLE[name]))
        assert (found["status"], found["message"]) == ("missing", "there is no such file")
        file = place(name, item.name).file
        assert found["place"] in (file, place(name, "content_loss").file), item


STUB = """def {name}(*given, **options):
    return {value}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cs231n", "cs182", "eecs-2022"])
def test_of_an_empty_starter_everything_is_missing(name, tmp_path):
    """The courses' starters give back None, or the image as it was."""
    for item in of_edition(name):
        where = place(name, item.name)
        path = tmp_path / where.file
        path.parent.mkdir(exist_ok=True)
        first = {"fooling_image": "given[0].clone()", "class_visualization": "given[0]"}
        value = first.get(item.name) if name != "cs182" else None
        with path.open("a") as file:
            file.write(STUB.format(name=where.name.partition("|")[0], value=value))
    assert recognised(tmp_path) == name
    found = list(check.check(tmp_path, of_edition(name), edition=name))
    assert {outcome.status for outcome in found} == {"missing"}, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, items",
    [
        ("eecs-2022", [item.name for item in of_edition("eecs-2022")]),
        ("cs231n", ["fooling_image", "class_visualization", "style_loss"]),
        ("cs182", ["saliency_map", "class_visualization", "tv_loss"]),
    ],
)
def test_our_own_modules_for_the_notebooks_are_ok(name, items):
    asked = [item for item in of_edition(name) if item.name in items]
    found = list(check.check(ROOT / "notebooks", asked, edition=name))
    assert {outcome.status for outcome in found} == {"ok"}, found


HEAD = "import numpy as np\nimport torch\nfrom PIL import Image\nfrom torch import nn\n"
HELPERS = """
def jitter(X, ox, oy):
    return X.roll((oy, ox), (2, 3))

def blur_image(X, sigma=1):
    import image_utils
    return image_utils.blur_image(X, sigma)
"""
# Item → class, if it stands in one, and name and arguments of the function.
FUNCTIONS = {
    "saliency_map": ("SaliencyMap", "compute_saliency_maps(X, y, model)"),
    "fooling_image": ("", "make_adversarial_attack(X, target_y, model)"),
    "class_visualization": (
        "ClassVisualization",
        "create_class_visualization(target_y, class_names, model, **kwargs)",
    ),
    "content_loss": ("ContentLoss", "forward(content_weight, content_current, content_original)"),
    "gram_matrix": ("StyleLoss", "gram_matrix(features, normalize=True)"),
    "style_loss": ("StyleLoss", "forward(feats, style_layers, style_targets, style_weights)"),
    "tv_loss": ("TotalVariationLoss", "forward(img, tv_weight)"),
    "style_transfer": ("", f"style_transfer({TAKES['style_transfer'].replace(' ', ', ')})"),
}


def function(item: str, signature: str) -> str:
    """Return a right function of an item, whatever stands around it."""
    body = RIGHT["style_transfer"] if item == "style_transfer" else solutions.RIGHT[item]
    given = {"class_visualization": 'num_iterations = kwargs.pop("num_iterations", 100)\n'}
    given["fooling_image"] = "max_iter = 100\n"
    text = given.get(item, "") + body.strip("\n").replace("10 * fooling", "1 * fooling")
    return f"def {signature}:\n{textwrap.indent(text, '    ')}\n"


def method(item: str) -> str:
    """Return a right function, as a method."""
    return function(item, FUNCTIONS[item][1].replace("(", "(self, ", 1))


@pytest.mark.slow
def test_a_right_solution_of_2023_is_ok(tmp_path):
    """Its helpers are not there: imports of them are lost."""
    files = {
        "saliency_visualization.py": ("saliency_map",),
        "class_visualization.py": ("class_visualization",),
        "style_modules/content_loss.py": ("content_loss",),
        "style_modules/style_loss.py": ("gram_matrix", "style_loss"),
        "style_modules/tv_loss.py": ("tv_loss",),
    }
    for file, items in files.items():
        text = f"{HEAD}from helpers.image_utils import preprocess\n\n"
        text += f"class {FUNCTIONS[items[0]][0]}(nn.Module):\n"
        text += textwrap.indent("\n".join(map(method, items)), "    ")
        if file == "class_visualization.py":
            helpers = re.sub(r"(def \w+)\(", r"\1(self, ", HELPERS)
            text += textwrap.indent(helpers, "    ")
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(f"{text}\nif __name__ == '__main__':\n    raise ValueError\n")
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers/style_utils.py").write_text(
        HEAD + function("style_transfer", FUNCTIONS["style_transfer"][1])
    )
    (tmp_path / "image_utils.py").write_bytes((ROOT / "image_utils.py").read_bytes())
    (tmp_path / "errors.py").write_bytes((ROOT / "errors.py").read_bytes())
    assert recognised(tmp_path) == "a3-2023"
    found = list(check.check(tmp_path, of_edition("a3-2023"), edition="a3-2023"))
    assert {outcome.status for outcome in found} == {"ok"}, found


@pytest.mark.slow
def test_a_right_solution_of_the_notebooks_of_2019_is_ok(tmp_path):
    names = {item.name: place("eecs-2019", item.name) for item in of_edition("eecs-2019")}
    cells: dict[str, list[str]] = {"network_visualization": [], "style_transfer": []}
    for item, where in names.items():
        arguments = (
            FUNCTIONS[item][1].partition("(")[2].replace("class_names, model", "model, device")
        )
        text = function(item, f"{where.name}({arguments}").replace("self.", "")
        cells["network_visualization" if "etwork" in where.file else "style_transfer"].append(text)
    for name, sources in cells.items():
        text = [HEAD, "SQUEEZENET_MEAN = torch.tensor([0.485, 0.456, 0.406])", HELPERS, *sources]
        notebook = {"cells": [{"cell_type": "code", "source": source} for source in text]}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "image_utils.py").write_bytes((ROOT / "image_utils.py").read_bytes())
    (tmp_path / "errors.py").write_bytes((ROOT / "errors.py").read_bytes())
    assert recognised(tmp_path) == "eecs-2019"
    found = list(check.check(tmp_path, of_edition("eecs-2019"), edition="eecs-2019"))
    assert {outcome.status for outcome in found} == {"ok"}, found
