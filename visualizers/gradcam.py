"""Guided backprop, Grad-CAM and Guided Grad-CAM: what in a photo speaks for a class."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models import SqueezeNet

from .common import CHUNK, check_images, check_labels, evaluation_mode, labelled_scores


class CustomReLU(torch.autograd.Function):
    """ReLU with the guided backward rule: of the gradient only what is positive passes, where the input was positive.

    Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for Simplicity, 2015, §3.4 and Figure 1.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, inplace: bool = False, head: "_Head | None" = None) -> torch.Tensor:
        """max(x, 0), of any shape. `head` says that this ReLU lies between Grad-CAM's layer and the scores."""
        if inplace:
            ctx.mark_dirty(x)
        output = x.clamp_(min=0) if inplace else x.clamp(min=0)
        ctx.save_for_backward(output)
        ctx.head = head
        return output

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        """gradient · [x > 0] · [gradient > 0]."""
        (output,) = ctx.saved_tensors
        plain = torch.ops.aten.threshold_backward(gradient, output, 0)  # gradient · [output > 0], in one pass
        if ctx.head is not None:
            if not ctx.head.guided:
                return plain, None, None
            ctx.head.altered |= bool((plain < 0).any())
        return plain.clamp_(min=0), None, None


class _Head:
    """ReLUs between Grad-CAM's layer and the scores: do they follow the guided rule, and has it altered anything?"""

    guided, altered = True, False


class GuidedReLUs(TorchFunctionMode):
    """Within this context every ReLU that the current thread evaluates, module or function, in place or not, used once
    or often, follows the guided rule. The network itself is not touched, nor what other threads do with it.
    """

    RELUS = frozenset({F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_})
    IN_PLACE = frozenset({torch.relu_, torch.Tensor.relu_})

    def __init__(self):
        super().__init__()
        self.count = 0  # ReLUs met
        self.head = None  # set when Grad-CAM's layer has been passed

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in self.RELUS:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return self._guided(*args, **(kwargs or {}), **({"inplace": True} if func in self.IN_PLACE else {}))

    def _guided(self, input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        return CustomReLU.apply(input, inplace, self.head)


class GradCam:
    """Grad-CAM and its companions. After `grad_cam` and `guided_grad_cam`, `activation_value` and `gradient_value` hold
    the layer's feature maps and the gradient of the labelled scores by them, both (N, C, h, w), detached.
    """

    def __init__(self):
        self.gradient_value = None
        self.activation_value = None

    def guided_backprop(
        self, X_tensor: torch.Tensor, y_tensor: torch.Tensor, gc_model: nn.Module, layer: nn.Module | str | None = None
    ) -> np.ndarray:
        """The gradient of the labelled class's score by the image, with the guided rule at every ReLU.

        Springenberg et al.: Striving for Simplicity, 2015, §3.4.

        Args:
            X_tensor: float (N, 3, H, W), preprocessed images.
            y_tensor: integer (N,), class ids.
            gc_model: network with ReLUs and scores (N, classes); evaluated in eval mode and left as it was.
            layer: as in the other methods, so that all are called alike; the gradient goes from the score to the
                image whatever the layer.

        Returns:
            float32 (N, H, W, 3).

        Raises:
            ValueError: a network without ReLUs, arguments that do not fit, or numbers that are not finite.
        """
        images, labels = _checked(X_tensor, y_tensor, gc_model)
        gradients = [images.new_zeros((0, *images.shape[1:]))]
        with evaluation_mode(gc_model):
            if layer is not None:
                find_module(gc_model, layer)
            for X, y in _chunks(images, labels):
                X = X.requires_grad_()
                with torch.enable_grad(), GuidedReLUs() as relus:
                    score = labelled_scores(gc_model(X), y, "y_tensor").sum()
                _require_relus(relus)
                gradients.append(torch.autograd.grad(score, X)[0])
        return _channels_last(torch.cat(gradients))

    def grad_cam(
        self,
        X_tensor: torch.Tensor,
        y_tensor: torch.Tensor,
        gc_model: nn.Module,
        layer: nn.Module | str | None = None,
        per_image: bool = False,
    ) -> np.ndarray:
        """Class activation maps: the layer's feature maps, weighted with the mean gradient of the class's score by
        them, summed, ReLU'd, enlarged bicubically to the images and scaled to [0, 1].

        Selvaraju et al.: Grad-CAM, 2017, §3, equations 1 and 2.

        Args:
            X_tensor: float (N, 3, H, W), preprocessed images.
            y_tensor: integer (N,), class ids.
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
        with evaluation_mode(gc_model):
            module = find_module(gc_model, layer) if layer is not None else default_layer(gc_model, images[:1])
            parts = [_layer_gradient(X, y, gc_model, module) for X, y in _chunks(images, labels)]
        return _scaled(self._maps(parts, images), per_image)

    def guided_grad_cam(
        self,
        X_tensor: torch.Tensor,
        y_tensor: torch.Tensor,
        gc_model: nn.Module,
        layer: nn.Module | str | None = None,
        per_image: bool = False,
    ) -> np.ndarray:
        """The product of `guided_backprop` and `grad_cam`, from one forward pass.

        Selvaraju et al.: Grad-CAM, 2017, §3.2. Grad-CAM's factor has the plain gradient at the layer, whatever the
        layer: guided and plain passes part only where guiding alters something between layer and scores.

        Args:
            X_tensor, y_tensor, gc_model, layer, per_image: as in `grad_cam`.

        Returns:
            float32 (N, H, W, 3).

        Raises:
            ValueError: as both.
        """
        images, labels = _checked(X_tensor, y_tensor, gc_model)
        guided, parts = [images.new_zeros((0, *images.shape[1:]))], []
        with evaluation_mode(gc_model):
            module = find_module(gc_model, layer) if layer is not None else default_layer(gc_model, images[:1])
            for X, y in _chunks(images, labels):
                gradient, part = _both_gradients(X, y, gc_model, module)
                guided.append(gradient)
                parts.append(part)
        maps = _scaled(self._maps(parts, images), per_image)
        return _channels_last(torch.cat(guided)) * maps[..., None]

    def _maps(self, parts: list[tuple[torch.Tensor, torch.Tensor]], images: torch.Tensor) -> torch.Tensor:
        """Keep activations and gradients; the enlarged maps before scaling, (N, H, W)."""
        empty = [(images.new_zeros((0, 1, 1, 1)),) * 2]
        activations, gradients = zip(*(parts or empty), strict=True)
        self.activation_value, self.gradient_value = torch.cat(activations), torch.cat(gradients)
        weights = self.gradient_value.mean(dim=(2, 3))  # α_k, equation 1
        maps = torch.einsum("nk,nkhw->nhw", weights, self.activation_value).relu()  # equation 2
        if not len(maps):
            return images.new_zeros((0, *images.shape[2:]))
        # antialias=True is PIL's bicubic kernel (a = −0.5); without it torch's own is sharper (a = −0.75).
        return F.interpolate(maps[:, None], images.shape[2:], mode="bicubic", antialias=True)[:, 0]


def default_layer(model: nn.Module, image: torch.Tensor | None = None) -> nn.Module:
    """SqueezeNet's features[12]; of another network the last layer, in the order of evaluation, that gives feature maps
    (1, C, h, w) larger than one pixel and is evaluated once; pooling to a fixed size does not count.

    Args:
        image: (1, 3, H, W), to see the order of evaluation with; a black one of 224×224 by default.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, SqueezeNet):
        return model.features[12]
    if image is None:
        image = check_images(torch.zeros(1, 3, 224, 224), model)
    seen, owner = [], threading.get_ident()

    def note(module, _, output):
        if threading.get_ident() == owner:
            seen.append((module, isinstance(output, torch.Tensor) and output.dim() == 4 and output[0, 0].numel() > 1))

    handles = [m.register_forward_hook(note) for m in model.modules() if m is not model]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    calls = [module for module, _ in seen]
    for module, spatial in reversed(seen):
        if spatial and calls.count(module) == 1 and not isinstance(module, nn.AdaptiveAvgPool2d | nn.Dropout):
            return module
    raise ValueError("gc_model has no layer with spatial feature maps (N, C, h, w), which Grad-CAM needs")


def find_module(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    """The network's module that is meant by itself or by its dotted name.

    Raises:
        ValueError: the network has no such module.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        if all(layer is not module for module in modules.values()):
            raise ValueError("layer is not a module of gc_model")
        return layer
    if not isinstance(layer, str) or layer not in modules or not layer:
        names = [name for name in modules if name and "." not in name]
        raise ValueError(f"layer must be a module of gc_model or its dotted name, got {layer!r}; "
                         f"its first names are {', '.join(names[:6])}")
    return modules[layer]


def _checked(X: torch.Tensor, y: torch.Tensor, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    images = check_images(X, model, "X_tensor")
    return images, check_labels(y, images, "y_tensor")


def _chunks(images: torch.Tensor, labels: torch.Tensor):
    return zip(images.split(CHUNK), labels.split(CHUNK), strict=True) if len(images) else ()


@contextmanager
def _captured(layer: nn.Module, relus: GuidedReLUs | None = None, cut: bool = False) -> Iterator[list]:
    """Collect what a layer gives in this thread; with `cut` the graph begins there. The hook goes in any case."""
    outputs, owner = [], threading.get_ident()

    def keep(_, __, output):
        if threading.get_ident() != owner:
            return None
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            raise ValueError("layer must give feature maps (N, C, h, w), got "
                             f"{tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__}")
        if relus is not None:
            relus.head = _Head()
        outputs.append(output.detach().requires_grad_() if cut else output)
        return outputs[-1].clone()  # an in-place ReLU after the layer would overwrite what is kept

    handle = layer.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def _only(outputs: list[torch.Tensor]) -> torch.Tensor:
    """The layer's one output in a forward pass."""
    if len(outputs) != 1:
        times = f"is evaluated {len(outputs)} times" if outputs else "is never evaluated"
        raise ValueError(f"layer {times} in a forward pass; choose one that is evaluated once")
    return outputs[0]


def _require_relus(relus: GuidedReLUs) -> None:
    if not relus.count:
        raise ValueError("gc_model has no ReLU, so guided backprop is not defined for it")


def _gradients(score: torch.Tensor, tensors: list[torch.Tensor], **how) -> list[torch.Tensor]:
    gradients = torch.autograd.grad(score, tensors, allow_unused=True, **how)
    if any(gradient is None for gradient in gradients):
        raise ValueError("layer has no influence on the scores, so there is no gradient by it")
    return list(gradients)


def _layer_gradient(X, y, model: nn.Module, layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's feature maps and the plain gradient by them; no graph is built below the layer."""
    # Grad mode on for a frozen network: nothing requires gradients until the layer's output does.
    with torch.enable_grad(), _captured(layer, cut=True) as outputs:
        score = labelled_scores(model(X), y, "y_tensor").sum()
    activation = _only(outputs)
    return activation.detach(), _gradients(score, [activation])[0]


def _both_gradients(X, y, model: nn.Module, layer: nn.Module):
    """The guided gradient by the images, and the layer's feature maps with the plain gradient by them."""
    X = X.requires_grad_()
    with torch.enable_grad(), GuidedReLUs() as relus, _captured(layer, relus) as outputs:
        score = labelled_scores(model(X), y, "y_tensor").sum()
    _require_relus(relus)
    activation = _only(outputs)
    guided, plain = _gradients(score, [X, activation], retain_graph=True)
    if relus.head.altered:
        relus.head.guided = False
        (plain,) = _gradients(score, [activation])
    return guided, (activation.detach(), plain)


def _scaled(maps: torch.Tensor, per_image: bool) -> np.ndarray:
    """Bring maps (N, H, W) to [0, 1], all together or each alone; constant ones give zeros."""
    if not len(maps):
        return maps.float().cpu().numpy()
    axes = (1, 2) if per_image else (0, 1, 2)
    maps = maps - maps.amin(dim=axes, keepdim=True)
    top = maps.amax(dim=axes, keepdim=True)
    return (maps / top.where(top > 0, 1)).float().cpu().numpy()


def _channels_last(gradients: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) tensor → float32 array (N, H, W, 3)."""
    return gradients.detach().permute(0, 2, 3, 1).float().contiguous().cpu().numpy()
