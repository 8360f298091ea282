"""Gram matrices under masks: the other edition's numbers, and what its check cannot see; mixed
styles.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from checker.measures import NOTEBOOK, NOTEBOOK_TARGET
from errors import InputError
from style_modules import StyleLoss, guided_gram_matrix, guided_style_loss
from style_modules.guided_style import GuidedStyleLoss, mixed_targets, region_masks, scaled_masks

TRIANGLES = torch.triu(torch.ones(1, 2, 3, 3))
GRAMS = [
    [[0.0601, -0.0172, 0.0375], [-0.0172, 0.2454, 0.0670], [0.0375, 0.0670, 0.1415]],
    [[0.1082, 0.0199, 0.0454], [0.0199, 0.3434, -0.0038], [0.0454, -0.0038, 0.0673]],
]


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    guided = features * masks[:, :, None]
    return np.einsum("nrchw,nrdhw->nrcd", guided, guided) / np.prod(features.shape[2:])


def test_the_other_editions_numbers():
    torch.testing.assert_close(
        guided_gram_matrix(NOTEBOOK, TRIANGLES)[0], torch.tensor(GRAMS), rtol=0, atol=1e-4
    )
    loss = guided_style_loss([NOTEBOOK], [0], [NOTEBOOK_TARGET], [15], [TRIANGLES])
    assert loss.item() == pytest.approx(267.6274, rel=1e-6)


def test_two_pictures_two_fractional_masks_and_sides_that_differ():
    features, masks = numbers(0, 2, 3, 4, 5, 6), numbers(1, 2, 3, 5, 6)
    np.testing.assert_allclose(
        guided_gram_matrix(features, masks), by_hand(features.numpy(), masks.numpy())
    )
    plain = guided_gram_matrix(features, masks, normalize=False)
    torch.testing.assert_close(plain, guided_gram_matrix(features, masks) * 120)


def test_each_layer_has_its_own_mask():
    feats = [numbers(2, 1, 2, 4, 5, 6), numbers(3, 1, 2, 3, 2, 3)]
    masks = [numbers(4, 1, 2, 5, 6), numbers(5, 1, 2, 2, 3)]
    target = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    wanted = 7 * (by_hand(feats[1].numpy(), masks[1].numpy()) ** 2).sum()
    assert guided_style_loss(feats, [1], [target], [7], masks).item() == pytest.approx(wanted)


def test_masks_of_ones_change_nothing():
    maps = numbers(6, 2, 4, 5, 6)
    target = numbers(7, 2, 4, 4)
    plain = StyleLoss()([maps], [0], [target], [3])
    guided = guided_style_loss([maps], [0], [target[:, None]], [3], [torch.ones(2, 1, 5, 6)])
    torch.testing.assert_close(guided, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        guided_gram_matrix(maps[:, None], torch.ones(2, 1, 5, 6))[:, 0],
        StyleLoss().gram_matrix(maps),
    )


def test_a_regions_target_is_smaller_by_its_area():
    masks = scaled_masks(
        torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), [torch.Size((4, 4)), torch.Size((1, 1))]
    )
    assert masks[0].shape == (1, 1, 4, 4) and masks[1].item() == 0.5
    targets = GuidedStyleLoss(masks).targets([0, 1], [[torch.ones(1, 2, 2), torch.ones(1, 2, 2)]])
    assert [target.shape for target in targets] == [(1, 1, 2, 2)] * 2
    assert targets[0].unique().item() == 0.5 and targets[1].unique().item() == 0.25


def test_styles_are_mixed_by_their_shares():
    grams = [[torch.tensor([[[0.1, 0.7]]])], [torch.tensor([[[0.4, 0.2]]])]]
    assert torch.equal(mixed_targets(grams, (3, 0))[0], grams[0][0])
    torch.testing.assert_close(mixed_targets(grams, (2, 1))[0], torch.tensor([[[0.2, 1.6 / 3]]]))
    torch.testing.assert_close(mixed_targets(grams, None)[0], torch.tensor([[[0.25, 0.45]]]))
    for shares in ((1,), (-1, 2), (0, 0), (float("nan"), 1)):
        with pytest.raises(ValueError, match="style_shares"):
            mixed_targets(grams, shares)


@pytest.mark.parametrize(
    ("masks", "progress"),
    [
        ([Image.new("L", (60, 40), 255)] * 2, "2"),
        ([Image.new("L", (40, 40), 255)], "40×40"),
        ([Image.new("L", (60, 40))], "black"),
    ],
)
def test_masks_that_do_not_fit(masks, progress):
    with pytest.raises(InputError, match=progress):
        region_masks(masks, torch.zeros(1, 3, 32, 48), 1)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(N, R, H, W\)"):
        guided_gram_matrix(numbers(0, 1, 2, 3, 4, 5), numbers(0, 1, 2, 5, 4))
    with pytest.raises(ValueError, match="content_masks"):
        guided_style_loss([NOTEBOOK], [0], [NOTEBOOK_TARGET], [15], [])
