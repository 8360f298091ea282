"""Networks in unusual states and surroundings: right, or refused in words that are true."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import network_state, same_state
from PIL import Image
from torch import nn
from torch.nn import utils

import gradcam
from errors import InputError
from image_utils import to_batch
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_utils import style_transfer
from visualizers import ClassVisualization, FoolingImage, GradCam, SaliencyMap
from visualizers.evaluation import copied
from visualizers.gradcam import count_relus


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()


NETWORK = network()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32), torch.tensor([1, 4])


def results(model, X, y) -> list[np.ndarray]:
    """What every technique makes of a network."""
    ours, seeded = GradCam(), {"num_iterations": 2, "seed": 0}
    return [
        SaliencyMap().compute_saliency_maps(X, y, model).float().numpy(),
        ours.grad_cam(X, y, model),
        ours.guided_backprop(X, y, model),
        ours.guided_grad_cam(X, y, model),
        FoolingImage().make_fooling_image(X[:1], 3, model, max_iter=3).float().numpy(),
        ClassVisualization().visualize_classes([2], model, **seeded).float().numpy(),
    ]


def assert_close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_inference_mode_around_a_call_and_tensors_made_there(data):
    expected = results(network(), *data)
    with torch.inference_mode():
        X, y = data[0].clone(), data[1].clone()
        assert X.is_inference()
        assert_close(results(NETWORK, X, y), expected, 0)
    assert_close(results(NETWORK, X, y), expected, 0)
    with torch.inference_mode():
        made_there = network()
    with pytest.raises(InputError, match=r"made under torch\.inference_mode\(\)"):
        SaliencyMap().compute_saliency_maps(*data, made_there)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_default_types(data, dtype):
    expected = results(NETWORK, *data)
    torch.set_default_dtype(dtype)
    try:
        found = results(NETWORK, *data)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(found, expected, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_networks_of_other_types(data, dtype, tolerance):
    expected, model = results(network(), *data), network().to(dtype)
    found = GradCam().grad_cam(*data, model)
    assert found.dtype == np.float32
    assert_close([found], expected[1:2], tolerance)
    for a, b in zip(results(model, *data), expected, strict=True):
        assert np.isfinite(a).all() and np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97
    plain = SaliencyMap().compute_saliency_maps(*data, model)
    assert plain.dtype == torch.float32  # as the images


def test_networks_that_alter_their_input(data):
    class Altering(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x.mul_(2))

    class Doubling(Altering):
        def forward(self, x):
            return self.net(x * 2)

    before = data[0].clone()
    assert_close(results(Altering(), *data), results(Doubling(), *data), 1e-6)
    assert torch.equal(data[0], before)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
def test_compiled_networks_that_were_used_before(data, how):
    expected, model = results(network(), *data), network()
    if how == "wrapped":
        model = torch.compile(model, backend="aot_eager")
    elif how == "in place":
        model.compile(backend="aot_eager")
    else:
        model[0] = torch.compile(model[0], backend="aot_eager")
    for X in (data[0], data[0].clone().requires_grad_()):
        model(X)
    assert_close(results(model, *data), expected, 0)
    assert GradCam().grad_cam(*data, model, layer="4").any()
    with torch.no_grad():
        assert torch.allclose(model(data[0]), network()(data[0]), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_torchscript_and_quantised_networks(data):
    for made in (torch.jit.script(network()), torch.jit.trace(network(), data[0])):
        saliency = SaliencyMap().compute_saliency_maps(*data, made)
        assert torch.allclose(saliency, SaliencyMap().compute_saliency_maps(*data, network()), atol=1e-6)
        for method in (GradCam().guided_backprop, GradCam().grad_cam, GradCam().guided_grad_cam):
            with pytest.raises(InputError, match="TorchScript hides a network's layers and ReLUs"):
                method(*data, made)
    quantised = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})
    for method in (SaliencyMap().compute_saliency_maps, GradCam().guided_backprop, GradCam().grad_cam):
        with pytest.raises(InputError, match="the network is quantised, so it has no gradients"):
            method(*data, quantised)


def test_networks_without_a_gradient(data):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            with torch.no_grad():
                return self.net(x)

    for method in (SaliencyMap().compute_saliency_maps, GradCam().guided_backprop, GradCam().grad_cam):
        with pytest.raises(InputError, match=r"scores without a gradient: .* torch\.no_grad\(\)"):
            method(*data, Detached())
    with pytest.raises(InputError, match="no influence on the scores, or none that a gradient shows"):
        GradCam().grad_cam(*data, Detached(), layer="net.4")


def test_damaged_networks_whose_scores_are_finite(data):
    """A weight of −infinity that a ReLU cuts off gives finite scores, and a gradient of NaN."""
    model = network()
    model[0] = nn.Conv2d(3, 6, 1)
    with torch.no_grad():
        model[0].weight[2] = -torch.inf
        model[1] = nn.Identity()
    X = data[0].abs() + 0.1
    with torch.no_grad():
        assert model(X).isfinite().all()
    ours = GradCam()
    for method in (SaliencyMap().compute_saliency_maps, ours.guided_backprop, ours.guided_grad_cam):
        with pytest.raises(InputError, match="the gradient is not finite"):
            method(X, data[1], model)


# --- ReLUs ---


class WithReLU6(nn.Module):
    def __init__(self, relu6):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.relu6, self.head = relu6, nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.relu6(self.second(self.relu6(8 * self.first(x)))).mean(dim=(2, 3)))


class GuidedReLU6(torch.autograd.Function):
    """The rule by itself: what is positive passes, where the input was between 0 and 6."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(0, 6)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0) * ((x > 0) & (x < 6))


@pytest.mark.parametrize("relu6", [F.relu6, nn.ReLU6(), nn.ReLU6(inplace=True), lambda x: F.hardtanh(x, 0, 6)])
def test_relu6_counts_as_a_relu(data, relu6):
    X, y = data
    leaf = X.clone().requires_grad_()
    score = WithReLU6(GuidedReLU6.apply)(leaf).gather(1, y[:, None]).sum()
    (expected,) = torch.autograd.grad(score, leaf)
    (plain,) = torch.autograd.grad(WithReLU6(F.relu6)(leaf).gather(1, y[:, None]).sum(), leaf)
    guided = GradCam().guided_backprop(X, y, WithReLU6(relu6))
    assert_close([guided], [expected.permute(0, 2, 3, 1).numpy()], 1e-6)
    assert (plain - expected).abs().max() > 0.05 * plain.abs().max()
    assert count_relus(WithReLU6(relu6), X) == (2, 0)


def test_hardtanh_is_no_relu(data):
    with pytest.raises(InputError, match="no ReLU"):
        GradCam().guided_backprop(*data, WithReLU6(F.hardtanh))


def test_relus_are_counted(data, bundled_model):
    assert count_relus(network(), data[0]) == (2, 2)
    assert count_relus(bundled_model, torch.zeros(1, 3, 64, 64)) == (26, 26)
    assert count_relus(WithReLU6(nn.GELU()), data[0]) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("mobilenet_v2", "the plain gradient at all ReLUs, since Captum sees nn.ReLU modules only"),
        ("densenet121", "the plain gradient at 1 of 121 ReLUs"),
        ("resnet18", None),
    ],
)
def test_a_notice_where_captum_sees_no_relu(arch, words, tmp_path, caplog):
    options = ["--arch", arch, "--weights", "none", "--num", "1", "--steps", "1", "--device", "cpu"]
    assert gradcam.main([*options, "--out", str(tmp_path)]) == 0
    notices = [message for message in caplog.messages if "Captum" in message]
    assert len(notices) == (words is not None) and all(words in notice for notice in notices)
    assert (tmp_path / "guided_gradcam_captum.png").exists()


# --- Networks that Python cannot copy ---


def normed() -> nn.Module:
    """By the older `weight_norm` and `spectral_norm`, whose hooks compute the weight before each evaluation."""
    torch.manual_seed(0)
    features = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(8)))
    utils.weight_norm(features[0])
    utils.spectral_norm(features[1])
    model = nn.Sequential()
    model.features, model.pool, model.head = (
        features,
        nn.AdaptiveAvgPool2d(1),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 5)),
    )
    model.eval()(torch.zeros(1, 3, 8, 8))
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_networks_with_computed_weights(tmp_path):
    model = normed()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    before, X = network_state(model), torch.randn(2, 3, 8, 8)
    assert torch.equal(copied(model)(X), model(X))
    double = ClassVisualization().visualize_classes([1], model, torch.float64, num_iterations=2, seed=0)
    single = ClassVisualization().visualize_classes([1], model, num_iterations=2, seed=0)
    assert double.dtype == torch.float64 and torch.allclose(double.float(), single, atol=1e-3)
    rng = np.random.default_rng(0)
    content, style = (rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(2))
    losses = ContentLoss(), StyleLoss(), TotalVariationLoss()
    weights = (3, 0.05, (1, 4), (10, 10), 0.02)
    pictures = Image.fromarray(content), Image.fromarray(style)
    with torch.inference_mode():
        result = style_transfer(
            "x", *pictures, 40, 40, *weights, *losses, model, torch.float32, testing=True, num_iterations=2
        )
    assert result.isfinite().all() and not torch.allclose(result, to_batch(content[None]), atol=0.1)
    assert same_state(before, network_state(model))


def test_style_layers_without_feature_maps_are_refused():
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2))
    losses = ContentLoss(), StyleLoss(), TotalVariationLoss()
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(InputError, match=r"style layer 1 gives \(1, 4, 3844\)"):
        style_transfer("x", picture, picture, 64, 64, 0, 1, (1,), (1,), 0, *losses, cnn, torch.float32, testing=True)
