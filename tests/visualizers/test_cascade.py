"""Cascading randomisation: which layers, in what order, and what the random parameters are."""

import pytest
import torch
from helpers import network_state, same_state
from torch import nn
from torch.nn import utils
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from model_utils import load_model
from visualizers.cascade import SCALE, cascade, parameter_layers, reinitialised, without_last_relu
from visualizers.common import class_scores

SQUEEZENET = ["classifier.1", *(f"features.{i}" for i in (12, 11, 10, 9, 7, 6, 4, 3, 0))]


def test_a_step_for_each_layer_or_block_from_the_output_backwards(bundled_model, tiny_model):
    assert parameter_layers(bundled_model) == SQUEEZENET
    assert parameter_layers(tiny_model) == ["8", "3", "0"]
    resnet = load_model("resnet18", "none", "cpu")
    blocks = [f"layer{stage}.{block}" for stage in (4, 3, 2, 1) for block in (1, 0)]
    assert parameter_layers(resnet) == ["fc", *blocks, "bn1", "conv1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch, steps, first, last",
    [
        ("vit_b_32", 17, "heads.head", "class_token"),
        ("swin_t", 19, "head", "features.0.0"),
        ("convnext_tiny", 27, "classifier.2", "features.0"),
        ("googlenet", 15, "fc", "conv1"),  # with two heads for the training
    ],
)
def test_chains_of_blocks_are_taken_apart(arch, steps, first, last):
    model = load_model(arch, "none", "cpu")
    layers = parameter_layers(model)
    assert (len(layers), layers[0], layers[-1]) == (steps, first, last)
    for name, _ in model.named_parameters():
        assert sum(name == layer or name.startswith(f"{layer}.") for layer in layers) == 1, name


def test_one_layer_more_is_random_at_each_step_of_a_copy(bundled_model):
    original = bundled_model.state_dict()
    before, random_state, seen = network_state(bundled_model), torch.get_rng_state(), []
    for layer, network in cascade(bundled_model, torch.zeros(1, 3, 64, 64), seed=1):
        seen.append(layer)
        for name, value in network.state_dict().items():
            is_random = any(name.startswith(f"{done}.") for done in seen)
            assert torch.equal(value, original[name]) != is_random, (layer, name)
        assert network is not bundled_model and not network.training
    assert seen == SQUEEZENET
    assert same_state(before, network_state(bundled_model))
    assert torch.equal(random_state, torch.get_rng_state())


# --- Parameters as before a training ---


def test_random_parameters_are_those_of_a_new_layer_and_come_from_the_seed(bundled_model):
    first, again, other = (reinitialised(bundled_model, seed).state_dict() for seed in (1, 1, 2))
    for name, value in first.items():
        assert torch.equal(value, again[name]) and not torch.equal(value, other[name])
        if not name.endswith("bias"):  # nn.Conv2d: uniform within 1/√inputs
            assert value.abs().max().item() == pytest.approx(value[0].numel() ** -0.5, rel=0.05)


def test_normalisation_layers_begin_anew():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for value in network[1].state_dict().values():
        value.fill_(7)
    norm = reinitialised(network, 0)[1]
    assert norm.weight.tolist() == norm.running_var.tolist() == [1] * 4
    assert norm.bias.tolist() == norm.running_mean.tolist() == [0] * 4
    assert network[1].weight.tolist() == [7] * 4


class Block(nn.Module):
    """What a network has that no layer resets."""

    def __init__(self, layer_scale: float = 1e-6):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((4, 1, 1), 2.45))
        self.token = nn.Parameter(torch.full((1, 400, 4), 7.0))
        self.weight, self.bias = (nn.Parameter(torch.arange(4.0)) for _ in range(2))


def test_what_no_layer_resets_has_a_rule():
    block = reinitialised(nn.Sequential(Block(0.5)), seed=0)[0]
    # The constructor's default
    assert block.layer_scale.flatten().tolist() == pytest.approx([1e-6] * 4)
    assert block.weight.tolist() == [1] * 4 and block.bias.tolist() == [0] * 4
    assert block.token.std().item() == pytest.approx(SCALE, rel=0.1)
    assert abs(block.token.mean()) < SCALE / 10


@pytest.mark.parametrize(
    "model",
    [
        VisionTransformer(
            32, 16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5
        ),
        SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=5),
        ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], num_classes=5),
    ],
    ids=lambda model: type(model).__name__,
)
def test_nothing_trained_is_left_at_the_end(model):
    with torch.no_grad():
        for parameter in model.parameters():  # "trained"
            parameter.copy_(torch.linspace(2, 3, parameter.numel()).view_as(parameter))
    *_, (_, network) = cascade(model, torch.zeros(1, 3, 32, 32), seed=1)
    trained = dict(model.named_parameters())
    for name, parameter in network.named_parameters():
        assert (parameter != trained[name]).all() and parameter.abs().max() < 1.01, name
        if name.endswith("layer_scale"):
            assert parameter.flatten().tolist() == pytest.approx([1e-6] * parameter.numel())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("older", [True, False])
def test_weights_below_a_norm_are_drawn_too(older):
    torch.manual_seed(0)
    weight_norm = utils.weight_norm if older else utils.parametrizations.weight_norm
    spectral_norm = utils.spectral_norm if older else utils.parametrizations.spectral_norm
    model = nn.Sequential(
        *(
            weight_norm(nn.Conv2d(3, 8, 3, padding=1)),
            nn.ReLU(),
            spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
    model(torch.zeros(1, 3, 8, 8))
    before = network_state(model)
    *_, (layer, network) = cascade(model, torch.zeros(1, 3, 8, 8), seed=1)
    assert layer == "0" and same_state(before, network_state(model))
    network(torch.zeros(1, 3, 8, 8))
    bound = (3 * 9) ** -0.5
    assert 0.9 * bound < network[0].weight.abs().max() <= bound * 1.0001
    assert torch.linalg.matrix_norm(network[2].weight.flatten(1), 2).item() == pytest.approx(
        1, rel=0.02
    )


# --- The score ---


def test_scores_before_a_relu_at_the_end(bundled_model, tiny_model):
    X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    opened, y = without_last_relu(bundled_model, X), torch.tensor([0, 500])
    scores = opened(X)
    assert scores.min() < 0 <= bundled_model(X).min()
    assert isinstance(bundled_model.classifier[2], nn.ReLU)
    assert class_scores(opened, X, y).tolist() == pytest.approx(
        scores.gather(1, y[:, None])[:, 0].tolist(), abs=1e-4
    )
    unchanged = without_last_relu(tiny_model, X.double())  # its ReLUs stand before parameters
    assert torch.equal(unchanged(X.double()), tiny_model(X.double()))
