"""Guided backprop, Grad-CAM and Guided Grad-CAM: what in a photo speaks for a class."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import SqueezeNet

from errors import InputError

from .common import Labels, check_images, check_labels, class_scores, evaluation_mode, in_chunks


class CustomReLU(torch.autograd.Function):
    """ReLU with the guided backward rule: of the gradient only what is positive passes, where the input was positive.

    Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for Simplicity, 2015, §3.4 and Figure 1. Put in the place of a
    network's ReLUs it turns the gradient into guided backprop. `GradCam` follows the same rule without that change.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        """max(x, 0), of any shape."""
        output = x.clamp(min=0)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        """gradient · [x > 0] · [gradient > 0]."""
        (output,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (output > 0)


class GradCam:
    """Guided backprop, Grad-CAM and their product.

    After `grad_cam` and `guided_grad_cam`, `activation_value` and `gradient_value` hold the layer's feature maps A and
    the gradient of the labelled scores by them, both (N, C, h, w), detached.
    """

    def __init__(self):
        """Begin without values."""
        self.gradient_value = None
        self.activation_value = None

    def guided_backprop(self, X_tensor: torch.Tensor, y_tensor: Labels, gc_model: nn.Module) -> np.ndarray:
        """Take the gradient of the labelled class's score by the image, with the guided rule at every ReLU.

        Springenberg et al.: Striving for Simplicity, 2015, §3.4.

        Args:
            X_tensor: float (N, 3, H, W), preprocessed images.
            y_tensor: (N,) class ids, a tensor, array, list or tuple of integers; or one for all images.
            gc_model: network with ReLUs and scores (N, classes); evaluated in eval mode and left as it was.

        Returns:
            float32 (N, H, W, 3).

        Raises:
            ValueError: a network without ReLUs, arguments that do not fit, or numbers that are not finite.
        """
        images, labels = _checked(X_tensor, y_tensor, gc_model)

        def guided(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            images.requires_grad_()
            score = class_scores(gc_model, images, labels, "y_tensor").sum()
            _guide_relus(score)
            return torch.autograd.grad(score, images)

        with evaluation_mode(gc_model):
            (gradients,) = in_chunks(guided, images, labels)
        return _channels_last(gradients)

    def grad_cam(
        self,
        X_tensor: torch.Tensor,
        y_tensor: Labels,
        gc_model: nn.Module,
        layer: nn.Module | str | None = None,
        per_image: bool = False,
    ) -> np.ndarray:
        """Weight a layer's feature maps with the mean gradient of the class's score by them, and sum what is positive.

        The maps are enlarged bicubically to the images and scaled to [0, 1].

        Selvaraju et al.: Grad-CAM, 2017, §3, equations 1 and 2.

        Args:
            X_tensor: float (N, 3, H, W), preprocessed images.
            y_tensor: (N,) class ids, a tensor, array, list or tuple of integers; or one for all images.
            gc_model: network with scores (N, classes); evaluated in eval mode and left as it was.
            layer: a module with feature maps (N, C, h, w), or its dotted name. Default: SqueezeNet's features[12]; of
                another network the last layer with spatial feature maps.
            per_image: scale each map to [0, 1] alone; otherwise all together, as the course does.

        Returns:
            float32 (N, H, W), values in [0, 1]; zeros when nothing speaks for the class.

        Raises:
            ValueError: no such or no spatial layer, arguments that do not fit, or numbers that are not finite.
        """
        images, labels = _checked(X_tensor, y_tensor, gc_model)

        def activation_and_gradient(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with _kept_output(module) as outputs:
                score = class_scores(gc_model, images, labels, "y_tensor").sum()
            return outputs[0].detach(), _gradient(score, outputs[0])

        with evaluation_mode(gc_model):
            module = find_module(gc_model, layer) if layer is not None else default_layer(gc_model, images)
            self.activation_value, self.gradient_value = in_chunks(activation_and_gradient, images, labels)
        return self._maps(images.shape[2:], per_image).cpu().numpy()

    def guided_grad_cam(
        self,
        X_tensor: torch.Tensor,
        y_tensor: Labels,
        gc_model: nn.Module,
        layer: nn.Module | str | None = None,
        per_image: bool = False,
    ) -> np.ndarray:
        """Multiply `guided_backprop` by `grad_cam`, from one forward pass and two backward ones.

        Selvaraju et al.: Grad-CAM, 2017, §3.2.

        Args:
            X_tensor, y_tensor, gc_model, layer, per_image: as in `grad_cam`.

        Returns:
            float32 (N, H, W, 3).

        Raises:
            ValueError: as both.
        """
        images, labels = _checked(X_tensor, y_tensor, gc_model)

        def both(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            images.requires_grad_()
            with _kept_output(module) as outputs:
                score = class_scores(gc_model, images, labels, "y_tensor").sum()
            plain = _gradient(score, outputs[0], retain_graph=True)  # at the layer, before any ReLU is guided
            _guide_relus(score)
            return torch.autograd.grad(score, images)[0], outputs[0].detach(), plain

        with evaluation_mode(gc_model):
            module = find_module(gc_model, layer) if layer is not None else default_layer(gc_model, images)
            guided, self.activation_value, self.gradient_value = in_chunks(both, images, labels)
        return _channels_last(guided.float() * self._maps(images.shape[2:], per_image)[:, None])

    def _maps(self, size: torch.Size, per_image: bool) -> torch.Tensor:
        """Combine activation and gradient to maps (N, H, W) in [0, 1]."""
        weights = self.gradient_value.mean(dim=(2, 3), keepdim=True)  # α_k, equation 1
        maps = (weights * self.activation_value).sum(dim=1, keepdim=True).relu()  # equation 2
        # antialias=True selects PIL's bicubic kernel (a = −0.5), without it torch's own is sharper (a = −0.75).
        if not len(maps):
            return maps.new_zeros((0, *size))
        return _scaled(F.interpolate(maps, size, mode="bicubic", antialias=True)[:, 0].float(), per_image)


def default_layer(model: nn.Module, images: torch.Tensor | None = None) -> nn.Module:
    """Return SqueezeNet's features[12]; of another network the last layer evaluated that fits.

    It gives feature maps (1, C, h, w) larger than one pixel and is evaluated once; pooling to a fixed size does not
    count.

    Args:
        images: (N, 3, H, W), the first of which shows the order of evaluation; a black one of 224×224 by default.

    Raises:
        InputError: there is none.
    """
    if isinstance(model, SqueezeNet):
        return model.features[12]
    if images is None:
        images = check_images(torch.zeros(1, 3, 224, 224), model)
    seen = []

    def note(module, _, output):
        seen.append((module, isinstance(output, torch.Tensor) and output.dim() == 4 and output[0, 0].numel() > 1))

    handles = [m.register_forward_hook(note) for m in model.modules() if m is not model]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    calls = [module for module, _ in seen]
    for module, spatial in reversed(seen):
        if spatial and calls.count(module) == 1 and not isinstance(module, nn.AdaptiveAvgPool2d | nn.Dropout):
            return module
    raise InputError("the network has no layer with spatial feature maps (N, C, h, w), which Grad-CAM needs")


def find_module(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    """Look a module up by its dotted name; a module is returned as it is.

    Raises:
        InputError: the network has no such module.
    """
    modules = dict(model.named_modules())
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


def _checked(X: torch.Tensor, y: Labels, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    images = check_images(X, model, "X_tensor")
    return images, check_labels(y, images, "y_tensor")


@contextlib.contextmanager
def _kept_output(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Keep a layer's output in the graph so that a gradient by it can be taken. The hook is always removed."""
    outputs = []

    def keep(_, __, output):
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise InputError(f"layer must give feature maps (N, C, h, w), got {got}")
        # Of a frozen network and a plain image, the graph begins here.
        outputs.append(output if output.requires_grad else output.detach().requires_grad_())
        return outputs[-1].clone()  # an in-place ReLU after the layer would overwrite what is kept

    handle = layer.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
    if len(outputs) != 1:
        times = f"is evaluated {len(outputs)} times" if outputs else "is never evaluated"
        raise InputError(f"layer {times} in a forward pass; choose one that is evaluated once")


def _gradient(score: torch.Tensor, output: torch.Tensor, retain_graph: bool = False) -> torch.Tensor:
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score, output, allow_unused=True, retain_graph=retain_graph)
    if gradient is None:
        raise InputError("layer has no influence on the scores, so there is no gradient by it")
    return gradient


def _guide_relus(score: torch.Tensor) -> None:
    """Let every ReLU that a score comes from pass back only what is positive: the rule of `CustomReLU`.

    The hooks sit on this evaluation's graph, not on the network: modules and functions, in place or not, are met alike,
    and nothing has to be undone.
    """
    nodes, seen, relus = [score.grad_fn], set(), []
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [source for source, _ in node.next_functions]
            relus += [node] if node.name() in ("ReluBackward0", "CustomReLUBackward") else []
    if not relus:
        raise InputError("the network has no ReLU, so guided backprop is not defined for it")
    for relu in relus:
        relu.register_hook(_keep_positive)


def _keep_positive(gradients: tuple[torch.Tensor], _: tuple[torch.Tensor]) -> None:
    gradients[0].relu_()  # in place: the tensor is the node's own


def _scaled(maps: torch.Tensor, per_image: bool) -> torch.Tensor:
    """Bring maps (N, H, W) to [0, 1], all together or each alone; constant ones give zeros."""
    axes = (1, 2) if per_image else (0, 1, 2)
    low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
    span = high - low
    # Enlarged, a constant map is constant but for rounding, so differences below 1e-6 count as zero.
    return (maps - low) / span.where(span > 1e-6 * high, torch.inf)


def _channels_last(gradients: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) tensor → float32 array (N, H, W, 3)."""
    return gradients.detach().permute(0, 2, 3, 1).float().contiguous().cpu().numpy()
