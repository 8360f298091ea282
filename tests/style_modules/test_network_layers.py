"""Which layers stand for content and style, by network."""

import pytest
import torch
from torch import nn
from torchvision import models

from style_modules.network_layers import default_layers

BLACK = torch.zeros(1, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "content", "style"),
    [
        ("vgg16", 20, (1, 6, 11, 18, 25)),
        ("vgg19", 22, (1, 6, 11, 20, 29)),
        ("squeezenet1_1", 3, (1, 4, 6, 7)),
    ],
)
def test_layers_by_their_meaning(name, content, style):
    with torch.device("meta"):
        cnn = getattr(models, name)()
    assert default_layers(cnn, list(cnn.features), BLACK) == (content, style)


def test_other_networks_are_read_before_each_reduction():
    halves = [nn.Conv2d(3, 3, 3, 1, 1), nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2)]
    assert default_layers(nn.Sequential(*halves), halves, BLACK) == (2, (0, 2))
    assert default_layers(nn.Sequential(*halves * 3), halves * 3, BLACK)[1] == (0, 2, 4, 6)
    with pytest.raises(ValueError, match="reduces"):
        default_layers(nn.Sequential(nn.ReLU()), [nn.ReLU()], BLACK)


@pytest.mark.parametrize("error", [AssertionError, TypeError, RuntimeError, SystemExit])
def test_a_layer_that_takes_no_maps_ends_the_search(error):
    class Encoder(nn.Module):
        def forward(self, x):
            raise error("tokens were expected")

    layers = [nn.Conv2d(3, 3, 1), nn.MaxPool2d(2), Encoder(), nn.MaxPool2d(2)]
    assert default_layers(nn.Sequential(*layers), layers, BLACK) == (0, (0,))
    with pytest.raises(ValueError, match="layer 0 fails: tokens were expected"):
        default_layers(nn.Sequential(*layers[2:]), layers[2:], BLACK)
