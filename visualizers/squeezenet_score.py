"""A quick way to SqueezeNet's scores: only the labelled classes' channels are evaluated."""

from typing import Any

import torch
from torch import nn
from torchvision.models import SqueezeNet


def squeezenet_score(model: nn.Module, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the raw score s_y of each image's class: (N, 3, H, W) and (N,) → (N,).

    The classifier is a 1×1 convolution with one channel per class, ReLU and mean, and a quarter of
    the network's time. s_y = mean over the places of relu(w_y · features + b_y), with the weights
    w_y and bias b_y of channel y.
    """
    features, convolution = model.features(images), model.classifier[1]
    # Quicker than an einsum
    maps = (features * convolution.weight[y]).sum(dim=1) + convolution.bias[y, None, None]
    return model.classifier[2](maps).mean(dim=(1, 2))


def has_plain_classifier(model: nn.Module) -> bool:
    """Return True for torchvision's SqueezeNet as it comes.

    Its classifier has no hooks and is not compiled; its last ReLU may be missing.
    """
    if (
        type(model) is not SqueezeNet
        or "forward" in vars(model)
        or len(list(model.classifier.children())) != 4
    ):
        return False
    classifier: Any = model.classifier
    modules = [model, classifier, *classifier]
    kinds = (nn.Dropout,), (nn.Conv2d,), (nn.ReLU, nn.Identity), (nn.AdaptiveAvgPool2d,)
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_compiled_call_impl",
    )
    return (
        all(type(module) in kind for module, kind in zip(classifier, kinds, strict=True))
        and classifier[1].kernel_size == (1, 1)
        and not any(getattr(module, hook) for module in modules for hook in hooks)
    )
