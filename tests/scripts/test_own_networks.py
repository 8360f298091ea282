"""Users' own networks and checkpoints in all scripts."""

import json
import pathlib

import numpy as np
import pytest
import torch
from networks import prefixed
from PIL import Image

import class_visualization
import fooling_image
import gradcam
import saliency_map
import sanity_checks
import style_transfer
from files.course import package_file


def run(script, out: pathlib.Path, *options) -> int:
    return script.main([*map(str, options), "--out", str(out), "--device", "cpu"])


def text_of(path) -> dict:
    with Image.open(path) as picture:
        return dict(picture.text)


@pytest.mark.slow
def test_a_resnet18_of_10_classes_works_in_all_scripts(resnet_state, tmp_path, capsys):
    torch.save({"state_dict": prefixed(resnet_state, "module.")}, tmp_path / "my wëights.pth")
    (tmp_path / "names.txt").write_text("".join(f"thing {i}\n" for i in "abcdefghij"))
    network = ["--arch", "resnet18", "--weights", tmp_path / "my wëights.pth"]
    small = ["--size", 96, "--num", 1]
    named = [*network, "--classes", tmp_path / "names.txt"]
    cat, out = package_file("skimage", "data/chelsea.png"), tmp_path / "out"
    assert run(saliency_map, out, *network, *small, "--steps", 1) == 0
    labelled = ["--images", cat, "--labels", "thing c"]
    assert run(saliency_map, out, *named, *small, *labelled, "--steps", 1) == 0
    assert run(gradcam, out, *named, *small, "--steps", 1) == 0
    assert run(fooling_image, out, *named, *small, "--target", "thing d") == 0
    assert json.loads(text_of(out / "fooling_image.png")["Options"])["target"] == "thing d"
    assert run(fooling_image, out, *named, "--num", 1) == 0
    assert json.loads(text_of(out / "fooling_image.png")["Options"])["target"] == "6"
    # 187 is none of its classes
    assert run(class_visualization, out, *network, "--iterations", 1) == 0
    assert json.loads(text_of(out / "class_visualization.png")["Options"])["target"] == ["9"]
    sizes = ["--image-size", 48, "--style-size", 48, "--iterations", 1]
    assert run(style_transfer, out, *network, "--content", cat, *sizes) == 0
    assert text_of(out / "saliency_map.png")["Weights"] == "my wëights.pth [state_dict]"
    capsys.readouterr()
    assert run(class_visualization, out, *named, "--target", "thing z") == 2
    assert "unknown class 'thing z'; give an id (0 to 9)" in capsys.readouterr().err
    assert run(saliency_map, out, *named, "--images", cat, "--labels", "285") == 2
    assert "class 285 is out of range; ids go from 0 to 9" in capsys.readouterr().err


PHOTOS = [package_file("skimage", f"data/{name}.png") for name in ("chelsea", "coffee")]
CONTRASTS = ["--against", "second", "--wrong-first", "--arrays", "--per-image"]


@pytest.mark.parametrize(
    "script, options, figures",
    [
        (saliency_map, ["--num", 1, "--steps", 1, "--arrays"], 3),
        (gradcam, ["--num", 1, "--steps", 1], 9),
        (gradcam, ["--images", *PHOTOS, "--labels", 0, 1, "--no-captum", *CONTRASTS], 6),
        (gradcam, ["--num", 1, "--steps", 1, "--only", "layer_gradcam"], 1),
        (fooling_image, ["--num", 1, "--max-iter", 2], 2),
        (class_visualization, ["--iterations", 2, "--show-every", 1], 3),
        pytest.param(
            *(sanity_checks, ["--num", 1, "--steps", 1, "--seeds", 1], 3), marks=pytest.mark.slow
        ),
    ],
)
def test_a_network_in_a_file_works_in_the_scripts(own_file, tmp_path, script, options, figures):
    network = ["--arch", f"{own_file}:Net", "--size", 48]
    assert run(script, tmp_path / "out", *network, *options) == 0
    written = list((tmp_path / "out").glob("*.png"))
    assert len(written) == figures
    assert {text_of(path)["Weights"] for path in written} == {"as nets.py gives it"}


def test_a_network_without_scores_is_one_line(own_file, tmp_path, capsys):
    network = ["--arch", f"{own_file}:without_scores", "--num", 1]
    assert run(saliency_map, tmp_path / "out", *network) == 2
    assert "(N, classes)" in capsys.readouterr().err


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


KINDS = """
import torch
from torch import nn


def body(classes, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 7, 4), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def one_logit():
    return body(1)


def grey():
    return body(4, channels=1)


def many_channels():
    return body(4, channels=5)


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = body(4)

    def forward(self, x):
        scores = self.body(x)
        return {"loss": x.sum(), "a": scores, "b": -scores}


class TwoInputs(Outputs):
    def forward(self, x, y):
        return self.body(x + y)


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 4))


class Numpy(Outputs):
    def forward(self, x):
        return torch.as_tensor(x.numpy().mean(axis=(2, 3)))


class InPlace(Outputs):
    def forward(self, x):
        x = x.sigmoid()
        x += 1
        return self.body(x)


class Fixed(Outputs):
    def forward(self, x):
        assert x.shape[2:] == (224, 224), "only 224"
        return self.body(x)
"""


@pytest.fixture
def kinds(tmp_path):
    (tmp_path / "kinds.py").write_text(KINDS)
    photo = package_file("skimage", "data/chelsea.png")
    common = ["--images", photo, "--quiet", "--only", "gradcam", "--arrays"]

    def cam(name: str, *options) -> int:
        return run(gradcam, tmp_path, "--arch", f"{tmp_path}/kinds.py:{name}", *common, *options)

    return cam


@pytest.mark.slow
def test_one_logit_one_channel_several_outputs(kinds, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("no\nyes\n")
    assert kinds("one_logit", "--classes", tmp_path / "names.txt", "--labels", "yes") == 0
    _, row = (tmp_path / "predictions.csv").read_text().splitlines()
    _, label, guess, likely, other, unlikely = row.split(",")
    assert label == "1" and {guess, other} == {"0", "1"}
    assert float(likely) + float(unlikely) == pytest.approx(1) and float(likely) < 1
    assert "sigmoid" in text_of(tmp_path / "gradcam.png")["Scores"]
    assert kinds("grey") == 0
    assert "grey in 0…1" in text_of(tmp_path / "gradcam.png")["Photos"]
    assert kinds("Outputs", "--output", "b", "--mean", 0.5, "--std", 0.25) == 0
    text = text_of(tmp_path / "gradcam.png")
    assert "output b" in text["Scores"] and "mean 0.5, std 0.25" in text["Photos"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "script", [saliency_map, fooling_image, class_visualization, sanity_checks]
)
def test_a_network_that_fails_is_one_line_in_every_script(script, kinds, tmp_path, capsys):
    assert run(script, tmp_path, "--arch", f"{tmp_path}/kinds.py:TwoInputs", "--quiet") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "kinds.py:TwoInputs, on a picture of 224×224: TypeError" in err


FAULTS = {
    "many_channels": ([], "5 channels"),
    "Outputs": ([], "--output"),
    "TwoInputs": ([], "kinds.py:TwoInputs, on a picture of 224×224"),
    "flat": ([], "no layer with spatial feature maps"),
    "Numpy": ([], "kinds.py:Numpy, on a picture of 224×224: RuntimeError: Can't call numpy()"),
    "InPlace": (
        [],
        "kinds.py:InPlace, on a picture of 224×224: RuntimeError: one of the variables",
    ),
    "Fixed": (["--whole"], "kinds.py:Fixed, on a picture of 337×224: AssertionError: only 224"),
    "grey": (["--mean", "1"], "--std"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_work_is_one_line_about_the_network(kinds, capsys, name):
    options, message = FAULTS[name]
    assert kinds(name, *options) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err and "--layer" not in err
