"""The score that the techniques differentiate: the labelled channels alone where that is the same,
else all.
"""

import copy
import shutil
import sys

import pytest
import torch
from networks import small_network
from packaging.version import Version
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import SqueezeNet

from adapters.outputs import Reading
from errors import InputError
from image_utils import blur_image, clip_pixels, round_to_8_bits
from model_utils import load_model
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_modules.rules import AdamRule, CourseRule
from style_utils import style_transfer
from visualizers import ClassVisualization, GradCam, SaliencyMap
from visualizers.common import check_labels, class_scores, evaluated, probabilities, unit_length
from visualizers.sanity import deletion_insertion


@pytest.fixture
def model(bundled_model) -> nn.Module:
    """A copy of the real network."""
    return copy.deepcopy(bundled_model)


def calls_of(module: nn.Module) -> list[tuple]:
    """Count a module's evaluations; the shapes of its outputs."""
    calls = []
    module.register_forward_hook(lambda _, __, output: calls.append(tuple(output.shape)))
    return calls


def full(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(X).gather(1, y[:, None])[:, 0]


# --- The quick way ---


def test_the_score_is_that_of_the_whole_network(real_model, batch):
    X, y = batch
    expected = full(real_model, X, y)
    assert torch.allclose(
        class_scores(real_model, X, y), expected, rtol=1e-6, atol=1e-6 * expected.abs().max()
    )
    other = (y + 500) % 1000
    expected = full(real_model, X, other)
    assert torch.allclose(
        class_scores(real_model, X, other), expected, rtol=1e-6, atol=1e-6 * expected.abs().max()
    )


@pytest.mark.slow
def test_in_float64_and_with_gradients(model, batch):
    X, y = batch[0][:2].double().requires_grad_(), batch[1][:2]
    model.double()
    (quick,) = torch.autograd.grad(class_scores(model, X, y).sum(), X)
    (whole,) = torch.autograd.grad(model(X).gather(1, y[:, None]).sum(), X)
    assert (quick - whole).abs().max() < 1e-12 * whole.abs().max()


def test_the_quick_way_evaluates_no_classifier(model, batch, monkeypatch):
    calls, forward = [], nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, x: calls.append(self) or forward(self, x)
    )
    class_scores(model, batch[0][:1], batch[1][:1])
    assert calls and model.classifier[1] not in calls
    calls.clear()
    model(batch[0][:1])
    assert model.classifier[1] in calls  # so that the comparison means something


def test_other_networks_are_evaluated_whole(batch, tiny_model):
    X, y = batch[0][:2].double(), torch.tensor([0, 4])
    assert torch.equal(class_scores(tiny_model, X, y), full(tiny_model, X, y))


# --- The full way ---


def test_hooks_see_one_call_with_every_channel(model, batch):
    X, y = batch[0][:2], batch[1][:2]
    calls, expected = calls_of(model.classifier[1]), class_scores(model, X, y)
    assert calls == [(2, 1000, 13, 13)]
    assert torch.equal(expected, full(model, X, y))


@pytest.mark.parametrize(
    "where", ["", "classifier", "classifier.0", "classifier.1", "classifier.2", "classifier.3"]
)
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_any_hook_on_the_classifier_is_called(model, batch, where, kind):
    seen, module = [], model.get_submodule(where)
    model.classifier[2].inplace = False  # in-place layers and backward hooks do not go together
    getattr(module, f"register_{kind}_hook")(lambda *_: seen.append(True))
    X = batch[0][:1, :, :64, :64].clone().requires_grad_()
    torch.autograd.grad(class_scores(model, X, batch[1][:1]).sum(), X)
    assert seen == [True]


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


class Own(SqueezeNet):
    """A subclass with a forward of its own: all scores, halved."""

    def forward(self, x):
        return super().forward(x) / 2


def test_networks_with_a_forward_of_their_own(model, batch):
    X, y = batch[0][:2], batch[1][:2]
    expected = full(model, X, y)
    own = Own("1_1")
    own.load_state_dict(model.state_dict())
    assert torch.allclose(class_scores(own.eval(), X, y), expected / 2, rtol=1e-5)
    wrapped = nn.Sequential(model)
    assert torch.equal(class_scores(wrapped, X, y), expected)
    model.forward = lambda x: SqueezeNet.forward(model, x) + 1  # set on the instance
    assert torch.allclose(class_scores(model, X, y), expected + 1, rtol=1e-5)


def test_changed_classifiers(model, batch):
    X, y = batch[0][:1], batch[1][:1]
    model.classifier[2] = nn.LeakyReLU(0.5)
    assert torch.equal(class_scores(model, X, y), full(model, X, y))
    model.classifier[2] = nn.ReLU()
    model.classifier[1] = nn.Conv2d(512, 1000, 3, padding=1)
    assert torch.equal(class_scores(model, X, y), full(model, X, y))
    model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(512, 1000, 1))
    assert torch.equal(class_scores(model, X, y), full(model, X, y))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.skipif(
    shutil.which("c++") is None or sys.platform == "win32", reason="torch.compile needs a compiler"
)
def test_a_compiled_network(model, batch):
    X, y = batch[0][:1, :, :64, :64], batch[1][:1]
    expected, whole = full(model, X, y), []
    model.compile(backend="eager")
    forward = model._compiled_call_impl
    model._compiled_call_impl = lambda *inputs: whole.append(True) or forward(*inputs)
    assert torch.allclose(class_scores(model, X, y), expected, rtol=1e-4) and whole


# --- What is refused ---


def test_damaged_networks_and_unknown_classes(model, batch):
    X, y = batch[0][:2], batch[1][:2]
    for bad, words in (
        ([0, 1000], "target_y must lie in 0…999, got 0…1000"),
        ([-1, 5], "got -1…5"),
    ):
        for network in (model, nn.Sequential(model)):
            with pytest.raises(InputError, match=words):
                class_scores(network, X, torch.tensor(bad), "target_y")
    with torch.no_grad():
        model.classifier[1].bias[y[0]] = torch.nan
    for network in (model, nn.Sequential(model)):
        with pytest.raises(InputError, match="scores are not finite"):
            class_scores(network, X, y)


@pytest.mark.parametrize(
    ("scores", "got"),
    [(torch.zeros(2, 3, 1), r"\(2, 3, 1\)"), ((torch.zeros(2, 3),), "tuple"), (None, "NoneType")],
)
def test_scores_of_another_kind(scores, got):
    with pytest.raises(
        InputError, match=rf"model must give scores of shape \(N, classes\), got {got}"
    ):
        evaluated(lambda _: scores, torch.zeros(2, 3, 4, 4))


# --- Chunks, modes, lengths ---


def test_unit_length_refuses_what_has_no_length():
    for value in (torch.nan, torch.inf, 1e38):
        with pytest.raises(InputError, match="gradient is not finite"):
            unit_length(torch.full((1, 3, 8, 8), value))


@pytest.mark.slow
def test_a_random_squeezenet_1_0_takes_the_quick_way_too(batch):
    model = load_model("squeezenet1_0", "none", "cpu")
    X, y = batch[0][:2], batch[1][:2]
    assert torch.allclose(class_scores(model, X, y), full(model, X, y), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.9"),
    reason="older torch pretends no GPU without a driver",
)
def test_no_tensor_of_another_device_is_mixed_in():
    """On pretended GPU tensors, which have shapes and devices but no numbers: mixing devices
    raises.
    """
    with FakeTensorMode():
        X = torch.empty(2, 3, 32, 40, device="cuda")
        for result in (
            clip_pixels(X),
            round_to_8_bits(X),
            blur_image(X, 1.5),
            ClassVisualization().jitter(X, 3, -2),
            StyleLoss().gram_matrix(X),
            ContentLoss()(1.0, X, X),
            TotalVariationLoss()(X, 1.0),
            CourseRule(X[:1], 30).picture(0),
            AdamRule(X[:1], 30).picture(0),
            check_labels([1, 2], X),
        ):
            assert result.device.type == "cuda"
            assert result.dtype != torch.float64  # which Apple's GPU does not have


@pytest.fixture
def data():
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32), torch.tensor([1, 4])


def test_networks_without_a_gradient(data):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_network()

        def forward(self, x):
            with torch.no_grad():
                return self.net(x)

    for method in (
        SaliencyMap().compute_saliency_maps,
        GradCam().guided_backprop,
        GradCam().grad_cam,
    ):
        with pytest.raises(InputError, match=r"scores without a gradient: .* torch\.no_grad\(\)"):
            method(*data, Detached())
    with pytest.raises(
        InputError, match="no influence on the scores, or none that a gradient shows"
    ):
        GradCam().grad_cam(*data, Detached(), layer="net.4")


def test_damaged_networks_whose_scores_are_finite(data):
    """A weight of −infinity that a ReLU cuts off gives finite scores, and a gradient of NaN."""
    model = small_network()
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


def test_style_layers_without_feature_maps_are_refused():
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2))
    losses = ContentLoss(), StyleLoss(), TotalVariationLoss()
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(InputError, match=r"style layer 1 gives \(1, 4, 3844\)"):
        style_transfer(
            "x",
            picture,
            picture,
            64,
            64,
            0,
            1,
            (1,),
            (1,),
            0,
            *losses,
            cnn,
            torch.float32,
            testing=True,
        )


def test_probabilities_that_a_network_means():
    model, scores = small_network(), torch.tensor([[1.0, -1.0], [0.0, 3.0]])
    assert torch.equal(probabilities(model, scores), scores.softmax(dim=1))
    model.score_reading = Reading(binary=True, probability="sigmoid")
    assert torch.equal(probabilities(model, scores), scores.sigmoid())


def test_deletion_of_a_network_with_one_logit_is_by_its_sigmoid():
    model = small_network()
    model.score_reading = Reading(probability="sigmoid")
    images = torch.randn(1, 3, 16, 16)
    curves = deletion_insertion(model, images, torch.tensor([1]), torch.rand(1, 16, 16), steps=2)
    assert curves[0, 0, 0] == pytest.approx(model(images).sigmoid()[0, 1].item(), abs=1e-6)
