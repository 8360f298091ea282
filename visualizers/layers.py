"""A network's layers: which one, and its output as feature maps (N, C, h, w), however the network lays it out."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models import SqueezeNet
from torchvision.ops import Permute

from errors import InputError

from .common import check_images, evaluated, evaluation_mode, finite

EXTRA_TOKENS = 5  # at most, before the patches: class, distillation and register tokens
CONVOLUTIONAL = (  # their output is (N, C, h, w) in any case
    *(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
RELAYS = (nn.AdaptiveAvgPool2d, nn.Dropout, Permute)  # what only hands on, or averages, what the layer before it found


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds feature maps of C channels and h×w places.

    "channels first": (N, C, h, w), as of convolutions; "channels last": (N, h, w, C), as of Swin; "tokens":
    (N, extra + h·w, C), as of ViT, whose class token and the like come before the patches.
    """

    kind: str
    height: int
    width: int
    extra: int = 0

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """View a layer's output as feature maps (N, C, h, w)."""
        if self.kind == "channels first":
            return output
        if self.kind == "tokens":
            output = output[:, self.extra :].unflatten(1, (self.height, self.width))
        return output.permute(0, 3, 1, 2)

    def output(self, maps: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Lay feature maps out as `output` is; its extra tokens are taken over."""
        if self.kind == "channels first":
            return maps
        maps = maps.permute(0, 2, 3, 1)
        return maps if self.kind == "channels last" else torch.cat([output[:, : self.extra], maps.flatten(1, 2)], dim=1)


# --- Which layer ---


def check_visible(model: nn.Module) -> None:
    """Raise InputError for a network that Python cannot look into."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError("TorchScript hides a network's layers and ReLUs; give the network that it was made from")


def find_module(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    """Look a module up by its dotted name; a module is returned as it is.

    Raises:
        InputError: the network has no such module.
    """
    modules = dict(getattr(model, "_orig_mod", model).named_modules())  # what a compiled network was made from
    if isinstance(layer, nn.Module):
        if all(layer is not module for module in modules.values()):
            raise InputError("layer is not a module of gc_model")
        return layer
    if not isinstance(layer, str) or layer not in modules or not layer:
        names = [name for name in modules if name and "." not in name]
        raise InputError(
            f"layer must be a module of gc_model or its dotted name, got {layer!r}; "
            f"its first names are {', '.join(names[:6])}"
        )
    return modules[layer]


def default_layer(model: nn.Module, images: torch.Tensor | None = None) -> nn.Module:
    """Return SqueezeNet's features[12]; of another network the last layer evaluated that fits.

    It is evaluated once and gives feature maps larger than one pixel; pooling to a fixed size does not count. Where the
    last such maps are tokens, it is the last norm through which the patches have influence: of a ViT that goes on with
    its class token alone, the last block's norm before attention.

    Args:
        images: (N, 3, H, W), the first of which shows the order of evaluation; a black one of 224×224 by default.

    Raises:
        InputError: there is none.
    """
    images = torch.zeros(1, 3, 224, 224) if images is None else images[:1]
    if isinstance(model, SqueezeNet) and max(images.shape[2:]) >= 64:
        return model.features[12]  # of smaller pictures its maps may be a single pixel
    images = check_images(images, model)
    check_visible(model)
    with evaluation_mode(model):
        shapes, tokens = _shapes_of_outputs(model, images), []
        if isinstance(model, SqueezeNet) and shapes[model.features[12]][2:].numel() > 1:
            return model.features[12]
        for layer in reversed(shapes):
            with contextlib.suppress(InputError):
                if layout_of(model, layer, shapes[layer], images).kind == "tokens":
                    tokens.append(layer)
                elif not tokens:
                    return layer
        for layer in tokens:
            with contextlib.suppress(InputError):
                if "Norm" in type(layer).__name__ and influence(model, layer, images):
                    return layer
    if tokens:
        raise InputError("no norm of the network gives tokens through which the patches have influence; choose a layer")
    raise InputError("the network has no layer with spatial feature maps (N, C, h, w), which Grad-CAM needs")


def _shapes_of_outputs(model: nn.Module, images: torch.Tensor) -> dict[nn.Module, torch.Size]:
    """Return the shape of what each module gives, in the order in which they finish: of those that are evaluated
    once, give one tensor, and do not merely hand on what the one before has found.
    """
    outputs = []
    handles = [
        module.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
        for module in model.modules()
        if module is not model
    ]
    try:
        with torch.no_grad():
            model(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(module for module, _ in outputs)
    return {
        module: output.shape
        for module, output in outputs
        if times[module] == 1 and isinstance(output, torch.Tensor) and not isinstance(module, RELAYS)
    }


# --- How it lays out its maps ---


def layout_of(model: nn.Module, layer: nn.Module, shape: torch.Size, images: torch.Tensor) -> Layout:
    """Tell how a layer's output of some shape holds feature maps of images (N, 3, H, W).

    Maps have the pictures' proportions. Where two axes could be the width, a picture twice as wide shows which is.

    Raises:
        InputError: it holds none that can be told for sure, or maps of a single pixel.
    """
    layout, (height, width) = None, images.shape[2:]
    if len(shape) == 3 and shape[0] == len(images):
        layout = _tokens(model, shape, height, width)
    elif len(shape) == 4 and shape[0] == len(images):
        first, last = (abs(h * width - w * height) <= max(height, width) for h, w in (shape[2:], shape[1:3]))
        if not isinstance(layer, CONVOLUTIONAL) and first == last:
            axis = _axis_of_width(model, layer, images)
            first, last = axis == 3, last and axis == 2
        if first or isinstance(layer, CONVOLUTIONAL):
            layout = Layout("channels first", *shape[2:])
        elif last:
            layout = Layout("channels last", *shape[1:3])
    if layout is None:
        raise InputError(
            "layer must give tokens (N, 1+h·w, C), channels-last maps (N, h, w, C) or "
            f"feature maps (N, C, h, w), got {tuple(shape)} for images {tuple(images.shape)}"
        )
    if layout.height * layout.width == 1 < height * width:
        raise InputError("layer gives maps of a single pixel, which tell no places apart; choose an earlier one")
    return layout


def _tokens(model: nn.Module, shape: torch.Size, height: int, width: int) -> Layout | None:
    """Return the layout of a sequence (N, L, C) if L counts patches and few tokens more, and the network works on
    vectors of C numbers; not of (N, C, L), where the same could be said the other way round.
    """
    readings = []
    for length, channels in (shape[1:], shape[:0:-1]):
        grids = (
            (extra, height // size, width // size)
            for extra in range(EXTRA_TOKENS + 1)
            for size in range(1, min(height, width) // 2 + 1)
            if (height // size) * (width // size) == length - extra
        )
        vectors = any(parameter.shape[-1:] == (channels,) for parameter in model.parameters())
        readings.append(next(grids, None) if vectors else None)
    if readings[0] is None or readings[1] is not None:
        return None
    extra, rows, columns = readings[0]
    return Layout("tokens", rows, columns, extra)


def _axis_of_width(model: nn.Module, layer: nn.Module, images: torch.Tensor) -> int | None:
    """Return the one axis of a layer's output that is longer for a picture twice as wide; None if there is none."""
    shapes = []

    def stop(_, __, output):
        shapes.append(output.shape)
        raise StopIteration  # the rest of the network may not take the picture

    for picture in (images[:1], torch.cat([images[:1], images[:1]], dim=3)):
        handle = layer.register_forward_hook(stop, prepend=True)
        try:
            with torch.no_grad(), contextlib.suppress(Exception):
                model(picture.clone())
        finally:
            handle.remove()
    longer = [axis for axis in range(4) if len(shapes) == 2 and shapes[0][axis] < shapes[1][axis]]
    return longer[0] if len(longer) == 1 else None


# --- Its maps in an evaluation ---


@dataclass
class KeptMaps:
    """A layer's feature maps in one evaluation of a network, from which a gradient by them can be taken."""

    maps: torch.Tensor | None = None  # (N, C, h, w), in the graph
    layout: Layout | None = None

    def gradient(self, score: torch.Tensor, retain_graph: bool = False) -> torch.Tensor:
        """Return the gradient of a score by the maps, (N, C, h, w).

        Raises:
            InputError: they have no influence on the score, or the gradient is not finite.
        """
        assert self.maps is not None and self.layout is not None  # the hook has kept them
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score, self.maps, allow_unused=True, retain_graph=retain_graph)
        if gradient is None:
            raise InputError("layer has no influence on the scores, or none that a gradient shows")
        if self.layout.extra and not gradient.any():
            raise InputError(
                "layer: its patches have no influence on the scores, as after the last attention only the class token "
                "has; choose for example the last block's norm before attention"
            )
        return finite(gradient)


@contextlib.contextmanager
def kept_maps(model: nn.Module, layer: nn.Module, images: torch.Tensor) -> Iterator[KeptMaps]:
    """Keep a layer's feature maps while the network is evaluated on images, once. The hook is always removed.

    Raises:
        InputError: the layer gives no feature maps, or is not evaluated once.
    """
    kept, times = KeptMaps(), 0

    def keep(_, __, output):
        nonlocal times
        times += 1
        if not isinstance(output, torch.Tensor):
            raise InputError(f"layer must give feature maps (N, C, h, w), got {type(output).__name__}")
        if output.dim() == 4 and output.numel() and (output[0, 0].sum(dim=-1) - 1).abs().max() < 1e-3:
            raise InputError("layer must give feature maps (N, C, h, w), not the weights of attention")
        kept.layout = layout_of(model, layer, output.shape, images)
        maps = kept.layout.maps(output)
        # Of a frozen network and a plain image, the graph begins here.
        kept.maps = maps if maps.requires_grad else maps.detach().requires_grad_()
        # A copy goes on: an in-place ReLU after the layer would overwrite what is kept.
        return kept.layout.output(kept.maps.clone(), output)

    handle = layer.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
    if times != 1:
        what = f"is evaluated {times} times" if times else "is never evaluated"
        raise InputError(f"layer {what} in a forward pass; choose one that is evaluated once")


def influence(model: nn.Module, layer: nn.Module, images: torch.Tensor) -> Layout:
    """Check that a layer gives feature maps which have influence on the scores of the first image.

    Returns:
        How it lays out its maps.

    Raises:
        InputError: it does not.
    """
    image = check_images(images, model)[:1]
    check_visible(model)
    with evaluation_mode(model):
        with kept_maps(model, layer, image) as kept:
            scores = evaluated(model, image)
        kept.gradient(scores.amax())
    assert kept.layout is not None
    return kept.layout


@contextlib.contextmanager
def as_maps(layer: nn.Module, layout: Layout) -> Iterator[nn.Module]:
    """Give a module that is evaluated as part of a layer and whose output is the layer's as maps (N, C, h, w).

    With it, what knows such maps only, as Captum's layer attributions, looks into layers of any layout.
    """
    if layout.kind == "channels first":
        yield layer
        return
    module = nn.Identity()
    handle = layer.register_forward_hook(lambda _, __, out: layout.output(module(layout.maps(out)), out))
    try:
        yield module
    finally:
        handle.remove()
