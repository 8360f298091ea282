"""Which activations lie on the way from an image to the scores."""

import pytest
import torch
from networks import small_network
from torch import nn
from torchvision import models

from visualizers.relus import count_relus, unguided


class Gated(nn.Module):
    """Squeeze-and-excitation: a ReLU in the gate, another activation before it."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), activation)
        self.gate = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(2, 4, 1), nn.Sigmoid()),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.body(x)
        return self.head((x * self.gate(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("activation", "relus", "others"),
    [
        (nn.GELU(), (0, 1), {"GELU": 1}),
        (nn.SiLU(), (0, 1), {"SiLU": 1}),
        (nn.Hardswish(), (0, 1), {"Hardswish": 1}),
        (nn.LeakyReLU(), (0, 1), {"LeakyReLU": 1}),
        (nn.ReLU(), (2, 2), {}),
        (nn.ReLU6(), (2, 1), {}),
    ],
)
def test_relus_in_gates_alone_do_not_count(activation, relus, others):
    images = torch.randn(1, 3, 8, 8)
    network = Gated(activation).eval()
    assert (count_relus(network, images), unguided(network, images)) == (relus, others)


def test_networks_without_gates():
    images = torch.randn(1, 3, 32, 32)
    assert count_relus(small_network(), images) == (2, 2)
    assert unguided(small_network(), images) == {}
    network = models.mobilenet_v3_small(weights=None, num_classes=2).eval()
    assert count_relus(network, images) == (14, 14)
    assert unguided(network, images) == {"Hardswish": 19}
