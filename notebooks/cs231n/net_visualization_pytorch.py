"""The first notebook's functions: saliency maps, fooling images and class visualization."""

import torch
from torch import nn

from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, blur_image, deprocess, preprocess, rescale
from visualizers import ClassVisualization, FoolingImage, SaliencyMap
from visualizers.class_visualization import objective_gradient
from visualizers.common import evaluation_mode, unit_length

__all__ = [
    "SQUEEZENET_MEAN",
    "SQUEEZENET_STD",
    "blur_image",
    "class_visualization_update_step",
    "compute_saliency_maps",
    "deprocess",
    "jitter",
    "make_fool_image",
    "make_fooling_image",
    "preprocess",
    "rescale",
]

compute_saliency_maps = SaliencyMap().compute_saliency_maps
make_fooling_image = make_fool_image = FoolingImage().make_fooling_image
jitter = ClassVisualization().jitter


def class_visualization_update_step(
    img: torch.Tensor, model: nn.Module, target_y: int, l2_reg: float, learning_rate: float
) -> None:
    """Change an image (1, 3, H, W) in place by one step of length `learning_rate` up s_y(I) − l2_reg · ‖I‖²."""
    with evaluation_mode(model):
        _, gradient = objective_gradient(img, target_y, model, l2_reg)
    with torch.no_grad():
        img += learning_rate * unit_length(gradient)
