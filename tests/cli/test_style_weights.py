"""Layers and weights by network: the preset's proportions, kept for any network."""

import dataclasses

import pytest
import torch
from torch import nn

import style_transfer
from adapters.preparation import Preparation
from cli.options import make_parser
from cli.style_presets import Preset, presets
from cli.style_weights import fitted, with_proportions_of
from errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def toy() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(3)]
    return nn.Sequential(*(part for layer in convolutions for part in (layer, nn.MaxPool2d(2))))


def fit(cnn: nn.Module, *arguments: str) -> Preset:
    parser = make_parser("")
    style_transfer.add_options(parser)
    return fitted(presets()[2], parser.parse_args([*arguments]), cnn, CPU)


def test_squeezenet_takes_the_preset_as_it_is_and_the_options_change_it(bundled_model):
    preset = presets()[2]
    assert fit(bundled_model) == preset
    changed = fit(bundled_model, "--style-layers", "1", "4", "--style-weights", "9", "5")
    assert (changed.style_layers, changed.style_weights) == ((1, 4), (9, 5))
    scaled = fit(bundled_model, "--style-scale", "10", "--content-weight", "2", "--tv-weight", "0")
    assert scaled.style_weights == tuple(10 * weight for weight in preset.style_weights)
    assert (scaled.content_weight, scaled.tv_weight) == (2, 0)


def test_another_network_s_terms_are_as_large_as_the_preset_s(toy, bundled_model):
    preset = presets()[2]
    made = fit(toy)
    assert made.style_layers != preset.style_layers
    assert len(made.style_weights) == len(made.style_layers)
    again = with_proportions_of(preset, made, [1] * len(made.style_layers), toy, CPU)
    assert again.style_weights == pytest.approx(made.style_weights)  # not of what was there
    scaled = fit(toy, "--style-scale", "10").style_weights
    assert scaled == pytest.approx([10 * weight for weight in made.style_weights])
    double = fit(toy, "--style-weights", *(["2"] + ["1"] * (len(made.style_layers) - 1)))
    assert double.style_weights[0] / made.style_weights[0] > 1  # divided as the weights say
    assert double.style_weights[1] < made.style_weights[1]
    same = with_proportions_of(preset, preset, preset.style_weights, bundled_model, CPU)
    assert same.content_weight == pytest.approx(preset.content_weight, rel=1e-3)
    texture = dataclasses.replace(preset, content=None)
    assert all(
        with_proportions_of(texture, made, [1] * len(made.style_layers), toy, CPU).style_weights
    )


def test_layers_of_a_network_for_grey_pictures_are_found(toy):
    grey = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *toy[1:])
    grey.photo_preparation = Preparation(channels=1, mean=(0.5,), std=(0.25,))
    assert fit(grey).style_layers == fit(toy).style_layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--content-layer", "6"], r"--content-layer: no layer '6'; there are 0 to 5$"),
        (["--style-layers", "1", "x"], r"--style-layers: no layer 'x'"),
        (["--style-layers", "0", "2", "--style-weights", "1"], r"1 weights for 2 style layers"),
    ],
)
def test_layers_and_weights_that_are_not_there(toy, arguments, message):
    with pytest.raises(InputError, match=message):
        fit(toy, *arguments)


@pytest.mark.parametrize(
    ("layers", "arguments", "message"),
    [
        ([nn.Flatten(), nn.Linear(192, 4)], [], r"--content-layer and --style-layers$"),
        (
            [nn.Conv2d(3, 4, 3), nn.Conv2d(8, 4, 3)],
            ["--content-layer", "1", "--style-layers", "0"],
            r"layers do not run one after the other",
        ),
    ],
)
def test_networks_whose_layers_do_not_do(layers, arguments, message):
    with pytest.raises(InputError, match=message):
        fit(nn.Sequential(*layers), *arguments)
