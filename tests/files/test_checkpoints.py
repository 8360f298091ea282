"""Networks and checkpoints that users bring: files of every kind, networks in the user's own file, class names."""

import argparse
import json
import pathlib
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

import class_visualization
import fooling_image
import gradcam
import saliency_map
import style_transfer
from data_utils import read_class_names
from errors import InputError
from files.checkpoints import with_fitting_names
from files.course import package_file
from model_utils import load_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch will give it up one day
    QUANTISED = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)

NETWORKS = """
import torch
from helper import CLASSES
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 7, stride=8), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        self.arch = "the network's own"
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(self.body(x.mul_(2)).mean(dim=(2, 3)))


ready = Net()
number = 5


def damaged():
    raise KeyError("no such key")


def without_scores():
    return Net().body
"""


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


def same(model: nn.Module, state: dict) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


# --- Checkpoints ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrap", "entry"),
    [
        (lambda s: s, None),
        (
            lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
            "state_dict",
        ),
        (lambda s: {"model_state_dict": s, "loss": 0.5}, "model_state_dict"),
        (lambda s: {"model": s, "model_ema": prefixed({k: v + 1 for k, v in s.items()}, "module.")}, "model"),
        (lambda s: {"net": s, "acc": 93.1}, "net"),
        (lambda s: {"ema": {**prefixed(s, "module."), "n_averaged": torch.tensor(7)}, "step": 1}, "ema"),
        (lambda s: {"trainer": {"weights_of_mine": s}, "epoch": 1}, "trainer.weights_of_mine"),
        (lambda s: prefixed(s, "module."), None),
        (lambda s: prefixed(s, "_orig_mod.module.model."), None),
        (lambda s: {"state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(10)}}, "state_dict"),
    ],
)
def test_checkpoints_of_each_kind(resnet_state, tmp_path, wrap, entry):
    torch.save(wrap(resnet_state), tmp_path / "mine.pth")
    model = load_model("resnet18", tmp_path / "mine.pth", "cpu")
    assert same(model, resnet_state) and model.fc.out_features == 10
    assert model.weights_name == ("mine.pth" if entry is None else f"mine.pth [{entry}]")


def test_prefixes_are_taken_off_only_where_more_names_fit():
    state = {"model.a": torch.ones(2), "b": torch.ones(2)}
    assert list(with_fitting_names(state, {"model.a", "b"})) == ["model.a", "b"]
    assert list(with_fitting_names(prefixed(state, "module."), {"model.a", "b"})) == ["model.a", "b"]
    assert list(with_fitting_names(state, {"a", "b"})) == ["a", "b"]
    both = {"model.a": torch.ones(2), "a": torch.zeros(2)}
    assert with_fitting_names(both, {"a"}).keys() == both.keys()  # which of the two is meant cannot be told


def test_weights_that_the_network_does_not_have_are_not_dropped(resnet_state, tmp_path):
    torch.save({**resnet_state, "extra.weight": torch.ones(2, 2)}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"do not fit resnet18: Unexpected key.*extra\.weight.*FILE\.py:NAME"):
        load_model("resnet18", tmp_path / "more.pth", "cpu")


@pytest.mark.slow
def test_networks_trained_without_auxiliary_heads(tmp_path):
    for arch, head in (("googlenet", "aux1"), ("inception_v3", "AuxLogits")):
        for aux_logits in (False, True):
            trained = models.get_model(arch, num_classes=4, aux_logits=aux_logits, init_weights=False)
            torch.save(trained.state_dict(), tmp_path / "w.pth")
            model = load_model(arch, tmp_path / "w.pth", "cpu")
            assert same(model, trained.state_dict()) and (getattr(model, head) is not None) == aux_logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["squeezenet1_1", "mobilenet_v2", "regnet_y_400mf", "swin_t", "mnasnet0_5", "vit_b_32"]
)
def test_the_number_of_classes_is_read_from_the_last_layer(arch, tmp_path):
    torch.save(models.get_model(arch, num_classes=7).state_dict(), tmp_path / "w.pth")
    model = load_model(arch, tmp_path / "w.pth", "cpu")
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 7)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)},
            r"refused.*argparse\.Namespace.*state_dict\(\)",
        ),
        (nn.Linear(2, 2), r"refused.*Linear.*save a state dict with torch\.save\(model\.state_dict\(\)"),
        ({"a": {"x": torch.ones(1)}, "b": {"x": torch.ones(1)}}, "several state dicts are in it, 'a', 'b'"),
        ({"epoch": 3}, "no state dict .* is in it; save a state dict with"),
        ({"fc.scale": QUANTISED}, "they are quantised"),
    ],
)
def test_files_that_are_refused_say_what_to_do(content, words, tmp_path):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=rf"weights '.*bad\.pth': {words}") as caught:
        load_model("resnet18", tmp_path / "bad.pth", "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_archive_is_named(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(InputError, match=r"TorchScript archive.*torch\.jit\.load\('script\.pt'\)\.state_dict\(\)"):
        load_model("resnet18", tmp_path / "script.pt", "cpu")


# --- Class names ---


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog, hound\nsea horse\n", ["cat", "dog, hound", "sea horse"]),
        ('["cat", "dog", "horse"]', ["cat", "dog", "horse"]),
        ('{"0": "cat", "2": "horse"}', ["cat", "class 1", "horse"]),
    ],
)
def test_class_names(tmp_path, text, names):
    (tmp_path / "names").write_text(text)
    assert read_class_names(tmp_path / "names", 3) == dict(enumerate(names))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"cat\ndog\n", "holds 2 names, but the network has 3 classes, 0 to 2"),
        (b'{"3": "cat"}', "holds ids from 3 to 3, but the network has 3 classes"),
        (b'{"cat": 0}', "no ids"),
        (b'{"0": 1}', "holds 1 among the names"),
        (b'["cat", ', "Expecting value"),
        (b"cat\n\ndog", "an empty name"),
        (b"", "holds no names"),
        (b"\xff\xfe\x00", "codec"),
        (None, "No such file"),
    ],
)
def test_class_names_that_do_not_fit(tmp_path, content, words):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"names\.txt'.*{words}") as caught:
        read_class_names(tmp_path / "names.txt", 3)
    assert "\n" not in str(caught.value)


# --- A network in the user's own file ---


def test_a_network_in_a_file(own_file, tmp_path):
    state = torch.get_rng_state()
    first, again = (load_model(f"{own_file}:{name}", device="cpu") for name in ("Net", "ready"))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, load_model(f"{own_file}:Net", device="cpu").state_dict())  # the same numbers every time
    assert first.weights_name == "as nets.py gives it" and first.arch == "the network's own"
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    torch.save({"model": prefixed(again.state_dict(), "module.")}, tmp_path / "w.pth")
    loaded = load_model(f"{own_file}:Net", tmp_path / "w.pth", "cpu")
    assert same(loaded, again.state_dict()) and loaded.weights_name == "w.pth [model]"
    X = torch.rand(1, 3, 64, 64)
    before = X.clone()
    loaded(X)
    assert torch.equal(X, before)  # though the network alters its input


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("absent", "auto", "it holds no absent"),
        ("number", "auto", r"number gives a int, not a torch\.nn\.Module"),
        ("damaged", "auto", "line 23: KeyError: 'no such key'"),
        ("nn", "auto", "gives a module"),
        ("Net", "none", "weights 'none' are for torchvision's networks"),
        ("Net", "bundled", "weights 'bundled' are for torchvision's networks"),
        ("Net", "absent.pth", r"weights 'absent\.pth': no such file"),
    ],
)
def test_networks_in_files_that_cannot_be_had(own_file, name, weights, words):
    with pytest.raises(InputError, match=words) as caught:
        load_model(f"{own_file}:{name}", weights, "cpu")
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path):
    (tmp_path / "broken.py").write_text("import torch\nnet = (\n")
    for arch, words in (
        (f"{tmp_path}/broken.py:net", "broken.py': SyntaxError"),
        (f"{tmp_path}/absent.py:net", "absent.py': no such file"),
        (f"{tmp_path}/broken.py", "or FILE.py:NAME"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load_model(arch)
        assert "\n" not in str(caught.value)


# --- In the scripts ---


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
    assert run(class_visualization, out, *network, "--iterations", 1) == 0  # 187 is none of its classes
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


@pytest.mark.parametrize("script", [saliency_map, gradcam, fooling_image, class_visualization, style_transfer])
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
