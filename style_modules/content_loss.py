"""Content loss: how far the features of a picture are from those of the content picture."""

import torch
from torch import nn


class ContentLoss(nn.Module):
    """Content loss: Gatys et al. (CVPR 2016), equation 1, with the weight for the factor 1/2.

    Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks".
    """

    def forward(
        self, content_weight: float, content_current: torch.Tensor, content_original: torch.Tensor
    ) -> torch.Tensor:
        """w · Σ (F − P)², summed over all elements.

        Args:
            content_weight: the factor w.
            content_current: features F of the picture under optimisation, usually (N, C, H, W).
            content_original: features P of the content picture, of the same shape.

        Returns:
            0-dim tensor; float32 for features in half precision.

        Raises:
            ValueError: the shapes differ.
        """
        if content_current.shape != content_original.shape:
            raise ValueError(
                f"content_current has shape {tuple(content_current.shape)}, "
                f"but content_original has {tuple(content_original.shape)}; they must be equal"
            )
        difference = content_current - content_original
        return (
            content_weight
            * difference.to(torch.promote_types(difference.dtype, torch.float32)).square().sum()
        )
