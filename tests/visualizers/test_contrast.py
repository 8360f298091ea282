"""Why this class and not that one: exact on networks whose maps can be worked out by hand."""

import numpy as np
import pytest
import torch
from helpers import network_state, same_state
from networks import small_network
from torch import nn

from errors import InputError
from visualizers import GradCam
from visualizers.contrast import counterfactual, margins, runners_up

WEIGHTS = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 2.0], [-1.0, 0.0, 1.0]])  # (classes, channels)


class Linear(nn.Module):
    """Scores are sums over the places of three channels, which are the colours."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, x):
        return self.maps(x).mean(dim=(2, 3)) @ WEIGHTS.T


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def expected(weights: torch.Tensor, images: torch.Tensor) -> np.ndarray:
    """relu(Σ w·A), each map scaled to [0, 1]."""
    maps = torch.einsum("nc,nchw->nhw", weights, images).relu().numpy()
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return (maps - low) / np.where(high > low, high - low, np.inf)


def test_contrast_and_counterfactual_of_a_linear_network(images):
    cam, model, y, against = GradCam(), Linear(), torch.tensor([0, 1]), torch.tensor([1, 2])
    maps = cam.grad_cam(images, y, model, "maps", per_image=True, against=against)
    difference = WEIGHTS[y] - WEIGHTS[against]
    assert np.allclose(maps, expected(difference, images), atol=1e-5)
    assert np.allclose(36 * cam.gradient_value.mean(dim=(2, 3)), difference, atol=1e-5)
    cam.grad_cam(images, 2, model, "maps")
    opposite = counterfactual(cam, images.shape[2:], per_image=True)
    assert np.allclose(opposite, expected(-WEIGHTS[[2, 2]], images), atol=1e-5)
    assert (cam.gradient_value.mean(dim=(2, 3))[:, 0] < 0).all()  # still the plain one


def test_margins_and_runners_up(images):
    scores, y, c = Linear()(images), torch.tensor([0, 2]), torch.tensor([1, 1])
    assert torch.equal(
        margins(Linear(), images, y, c), scores[[0, 1], [0, 2]] - scores[[0, 1], [1, 1]]
    )
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    assert runners_up(scores, torch.tensor([1, 0])).tolist() == [2, 1]


def test_the_network_and_the_plain_maps_stay(images):
    model, cam = small_network(), GradCam()
    before, plain = network_state(model), cam.grad_cam(images, [1, 2], model)
    contrast = cam.grad_cam(images, [1, 2], model, against=[2, 2])
    assert not np.array_equal(contrast[0], plain[0])
    assert not contrast[1].any() or contrast[1].max() < 1  # a class against itself says nothing
    assert np.array_equal(cam.grad_cam(images, [1, 2], model), plain)
    assert same_state(before, network_state(model))


@pytest.mark.parametrize("against", [[5, 5], [-1, 0], [0], "second", [0.5, 0.5]])
def test_other_classes_are_checked(images, against):
    with pytest.raises((ValueError, InputError), match="against"):
        GradCam().grad_cam(images, [1, 2], small_network(), against=against)
