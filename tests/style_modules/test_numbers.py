"""Half precision, blocks in place, arguments beside the images, other devices: numbers stay right or are refused."""

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from packaging.version import Version
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from captum_utils import compute_attributions
from files.course import package_file
from image_utils import blur_image, clip_pixels, round_to_8_bits
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_modules.rules import AdamRule, CourseRule, LBFGSRule
from style_utils import extract_features, style_transfer
from visualizers import ClassVisualization
from visualizers.common import check_labels

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_losses_of_half_precision_do_not_overflow(dtype):
    features = 30 * torch.rand(1, 64, 48, 48, generator=torch.Generator().manual_seed(0))  # 48·48·30² overflows float16
    features = features.to(dtype)
    exact = features.double()
    gram, loss = StyleLoss(), StyleLoss()
    assert torch.allclose(gram.gram_matrix(features), gram.gram_matrix(exact).float(), rtol=1e-5)
    target = 0 * gram.gram_matrix(features)
    assert loss([features], [0], [target], [5]).item() == pytest.approx(
        loss([exact], [0], [target.double()], [5]).item(), rel=1e-5
    )
    assert ContentLoss()(2, features, 0 * features).item() == pytest.approx(2 * exact.square().sum().item(), rel=1e-5)
    assert TotalVariationLoss()(features, 1).item() == pytest.approx(TotalVariationLoss()(exact, 1).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make", [AdamRule, LBFGSRule, CourseRule])
def test_rules_step_on_pictures_of_half_precision(make, dtype):
    start = torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(0)).to(dtype)
    rule = make(start, 30)
    assert rule.picture(0).dtype == dtype and torch.allclose(rule.picture(0).float(), start.float(), atol=1e-2)
    with torch.enable_grad():
        content = rule.picture(0).float().square().sum()
        content.backward()
        rule.optimizer(0).step(content.item)
    assert rule.picture(1).isfinite().all() and not torch.equal(rule.picture(1), start)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["course", "adam", "lbfgs"])
def test_style_transfer_in_bfloat16_comes_near_that_in_float32(optimizer, bundled_model):
    totals = {}
    for dtype in (torch.float32, torch.bfloat16):
        seen = []
        style_transfer(
            *("x", package_file("skimage", "data/chelsea.png"), package_file("skimage", "data/coffee.png"), 64, 64),
            *(3, 6e-2, (1, 4, 6, 7), (300000, 1000, 15, 3), 2e-2),
            *(ContentLoss(), StyleLoss(), TotalVariationLoss(), bundled_model, dtype),
            testing=True,
            optimizer=optimizer,
            num_iterations=8,
            callback=lambda progress, seen=seen: seen.append(progress.total),
        )
        totals[dtype] = seen
    assert np.allclose(totals[torch.float32], totals[torch.bfloat16], rtol=0.1)
    assert totals[torch.bfloat16][-1] < 0.7 * totals[torch.bfloat16][0]


def test_a_block_that_begins_in_place_leaves_the_feature_before_it():
    torch.manual_seed(0)
    blocks = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3)),
        nn.Sequential(nn.Sequential(nn.ReLU(inplace=True)), nn.MaxPool2d(2)),
    ).requires_grad_(False)
    x = torch.randn(1, 3, 12, 12)
    first, second, third = extract_features(x, blocks)
    assert torch.equal(first, blocks[0](x)) and first.min() < 0
    assert torch.equal(second, blocks[1][1](first.clone().relu())) and second.min() < 0
    assert torch.equal(third, nn.functional.max_pool2d(second.relu(), 2))


def test_forward_arguments_in_a_tuple_are_cut_along_with_the_images():
    class Weighted(nn.Module):
        def forward(self, x, factor, power):
            return (factor[:, None] * x.flatten(1).pow(power)).sum(dim=1, keepdim=True).expand(-1, 2)

    images = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
    factor = torch.arange(1.0, 21)
    found = compute_attributions(Saliency(Weighted()), images, target=0, additional_forward_args=(factor, 2))
    assert torch.allclose(found, 2 * factor[:, None, None, None] * images)


@pytest.mark.slow
@pytest.mark.skipif(Version(torch.__version__) < Version("2.9"), reason="older torch pretends no GPU without a driver")
def test_no_tensor_of_another_device_is_mixed_in():
    """On pretended GPU tensors, which have shapes and devices but no numbers: mixing devices raises."""
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
