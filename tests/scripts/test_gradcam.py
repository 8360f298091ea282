"""gradcam.py from end to end: figures, layers, transformers, and what keeps its traceback."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SMALL, one_line
from PIL import Image
from torch import nn

import gradcam
from errors import InputError
from files.course import package_file
from visualizers import GradCam, SaliencyMap

QUICK = (
    "--arch",
    SMALL,
    "--weights",
    "none",
    "--num",
    "1",
    "--size",
    "64",
    "--steps",
    "1",
    "--quiet",
)


@pytest.mark.parametrize(
    ("chosen", "figures"),
    [
        (["--only", "gradcam"], {"gradcam"}),
        (["--only", "guided_backprop"], {"guided_backprop", "guided_backprop_captum"}),
        (["--only", "layer_activation", "guided_gradcam", "--no-captum"], {"guided_gradcam"}),
        (["--no-captum"], {"gradcam", "guided_backprop", "guided_gradcam", "figure1"}),
    ],
)
def test_figures_of_some_techniques(tmp_path, chosen, figures):
    assert gradcam.main([*QUICK, *chosen, "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == figures


def test_a_notice_of_activations_that_are_not_guided(caplog):
    torch.manual_seed(0)
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    body = nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU()
    options = SimpleNamespace(techniques=["guided_backprop"], captum=False)
    model, example = nn.Sequential(*body, *ends).eval(), torch.randn(1, 3, 16, 16)
    data = SimpleNamespace(options=options, model=model, example=example)
    assert gradcam.defined_techniques(data) == ["guided_backprop"]
    assert "guided at 1 ReLUs, the plain gradient at 1 SiLU" in caplog.text


def test_only_techniques_that_the_network_has_none_of(tmp_path, capsys):
    options = [
        *QUICK,
        "--arch",
        "efficientnet_b0",
        "--only",
        "guided_backprop",
        "--out",
        str(tmp_path),
    ]
    assert gradcam.main(options) == 2
    one_line(capsys, "--only", "ReLU")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("mobilenet_v2", "the plain gradient at all ReLUs, since Captum sees nn.ReLU modules only"),
        ("densenet121", "the plain gradient at 1 of 121 ReLUs"),
        ("resnet18", None),
    ],
)
def test_a_notice_where_captum_sees_no_relu(arch, words, tmp_path, caplog):
    options = [*QUICK[:-1], "--arch", arch, "--only", "guided_backprop", "guided_gradcam"]
    assert gradcam.main([*options, "--out", str(tmp_path)]) == 0
    notices = [message for message in caplog.messages if "Captum" in message]
    assert len(notices) == (words is not None) and all(words in notice for notice in notices)
    assert (tmp_path / "guided_gradcam_captum.png").exists()


WITHOUT_RELU = {
    *("gradcam.png", "figure1.png"),
    *("layer_activation_captum.png", "layer_gradcam_captum.png", "layer_conductance_captum.png"),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", ["vit", "swin"])
def test_the_script_without_relus(make, tmp_path, caplog):
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torchvision import models\n\n"
        "def vit():\n    model = models.VisionTransformer(224, 32, 2, 2, 12, 24, num_classes=5)\n"
        "    torch.nn.init.normal_(model.heads[-1].weight)\n    return model\n\n"
        "def swin():\n    return models.SwinTransformer([4, 4], 8, [1, 1], [2, 4], [7, 7], "
        "num_classes=5)\n"
    )
    options = [
        "--arch",
        f"{tmp_path}/nets.py:{make}",
        "--num",
        "2",
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    assert gradcam.main([*options, "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == WITHOUT_RELU
    assert [m for m in caplog.messages if "ReLU" in m] == [
        "guided backprop, Guided Grad-CAM: left out, by Captum as well, since the network has no "
        "ReLU"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--captum-layer", "classifier"], "--captum-layer: layer gives maps of a single pixel"),
        (
            ["--arch", "resnet18", "--weights", "none", "--captum-layer", "fc"],
            "--captum-layer: layer must give",
        ),
        (
            ["--arch", "googlenet", "--weights", "none", "--captum-layer", "aux1"],
            "--captum-layer: layer is never",
        ),
        (
            ["--arch", "vit_b_32", "--weights", "none", "--layer", "encoder.ln"],
            "--layer: layer: its patches have no",
        ),
    ],
)
def test_layers_are_checked_before_the_first_figure(options, words, tmp_path, capsys):
    assert gradcam.main([*options, "--num", "1", "--quiet", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_script_layers(tmp_path):
    """Other layers give other figures, except of guided backprop, which has none."""
    options = ["--num", "1", "--steps", "1", "--device", "cpu", "--quiet"]
    for folder, more in (
        ("default", []),
        ("other", ["--layer", "features.9", "--captum-layer", "features.6"]),
    ):
        assert gradcam.main([*options, *more, "--out", str(tmp_path / folder)]) == 0
    assert len(list((tmp_path / "other").iterdir())) == 9
    for name in (path.name for path in (tmp_path / "other").iterdir()):
        default, other = (Image.open(tmp_path / folder / name) for folder in ("default", "other"))
        assert (default.tobytes() == other.tobytes()) == name.startswith("guided_backprop"), name
        assert '"layer": "features.9", "captum_layer": "features.6"' in other.text["Options"]
        assert '"layer": "features.12", "captum_layer": "features.3"' in default.text["Options"]


def test_script_a_defect_in_drawing_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    def signed(gradient):
        raise ValueError("a defect")

    monkeypatch.setattr("figure_utils.signed", signed)
    with pytest.raises(ValueError, match="a defect") as caught:
        gradcam.main(["--num", "1", "--quiet", "--out", str(tmp_path)])
    assert not isinstance(caught.value, InputError) and caught.traceback[-1].name == "signed"
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_script_why_this_class_and_what_is_wrong(tmp_path, capsys, course, monkeypatch):
    monkeypatch.setenv("CS7643_DATA", str(course))
    common = ["--only", "gradcam", "--no-captum", "--quiet", "--arrays", "--out", str(tmp_path)]
    options = ["--num", "10", "--against", "second", "--wrong-first", "--chunk", "2"]
    assert gradcam.main([*options, *common]) == 0
    with np.load(tmp_path / "maps.npz") as maps:
        names, labels = maps["names"].tolist(), maps["labels"].tolist()
        assert {"gradcam_against", "counterfactual", "gradcam_guess"} < set(maps)
    _, *rows = (tmp_path / "predictions.csv").read_text().splitlines()
    wrong = [label != guess for _, label, guess, *_ in (row.split(",") for row in rows)]
    count = sum(wrong)
    assert 0 < count < 10 and all(wrong[:count])
    for part in (names[:count], names[count:]):  # each in its order
        numbers = [int(name.removeprefix("photo_")) for name in part]
        assert numbers == sorted(numbers)
    assert sorted(names) == sorted(f"photo_{i}" for i in range(1, 11)) and len(labels) == 10
    with Image.open(tmp_path / "gradcam_wrong.png") as figure:
        assert '"against": "second", "wrong_first": true' in figure.text["Options"]
    assert (tmp_path / "gradcam_against.png").exists() and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--against", "no such class"], "no such class"),
        (["--against", "5", "--labels", "5"], "--against 5"),
        (["--against", "second", "--only", "guided_backprop"], "--only"),
        (["--wrong-first", "--labels", "guess"], "--wrong-first"),
    ],
)
def test_contrasts_that_say_nothing_are_refused(options, words, tmp_path, capsys):
    photo = str(package_file("skimage", "data/chelsea.png"))
    assert gradcam.main(["--images", photo, *options, "--quiet", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "owner, function, written",
    [
        (SaliencyMap, "compute_saliency_maps", ["gradcam", "guided_backprop", "guided_gradcam"]),
        (GradCam, "grad_cam", ["guided_backprop"]),
    ],
)
def test_each_figure_is_there_as_soon_as_its_map(owner, function, written, tmp_path, monkeypatch):
    """Question 1.2 does not wait for 1.1, nor a stage for the next."""

    def blank(*_, **__):
        raise NotImplementedError(f"Question 1: {function}")

    monkeypatch.setattr(owner, function, blank)
    assert gradcam.main([*QUICK, "--no-captum", "--out", str(tmp_path)]) == 2
    assert sorted(path.stem for path in tmp_path.iterdir()) == written
