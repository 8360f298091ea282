"""EECS 498/598's helpers, as far as network visualization and style transfer use them."""

from pathlib import Path

import cs231n  # noqa: F401  # finds the project
import torch
import torchvision.transforms as T
from cs231n.net_visualization_pytorch import jitter
from PIL import Image

from data_utils import load_imagenet_val
from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, blur_image, deprocess, preprocess, rescale
from style_utils import check_scipy

__all__ = [
    "SQUEEZENET_MEAN",
    "SQUEEZENET_STD",
    "T",
    "blur_image",
    "check_scipy",
    "deprocess",
    "get_zero_one_masks",
    "hello_helper",
    "jitter",
    "load_imagenet_val",
    "preprocess",
    "rescale",
]


def hello_helper() -> None:
    """Say that the module was found, as the course's does."""
    print(f"Hello from {Path(__file__).name}!")


def get_zero_one_masks(img: Image.Image, size: int | tuple[int, int]) -> torch.Tensor:
    """Return a picture as a mask, float (1, H, W): 1 where its colours add up to 1 or more.

    Args:
        img: RGB.
        size: of the short side, or (height, width).
    """
    scaled = T.ToTensor()(T.Resize(size)(img))
    return (scaled.sum(0, keepdim=True) >= 1).float()
