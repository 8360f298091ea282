"""A layer's maps: kept with their gradient, or given to Captum as maps."""

import pytest
import torch
from captum.attr import LayerActivation, LayerConductance, LayerGradCam
from helpers import network_state, same_state
from networks import SIZE, swin, vit
from torch import nn

from captum_utils import compute_attributions
from visualizers import GradCam
from visualizers.layers import check_influence, find_layer


def test_a_grad_cam_layer_inside_the_classifier(model, batch):
    X, y = batch[0][:2], batch[1][:2]
    ours = GradCam()
    assert ours.grad_cam(X, y, model, layer="classifier.1").shape == (2, 224, 224)
    assert ours.activation_value.shape == (2, 1000, 13, 13)
    features = model.features(X)
    assert torch.allclose(ours.activation_value, model.classifier[1](features), atol=1e-4)
    # Of the mean of ReLU(map): 1/169 where the labelled class's map is positive, nothing elsewhere.
    expected = torch.zeros(2, 1000, 13, 13)
    for i in range(2):
        expected[i, y[i]] = (ours.activation_value[i, y[i]] > 0) / 169
    assert torch.allclose(ours.gradient_value, expected, atol=1e-7)


def test_layer_without_influence_or_never_evaluated():
    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            self.side, self.never, self.main = (
                nn.Conv2d(3, 2, 1),
                nn.Conv2d(3, 2, 1),
                nn.Conv2d(3, 5, 1),
            )

        def forward(self, x):
            self.side(x)
            return self.main(x).relu().mean(dim=(2, 3))

    X, y = torch.rand(1, 3, 4, 4), torch.tensor([3])
    for method in (GradCam().grad_cam, GradCam().guided_grad_cam):
        with pytest.raises(ValueError, match="no influence"):
            method(X, y, Side(), layer="side")
        with pytest.raises(ValueError, match="never evaluated"):
            method(X, y, Side(), layer="never")


def test_relus_in_place_relu_after_the_layer(bundled_model, batch):
    X, y = batch[0][:1], batch[1][:1]
    ours = GradCam()
    ours.grad_cam(X, y, bundled_model, layer="features.0")
    assert torch.allclose(ours.activation_value, bundled_model.features[0](X), atol=1e-5)
    assert (ours.activation_value < 0).any()
    ours.guided_grad_cam(X, y, bundled_model, layer="features.0")
    assert (ours.activation_value < 0).any()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return torch.randn(3, 3, SIZE, SIZE), torch.tensor([4, 0, 2])


@pytest.mark.parametrize(
    ("make", "name"), [(vit, "encoder.layers.encoder_layer_1.ln_1"), (swin, "features.1")]
)
def test_captum_sees_maps(data, make, name):
    model, (X, y) = make(), data
    before, ours = network_state(model), GradCam()
    layer = find_layer(model, name, X)
    check_influence(model, layer, X)
    ours.grad_cam(X, y, model, layer=layer)
    with layer.as_maps(X) as module:
        activation = compute_attributions(LayerActivation(model, module), X)
        cam = compute_attributions(LayerGradCam(model, module), X, target=y)
        conductance = compute_attributions(LayerConductance(model, module), X, target=y, n_steps=3)
    assert torch.allclose(activation, ours.activation_value, atol=1e-5)
    weights = ours.gradient_value.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(
        cam, (weights * ours.activation_value).sum(dim=1, keepdim=True), atol=1e-5
    )
    assert conductance.shape == ours.activation_value.shape and conductance.abs().max() > 0
    assert same_state(before, network_state(model))
