"""Which layer a map is of: the default, by name and by module, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from model_utils import load_model
from visualizers import GradCam
from visualizers.gradcam import default_layer
from visualizers.layers import find_layer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("squeezenet1_0", "features.12"),
        ("resnet18", "layer4"),
        ("googlenet", "inception5b"),
        ("mobilenet_v3_small", "features"),
        ("densenet121", "features"),
    ],
)
def test_layer_default(arch, name, batch):
    model = load_model(arch, "none", "cpu")
    assert default_layer(model, batch[0][:1]).name == name
    assert GradCam().grad_cam(batch[0][:1], batch[1][:1], model).shape == (1, 224, 224)


def test_layer_by_name_and_by_module(bundled_model, batch):
    X, y = batch[0][:1], batch[1][:1]
    name, module = "features.4.expand3x3", bundled_model.features[4].expand3x3
    by_name, by_module = (
        GradCam().grad_cam(X, y, bundled_model, layer=layer) for layer in (name, module)
    )
    assert np.array_equal(by_name, by_module)


def test_layer_changes_the_product_by_its_map_alone(bundled_model, batch):
    X, y = batch[0][:1], batch[1][:1]
    product = GradCam().guided_backprop(X, y, bundled_model)
    product = product * GradCam().grad_cam(X, y, bundled_model, layer="features.4")[..., None]
    assert np.array_equal(
        product, GradCam().guided_grad_cam(X, y, bundled_model, layer="features.4")
    )


@pytest.mark.parametrize("layer", ["features.99", "", 12, nn.ReLU()])
def test_layer_unknown(bundled_model, batch, layer):
    for method in (GradCam().grad_cam, GradCam().guided_grad_cam):
        with pytest.raises(ValueError, match="layer"):
            method(batch[0][:1], batch[1][:1], bundled_model, layer=layer)


def test_layer_not_spatial(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 8), nn.ReLU(), nn.Linear(8, 1000))
    X, y = torch.rand(1, 3, 4, 4), batch[1][:1]
    with pytest.raises(ValueError, match="no layer with spatial feature maps"):
        GradCam().grad_cam(X, y, model)
    with pytest.raises(ValueError, match=r"feature maps \(N, C, h, w\), got \(1, 8\)"):
        GradCam().grad_cam(X, y, model, layer="1")


class Pyramid(nn.Module):
    """Evaluates a last level that nothing follows from."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        maps = self.first(x)
        self.last(maps)
        return maps.mean(dim=(2, 3))


def test_the_default_has_influence():
    assert default_layer(Pyramid().eval(), torch.randn(1, 3, 16, 16)).name == "first"


class Told(Pyramid):
    """Gives no scores, and has a layer that gives no maps."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()

    def forward(self, x):
        return {"states": self.flat(self.first(x))}


def test_scores_are_looked_at_before_layers():
    with pytest.raises(ValueError, match=r"must give scores .* got dict"):
        find_layer(Told().eval(), "flat", torch.randn(1, 3, 16, 16))


class Mixing(nn.Module):
    """Sequences in which no token is of a patch, since the first step mixes all places."""

    def __init__(self):
        super().__init__()
        self.stem, self.calls = nn.Conv2d(3, 4, 8, 8), 0
        self.mix = nn.Linear(16, 16)
        self.steps = nn.Sequential(*[nn.Linear(4, 4) for _ in range(60)])

    def forward(self, x):
        self.calls += 1
        tokens = self.mix(self.stem(x).flatten(2)).mT
        return self.steps(tokens.roll(1, 1)).mean(dim=1)


def test_many_sequences_without_patches_are_soon_given_up():
    torch.manual_seed(0)
    model = Mixing()
    assert default_layer(model, torch.randn(1, 3, 32, 32)).name == "stem" and model.calls < 80
