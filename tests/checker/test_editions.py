"""The table of editions: what a folder is recognised as, and that every row can be asked."""

import pytest

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
