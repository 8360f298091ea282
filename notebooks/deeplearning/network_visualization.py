"""CS182's saliency maps, fooling images and class visualization; the network stays in eval mode."""

import torch
from cs231n.net_visualization_pytorch import compute_saliency_maps, make_fooling_image
from network_visualization import class_visualization_step
from torch import nn

__all__ = [
    "compute_saliency_maps",
    "make_fooling_image",
    "update_class_visualization",
    "update_class_visulization",
]


def update_class_visulization(
    model: nn.Module, target_y: int, l2_reg: float, learning_rate: float, img: torch.Tensor
) -> torch.Tensor:
    """Return a new image (1, 3, H, W), one step up s_y(I) − l2_reg · ‖I‖²."""
    return class_visualization_step(
        img.detach().clone(), target_y, model, l2_reg=l2_reg, learning_rate=learning_rate
    )


update_class_visualization = update_class_visulization  # the starter misspells it
