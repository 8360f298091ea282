"""Total variation; against NumPy and central differences it stands in test_style_modules.py."""

import pytest
import torch

from style_modules import TotalVariationLoss

tv_loss = TotalVariationLoss()


def test_numbers_worked_out_by_hand():
    assert tv_loss(torch.tensor([[[[1.0, 3.0], [1.0, 6.0]]]]), 5.0).item() == 5 * (0 + 9 + 4 + 25)
    assert tv_loss(torch.tensor([[[[1.0, 3.0]]]]), 5.0).item() == 20
    assert tv_loss(torch.ones(1, 3, 1, 1), 5.0).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_half_precision_it_is_summed_in_float32(dtype):
    stripes = torch.zeros(1, 1, 96, 96, dtype=dtype)
    stripes[..., ::2] = 30  # 95 · 96 · 900 overflows float16
    assert tv_loss(stripes, 1) == 95 * 96 * 900


def test_a_picture_without_a_batch_is_named():
    with pytest.raises(ValueError, match=r"img .*\(N, C, H, W\), got \(2, 3, 3\)"):
        tv_loss(torch.ones(2, 3, 3), 1)
