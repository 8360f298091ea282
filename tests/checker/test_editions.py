"""The table of editions: what a folder is recognised as, and that every row can be asked."""

import pytest
from helpers import ROOT

import check
from checker.editions import TABLE, TAKES, recognised
from checker.items import ITEMS, of_edition, place

NOTEBOOK = "NetworkVisualization-PyTorch.ipynb"
# Edition → files that a solution of it holds, with what stands in them.
FOLDERS = {
    "assignment": {"cli/session.py": "", "visualizers/gradcam.py": ""},
    "homework": {"cs7643/__init__.py": "", NOTEBOOK: ""},
    "a3-2023": {"saliency_map.py": "class SaliencyMap:", "style_modules/tv_loss.py": ""},
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
