"""Networks and weights: the original release against its own arithmetic, weights files good and
bad, the cache.
"""

import hashlib
import pickle
import re
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import (
    HALF_WEIGHTS,
    SMALL,
    Bomb,
    breaks,
    drips,
    hangs,
    missing,
    serving,
    whole,
    without_privileges,
)
from networks import prefixed, same_parameters
from torchvision import models

import model_utils
from errors import InputError
from files import download as downloads
from files.checkpoints import read_checkpoint
from model_utils import load_model, pick_device


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty torch hub cache, half a second of patience with downloads, no choice of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("SQUEEZENET_WEIGHTS")
    monkeypatch.setattr(downloads, "PATIENCE", 0.5)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def small_state() -> dict:
    return models.get_model(SMALL, weights=None).state_dict()


@pytest.fixture(scope="module")
def weights_file(small_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "my weights.pth"
    torch.save(small_state, path)
    return path


# --- Networks by name ---


def test_a_network_is_frozen_and_in_eval_mode_and_channels_last(real_model):
    assert not any(p.requires_grad for p in real_model.parameters())
    assert not any(module.training for module in real_model.modules())
    assert real_model.features[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert real_model.arch == "squeezenet1_1" and real_model.weights_name


SEVERAL = ["squeezenet1_0", "resnet18", "googlenet", "inception_v3", "mnasnet0_5"]


@pytest.mark.parametrize(
    "arch",
    [
        SMALL,
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*SEVERAL, "mobilenet_v3_small")),
    ],
)
def test_any_classification_network_by_name(arch, batch):
    before = torch.get_rng_state()
    model = load_model(arch, weights="none", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.arch, model.weights_name) == (arch, "random (seed 0)")
    scores = model(batch[0][:2])
    assert scores.shape == (2, 1000) and scores.isfinite().all()


def test_random_weights_are_the_same_every_time():
    torch.manual_seed(1)
    first = load_model(SMALL, "none", "cpu")
    torch.manual_seed(2)
    assert same_parameters(first, load_model(SMALL, "none", "cpu").state_dict())


@pytest.mark.parametrize(
    "arch, message",
    [
        ("squeezenet1_2", "unknown network 'squeezenet1_2'; did you mean squeezenet1_1"),
        ("resnet19", "did you mean resnet"),
        ("", "give a torchvision"),
        ("fcn_resnet50", "unknown network"),
        ("r3d_18", "unknown network"),
        (None, "unknown"),
        ("a\nb", "unknown network"),
    ],
)
def test_unknown_networks_are_named(arch, message):
    with pytest.raises(InputError, match=message) as caught:
        load_model(arch, "none")
    assert "\n" not in str(caught.value)


def test_every_network_has_official_weights_with_a_checksum():
    for arch in models.list_models(module=models):
        entry = model_utils._official_entry(arch)
        assert re.search(r"-[0-9a-f]{8,}\.pth$", entry.url), arch
        assert min(entry.meta["min_size"]) <= 224 or arch.startswith("swin_v2")
    assert (
        str(model_utils._official_entry("squeezenet1_1")) == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    )
    # The other takes 518 pixels
    assert str(model_utils._official_entry("vit_h_14")).endswith("LINEAR_V1")


@pytest.mark.parametrize(
    "device, message",
    [
        ("quantum", "unknown device 'quantum'; use auto, cuda, mps or cpu"),
        ("meta", "not supported"),
        ("", "unknown device"),
        (None, "unknown device"),
        ("cuda:99", "torch sees .* CUDA GPUs here"),
    ],
)
def test_devices_that_are_not_there(device, message):
    with pytest.raises(InputError, match=message):
        pick_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu():
    with pytest.raises(
        InputError, match="device cuda: torch sees 0 CUDA GPUs here; use cpu or auto"
    ):
        load_model(weights="none", device="cuda")


def test_devices_that_are_there():
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert pick_device() == torch.device("cpu")


# --- Weights from a file ---


@pytest.mark.slow
def test_a_state_dict_by_path(small_state, weights_file, tmp_path):
    model = load_model(SMALL, str(weights_file), "cpu")
    assert same_parameters(model, small_state) and model.weights_name == "my weights.pth"
    assert same_parameters(load_model(SMALL, weights_file, "cpu"), small_state)
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in small_state.items()
    }
    torch.save(half, tmp_path / "half.pth")
    widened = load_model(SMALL, tmp_path / "half.pth", "cpu").state_dict()
    assert all(value.dtype == small_state[key].dtype for key, value in widened.items())


def test_safetensors(small_state, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(small_state, tmp_path / "w.safetensors")
    assert same_parameters(load_model(SMALL, tmp_path / "w.safetensors", "cpu"), small_state)
    content = (tmp_path / "w.safetensors").read_bytes()
    for bad in (content[:1000], b"", b"text" * 100):
        (tmp_path / "bad.safetensors").write_bytes(bad)
        with pytest.raises(InputError, match=r"bad\.safetensors': not a readable state dict"):
            load_model(SMALL, tmp_path / "bad.safetensors", "cpu")


def test_files_of_earlier_releases(tmp_path):
    """The official files were saved by early releases: other key names, no count of batches, a
    version to obey.
    """
    torch.manual_seed(0)

    def check(model, state):
        torch.save(state, tmp_path / "old.pth")
        fresh = type(model)(**settings).eval()
        model_utils._fit(fresh, read_checkpoint(tmp_path / "old.pth")[0], "net", "old.pth")
        assert same_parameters(fresh, model.state_dict())

    settings = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "num_classes": 5}
    dense = models.DenseNet(**settings)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in dense.state_dict().items()
        if "num_batches_tracked" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    check(dense, OrderedDict(old))
    settings = {
        "image_size": 32,
        "patch_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "mlp_dim": 16,
    }
    vit = models.VisionTransformer(**settings)
    check(
        vit,
        OrderedDict(
            (key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."), value)
            for key, value in vit.state_dict().items()
        ),
    )
    settings = {"alpha": 0.5}
    mnasnet = models.MNASNet(**settings)
    check(mnasnet, mnasnet.state_dict())


def test_weights_with_code_in_them_are_refused_and_not_run(small_state, tmp_path):
    marker = tmp_path / "executed"
    for content in (Bomb(marker), {**small_state, "extra": Bomb(marker)}):
        torch.save(content, tmp_path / "torch.pth")
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
        shutil.copy(tmp_path / "plain.pth", tmp_path / "plain.safetensors")
        for name in ("torch.pth", "plain.pth", "plain.safetensors"):
            with pytest.raises(
                InputError, match=rf"weights '.*{name}': (refused|not a readable)"
            ) as caught:
                load_model(SMALL, tmp_path / name, "cpu")
            assert "\n" not in str(caught.value) and not marker.exists()
    torch.load(tmp_path / "torch.pth", weights_only=False)
    assert marker.exists()  # the bomb is a real one


def test_files_that_are_no_state_dict_are_named(small_state, weights_file, tmp_path, capfd):
    content = weights_file.read_bytes()
    contents = {
        "cut.pth": content[: len(content) // 2],
        "short.pth": content[:100],
        "empty.pth": b"",
        "text.pth": b"text",
        "web.pth": b"<html>404</html>",
        "flipped.pth": content[:30] + b"\xff" * 60 + content[90:],
    }
    for name, bad in contents.items():
        (tmp_path / name).write_bytes(bad)
    for name, value in (
        ("list.pth", [torch.zeros(2)]),
        ("tensor.pth", torch.zeros(2)),
        ("numbers.pth", {1: torch.zeros(2)}),
        ("nothing.pth", {}),
    ):
        torch.save(value, tmp_path / name)
    for path in (
        *sorted(tmp_path.iterdir()),
        tmp_path,
        tmp_path / "absent.pth",
        tmp_path / ("x" * 300),
    ):
        with pytest.raises(InputError, match=r"^weights '[^\n]*$") as caught:
            load_model(SMALL, path, "cpu")
        assert path.name in str(caught.value) and len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_network_say_which_keys_differ(
    weights_file, small_state, tmp_path, capfd
):
    with pytest.raises(
        InputError, match=r"my weights\.pth' do not fit resnet18: Missing key.*\"bn1\.bias\""
    ) as caught:
        load_model("resnet18", weights_file, "cpu")
    assert 'Unexpected key(s) in state_dict: "stage2.0' in str(caught.value)
    assert "\n" not in str(caught.value)
    torch.save({**small_state, "fc.bias": torch.zeros(7)}, tmp_path / "seven.pth")
    with pytest.raises(InputError, match=r"do not fit .*: size mismatch for fc\.bias: .*\[7\]"):
        load_model(SMALL, tmp_path / "seven.pth", "cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_named(small_state, tmp_path, value):
    bias = small_state["fc.bias"].double()
    bias[3] = value  # 1e300 is infinity in float32
    torch.save({**small_state, "fc.bias": bias}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"'bad\.pth' hold NaN or infinity in fc\.bias"):
        load_model(SMALL, tmp_path / "bad.pth", "cpu")


def test_the_environment_sets_the_default(course, monkeypatch, tmp_path):
    monkeypatch.setenv("SQUEEZENET_WEIGHTS", str(course / HALF_WEIGHTS))
    assert load_model(device="cpu").weights_name == HALF_WEIGHTS
    assert load_model(weights="none", device="cpu").weights_name == "random (seed 0)"
    monkeypatch.setenv("SQUEEZENET_WEIGHTS", "none")
    assert load_model(device="cpu").weights_name == "random (seed 0)"
    monkeypatch.setenv("SQUEEZENET_WEIGHTS", str(tmp_path / "absent.pth"))
    with pytest.raises(InputError, match=r"absent\.pth': no such file"):
        load_model()


# --- Official weights: the cache and the download ---


def official(content: bytes, monkeypatch, url: str) -> str:
    """Let torchvision's entry for every network be a file of this content; returns its name."""
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    entry = SimpleNamespace(  # megabytes
        url=f"{url}/{name}",
        meta={"_file_size": 64},
        transforms=models.ResNet18_Weights.IMAGENET1K_V1.transforms,
    )
    monkeypatch.setattr(model_utils, "_official_entry", lambda arch: entry)
    return name


def test_official_weights_are_downloaded_once(cache, monkeypatch, weights_file, small_state):
    content = weights_file.read_bytes()
    with serving(whole(content)) as url:
        name = official(content, monkeypatch, url)
        model = load_model(SMALL, "torchvision", "cpu")
    assert same_parameters(model, small_state) and model.weights_name.startswith("torchvision ")
    assert [p.name for p in cache.iterdir()] == [name] and (cache / name).read_bytes() == content
    assert same_parameters(load_model(SMALL, "auto", "cpu"), small_state)  # the server has gone


def test_a_poisoned_cache_is_mended(cache, monkeypatch, weights_file, small_state):
    content = weights_file.read_bytes()
    cache.mkdir(parents=True)
    with serving(whole(content)) as url:
        name = official(content, monkeypatch, url)
        (cache / name).write_bytes(content[:1000])
        assert same_parameters(load_model(SMALL, "torchvision", "cpu"), small_state)
    assert (cache / name).read_bytes() == content


@pytest.mark.parametrize(
    "answer",
    [
        *(pytest.param(answer, marks=pytest.mark.slow) for answer in (hangs, drips)),
        *(breaks, missing, whole(b"another file")),
    ],
)
def test_a_download_that_fails_leaves_the_cache_clean(cache, monkeypatch, caplog, answer):
    with serving(answer) as url:
        official(b"the right file", monkeypatch, url)
        with pytest.raises(
            InputError, match=r"^(cannot download|gave up|http:.* returned another).*none"
        ) as caught:
            load_model(SMALL, "auto", "cpu")  # no bundled weights for this network
        with pytest.raises(
            InputError, match="download it elsewhere and pass the file's path as weights"
        ):
            load_model("squeezenet1_1", "torchvision", "cpu")
        assert "\n" not in str(caught.value) and not caplog.records
        model = load_model("squeezenet1_1", "auto", "cpu")
    assert model.weights_name.startswith("bundled")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    notice = caplog.messages[0]
    assert notice.startswith("weights: bundled") and "SQUEEZENET_WEIGHTS" in notice
    assert "\n" not in notice
    assert not list(cache.iterdir())


@pytest.mark.parametrize("home", ["locked", "secret", "file", ""])
def test_a_cache_that_cannot_be_written_is_done_without(
    cache, monkeypatch, weights_file, small_state, home
):
    content = weights_file.read_bytes()
    with serving(whole(content)) as url, without_privileges() as folder:
        official(content, monkeypatch, url)
        (folder / "locked").mkdir(mode=0o555)
        (folder / "secret").mkdir(mode=0)
        (folder / "file").touch()
        monkeypatch.chdir(folder)
        monkeypatch.setenv(
            "TORCH_HOME", str(folder / home / "cache") if home else "~nobody-by-this-name"
        )
        assert same_parameters(load_model(SMALL, "torchvision", "cpu"), small_state)
        (folder / "secret").chmod(0o755)
        assert sorted(p.name for p in folder.rglob("*")) == ["file", "locked", "secret"]


def test_bundled_weights_are_squeezenet_s_only():
    with pytest.raises(
        InputError, match=r"weights 'bundled' are SqueezeNet 1\.1's, not resnet18's"
    ):
        load_model("resnet18", "bundled")


def test_a_network_in_a_file(own_file, tmp_path):
    state = torch.get_rng_state()
    first, again = (load_model(f"{own_file}:{name}", device="cpu") for name in ("Net", "ready"))
    assert torch.equal(torch.get_rng_state(), state)
    # The same numbers every time
    assert same_parameters(first, load_model(f"{own_file}:Net", device="cpu").state_dict())
    assert first.weights_name == "as nets.py gives it" and first.arch == "the network's own"
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    torch.save({"model": prefixed(again.state_dict(), "module.")}, tmp_path / "w.pth")
    loaded = load_model(f"{own_file}:Net", tmp_path / "w.pth", "cpu")
    assert same_parameters(loaded, again.state_dict()) and loaded.weights_name == "w.pth [model]"
    X = torch.rand(1, 3, 64, 64)
    before = X.clone()
    loaded(X)
    assert torch.equal(X, before)  # though the network alters its input


@pytest.mark.parametrize(
    ("name", "weights", "message"),
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
def test_networks_in_files_that_cannot_be_had(own_file, name, weights, message):
    with pytest.raises(InputError, match=message) as caught:
        load_model(f"{own_file}:{name}", weights, "cpu")
    assert "\n" not in str(caught.value)


PARSES = """
import argparse
import torch
parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, {})
net = torch.nn.DataParallel(torch.nn.Linear(3, parser.parse_args().width))
"""


def test_a_script_that_parses_options_at_once_gets_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gradcam.py", "--arch", "x"])
    (tmp_path / "train.py").write_text(PARSES.format("default=4"))
    model = load_model(f"{tmp_path}/train.py:net", device="cpu")
    assert (
        isinstance(model, torch.nn.Linear) and model.out_features == 4
    )  # what is wrapped in parallel
    assert sys.argv == ["gradcam.py", "--arch", "x"]
    (tmp_path / "train.py").write_text(PARSES.format("required=True"))
    with pytest.raises(InputError, match=r"train\.py', line 6: .*arguments are required: --width"):
        load_model(f"{tmp_path}/train.py:net", device="cpu")
    assert capsys.readouterr().err == ""


def test_other_files(tmp_path):
    (tmp_path / "broken.py").write_text("import torch\nnet = (\n")
    for arch, message in (
        (f"{tmp_path}/broken.py:net", "broken.py': SyntaxError"),
        (f"{tmp_path}/absent.py:net", "absent.py': no such file"),
        (f"{tmp_path}/broken.py", "or FILE.py:NAME"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_model(arch)
        assert "\n" not in str(caught.value)
