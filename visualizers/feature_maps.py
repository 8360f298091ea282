"""A layer's feature maps in one evaluation: recorded with their gradient, or replaced by others."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from errors import InputError

from .common import finite
from .layouts import Layout


@dataclass
class RecordedMaps:
    """A layer's feature maps in one evaluation, by which a gradient can be taken."""

    maps: torch.Tensor  # (N, C, h, w), in the graph
    tokens: bool  # whether they are the patches among tokens

    def gradient(self, score: torch.Tensor, retain_graph: bool = False) -> torch.Tensor:
        """Return the gradient of a score by the maps, (N, C, h, w).

        Raises:
            InputError: they have no influence on the score, or the gradient is not finite.
        """
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(
                score, self.maps, allow_unused=True, retain_graph=retain_graph
            )
        if gradient is None:
            raise InputError("layer has no influence on the scores, or none that a gradient shows")
        if self.tokens and not gradient.any():
            raise InputError(
                "layer: its patches have no influence on the scores, as after the last attention "
                "only the class token "
                "has; choose for example the last block's norm before attention"
            )
        return finite(gradient)


@dataclass(frozen=True)
class Layer:
    """A network's layer with feature maps, looked up and checked by `layers.find_layer`."""

    name: str  # dotted
    module: nn.Module
    layout: Layout

    @contextlib.contextmanager
    def record(self, images: torch.Tensor) -> Iterator[list[RecordedMaps]]:
        """Record the layer's maps while its network is evaluated on images (N, 3, H, W), once.

        Yields:
            A list that holds the maps after the evaluation.

        Raises:
            InputError: the layer gives no feature maps, or is not evaluated once.
        """
        recorded: list[RecordedMaps] = []
        times, fault = 0, None

        def hook(_, __, output):
            nonlocal times, fault
            times += 1
            try:
                maps = _viewed(self.layout, output, images)
            except InputError as error:
                # Raised when the network has been evaluated, as its own faults come first
                fault = error
                return output
            # Of a frozen network and a plain image, the graph begins here.
            maps = maps if maps.requires_grad else maps.detach().requires_grad_()
            recorded.append(RecordedMaps(maps, self.layout.kind == "tokens"))
            # A copy goes on: an in-place ReLU after the layer would overwrite what is recorded.
            return self.layout.output(maps.clone(), output)

        handle = self.module.register_forward_hook(hook)
        try:
            yield recorded
        finally:
            handle.remove()
        if fault:
            raise fault
        if times != 1:
            what = f"is evaluated {times} times" if times else "is never evaluated"
            raise InputError(f"layer {what} in a forward pass; choose one that is evaluated once")

    @contextlib.contextmanager
    def as_maps(self, images: torch.Tensor) -> Iterator[nn.Module]:
        """Yield a module, part of the layer, whose output is its maps of images (N, 3, H, W).

        With it, what knows maps (N, C, h, w) only, as Captum's layer attributions, looks into
        layers of any layout.
        """
        if self.layout.kind == "channels first":
            yield self.module
            return
        module, size = nn.Identity(), images.shape[2:]

        def through(_, __, output):
            return self.layout.output(module(self.layout.maps(output, size)), output)

        handle = self.module.register_forward_hook(through)
        try:
            yield module
        finally:
            handle.remove()


def _viewed(layout: Layout, output: object, images: torch.Tensor) -> torch.Tensor:
    """View what a layer gives as maps of images, if it is as the layout says."""
    dimensions = 3 if layout.kind == "tokens" else 4
    if (
        not isinstance(output, torch.Tensor)
        or output.dim() != dimensions
        or len(output) != len(images)
    ):
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InputError(
            f"layer must give feature maps (N, C, h, w), got {got} for images {tuple(images.shape)}"
        )
    return layout.maps(output, images.shape[2:])
