"""State dicts from files of all kinds: what is taken off, put together, left out, and refused in true words."""

import gzip
import json

import pytest
import torch
from torch import nn

from errors import InputError
from files.checkpoints import read_checkpoint, with_fitting_names
from model_utils import load_model

STATE = {"0.weight": torch.randn(2, 3), "0.bias": torch.randn(2)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


def same(state, wanted=STATE) -> bool:
    return state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)


def test_a_checkpoint_that_contains_itself_or_is_nested_deep_is_read(file):
    checkpoint = {"state_dict": dict(STATE)}
    checkpoint["again"] = checkpoint
    torch.save(checkpoint, file)
    assert same(read_checkpoint(file)[0])
    deep = {"x": 1}
    for _ in range(150):
        deep = {"deeper": deep}
    torch.save(deep | {"model": dict(STATE)}, file)
    state, name = read_checkpoint(file)
    assert same(state) and name == "weights.pth [model]"


def test_what_is_no_tensor_is_left_out(file):
    torch.save(STATE | {"epoch": 3, "note": "fine"}, file)
    assert same(read_checkpoint(file)[0])
    torch.save(
        {"state_dict": STATE, "loss": torch.tensor(0.5), "optimizer": {"state": {0: {"m": torch.ones(3)}}}}, file
    )
    assert same(read_checkpoint(file)[0])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (gzip.compress(b"weights"), "gzip"),
        (b'{"weight_map": ', "not a readable"),
        (b'{"a": ' * 3000, "nested too deep"),
        (b'{"model_type": "resnet"}', "weight_map"),
        (b'{"weight_map": {"a": "../other.pth"}}', "beside it"),
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
    assert same(read_checkpoint(tmp_path / "weights.bin")[0])


def test_parts_are_joined_by_their_index(tmp_path):
    for number, key in enumerate(STATE):
        torch.save({key: STATE[key]}, tmp_path / f"part{number}.bin")
    index = {"metadata": {}, "weight_map": {key: f"part{number}.bin" for number, key in enumerate(STATE)}}
    (tmp_path / "weights.bin.index.json").write_text(json.dumps(index))
    assert same(read_checkpoint(tmp_path / "weights.bin.index.json")[0])


@pytest.mark.parametrize("prefix", ["backbone.", "encoder_q.", "a.b.c.", "module.backbone.", "backbone.model."])
def test_any_common_prefix_is_taken_off(prefix):
    state = {prefix + key: value for key, value in STATE.items()} | {"head.weight": torch.ones(1, 2)}
    assert same(with_fitting_names(state, STATE.keys()))


def test_wrappers_inside_names_are_taken_off():
    state = {"_fsdp_wrapped_module.0._fsdp_wrapped_module." + key[2:]: value for key, value in STATE.items()}
    assert same(with_fitting_names(state, STATE.keys()))


def test_of_two_whole_networks_the_first_is_taken_with_a_notice(caplog):
    state = {f"encoder_{which}.{key}": value + (which == "k") for which in "qk" for key, value in STATE.items()}
    assert same(with_fitting_names(state, STATE.keys()))
    assert "encoder_q" in caplog.text and "encoder_k" in caplog.text


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(tmp_path, dtype):
    (tmp_path / "net.py").write_text("import torch\n\ndef net():\n    return torch.nn.Linear(3, 2)\n")
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
