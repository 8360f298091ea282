"""Sizes from coarse to fine, and layers that are evaluated twice."""

import pytest
import torch
from torch import nn

from style_modules.scales import Recomputed, enlarged, scale_sizes, steps_by_scale


@pytest.mark.parametrize(
    ("size", "scales", "sizes"),
    [
        (192, "auto", [192]),
        (512, "auto", [256, 512]),
        (1024, "auto", [256, 512, 1024]),
        (1024, 2, [512, 1024]),
        (300, 3, [300]),
        (1024, 1, [1024]),
    ],
)
def test_sizes(size, scales, sizes):
    assert scale_sizes(size, scales) == sizes


@pytest.mark.parametrize("scales", [0, 1.5, "all"])
def test_scales_that_do_not_exist(scales):
    with pytest.raises(ValueError, match="scales"):
        scale_sizes(512, scales)


def test_steps():
    assert steps_by_scale(45, 1) == [45] and steps_by_scale(10, 3) == [10, 4, 4]


def test_an_enlarged_picture_keeps_its_colours():
    picture = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    large = enlarged(picture, torch.Size((16, 24)))
    assert large.shape == (1, 3, 16, 24) and large.dtype == torch.bfloat16
    torch.testing.assert_close(
        large.float().mean((2, 3)), picture.float().mean((2, 3)), rtol=0, atol=0.02
    )


def test_a_layer_evaluated_twice_gives_the_same_bits():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    gradients = []
    for evaluated in (layer, Recomputed(layer)):
        x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
        evaluated(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
