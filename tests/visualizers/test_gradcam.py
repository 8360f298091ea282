"""Guided backprop, Grad-CAM and Guided Grad-CAM against Captum, PIL, hand-worked numbers, and under
abuse.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop, LayerGradCam
from helpers import in_threads, network_state, same_state
from networks import SIZE, assert_close, small_network, vit
from PIL import Image
from torch import nn

from errors import InputError
from image_utils import to_batch
from model_utils import load_model
from visualizers import GradCam, SaliencyMap
from visualizers.gradcam import CustomReLU, count_relus, default_layer


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value; the reference must not be blank."""
    assert ours.shape == theirs.shape and np.abs(theirs).max() > 0
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def captum_guided(model, X, y) -> np.ndarray:
    with pytest.warns(UserWarning, match="backward hooks"):
        return (
            GuidedBackprop(model)
            .attribute(X.clone().requires_grad_(), target=y)
            .permute(0, 2, 3, 1)
            .numpy()
        )


def captum_cam(model, layer, X, y) -> np.ndarray:
    """LayerGradCam, ReLU'd, enlarged by PIL, scaled over the batch."""
    maps = (
        LayerGradCam(model, layer)
        .attribute(X, target=y, relu_attributions=True)[:, 0]
        .detach()
        .numpy()
    )
    size = X.shape[:1:-1]
    maps = np.stack(
        [np.asarray(Image.fromarray(m).resize(size, Image.Resampling.BICUBIC)) for m in maps]
    )
    maps -= maps.min()
    return maps / maps.max()


# --- Against Captum ---


def check(model, X, y, layer):
    ours = GradCam()
    guided, cam = captum_guided(model, X, y), captum_cam(model, layer, X, y)
    assert off(ours.guided_backprop(X, y, model), guided) < 1e-5
    assert off(ours.grad_cam(X, y, model, layer=layer), cam) < 1e-5
    assert off(ours.guided_grad_cam(X, y, model, layer=layer), guided * cam[..., None]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["features.12", "features.9", "features.7", "features.3"])
def test_captum_real_network(real_model, batch, layer):
    X, y = batch[0][:3], batch[1][:3]
    check(real_model, X, y, dict(real_model.named_modules())[layer])


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "name"), [("resnet18", "layer4"), ("vgg11", "features")])
def test_captum_other_networks(arch, name, batch):
    model = load_model(arch, "none", "cpu")
    X, y = batch[0][:2, :, ::2, ::2], batch[1][:2]
    layer = default_layer(model, X[:1])
    assert layer.name == name
    check(model, X, y, layer.module)


def test_captum_default_is_features_12(bundled_model, batch):
    X, y = batch[0][:2], batch[1][:2]
    cam = captum_cam(bundled_model, bundled_model.features[12], X, y)
    assert off(GradCam().grad_cam(X, y, bundled_model), cam) < 1e-5


def test_captum_kept_values(bundled_model, batch):
    X, y = batch[0][:2], batch[1][:2]
    ours = GradCam()
    ours.grad_cam(X, y, bundled_model)
    features = bundled_model.features(X).requires_grad_()
    scores = bundled_model.classifier(features).flatten(1)
    (gradient,) = torch.autograd.grad(scores.gather(1, y[:, None]).sum(), features)
    assert torch.allclose(ours.activation_value, features, rtol=1e-5)
    assert torch.allclose(ours.gradient_value, gradient, rtol=1e-5)
    by_cam = ours.gradient_value, ours.activation_value
    ours.guided_grad_cam(X, y, bundled_model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(by_cam, (ours.gradient_value, ours.activation_value), strict=True)
    )


# --- By hand ---


def test_by_hand_custom_relu():
    x = torch.tensor([-1.0, 2.0, 3.0, 0.0], requires_grad=True)
    y = CustomReLU.apply(x)
    assert y.tolist() == [0, 2, 3, 0]
    (g,) = torch.autograd.grad(y, x, torch.tensor([5.0, -7.0, 11.0, 13.0]))
    assert g.tolist() == [0, 0, 11, 0]


def test_by_hand_guided_differs_from_plain():
    # s = 2·relu(3x₁) − relu(x₂) per pixel: plain gradient (6, −1, 0), guided drops the negative
    # path.
    model = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False), nn.Flatten()
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0, 0], [0, 1, 0]])[..., None, None])
        model[2].weight.copy_(torch.tensor([[2.0, -1.0]])[..., None, None])
    X, y = torch.ones(1, 3, 1, 1), torch.tensor([0])
    assert GradCam().guided_backprop(X, y, model).ravel().tolist() == [6, 0, 0]
    X[0, 0] = -1
    assert GradCam().guided_backprop(X, y, model).ravel().tolist() == [0, 0, 0]


def test_by_hand_grad_cam():
    # Feature maps = the image's channels; scores = mean of map 0 minus twice the mean of map 1,
    # over 2×2 pixels.
    model = nn.Sequential(
        nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1, bias=False)
    )
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([[1.0, -2.0, 0.0]]))
    X = torch.tensor(
        [[[8.0, 4.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]]]
    )[None]
    ours = GradCam()
    cam = ours.grad_cam(X, torch.tensor([0]), model, layer="0")
    # α = (1/4, −1/2, 0): maps 2, 1 − 0.5, −0.5 → 0, 0.5; divided by the largest, 2.
    assert cam.tolist() == [[[1.0, 0.25], [0.0, 0.25]]]
    assert ours.gradient_value[0, :, 0, 0].tolist() == [0.25, -0.5, 0.0]
    assert torch.equal(ours.activation_value, X)


def test_by_hand_scaling(bundled_model, batch):
    X, y = batch
    together = GradCam().grad_cam(X, y, bundled_model)
    alone = GradCam().grad_cam(X, y, bundled_model, per_image=True)
    assert together.dtype == alone.dtype == np.float32
    assert together.min() == 0 and together.max() == 1
    assert (alone.min(axis=(1, 2)) == 0).all() and (alone.max(axis=(1, 2)) == 1).all()
    assert (together.max(axis=(1, 2)) < 1).sum() == len(X) - 1


@pytest.mark.parametrize("per_image", [False, True])
def test_by_hand_blank_map_gives_zeros(per_image):
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    nn.init.constant_(model[3].weight, -1.0)
    X, y = torch.rand(2, 3, 4, 5), torch.tensor([0, 0])
    assert not GradCam().grad_cam(X, y, model, layer="0", per_image=per_image).any()
    X[1] = -X[1]  # now the second one speaks for the class, the first is still blank
    cam = GradCam().grad_cam(X, y, model, layer="0", per_image=per_image)
    assert (cam[0] == cam[0, 0, 0]).all() and cam[0, 0, 0] < 1e-6 and cam[1].max() == 1


@pytest.mark.parametrize("per_image", [False, True])
def test_by_hand_constant_map_gives_zeros(per_image):
    # Enlarged, from 7×5 at the layer, the map is constant but for rounding.
    model = nn.Sequential(nn.AvgPool2d(9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    nn.init.constant_(model[3].weight, 1.0)
    X, y = torch.full((2, 3, 63, 45), 0.3), torch.tensor([0, 0])
    assert not GradCam().grad_cam(X, y, model, layer="0", per_image=per_image).any()


class _Functional(nn.Module):
    """The same network by functions instead of modules; `inplace` as in many published networks."""

    def __init__(self, layers: nn.Sequential, inplace: bool):
        super().__init__()
        self.layers, self.inplace = layers, inplace

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(x, inplace=self.inplace) if isinstance(layer, nn.ReLU) else layer(x)
        return x


# --- Any ReLU ---


@pytest.fixture
def arguments(tiny_model):
    torch.manual_seed(1)
    return torch.randn(4, 3, 9, 11, dtype=torch.float64), torch.tensor([0, 4, 2, 1]), tiny_model


def test_relus_functional_and_in_place(arguments):
    X, y, model = arguments
    want = GradCam().guided_backprop(X, y, model)
    assert off(captum_guided(model, X, y).astype(np.float32), want) < 1e-6
    for inplace in (False, True):
        assert np.array_equal(GradCam().guided_backprop(X, y, _Functional(model, inplace)), want)


def test_relus_methods_of_tensors(arguments):
    X, y, model = arguments
    want = GradCam().guided_backprop(X, y, model)

    class Methods(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            x = self.model[0](x).relu()
            return self.model[5:](torch.relu_(self.model[2:4](x)))

    assert np.array_equal(GradCam().guided_backprop(X, y, Methods()), want)


def test_relus_module_used_twice():
    torch.manual_seed(0)
    relu = nn.ReLU()
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    shared = nn.Sequential(first, relu, second, relu, *end)
    apart = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *end)
    X, y = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    guided = GradCam().guided_backprop(X, y, apart)
    assert np.array_equal(GradCam().guided_backprop(X, y, shared), guided)
    plain = SaliencyMap().compute_saliency_maps(X, y, apart).numpy()
    assert off(np.abs(guided).max(axis=3), plain) > 0.05  # so that the comparison means something
    with pytest.raises(ValueError, match="layer is evaluated 2 times"):
        GradCam().grad_cam(X, y, shared, layer=relu)


@pytest.mark.slow
def test_relus_custom_relu_in_the_place_of_every_relu(bundled_model, batch):
    # The course's way: a copy of the network whose ordinary gradient is guided backprop.
    X, y = batch[0][:2], batch[1][:2]

    def replace(module):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, Custom())
            replace(child)

    class Custom(nn.Module):
        def forward(self, x):
            return CustomReLU.apply(x)

    model = load_model("squeezenet1_1", "bundled", "cpu")
    replace(model)
    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).gather(1, y[:, None]).sum(), leaf)
    assert (
        off(GradCam().guided_backprop(X, y, bundled_model), gradient.permute(0, 2, 3, 1).numpy())
        < 1e-6
    )
    assert off(GradCam().guided_backprop(X, y, model), gradient.permute(0, 2, 3, 1).numpy()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["layer4.1.conv1", "layer3.0.downsample", "layer1"])
def test_relus_what_goes_round_the_layer_counts(batch, layer):
    X, y, model = batch[0][:2], batch[1][:2], load_model("resnet18", "none", "cpu")
    product = (
        GradCam().guided_backprop(X, y, model)
        * GradCam().grad_cam(X, y, model, layer=layer)[..., None]
    )
    assert off(GradCam().guided_grad_cam(X, y, model, layer=layer), product) < 1e-5


@pytest.mark.slow
def test_relus_densenet_is_guided_everywhere(batch):
    # Its last ReLU is a function that module hooks miss; as a module it must give the same.
    model = load_model("densenet121", "none", "cpu")
    X, y = batch[0][:1, :, ::4, ::4], batch[1][:1]

    class Modules(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                model.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier
            )

        def forward(self, x):
            return self.body(x)

    ours = GradCam().guided_backprop(X, y, model)
    assert off(GradCam().guided_backprop(X, y, Modules().eval()), ours) < 1e-5
    assert off(captum_guided(Modules().eval(), X, y), ours) < 1e-5


def test_relus_without_relu():
    X, y, model = torch.zeros(1, 3, SIZE, SIZE), torch.tensor([1]), vit()
    for method in (GradCam().guided_backprop, GradCam().guided_grad_cam):
        with pytest.raises(ValueError, match="no ReLU"):
            method(X, y, model)


# --- The network is left alone ---


@pytest.mark.slow
def test_network_threads_share_a_network(bundled_model, batch):
    X, y = batch[0][:2], batch[1][:2]
    model = load_model("squeezenet1_1", "bundled", "cpu").train()
    jobs = [
        lambda: SaliencyMap().compute_saliency_maps(X, y, model).numpy(),
        lambda: GradCam().grad_cam(X, y, model),
        lambda: GradCam().guided_backprop(X, y, model),
        lambda: GradCam().guided_grad_cam(X, y, model, layer="features.7"),
    ]
    before, alone, wrong = network_state(model), [job() for job in jobs], []

    def repeat(job, want):
        for _ in range(4):
            if off(job(), want) > 1e-5:
                wrong.append(job)

    in_threads(repeat, zip(jobs, alone, strict=True))
    assert not wrong and same_state(before, network_state(model))


# --- Inputs ---


@pytest.mark.parametrize("size", [(224, 320), (96, 64)])
def test_inputs_not_square(bundled_model, batch, size):
    X = F.interpolate(batch[0][:2], size)
    for maps in (
        GradCam().grad_cam(X, batch[1][:2], bundled_model),
        GradCam().guided_grad_cam(X, batch[1][:2], bundled_model)[..., 0],
    ):
        assert maps.shape == (2, *size) and maps.dtype == np.float32
    assert (
        off(
            GradCam().grad_cam(X, batch[1][:2], bundled_model),
            captum_cam(bundled_model, bundled_model.features[12], X, batch[1][:2]),
        )
        < 1e-5
    )


@pytest.mark.parametrize("count", [0, 1, 33])
def test_inputs_any_number(tiny_model, count):
    torch.manual_seed(2)
    X, y = torch.randn(count, 3, 6, 8, dtype=torch.float64), torch.arange(count) % 5
    ours = GradCam()
    assert ours.guided_backprop(X, y, tiny_model).shape == (count, 6, 8, 3)
    assert ours.grad_cam(X, y, tiny_model, layer="3").shape == (count, 6, 8)
    assert ours.guided_grad_cam(X, y, tiny_model, layer="3").shape == (count, 6, 8, 3)
    if count == 33:  # two chunks or more
        alone = {"layer": "3", "per_image": True}
        for method, kwargs in (
            ("guided_backprop", {}),
            ("grad_cam", alone),
            ("guided_grad_cam", alone),
        ):
            maps = getattr(ours, method)
            parts = [
                maps(X[part], y[part], tiny_model, **kwargs) for part in (slice(5), slice(5, 33))
            ]
            assert np.allclose(maps(X, y, tiny_model, **kwargs), np.concatenate(parts), atol=1e-6)


def test_inputs_a_layer_whose_gradient_is_the_images_own(tiny_model):
    """The first of all, which hands the images on: the product must not overwrite what is kept."""
    torch.manual_seed(2)
    model = copy.deepcopy(nn.Sequential(nn.Identity(), *tiny_model)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # guided is plain, then
    X, y = torch.rand(2, 3, 6, 8), torch.tensor([1, 4])
    plain, both = GradCam(), GradCam()
    cam = plain.grad_cam(X, y, model, layer="0")
    product = both.guided_grad_cam(X, y, model, layer="0")
    assert torch.equal(both.gradient_value, plain.gradient_value)
    assert torch.equal(both.activation_value, X)
    assert np.allclose(product, GradCam().guided_backprop(X, y, model) * cam[..., None], atol=1e-7)


@pytest.mark.parametrize("method", ["guided_backprop", "grad_cam", "guided_grad_cam"])
@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (torch.rand(3, 8, 8), [0], "X_tensor must have shape"),
        (torch.rand(1, 1, 8, 8), [0], "X_tensor must have shape"),
        (torch.full((1, 3, 8, 8), torch.nan), [0], "not finite"),
        (torch.rand(1, 3, 8, 8), [0, 1], "y_tensor must hold"),
        (torch.rand(1, 3, 8, 8), [5], r"y_tensor .*got 5"),
        (torch.rand(1, 3, 8, 8), [-1], "y_tensor must lie"),
        (torch.rand(1, 3, 8, 8), [0.5], "y_tensor must hold integers"),
    ],
)
def test_inputs_refused(tiny_model, method, X, y, message):
    with pytest.raises(ValueError, match=message):
        getattr(GradCam(), method)(X, torch.tensor(y), tiny_model)


def test_the_peak_follows_the_label(bundled_model, photos):
    """A picture with the cat on the left and the cup on the right: Grad-CAM's peak goes where the
    label says.
    """
    cat, coffee = Image.fromarray(photos[0][0]), Image.fromarray(photos[0][1])
    both = Image.new("RGB", (448, 224))
    both.paste(cat, (0, 0))
    both.paste(coffee, (224, 0))
    X = to_batch(np.asarray(both)[None])
    for label, left in ((285, True), (967, False)):
        (cam,) = GradCam().grad_cam(X, torch.tensor([label]), bundled_model)
        column = np.unravel_index(cam.argmax(), cam.shape)[1]
        assert (column < 224) == left


# --- The script ---


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


@pytest.mark.parametrize(
    "relu6", [F.relu6, nn.ReLU6(), nn.ReLU6(inplace=True), lambda x: F.hardtanh(x, 0, 6)]
)
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
    assert count_relus(small_network(), data[0]) == (2, 2)
    assert count_relus(bundled_model, torch.zeros(1, 3, 64, 64)) == (26, 26)
    assert count_relus(WithReLU6(nn.GELU()), data[0]) == (0, 0)
