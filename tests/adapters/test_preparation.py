"""How networks' photos are prepared: what the network gets is what its own transform makes."""

import copy
import logging
import types

import numpy as np
import pytest
import torch
from helpers import noise
from networks import small_network, vit
from PIL import Image
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import functional as TF

from adapters.preparation import (
    ASSUMED,
    MEAN,
    STD,
    Preparation,
    find_preparation,
    given_preparation,
    with_channels,
)
from errors import InputError
from image_utils import to_batch
from model_utils import load_model

HALF = (0.5, 0.5, 0.5)


class Normalize(nn.Module):
    """Of one's own, by buffers."""

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


def carrying(**attributes) -> nn.Module:
    """A small network with attributes, as timm and others give them."""
    network = small_network()
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


def configured(**more) -> dict:
    return {"mean": HALF, "std": HALF, "input_size": (3, 32, 32), "crop_pct": 0.9} | more


class Inner(nn.Module):
    """A network in a network, as LoRA wraps one."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.base_model = network

    def forward(self, x):
        return self.base_model(x)


COMPOSED = transforms.Compose(
    [
        *(transforms.Resize(36, transforms.InterpolationMode.BILINEAR), transforms.CenterCrop(32)),
        *(transforms.ToTensor(), transforms.Normalize(HALF, (0.2, 0.3, 0.4))),
    ]
)
EFFICIENT = models.EfficientNet_V2_L_Weights.IMAGENET1K_V1.transforms()
FACTS = {  # what a network carries → mean, std, size, interpolation
    "timm": (
        carrying(pretrained_cfg=configured(interpolation="bilinear")),
        (HALF, HALF, 32, "bilinear"),
    ),
    "timm's as an object": (
        carrying(pretrained_cfg=types.SimpleNamespace(**configured())),
        (HALF, HALF, 32, "bicubic"),
    ),
    "older timm": (carrying(default_cfg=configured()), (HALF, HALF, 32, "bicubic")),
    "LoRA": (Inner(carrying(pretrained_cfg=configured())), (HALF, HALF, 32, "bicubic")),
    "random interpolation": (
        carrying(pretrained_cfg=configured(interpolation="random")),
        (HALF, HALF, 32, "bicubic"),
    ),
    "composed": (carrying(preprocess=COMPOSED), (HALF, (0.2, 0.3, 0.4), 32, "bilinear")),
    "torchvision's own": (carrying(transforms=EFFICIENT), (HALF, HALF, 480, "bicubic")),
    "normalised inside": (
        nn.Sequential(Normalize([0.4], [0.3]), small_network()),
        ((0.0,), (1.0,), 224, "bicubic"),
    ),
    "both": (
        nn.Sequential(Normalize([0.4], [0.3]), carrying(pretrained_cfg=configured())),
        ((0.0,), (1.0,), 32, "bicubic"),
    ),
    "position embeddings": (vit(), (MEAN, STD, 32, "bicubic")),
    "nothing": (small_network(), (MEAN, STD, 224, "bicubic")),
    "noise": (carrying(mean=0.0, std=0.02), (MEAN, STD, 224, "bicubic")),  # no normalisation
}


@pytest.mark.parametrize("name", FACTS)
def test_a_network_s_own_word(name):
    network, expected = FACTS[name]
    found = find_preparation(network)
    assert (found.mean, found.std, found.size, found.interpolation) == expected
    assert (found.source == ASSUMED) == (name in ("nothing", "noise", "position embeddings"))


def test_transforms_that_do_not_normalise_say_nothing():
    size_alone = types.SimpleNamespace(transforms=[types.SimpleNamespace(size=99)])
    assert find_preparation(small_network(), size_alone).source == ASSUMED


def test_position_embeddings_alone_tell_the_size():
    network = vit()
    del network.image_size
    assert find_preparation(network).size == 32


@pytest.mark.parametrize("mean, largest", [([0.4, 0.4, 0.4], 1), ([123.7, 116.8, 103.9], 255)])
def test_a_network_normalised_inside_gets_plain_pixels(mean, largest):
    network = nn.Sequential(Normalize(mean, [1, 1, 1]), small_network())
    pixels = noise(8, 8)[None]
    own = find_preparation(network)(to_batch(pixels))
    expected = largest / 255 * torch.from_numpy(pixels).permute(0, 3, 1, 2)
    assert torch.allclose(own, expected, atol=1e-6 * largest)


@pytest.mark.slow
def test_torchvision_s_networks_get_what_their_own_transforms_make():
    photo, own = Image.fromarray(noise(300, 300)), {}
    for arch in models.list_models(module=models):
        for entry in models.get_model_weights(arch):
            own[str(entry.transforms())] = entry.transforms()
    for transform in own.values():
        found = find_preparation(nn.Module(), transform)
        resampling = Image.Resampling[found.interpolation.upper()]
        pixels = np.asarray(photo.resize((found.size, found.size), resampling))
        transform.resize_size = transform.crop_size  # the crop apart
        assert torch.allclose(found(to_batch(pixels[None]))[0], transform(photo), atol=1e-6)


@pytest.mark.parametrize(
    "mean, std, pixel_range, expected",
    [
        (HALF, HALF, None, lambda p: (p - 0.5) / 0.5),
        ((127.5,), (127.5,), None, lambda p: (p - 0.5) / 0.5),  # a mean above 1: 0…255
        ((0.0,), (2.0,), 255, lambda p: 255 * p / 2),
        (None, None, 255, lambda p: 255 * p),
        (None, None, 1, lambda p: p),
    ],
)
def test_the_user_s_word(mean, std, pixel_range, expected):
    pixels = noise(5, 7)[None]
    made = given_preparation(Preparation(), mean, std, None, pixel_range)(to_batch(pixels))
    wanted = expected(TF.to_tensor(pixels[0]))
    assert torch.allclose(made[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "given", [(HALF, None), (None, HALF), ((1, 2), (1, 1)), (HALF, (0, 1, 1)), ((), ())]
)
def test_half_a_word_is_refused(given):
    with pytest.raises(InputError, match="--mean, --std"):
        given_preparation(Preparation(), *given, None, None)


def test_grey_by_the_weights_of_itu_r_601():
    pixels = noise(6, 6)[None]
    grey = with_channels(Preparation(HALF, HALF), (1, 3), "a")(to_batch(pixels))
    expected = np.asarray(pixels[0] @ np.array([0.299, 0.587, 0.114]) / 255)
    assert grey.shape == (1, 1, 6, 6)
    assert np.allclose(grey[0, 0], 2 * expected - 1, atol=1e-5)
    assert with_channels(Preparation(), (3, 3), "a") == Preparation()
    with pytest.raises(InputError, match="network a takes pictures of 4 channels"):
        with_channels(Preparation(), (4, 3), "a")


def test_the_course_s_network_is_left_as_it_is(bundled_model):
    assert not bundled_model._forward_pre_hooks and not bundled_model._forward_hooks
    assert bundled_model.photo_preparation == Preparation()
    images = torch.rand(1, 3, 2, 2)
    assert bundled_model.photo_preparation(images) is images


FILE = """
import torch
from torch import nn


def body(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.pretrained_cfg = body(), {"mean": (.5, .5, .5), "std": (.5, .5, .5)}

    def forward(self, x):
        self.seen = x.detach()
        return self.body(x)


def grey():
    return body(1)


def four():
    return body(4)
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    return lambda name, **given: load_model(f"{tmp_path}/own.py:{name}", device="cpu", **given)


def test_the_network_gets_its_own_inputs(own, caplog):
    network, pixels = own("Remembers"), noise(16, 16)[None]
    copied = copy.deepcopy(network)
    for each in (network, copied):
        each(to_batch(pixels))
        expected = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        assert torch.allclose(each.seen, expected, atol=1e-6)
    assert not caplog.messages  # nothing is assumed
    assert own("Remembers", mean=MEAN, std=STD).photo_preparation.is_imagenets
    names = [name for name, _ in network.named_modules()]
    assert "body.0" in names and not any("photo" in key for key in network.state_dict())


def test_what_is_assumed_is_said(own, caplog):
    with caplog.at_level(logging.WARNING):
        own("body")
        own("body", pixel_range=1)
    (message,) = caplog.messages
    assert "own.py:body" in message and "--mean" in message


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_takes_photos_as_imagenet_s_alone(tmp_path, caplog):
    (tmp_path / "own.py").write_text(FILE + "\n\nscripted = torch.jit.script(body())\n")
    images = to_batch(noise(16, 16)[None])
    assert load_model(f"{tmp_path}/own.py:scripted", device="cpu")(images).shape == (1, 3)
    assert len(caplog.messages) == 1
    with pytest.raises(InputError, match="TorchScript"):
        load_model(f"{tmp_path}/own.py:scripted", device="cpu", mean=HALF, std=HALF)


def test_grey_and_other_channels(own):
    network = own("grey")
    assert network(to_batch(noise(16, 16)[None])).shape == (1, 3)
    assert "grey" in network.photo_preparation.note
    with pytest.raises(InputError, match=r"own\.py:four takes pictures of 4 channels"):
        own("four")
