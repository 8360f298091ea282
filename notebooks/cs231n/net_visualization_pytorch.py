"""The first notebook's functions: saliency maps, fooling images and class visualization.

As the course's, they put the network into eval mode and leave it there.
"""

import torch
from torch import nn

from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, blur_image, deprocess, preprocess, rescale
from visualizers import ClassVisualization, FoolingImage, SaliencyMap
from visualizers.class_visualization import objective_gradient
from visualizers.common import unit_length
from visualizers.evaluation import evaluation_mode

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

jitter = ClassVisualization().jitter


def compute_saliency_maps(X: torch.Tensor, y: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return saliency maps (N, H, W): `SaliencyMap.compute_saliency_maps`."""
    return SaliencyMap().compute_saliency_maps(X, y, model.eval())


def make_fooling_image(
    X: torch.Tensor, target_y: int, model: nn.Module, learning_rate: float = 1, **kwargs
):
    """Return a fooling image (1, 3, H, W) by CS231n's steps of length 1."""
    return FoolingImage().make_fooling_image(X, target_y, model.eval(), learning_rate, **kwargs)


def make_fool_image(
    X: torch.Tensor, target_y: int, model: nn.Module, learning_rate: float = 10, **kwargs
):
    """Return a fooling image (1, 3, H, W) by CS7643's steps of length 10."""
    return FoolingImage().make_fooling_image(X, target_y, model.eval(), learning_rate, **kwargs)


def class_visualization_update_step(
    img: torch.Tensor, model: nn.Module, target_y: int, l2_reg: float, learning_rate: float
) -> None:
    """Change an image (1, 3, H, W) in place by one step up s_y(I) − l2_reg · ‖I‖²."""
    step = unit_length(ascent(img, target_y, model, l2_reg))
    with torch.no_grad():
        img += learning_rate * step


def ascent(img: torch.Tensor, target_y: int, model: nn.Module, l2_reg: float) -> torch.Tensor:
    """Return the gradient (1, 3, H, W) of s_y(I) − l2_reg · ‖I‖² by the image I."""
    with evaluation_mode(model.eval()):
        return objective_gradient(img, target_y, model, l2_reg)[1]
