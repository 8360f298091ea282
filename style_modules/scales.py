"""Large pictures: sizes from coarse to fine, and layers that need less memory."""

import itertools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

COARSEST = 256  # pixels: the sizes for which style layers see whole brush strokes
LARGE = 1 << 20  # pixels from which on layers are evaluated twice rather than kept


def scale_sizes(size: int, scales: int | str) -> list[int]:
    """Return the short sides to paint at, each half of the next; the last is `size`.

    Args:
        size: pixels of the result's short side.
        scales: how many; "auto": as many as begin at 256 pixels or more. None is smaller than that,
            but `size` itself.

    Raises:
        ValueError: not "auto", and not at least 1.
    """
    if scales != "auto" and not (isinstance(scales, int) and scales >= 1):
        raise ValueError(f"scales must be 'auto' or at least 1, got {scales!r}")
    halves = itertools.takewhile(
        lambda side: side >= COARSEST, (size >> k for k in itertools.count(1))
    )
    finer = list(halves)[: None if scales == "auto" else int(scales) - 1]
    return [*reversed(finer), size]


def steps_by_scale(count: int, scales: int) -> list[int]:
    """Return the steps at each size: all of them at the smallest, a third at each further one."""
    return [count, *[-(-count // 3)] * (scales - 1)]


def enlarged(picture: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Enlarge a picture (1, 3, h, w) to (H, W), bicubically; below float32 it is computed there."""
    wide = picture.to(torch.promote_types(picture.dtype, torch.float32))
    return nn.functional.interpolate(
        wide, size=tuple(size), mode="bicubic", align_corners=False
    ).to(picture.dtype)


class Recomputed(nn.Module):
    """A layer that keeps only its input, and is evaluated again for the gradient.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, section 3.
    """

    def __init__(self, layer: nn.Module):
        """Wrap a layer."""
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the layer: (N, C, H, W) → its output."""
        return checkpoint(self.layer, x, use_reentrant=False, preserve_rng_state=False)
