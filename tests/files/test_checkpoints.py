"""Networks and checkpoints that users bring: files of every kind, networks in the user's own file, class names."""

import argparse
import warnings

import pytest
import torch
from torch import nn
from torchvision import models

from errors import InputError
from files.checkpoints import with_fitting_names
from model_utils import load_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch will give it up one day
    QUANTISED = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


@pytest.fixture(scope="module")
def resnet_state() -> dict:
    """Of a resnet18 with 10 classes."""
    torch.manual_seed(3)
    return models.resnet18(num_classes=10).state_dict()


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
