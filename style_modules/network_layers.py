"""Which layers of a network stand for content and style, and weights that balance their terms."""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models import VGG, SqueezeNet

from errors import cause

SQUEEZENET_LAYERS = (3, (1, 4, 6, 7))  # content, style: the course's


def default_layers(
    cnn: nn.Module, layers: Sequence[nn.Module], image: torch.Tensor
) -> tuple[int, tuple[int, ...]]:
    """Return the content layer and the style layers that a network is used with.

    SqueezeNet: the course's. VGG: relu4_2 and relu1_1, relu2_1, … relu5_1 (Gatys, Ecker and Bethge
        2016, section 3).
    Others: the last layers before each of the first four reductions in size; the second of them is
        the content layer.

    Args:
        layers: the network's feature layers, which run one after the other.
        image: (1, 3, H, W), shows the sizes of their outputs.

    Raises:
        ValueError: the size is never reduced, or a layer fails before it is.
    """
    if isinstance(cnn, SqueezeNet):
        return SQUEEZENET_LAYERS
    if isinstance(cnn, VGG):
        named = _vgg_relus(layers)
        return named["relu4_2"], tuple(named[f"relu{block}_1"] for block in range(1, 6))
    before = _before_reductions(layers, image)[:4]
    if not before:
        raise ValueError("no layer of the network reduces the size of its feature maps")
    return before[min(1, len(before) - 1)], tuple(before)


def _vgg_relus(layers: Sequence[nn.Module]) -> dict[str, int]:
    """Return the numbers of VGG's ReLUs by their names in the literature: relu<block>_<number>."""
    block, number, named = 1, 0, {}
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            block, number = block + 1, 0
        elif isinstance(layer, nn.ReLU):
            number += 1
            named[f"relu{block}_{number}"] = i
    return named


def _before_reductions(layers: Sequence[nn.Module], x: torch.Tensor) -> list[int]:
    """Return the numbers of the layers whose feature maps the next layer makes smaller."""
    sides = x.shape[2:].numel()
    before: list[int] = []
    with torch.no_grad():
        for i, layer in enumerate(layers):
            try:
                x = layer(x.clone())
            except (Exception, SystemExit) as error:  # of a classifier, which takes no maps
                if not before:
                    raise ValueError(f"the network's layer {i} fails: {cause(error)}") from error
                break
            if x.dim() != 4 or x.shape[2:].numel() == 1:
                break
            if i and x.shape[2:].numel() < sides:
                before.append(i - 1)
            sides = x.shape[2:].numel()
    return before
