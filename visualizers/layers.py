"""Which layer: looked up by name, or the last one that fits."""

import contextlib
import itertools
from collections import Counter

import torch
from torch import nn
from torchvision.models import SqueezeNet
from torchvision.ops import Permute

from errors import InputError

from .common import check_images, evaluated, graph_nodes
from .evaluation import check_model, evaluation_mode
from .feature_maps import Layer
from .layouts import CHANNELS_FIRST, layout_of, may_hold_maps, output_of

__all__ = ["Layer", "check_influence", "check_visible", "default_layer", "find_layer"]

# Add no spatial information to what the layer before gives
NOT_SPATIAL = (nn.AdaptiveAvgPool2d, nn.Dropout, Permute)
# Norms among tokens, from the end: where patches have no influence in so many, they have none
MOST_TRIES = 8
MOST_SEQUENCES = 16  # from the end, in which no patches are found: there are none further up either


def check_visible(model: nn.Module) -> None:
    """Raise InputError for a network that Python cannot look into."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in check_model(model)):
        raise InputError(
            "TorchScript hides a network's layers and ReLUs; give the network that it was made from"
        )


def find_layer(
    model: nn.Module, layer: Layer | nn.Module | str | None, images: torch.Tensor
) -> Layer:
    """Look a layer up and find out how its output holds feature maps.

    Args:
        model: the network.
        layer: dotted name or module; None: `default_layer`; a `Layer` of the network is returned as
            it is.
        images: (N, 3, H, W), the first of which the network is evaluated on.

    Raises:
        InputError: the network has no such layer, or gives no scores, or the layer gives no feature
            maps.
    """
    if layer is None:
        return default_layer(model, images)
    check_visible(model)
    name, module = _look_up(model, layer.module if isinstance(layer, Layer) else layer)
    if isinstance(layer, Layer):
        return layer
    images = check_images(images, model)
    try:
        return Layer(name, module, layout_of(model, module, images))
    except InputError:
        with evaluation_mode(model), torch.no_grad():
            evaluated(model, images[:1])  # the network's own faults come first
        raise


def _look_up(model: nn.Module, layer: nn.Module | str) -> tuple[str, nn.Module]:
    """Return a module with its dotted name."""
    # What a compiled network was made from
    modules = dict(getattr(model, "_orig_mod", model).named_modules())
    if isinstance(layer, nn.Module):
        name = next((name for name, module in modules.items() if module is layer), None)
        if name is None:
            raise InputError("layer is not a module of gc_model")
        return name, layer
    if not isinstance(layer, str) or layer not in modules or not layer:
        names = [name for name in modules if name and "." not in name]
        raise InputError(
            f"layer must be a module of gc_model or its dotted name, got {layer!r}; "
            f"its first names are {', '.join(names[:6])}"
        )
    return layer, modules[layer]


def default_layer(model: nn.Module, images: torch.Tensor | None = None) -> Layer:
    """Return SqueezeNet's features[12]; of another network the last layer evaluated that fits.

    It is evaluated once, has influence on the scores and gives feature maps larger than one pixel;
    pooling to a fixed size does not count. For transformers: the last norm whose patch tokens still
    affect the scores. In a ViT, which classifies by its class token, that is the norm before the
    last attention.

    Args:
        images: (N, 3, H, W), the first of which shows the order of evaluation; a black one of
            224×224 by default.

    Raises:
        InputError: there is none.
    """
    images = torch.zeros(1, 3, 224, 224) if images is None else images
    check_visible(model)
    images = check_images(images, model)[:1]
    if isinstance(model, SqueezeNet):
        # Then it may give a single pixel
        layer, small = model.features[12], max(images.shape[2:]) < 64
        if not small or output_of(model, layer, images).shape[2:].numel() > 1:
            return Layer("features.12", layer, CHANNELS_FIRST)
    names = {module: name for name, module in getattr(model, "_orig_mod", model).named_modules()}
    outputs = _influential_outputs(model, images)
    norms = {m for m in outputs if "Norm" in type(m).__name__} or set(outputs)
    tries = 0  # from the first layer with tokens on
    sequences = itertools.count()
    for module, shape in reversed(outputs.items()):
        if not may_hold_maps(shape, images) or (tries and module not in norms):
            continue
        if not tries and len(shape) == 3 and next(sequences) >= MOST_SEQUENCES:
            continue
        if tries > MOST_TRIES:
            break
        tries += tries > 0
        with contextlib.suppress(InputError):
            layer = Layer(names[module], module, layout_of(model, module, images))
            if layer.layout.kind != "tokens" and not tries:
                return layer
            tries = tries or 1
            if module in norms:
                check_influence(model, layer, images)
                return layer
    if tries:
        raise InputError(
            "no norm of the network gives tokens through which the patches have influence; choose "
            "a layer"
        )
    raise InputError(
        "the network has no layer with spatial feature maps (N, C, h, w), which Grad-CAM needs"
    )


def _influential_outputs(model: nn.Module, images: torch.Tensor) -> dict[nn.Module, torch.Size]:
    """Return module → shape of what it gives, in the order in which they finish.

    Only modules that are evaluated once, give one tensor on which the scores depend, and are not
    `NOT_SPATIAL`.
    """
    outputs: list[tuple[nn.Module, torch.autograd.graph.Node | None, torch.Size]] = []

    def note(module, _, output):
        output = output if isinstance(output, torch.Tensor) else torch.empty(0)
        outputs.append((module, output.grad_fn, output.shape))

    handles = [
        module.register_forward_hook(note) for module in model.modules() if module is not model
    ]
    try:
        with evaluation_mode(model):
            nodes = set(graph_nodes(evaluated(model, images.requires_grad_()).sum()))
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(module for module, *_ in outputs)
    return {
        module: shape
        for module, node, shape in outputs
        if times[module] == 1 and node in nodes and not isinstance(module, NOT_SPATIAL)
    }


def check_influence(model: nn.Module, layer: Layer, images: torch.Tensor) -> None:
    """Raise InputError if a layer's maps of the first image have no influence on its scores."""
    image = check_images(images, model)[:1]
    with evaluation_mode(model):
        with layer.record(image) as recorded:
            scores = evaluated(model, image)
        recorded[0].gradient(scores.amax())
