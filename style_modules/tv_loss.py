"""Total variation: how much neighbouring pixels differ."""

import torch
from torch import nn


class TotalVariationLoss(nn.Module):
    """Total variation loss: Mahendran and Vedaldi (CVPR 2015), section 2.2, with β = 2.

    "Understanding Deep Image Representations by Inverting Them".
    """

    def forward(self, img: torch.Tensor, tv_weight: float) -> torch.Tensor:
        """Return w · (Σ squared differences of vertical neighbours + the same of horizontal ones).

        Args:
            img: pictures (N, C, H, W); the sum runs over all of them and all channels.
            tv_weight: the factor w.

        Returns:
            0-dim tensor, zero where pictures are a single pixel; of pictures in half precision,
            float32.

        Raises:
            ValueError: `img` does not have four dimensions.
        """
        if img.dim() != 4:
            raise ValueError(f"img must have shape (N, C, H, W), got {tuple(img.shape)}")
        img = img.to(torch.promote_types(img.dtype, torch.float32))
        vertical = img[:, :, 1:, :] - img[:, :, :-1, :]
        horizontal = img[:, :, :, 1:] - img[:, :, :, :-1]
        return tv_weight * (vertical.square().sum() + horizontal.square().sum())
