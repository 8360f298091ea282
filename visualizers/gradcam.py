"""Guided backprop, Grad-CAM and Guided Grad-CAM: what in a photo speaks for a class."""

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import SqueezeNet

from .common import check_images, check_labels, chunks, evaluation_mode, labelled_scores


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
        with evaluation_mode(gc_model):
            if layer is not None:
                find_module(gc_model, layer)
            gradients = [_guided_gradient(X, y, gc_model) for X, y in chunks(images, labels)]
        return _channels_last(_joined(gradients or [images]))

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
            module = find_module(gc_model, layer) if layer is not None else default_layer(gc_model, images)
            parts = [_layer_gradient(X, y, gc_model, module) for X, y in chunks(images, labels)]
        return _scaled(self._maps(parts, images), per_image).cpu().numpy()

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
        guided, parts = [], []
        with evaluation_mode(gc_model):
            module = find_module(gc_model, layer) if layer is not None else default_layer(gc_model, images)
            for X, y in chunks(images, labels):
                gradient, part = _both_gradients(X, y, gc_model, module)
                guided.append(gradient)
                parts.append(part)
        maps = _scaled(self._maps(parts, images), per_image)
        return _channels_last(_joined(guided or [images]).float() * maps[:, None])

    def _maps(self, parts: list[tuple[torch.Tensor, torch.Tensor]], images: torch.Tensor) -> torch.Tensor:
        """Keep activations and gradients; the enlarged maps before scaling, (N, H, W)."""
        activations, gradients = zip(*(parts or [(images.new_zeros((0, 1, 1, 1)),) * 2]), strict=True)
        self.activation_value, self.gradient_value = _joined(activations), _joined(gradients)
        weights = self.gradient_value.mean(dim=(2, 3), keepdim=True)  # α_k, equation 1
        maps = (weights * self.activation_value).sum(dim=1).relu()  # equation 2
        rows, columns = (_enlargement(*sides).to(maps) for sides in zip(maps.shape[1:], images.shape[2:], strict=True))
        return rows @ maps @ columns.T


def default_layer(model: nn.Module, images: torch.Tensor | None = None) -> nn.Module:
    """SqueezeNet's features[12]; of another network the last layer, in the order of evaluation, that gives feature maps
    (1, C, h, w) larger than one pixel and is evaluated once; pooling to a fixed size does not count.

    Args:
        images: (N, 3, H, W), the first of which shows the order of evaluation; a black one of 224×224 by default.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, SqueezeNet):
        return model.features[12]
    if images is None:
        images = check_images(torch.zeros(1, 3, 224, 224), model)
    seen, owner = [], threading.get_ident()

    def note(module, _, output):
        if threading.get_ident() == owner:
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
        raise ValueError(
            f"layer must be a module of gc_model or its dotted name, got {layer!r}; "
            f"its first names are {', '.join(names[:6])}"
        )
    return modules[layer]


def _checked(X: torch.Tensor, y: torch.Tensor, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    images = check_images(X, model, "X_tensor")
    return images, check_labels(y, images, "y_tensor")


@contextmanager
def _cut(layer: nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Cut the graph at a layer in this thread. Collects the layer's output and the leaf from which the network goes on
    in its place. The hook goes in any case.
    """
    cuts, owner = [], threading.get_ident()

    def cut(_, __, output):
        if threading.get_ident() != owner:
            return None
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            raise ValueError(
                "layer must give feature maps (N, C, h, w), got "
                f"{tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__}"
            )
        leaf = output.detach().requires_grad_()
        cuts.append((output, leaf))
        return leaf.clone()  # an in-place ReLU after the layer would overwrite what is kept

    handle = layer.register_forward_hook(cut)
    try:
        yield cuts
    finally:
        handle.remove()


def _cut_score(X, y, model: nn.Module, layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sum of the labelled scores with the graph cut at the layer, the layer's output, and the leaf after it."""
    # Grad mode is on, but of a frozen network and plain images only the part after the leaf makes a graph.
    with torch.enable_grad(), _cut(layer) as cuts:
        score = labelled_scores(model(X), y, "y_tensor").sum()
    if len(cuts) != 1:
        times = f"is evaluated {len(cuts)} times" if cuts else "is never evaluated"
        raise ValueError(f"layer {times} in a forward pass; choose one that is evaluated once")
    return score, *cuts[0]


def _gradient(score: torch.Tensor, leaf: torch.Tensor, **how) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(score, leaf, allow_unused=True, **how) if score.requires_grad else (None,)
    if gradient is None:
        raise ValueError("layer has no influence on the scores, so there is no gradient by it")
    return gradient


def _layer_gradient(X, y, model: nn.Module, layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's feature maps and the plain gradient by them."""
    score, _, leaf = _cut_score(X, y, model, layer)
    return leaf.detach(), _gradient(score, leaf)


def _guided_gradient(X, y, model: nn.Module) -> torch.Tensor:
    """The guided gradient by the images."""
    X = X.requires_grad_()
    with torch.enable_grad():
        score = labelled_scores(model(X), y, "y_tensor").sum()
    _guide(_relus(score))
    return torch.autograd.grad(score, X)[0]


def _both_gradients(X, y, model: nn.Module, layer: nn.Module):
    """The guided gradient by the images, and the layer's feature maps with the plain gradient by them."""
    X, least = X.requires_grad_(), []
    score, activation, leaf = _cut_score(X, y, model, layer)
    watches = [relu.register_hook(lambda gradients, _: least.append(gradients[0].amin())) for relu in _relus(score)]
    plain = guided = _gradient(score, leaf, retain_graph=True)
    for watch in watches:
        watch.remove()
    _guide(_relus(score, activation))
    if any(value < 0 for value in least):  # after the layer the two rules part
        guided = _gradient(score, leaf, retain_graph=True)
    # The score takes part for what goes round the layer, as in a residual network.
    (guided,) = torch.autograd.grad([score, activation], X, [torch.ones_like(score), guided])
    return guided, (leaf.detach(), plain)


def _relus(*results: torch.Tensor) -> list[torch.autograd.graph.Node]:
    """The ReLUs that results come from, as nodes of their graph: modules or functions, in place or not, and each use of
    one that is used more than once. The graph belongs to this evaluation alone: a hook on it touches nothing else.
    """
    nodes, seen = [result.grad_fn for result in results], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes.extend(source for source, _ in node.next_functions)
    return [node for node in seen if node.name() in ("ReluBackward0", "CustomReLUBackward")]


def _guide(relus: list[torch.autograd.graph.Node]) -> None:
    """Let ReLUs follow the guided rule: of what they pass back, masked by [x > 0], only the positive is kept."""
    if not relus:
        raise ValueError("gc_model has no ReLU, so guided backprop is not defined for it")
    for relu in relus:
        relu.register_hook(_keep_positive)


def _keep_positive(gradients: tuple[torch.Tensor], _: tuple[torch.Tensor]) -> None:
    gradients[0].relu_()  # in place: the tensor is the node's own


@functools.lru_cache
def _enlargement(size: int, target: int) -> torch.Tensor:
    """Bicubic interpolation of `size` samples at `target` places, as a matrix (target, size): what it makes of a one
    among zeros. As a product it takes a third of the time, on any device and in any dtype.
    """
    # antialias=True is PIL's bicubic kernel (a = −0.5); without it torch's own is sharper (a = −0.75).
    return F.interpolate(torch.eye(size)[None, None], (target, size), mode="bicubic", antialias=True)[0, 0]


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The chunks' results as one tensor; a single one is not copied."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _scaled(maps: torch.Tensor, per_image: bool) -> torch.Tensor:
    """Bring maps (N, H, W) to [0, 1] as float32, all together or each alone; constant ones give zeros."""
    maps = maps.float()
    if len(maps):
        axes = (1, 2) if per_image else (0, 1, 2)
        low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
        span = high - low
        # Enlarged, a constant map is constant but for rounding, which is not to be seen.
        maps.sub_(low).div_(span.where(span > 1e-6 * high, torch.inf))
    return maps


def _channels_last(gradients: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) tensor → float32 array (N, H, W, 3)."""
    return gradients.detach().permute(0, 2, 3, 1).float().contiguous().cpu().numpy()
