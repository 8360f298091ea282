"""Users' own networks and checkpoints in all scripts."""

import json
import pathlib

import numpy as np
import pytest
import torch
from helpers import NETWORKS
from PIL import Image
from torchvision import models

import class_visualization
import fooling_image
import gradcam
import saliency_map
import style_transfer
from files.course import package_file


@pytest.fixture(scope="module")
def resnet_state() -> dict:
    """Of a resnet18 with 10 classes."""
    torch.manual_seed(3)
    return models.resnet18(num_classes=10).state_dict()


@pytest.fixture
def own_file(tmp_path):
    (tmp_path / "helper.py").write_text("CLASSES = 3\n")
    (tmp_path / "nets.py").write_text(NETWORKS)
    return tmp_path / "nets.py"


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


def run(script, out: pathlib.Path, *options) -> int:
    return script.main([*map(str, options), "--out", str(out), "--device", "cpu"])


def text_of(path) -> dict:
    with Image.open(path) as picture:
        return dict(picture.text)


@pytest.mark.slow
def test_a_resnet18_of_10_classes_works_in_all_scripts(resnet_state, tmp_path, capsys):
    torch.save({"state_dict": prefixed(resnet_state, "module.")}, tmp_path / "mine.pth")
    (tmp_path / "names.txt").write_text("".join(f"thing {i}\n" for i in "abcdefghij"))
    network = ["--arch", "resnet18", "--weights", tmp_path / "mine.pth"]
    named = [*network, "--classes", tmp_path / "names.txt"]
    cat, out = package_file("skimage", "data/chelsea.png"), tmp_path / "out"
    assert run(saliency_map, out, *network, "--num", 1, "--steps", 1) == 0
    assert run(saliency_map, out, *named, "--images", cat, "--labels", "thing c", "--steps", 1) == 0
    assert run(gradcam, out, *named, "--num", 1, "--steps", 1) == 0
    assert run(fooling_image, out, *named, "--num", 1, "--target", "thing d") == 0
    assert json.loads(text_of(out / "fooling_image.png")["Options"])["target"] == "thing d"
    assert run(fooling_image, out, *named, "--num", 1) == 0
    assert json.loads(text_of(out / "fooling_image.png")["Options"])["target"] == "6"
    # 187 is none of its classes
    assert run(class_visualization, out, *network, "--iterations", 1) == 0
    assert json.loads(text_of(out / "class_visualization.png")["Options"])["target"] == ["9"]
    sizes = ["--image-size", 48, "--style-size", 48, "--iterations", 1]
    assert run(style_transfer, out, *network, "--content", cat, *sizes) == 0
    assert text_of(out / "saliency_map.png")["Weights"] == "mine.pth [state_dict]"
    capsys.readouterr()
    assert run(class_visualization, out, *named, "--target", "thing z") == 2
    assert "unknown class 'thing z'; give an id (0 to 9)" in capsys.readouterr().err
    assert run(saliency_map, out, *named, "--images", cat, "--labels", "285") == 2
    assert "class 285 is out of range; ids go from 0 to 9" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_in_a_file_works_in_the_scripts(own_file, tmp_path, capsys):
    out = tmp_path / "out"
    for script, options in (
        (saliency_map, ["--num", 1, "--steps", 1]),
        (gradcam, ["--num", 2, "--steps", 1]),
        (fooling_image, ["--num", 1, "--max-iter", 2]),
        (class_visualization, ["--iterations", 1]),
    ):
        assert run(script, out, "--arch", f"{own_file}:Net", *options) == 0, script
    assert text_of(out / "figure1.png")["Weights"] == "as nets.py gives it"
    capsys.readouterr()
    assert run(saliency_map, out, "--arch", f"{own_file}:without_scores", "--num", 1) == 2
    assert "model must give scores of shape (N, classes)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script", [saliency_map, gradcam, fooling_image, class_visualization, style_transfer]
)
def test_a_network_that_fails_is_blamed_not_the_layer(script, own_file, tmp_path, capsys):
    assert run(script, tmp_path / "out", "--arch", f"{own_file}:damaged") == 2
    error = capsys.readouterr().err
    assert ": error: network '" in error and len(error.splitlines()) == 1, error


@pytest.mark.slow
def test_titles_without_and_with_names(own_file, tmp_path):
    """The figure with names differs from the one without in its titles alone."""
    (tmp_path / "names.json").write_text('["apple", "pear", "plum"]')
    figures = []
    for more in ([], ["--classes", tmp_path / "names.json"]):
        options = ["--arch", f"{own_file}:Net", "--num", 1, "--steps", 1, *more]
        assert run(saliency_map, tmp_path / "out", *options) == 0
        with Image.open(tmp_path / "out" / "saliency_map.png") as picture:
            figures.append(np.asarray(picture.convert("RGB")))
    rows = np.flatnonzero((figures[0] != figures[1]).any(axis=(1, 2)))
    assert len(rows) and rows.max() < 100


def test_style_transfer_takes_no_class_names(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        style_transfer.main(["--classes", str(tmp_path / "names")])
    assert caught.value.code == 2 and "--classes" in capsys.readouterr().err
