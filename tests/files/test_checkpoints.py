"""Networks and checkpoints that users bring: files of every kind, networks in the user's own file,
class names.
"""

import argparse
import gzip
import json
import warnings

import pytest
import torch
from networks import prefixed, same_parameters
from torch import nn
from torchvision import models

from errors import InputError
from files.checkpoints import read_checkpoint, with_fitting_names
from model_utils import load_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch will give it up one day
    QUANTISED = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


# --- Checkpoints ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrap", "entry"),
    [
        (lambda s: s, None),
        (
            lambda s: {
                "epoch": 3,
                "state_dict": s,
                "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
            },
            "state_dict",
        ),
        (lambda s: {"model_state_dict": s, "loss": 0.5}, "model_state_dict"),
        (
            lambda s: {
                "model": s,
                "model_ema": prefixed({k: v + 1 for k, v in s.items()}, "module."),
            },
            "model",
        ),
        (lambda s: {"net": s, "acc": 93.1}, "net"),
        (
            lambda s: {"ema": {**prefixed(s, "module."), "n_averaged": torch.tensor(7)}, "step": 1},
            "ema",
        ),
        (lambda s: {"trainer": {"weights_of_mine": s}, "epoch": 1}, "trainer.weights_of_mine"),
        (lambda s: prefixed(s, "module."), None),
        (lambda s: prefixed(s, "_orig_mod.module.model."), None),
        (
            lambda s: {"state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(10)}},
            "state_dict",
        ),
    ],
)
def test_checkpoints_of_each_kind(resnet_state, tmp_path, wrap, entry):
    torch.save(wrap(resnet_state), tmp_path / "mine.pth")
    model = load_model("resnet18", tmp_path / "mine.pth", "cpu")
    assert same_parameters(model, resnet_state) and model.fc.out_features == 10
    assert model.weights_name == ("mine.pth" if entry is None else f"mine.pth [{entry}]")


def test_prefixes_are_taken_off_only_where_more_names_fit():
    state = {"model.a": torch.ones(2), "b": torch.ones(2)}
    assert list(with_fitting_names(state, {"model.a", "b"})) == ["model.a", "b"]
    assert list(with_fitting_names(prefixed(state, "module."), {"model.a", "b"})) == [
        "model.a",
        "b",
    ]
    assert list(with_fitting_names(state, {"a", "b"})) == ["a", "b"]
    both = {"model.a": torch.ones(2), "a": torch.zeros(2)}
    # Which of the two is meant cannot be told
    assert with_fitting_names(both, {"a"}).keys() == both.keys()


def test_weights_that_the_network_does_not_have_are_not_dropped(resnet_state, tmp_path):
    torch.save({**resnet_state, "extra.weight": torch.ones(2, 2)}, tmp_path / "more.pth")
    with pytest.raises(
        InputError, match=r"do not fit resnet18: Unexpected key.*extra\.weight.*FILE\.py:NAME"
    ):
        load_model("resnet18", tmp_path / "more.pth", "cpu")


@pytest.mark.slow
def test_networks_trained_without_auxiliary_heads(tmp_path):
    for arch, head in (("googlenet", "aux1"), ("inception_v3", "AuxLogits")):
        for aux_logits in (False, True):
            trained = models.get_model(
                arch, num_classes=4, aux_logits=aux_logits, init_weights=False
            )
            torch.save(trained.state_dict(), tmp_path / "w.pth")
            model = load_model(arch, tmp_path / "w.pth", "cpu")
            assert same_parameters(model, trained.state_dict())
            assert (getattr(model, head) is not None) == aux_logits


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
    ("content", "message"),
    [
        (
            {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)},
            r"refused.*argparse\.Namespace.*state_dict\(\)",
        ),
        (
            nn.Linear(2, 2),
            r"refused.*Linear.*save a state dict with torch\.save\(model\.state_dict\(\)",
        ),
        (
            {"a": {"x": torch.ones(1)}, "b": {"x": torch.ones(1)}},
            "several state dicts are in it, 'a', 'b'",
        ),
        ({"epoch": 3}, "no state dict .* is in it; save a state dict with"),
        ({"fc.scale": QUANTISED}, "they are quantised"),
    ],
)
def test_files_that_are_refused_say_what_to_do(content, message, tmp_path):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=rf"weights '.*bad\.pth': {message}") as caught:
        load_model("resnet18", tmp_path / "bad.pth", "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_archive_is_named(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(
        InputError, match=r"TorchScript archive.*torch\.jit\.load\('script\.pt'\)\.state_dict\(\)"
    ):
        load_model("resnet18", tmp_path / "script.pt", "cpu")


# --- What a checkpoint may hold ---

STATE = {"0.weight": torch.randn(2, 3), "0.bias": torch.randn(2)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


def is_state(state) -> bool:
    return state.keys() == STATE.keys() and all(
        torch.equal(state[key], STATE[key]) for key in STATE
    )


def test_a_checkpoint_that_contains_itself_or_is_nested_deep_is_read(file):
    checkpoint = {"state_dict": dict(STATE)}
    checkpoint["again"] = checkpoint
    torch.save(checkpoint, file)
    assert is_state(read_checkpoint(file)[0])
    deep = {"x": 1}
    for _ in range(150):
        deep = {"deeper": deep}
    torch.save(deep | {"model": dict(STATE)}, file)
    state, name = read_checkpoint(file)
    assert is_state(state) and name == "weights.pth [model]"


def test_what_is_no_tensor_is_left_out(file):
    torch.save(STATE | {"epoch": 3, "note": "fine"}, file)
    assert is_state(read_checkpoint(file)[0])
    torch.save(
        {
            "state_dict": STATE,
            "loss": torch.tensor(0.5),
            "optimizer": {"state": {0: {"m": torch.ones(3)}}},
        },
        file,
    )
    assert is_state(read_checkpoint(file)[0])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (gzip.compress(b"weights", mtime=0), "gzip"),
        (b'{"weight_map": ', "not a readable"),
        (b'{"a": ' * 3000, "nested too deep"),
        (b'{"model_type": "resnet"}', "weight_map"),
        (b'{"weight_map": {"a": "../other.pth"}}', "beside it"),
        (b'{"weight_map": {"a": "weights.pth"}}', "beside it"),  # itself
        (b'{"weight_map": {"a": "missing.pth"}}', "no such file"),
    ],
)
def test_what_a_file_is_instead_is_said(file, content, word):
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_checkpoint(file)
    assert word in str(caught.value) and "run code" not in str(caught.value)


def test_safetensors_is_known_by_its_content(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(STATE, tmp_path / "weights.bin")
    assert is_state(read_checkpoint(tmp_path / "weights.bin")[0])


def test_parts_are_joined_by_their_index(tmp_path):
    for number, key in enumerate(STATE):
        torch.save({key: STATE[key]}, tmp_path / f"part{number}.bin")
    index = {
        "metadata": {},
        "weight_map": {key: f"part{number}.bin" for number, key in enumerate(STATE)},
    }
    (tmp_path / "weights.bin.index.json").write_text(json.dumps(index))
    assert is_state(read_checkpoint(tmp_path / "weights.bin.index.json")[0])


@pytest.mark.parametrize(
    "prefix", ["backbone.", "encoder_q.", "a.b.c.", "module.backbone.", "backbone.model."]
)
def test_any_common_prefix_is_taken_off(prefix):
    state = {prefix + key: value for key, value in STATE.items()} | {
        "head.weight": torch.ones(1, 2)
    }
    assert is_state(with_fitting_names(state, STATE.keys()))


def test_wrappers_inside_names_are_taken_off():
    state = {
        "_fsdp_wrapped_module.0._fsdp_wrapped_module." + key[2:]: value
        for key, value in STATE.items()
    }
    assert is_state(with_fitting_names(state, STATE.keys()))


def test_of_two_whole_networks_the_first_is_taken_with_a_notice(caplog):
    state = {
        f"encoder_{which}.{key}": value + (which == "k")
        for which in "qk"
        for key, value in STATE.items()
    }
    assert is_state(with_fitting_names(state, STATE.keys()))
    assert "encoder_q" in caplog.text and "encoder_k" in caplog.text


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(tmp_path, dtype):
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef net():\n    return torch.nn.Linear(3, 2)\n"
    )
    torch.save({"weight": torch.ones(2, 3).to(dtype), "bias": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=str(dtype).removeprefix("torch.")):
        load_model(f"{tmp_path}/net.py:net", weights=str(tmp_path / "w.pth"), device="cpu")


def test_weights_of_no_class_are_refused(tmp_path):
    state = load_model("shufflenet_v2_x0_5", weights="none", device="cpu").state_dict()
    state["fc.weight"], state["fc.bias"] = torch.empty(0, 1024), torch.empty(0)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match="0 classes"):
        load_model("shufflenet_v2_x0_5", weights=str(tmp_path / "w.pth"), device="cpu")


LAZY = """
import torch
from torch import nn

def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3, stride=32), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))

def broken():
    return nn.Sequential(nn.LazyLinear(5), nn.Linear(7, 2))

def meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
"""


def test_lazy_networks_are_initialised_and_those_without_numbers_refused(tmp_path):
    (tmp_path / "net.py").write_text(LAZY)
    model = load_model(f"{tmp_path}/net.py:lazy", device="cpu")
    assert isinstance(model[0], nn.Conv2d) and model(torch.zeros(1, 3, 224, 224)).shape == (1, 5)
    for name, word in (("broken", "lazy"), ("meta", "meta")):
        with pytest.raises(InputError, match=rf"net\.py:{name}.*{word}"):
            load_model(f"{tmp_path}/net.py:{name}", device="cpu")


def test_the_versions_of_modules_stay_with_their_names():
    network = nn.Sequential(nn.BatchNorm2d(2))
    state = nn.DataParallel(network).state_dict()
    assert state._metadata["module.0"] == {"version": 2}
    fitted = with_fitting_names(state, network.state_dict().keys())
    assert fitted.keys() == network.state_dict().keys()
    assert fitted._metadata["0"] == {"version": 2}
