"""Small seeded networks, and the comparison of what techniques make of them."""

import numpy as np
import torch
from torch import nn
from torchvision import models


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()


def same_parameters(model: nn.Module, state: dict) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


def assert_close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= tolerance * np.abs(b).max()


SIZE = 32


def vit(**changes) -> nn.Module:
    """A small ViT for pictures of 32×32: a class token before 4×4 patches."""
    torch.manual_seed(0)
    sizes = {"num_layers": 3, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 24, "num_classes": 5}
    model = models.VisionTransformer(
        **({"image_size": SIZE, "patch_size": 8} | sizes | changes)
    ).eval()
    nn.init.normal_(model.heads[-1].weight)
    return model


def swin(**changes) -> nn.Module:
    """A small Swin: 8×8 and 4×4 places for pictures of 32×32, with 8 and 16 channels last."""
    torch.manual_seed(0)
    sizes = {
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": [4, 4],
        "num_classes": 5,
    }
    return models.SwinTransformer(**({"patch_size": [4, 4]} | sizes | changes)).eval()
