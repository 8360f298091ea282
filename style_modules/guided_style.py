"""Style by regions: Gram matrices under masks, so that each style counts in its region."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from errors import InputError

from .style_loss import StyleLoss


def guided_gram_matrix(
    features: torch.Tensor, masks: torch.Tensor, normalize: bool = True
) -> torch.Tensor:
    """Return the Gram matrix of F ∘ T for each region's mask T.

    Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017, section
    "Spatial Control", guided Gram matrices.

    Args:
        features: (N, R, C, H, W), for each of R regions.
        masks: (N, R, H, W), usually in [0, 1]; they need not add up to one.
        normalize: divide by C · H · W.

    Returns:
        (N, R, C, C); with masks of ones the plain Gram matrices.

    Raises:
        ValueError: the shapes do not fit.
    """
    if features.dim() != 5 or masks.shape != (*features.shape[:2], *features.shape[3:]):
        raise ValueError(
            f"features must have shape (N, R, C, H, W) and masks (N, R, H, W), "
            f"got {tuple(features.shape)} and {tuple(masks.shape)}"
        )
    guided = (features * masks[:, :, None]).flatten(0, 1)
    return StyleLoss().gram_matrix(guided, normalize).unflatten(0, features.shape[:2])


def guided_style_loss(
    feats: Sequence[torch.Tensor],
    style_layers: Sequence[int],
    style_targets: Sequence[torch.Tensor],
    style_weights: Sequence[float],
    content_masks: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Σ_l w_l · Σ (G_l − A_l)², with G_l the guided Gram matrices of layer l.

    Args:
        feats: one tensor per layer of the network: (N, R, C, H, W), or (N, C, H, W) for all regions
            alike.
        style_layers: the layers l, as indices into `feats`.
        style_targets: A_l (N, R, C, C), one per layer in `style_layers`.
        style_weights: w_l, one per layer in `style_layers`.
        content_masks: (N, R, H_l, W_l), one per layer of the network, as in `feats`.

    Returns:
        0-dim tensor; zero when `style_layers` is empty.

    Raises:
        ValueError: the lists differ in length, or the shapes do not fit.
    """
    if len(content_masks) != len(feats):
        raise ValueError(
            f"content_masks must have one entry per layer in feats, got {len(content_masks)}"
        )
    return GuidedStyleLoss(content_masks)(feats, style_layers, style_targets, style_weights)


class GuidedStyleLoss(StyleLoss):
    """`guided_style_loss` with its masks, called as `StyleLoss` is."""

    def __init__(self, content_masks: Sequence[torch.Tensor]):
        """Keep the masks: (N, R, H_l, W_l), one per layer of the network."""
        super().__init__()
        self.content_masks = content_masks

    def targets(
        self, style_layers: Sequence[int], grams: Sequence[Sequence[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Return each layer's targets (1, R, C, C), from each style's Gram matrices.

        The Gram matrix of a region is smaller by the mean of its squared mask, so its target is,
        too.
        """
        areas = [
            self.content_masks[layer].square().mean(dim=(2, 3))[:, :, None, None]
            for layer in style_layers
        ]
        return [
            torch.stack(layer, dim=1) * area
            for layer, area in zip(zip(*grams, strict=True), areas, strict=True)
        ]

    def layer_gram(self, feats: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
        """Return the guided Gram matrices of a layer, (N, R, C, C)."""
        maps, masks = feats[layer], self.content_masks[layer]
        if maps.dim() == 4:
            maps = maps[:, None].expand(-1, masks.shape[1], -1, -1, -1)
        return guided_gram_matrix(maps, masks)


def scaled_masks(masks: torch.Tensor, sizes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """Average masks (R, H, W) over each layer's pixels: (1, R, H_l, W_l) for each size."""
    return [nn.functional.interpolate(masks[None], size=size, mode="area") for size in sizes]


def region_masks(pictures: Sequence[Image.Image], like: torch.Tensor, count: int) -> torch.Tensor:
    """Return grey pictures as masks (R, H, W) in [0, 1], of the size of a picture (1, 3, H, W).

    Raises:
        InputError: not `count` masks, one of other proportions, or a black one.
    """
    if len(pictures) != count:
        raise InputError(f"there must be a mask for each of {count} styles, got {len(pictures)}")
    height, width = like.shape[2:]
    for number, mask in enumerate(pictures, start=1):
        check_mask(mask, (width, height), f"mask {number}")
    grey = [mask.convert("L").resize((width, height)) for mask in pictures]
    values = [np.asarray(mask, np.float32) / 255 for mask in grey]
    return torch.from_numpy(np.stack(values)).to(like)


def check_mask(mask: Image.Image, size: tuple[int, int], name: str) -> None:
    """Raise an InputError for a black mask, or one without the proportions of `size`, (W, H)."""
    width, height = size
    rounding = max(mask.size) + max(size)
    if abs(mask.width * height - mask.height * width) > rounding:
        raise InputError(
            f"{name} is {mask.width}×{mask.height} pixels; it needs the content picture's "
            f"proportions, those of {width}×{height}"
        )
    if not mask.convert("L").getbbox():
        raise InputError(f"{name} is black: its style would count nowhere")


def mixed_targets(
    grams: Sequence[Sequence[torch.Tensor]], shares: Sequence[float] | None
) -> list[torch.Tensor]:
    """Mix the styles' Gram matrices A_k by shares s_k, layer by layer: Σ_k s_k · A_k / Σ_k s_k.

    Raises:
        ValueError: not one share per style, a negative one, or all 0.
    """
    shares = [1.0] * len(grams) if shares is None else shares
    if (
        len(shares) != len(grams)
        or not all(share >= 0 for share in shares)
        or not 0 < sum(shares) < math.inf
    ):
        raise ValueError(
            f"style_shares must hold a number for each of {len(grams)} styles, not all 0; got "
            f"{shares}"
        )
    scaled = [share / sum(shares) for share in shares]
    return [
        functools.reduce(
            torch.add, (share * gram for share, gram in zip(scaled, layer, strict=True))
        )
        for layer in zip(*grams, strict=True)
    ]
