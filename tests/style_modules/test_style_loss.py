"""The style loss against NumPy in float64, and in half precision."""

import pytest
import torch

from style_modules import StyleLoss

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_does_not_overflow(dtype):
    # 48·48·30² overflows float16
    features = 30 * torch.rand(1, 64, 48, 48, generator=torch.Generator().manual_seed(0))
    features = features.to(dtype)
    exact = features.double()
    gram = loss = StyleLoss()
    assert torch.allclose(gram.gram_matrix(features), gram.gram_matrix(exact).float(), rtol=1e-5)
    target = 0 * gram.gram_matrix(features)
    assert loss([features], [0], [target], [5]).item() == pytest.approx(
        loss([exact], [0], [target.double()], [5]).item(), rel=1e-5
    )
