"""What the techniques share: labels and numbers are checked, bad ones refused in one line."""

import pytest
import torch
from networks import small_network
from packaging.version import Version
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adapters.outputs import Reading
from errors import InputError
from image_utils import blur_image, clip_pixels, round_to_8_bits
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_modules.rules import AdamRule, CourseRule
from visualizers import ClassVisualization, GradCam, SaliencyMap
from visualizers.common import check_labels, class_scores, evaluated, probabilities, unit_length
from visualizers.sanity import deletion_insertion

# --- What is refused ---


def test_damaged_networks_and_unknown_classes(model, batch):
    X, y = batch[0][:2], batch[1][:2]
    for bad, message in (
        ([0, 1000], "target_y must lie in 0…999, got 0…1000"),
        ([-1, 5], "got -1…5"),
    ):
        for network in (model, nn.Sequential(model)):
            with pytest.raises(InputError, match=message):
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
