"""The content loss; against NumPy and central differences it stands in test_style_modules.py."""

import pytest
import torch

from style_modules import ContentLoss


def test_a_number_worked_out_by_hand():
    loss = ContentLoss()(0.5, torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[4.0, 0.0]]]]))
    assert loss.item() == 0.5 * (9 + 4) and loss.shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_half_precision_it_is_summed_in_float32(dtype):
    features = torch.full((1, 64, 48, 48), 30.0, dtype=dtype)  # the sum overflows float16
    loss = ContentLoss()(2, features, 0 * features)
    assert loss.dtype == torch.float32 and loss.item() == 2 * 900 * features.numel()


def test_shapes_that_differ_are_named():
    x = torch.ones(1, 2, 3, 3)
    for current, original, shape in ((x, x[:, :1], "(1, 1, 3, 3)"), (x[0], x, "(2, 3, 3)")):
        with pytest.raises(ValueError) as caught:
            ContentLoss()(1, current, original)
        assert shape in str(caught.value)
