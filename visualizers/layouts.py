"""How a layer's output holds feature maps: which axes are places, which tokens are patches."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.squeezenet import Fire

from errors import InputError

from .common import DAMAGED, is_finite
from .evaluation import evaluation_mode

EXTRA_TOKENS = 8  # at most, beside the patches: class, distillation and register tokens
# Their output is (N, C, h, w) in any case, so nothing has to be evaluated to know it.
CONVOLUTIONAL = (
    *(
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
    ),
    *(Fire, BasicBlock, Bottleneck),
)
# Where the picture is changed, (y, x) in shares of its sides: off the diagonal, so that exchanged
# axes are noticed.
CHANGE = 2  # of normalised pixels, standard deviation of the noise that is added
PLACES = ((1 / 8, 5 / 8), (3 / 8, 7 / 8), (5 / 8, 1 / 8), (7 / 8, 3 / 8))


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds feature maps of C channels and h×w places.

    "channels first": (N, C, h, w), as of convolutions; "channels last": (N, h, w, C), as of Swin;
    "tokens": (N, before + h·w + after, C), as of ViT, where h and w count the patches, row by row.
    """

    kind: str
    patch: int = 1  # of tokens: the side of a patch in pixels
    before: int = 0  # tokens before the patches, such as the class token
    after: int = 0

    def maps(self, output: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """View a layer's output as feature maps (N, C, h, w) of pictures of `size`, (H, W).

        Raises:
            InputError: it has not as many tokens as there are patches, or a single place.
        """
        if self.kind == "tokens":
            h, w = (side // self.patch for side in size)
            if output.shape[1] != self.before + h * w + self.after:
                raise InputError(
                    f"layer gives {output.shape[1]} tokens, which are not {h}×{w} patches and few "
                    f"more"
                )
            output = output[:, self.before : self.before + h * w].unflatten(1, (h, w))
        maps = output if self.kind == "channels first" else output.permute(0, 3, 1, 2)
        if maps.shape[2:].numel() == 1 < size.numel():
            raise InputError(
                "layer gives maps of a single pixel, which tell no places apart; choose an earlier "
                "one"
            )
        return maps

    def output(self, maps: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Lay feature maps out as `output` is, whose other tokens are taken over."""
        if self.kind == "channels first":
            return maps
        maps = maps.permute(0, 2, 3, 1)
        if self.kind == "channels last":
            return maps
        patches = maps.flatten(1, 2)
        after = output[:, self.before + patches.shape[1] :]
        return torch.cat([output[:, : self.before], patches, after], dim=1)


CHANNELS_FIRST = Layout("channels first")


def layout_of(model: nn.Module, module: nn.Module, images: torch.Tensor) -> Layout:
    """Find out how a layer's output holds feature maps of images (N, 3, H, W).

    One patch of the first picture is changed, off the diagonal, in four places in turn. The layout
    is the one in which the place that answers most is where the change was.

    Raises:
        InputError: the output holds no maps, or none that this tells for sure, or maps of a single
            pixel.
    """
    if _gives_channels_first(module):
        return CHANNELS_FIRST
    picture = images[:1].detach() if len(images) else images.new_zeros(1, *images.shape[1:])
    output, size = output_of(model, module, picture), picture.shape[2:]
    if not is_finite(output):
        raise InputError(DAMAGED)
    answers = functools.partial(_answers, model, module, picture, output)
    layout = None
    # With heads or windows of attention counted among the images, places could not be told
    if len(output) == 1:
        layout = _layout_of_maps(answers, output.shape, size) or _layout_of_tokens(
            answers, output.shape, size
        )
    if layout is None:
        got = (len(images), *output.shape[1:])
        raise InputError(
            "layer must give tokens (N, 1+h·w, C) in the order of the patches, channels-last maps "
            "(N, h, w, C) or "
            f"feature maps (N, C, h, w), got {got} for images {tuple(images.shape)}"
        )
    layout.maps(output, size)  # refuses a single pixel
    return layout


def _layout_of_maps(
    answers: Callable[..., torch.Tensor], shape: torch.Size, size: torch.Size
) -> Layout | None:
    """Return the one layout in which the places that answer most are those that were changed."""
    if not _map_kinds(shape, size):
        return None
    height, width = (max(1, side // 4) for side in size)
    corners = [
        (max(0, round(y * size[0] - height / 2)), max(0, round(x * size[1] - width / 2)))
        for y, x in PLACES
    ]
    changes = answers([(top, left, height, width) for top, left in corners])
    fitting = [
        layout
        for layout in _map_kinds(shape, size)
        if _answers_in_place(layout.maps(changes, size))
    ]
    return fitting[0] if len(fitting) == 1 else None


def _layout_of_tokens(
    answers: Callable[..., torch.Tensor], shape: torch.Size, size: torch.Size
) -> Layout | None:
    """Return the layout in which the token that answers most is that of the patch that was changed.

    Of the grids that could be, the finest that fits is right: a patch of a coarser one holds
    several tokens.
    """
    for (h, w), patch in _grids(shape, size).items():
        cells = [(int(y * h), int(x * w)) for y, x in PLACES]
        changes = answers([(row * patch, column * patch, patch, patch) for row, column in cells])
        tokens, more = changes.sum(dim=2).argmax(dim=1).tolist(), shape[1] - h * w
        pairs = list(zip(tokens, cells, strict=True))
        first, *others = {token - (row * w + column) for token, (row, column) in pairs}
        if not others and 0 <= first <= more:
            return Layout("tokens", patch, first, more - first)
        # Pooling before attention, as in MViT, moves things by a place
        if not more and min(h, w) >= 7 and all(_is_near(divmod(t, w), cell) for t, cell in pairs):
            return Layout("tokens", patch)
    return None


def _is_near(place: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two places of a grid are the same or touch."""
    return max(abs(a - b) for a, b in zip(place, other, strict=True)) <= 1


def _answers(
    model: nn.Module,
    module: nn.Module,
    picture: torch.Tensor,
    output: torch.Tensor,
    rectangles: list[tuple[int, int, int, int]],
) -> torch.Tensor:
    """Return how much each number of an output (1, …) changes with each rectangle: (n, …)."""
    changed = picture.repeat(len(rectangles), 1, 1, 1)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)).to(picture)
    for image, (top, left, height, width) in zip(changed, rectangles, strict=True):
        rows, columns = slice(top, top + height), slice(left, left + width)
        image[:, rows, columns] += CHANGE * noise[0, :, rows, columns]
    return (output_of(model, module, changed) - output).abs().float()


def _answers_in_place(answers: torch.Tensor) -> bool:
    """Return True if maps (n, C, h, w) answer most at, or near, each of the `PLACES`."""
    h, w = answers.shape[2:]
    window = -(-h // 4), -(-w // 4)  # as large as the patch, in places
    energy = F.avg_pool2d(answers.sum(dim=1), window, stride=1)
    for (y, x), plane in zip(PLACES, energy, strict=True):
        top, left = divmod(int(plane.argmax()), plane.shape[1])
        off_y, off_x = abs((top + window[0] / 2) / h - y), abs((left + window[1] / 2) / w - x)
        if not plane.any() or off_y > max(1 / 4, 1 / (2 * h)) or off_x > max(1 / 4, 1 / (2 * w)):
            return False
    return True


def output_of(model: nn.Module, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return what a module gives when the network first evaluates it; the rest is not evaluated.

    Raises:
        InputError: it is not evaluated, or gives something else than one tensor.
    """
    outputs = []

    def stop(_, __, output):
        outputs.append(output)
        raise StopIteration

    handle = module.register_forward_hook(stop, prepend=True)
    try:
        with evaluation_mode(model), torch.no_grad(), contextlib.suppress(StopIteration):
            model(images.clone())
    finally:
        handle.remove()
    if not outputs:
        raise InputError(
            "layer is never evaluated in a forward pass; choose one that is evaluated once"
        )
    if not isinstance(outputs[0], torch.Tensor):
        raise InputError(
            f"layer must give feature maps (N, C, h, w), got {type(outputs[0]).__name__}"
        )
    return outputs[0]


def may_hold_maps(shape: torch.Size, images: torch.Tensor) -> bool:
    """Whether an output of some shape could hold more than one place of images (N, 3, H, W)."""
    size = images.shape[2:]
    if shape[:1] != images.shape[:1]:
        return False
    return bool((shape[2:].numel() > 1 and _map_kinds(shape, size)) or _grids(shape, size))


def _gives_channels_first(module: nn.Module) -> bool:
    while type(module) is nn.Sequential and len(module):
        module = module[-1]
    return isinstance(module, CONVOLUTIONAL)


def _map_kinds(shape: torch.Size, size: torch.Size) -> list[Layout]:
    """Return the layouts in which a four-dimensional output has the pictures' proportions."""
    height, width = size
    kinds = {"channels first": shape[2:], "channels last": shape[1:3]} if len(shape) == 4 else {}
    return [
        Layout(kind)
        for kind, (h, w) in kinds.items()
        if abs(h * width - w * height) <= max(height, width)
    ]


def _grids(shape: torch.Size, size: torch.Size) -> dict[tuple[int, int], int]:
    """Return the grids (h, w) of patches that (N, L, C) may hold, the finest first.

    Each with its patch's side in pixels; few tokens may be more than patches.
    """
    sides = range(1, min(size) // 2 + 1) if len(shape) == 3 else ()
    grids = {
        (size[0] // side, size[1] // side): side for side in sides
    }  # of several sides the largest: none is left over
    return {
        grid: side
        for grid, side in grids.items()
        if 0 <= shape[1] - grid[0] * grid[1] <= EXTRA_TOKENS
    }
