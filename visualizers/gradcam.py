"""Guided backprop, Grad-CAM and Guided Grad-CAM: what in a photo speaks for a class."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from errors import InputError

from .common import Labels, at_least_float32, check_images, check_labels, class_scores, finite
from .contrast import margins
from .evaluation import evaluation_mode, in_chunks, to_cpu
from .layers import Layer, check_visible, default_layer, find_layer
from .relus import count_relus, relu_nodes

__all__ = ["CustomReLU", "GradCam", "count_relus", "default_layer"]


class CustomReLU(torch.autograd.Function):
    """ReLU with the guided backward rule: the gradient passes where it and the input are positive.

    Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for Simplicity, 2015, §3.4 and Figure 1.

    Put in the place of a network's ReLUs it turns the gradient into guided backprop. `GradCam`
    follows the same rule without that change.
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
        return keep_positive(gradient * (output > 0))


def keep_positive(gradient: torch.Tensor) -> torch.Tensor:
    """Keep what is positive of the gradient that a ReLU passes back: the guided rule. In place."""
    return gradient.relu_()


class GradCam:
    """Guided backprop, Grad-CAM and their product.

    After `grad_cam` and `guided_grad_cam`, `activation_value` and `gradient_value` hold the layer's
    feature maps A and the gradient of the labelled scores by them, both (N, C, h, w), detached; of
    tokens the patches' alone.
    """

    def __init__(self):
        """Begin without values."""
        self.gradient_value = None
        self.activation_value = None

    def guided_backprop(
        self, X_tensor: torch.Tensor, y_tensor: Labels, gc_model: nn.Module
    ) -> np.ndarray:
        """Return the gradient of the class's score by the image, with the guided rule at each ReLU.

        ∂s_y/∂x, where a ReLU of input z passes R · [z > 0] · [R > 0] of the gradient R that comes
        from above.

        Springenberg et al.: Striving for Simplicity, 2015, §3.4.

        Args:
            X_tensor: float (N, 3, H, W), preprocessed images.
            y_tensor: (N,) class ids, a tensor, array, list or tuple of integers; or one for all
                images.
            gc_model: network with ReLUs and scores (N, classes); evaluated in eval mode and left as
                it was.

        Returns:
            float32 (N, H, W, 3).

        Raises:
            ValueError: a network without ReLUs, arguments that do not fit, or numbers that are not
                finite.
        """

        def guided(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            images.requires_grad_()
            score = class_scores(gc_model, images, labels, "y_tensor").sum()
            _guide_relus(score)
            return (finite(*torch.autograd.grad(score, images)),)

        check_visible(gc_model)
        with evaluation_mode(gc_model):
            images, labels = _checked(X_tensor, y_tensor, gc_model)
            (gradients,) = in_chunks(guided, images, labels)
        return _channels_last(gradients)

    def grad_cam(
        self,
        X_tensor: torch.Tensor,
        y_tensor: Labels,
        gc_model: nn.Module,
        layer: Layer | nn.Module | str | None = None,
        per_image: bool = False,
        against: Labels | None = None,
    ) -> np.ndarray:
        """Return ReLU(Σ_k α_k A_k): maps weighted by the mean gradient of the class's score.

        L = relu(Σ_k α_k · A_k), α_k = mean over the places of ∂s_y/∂A_k. The maps are enlarged
        bicubically to images and scaled to [0, 1] by (L − min) / (max − min), where min and max are
        the batch's. The enlargement undershoots beside a peak, so min may be below 0, and where
        nothing speaks for the class the map then is −min / (max − min) instead of 0: 0.02 on the
        course's photos, more where few places are bright. The course's code does the same.

        Selvaraju et al.: Grad-CAM, 2017, §3, equations 1 and 2.

        Args:
            X_tensor: float (N, 3, H, W), preprocessed images.
            y_tensor: (N,) class ids, a tensor, array, list or tuple of integers; or one for all
                images.
            gc_model: network with scores (N, classes); evaluated in eval mode and left as it was.
            layer: a module with feature maps (N, C, h, w), channels-last ones (N, h, w, C) or
                tokens (N, 1+h·w, C), or its dotted name, or a `Layer`, which has been checked.
                Default: SqueezeNet's features[12]; of another network `layers.default_layer`.
            per_image: scale each map to [0, 1] alone; otherwise all together, as the course does.
            against: class ids c as `y_tensor`: what speaks for y and not c, by s_y − s_c instead of
                s_y. `contrast.counterfactual` gives what speaks against y.

        Returns:
            float32 (N, H, W), values in [0, 1]; zeros when nothing speaks for the class.

        Raises:
            ValueError: no such or no spatial layer, arguments that do not fit, or numbers that are
                not finite.
        """

        def activation_and_gradient(
            images: torch.Tensor, labels: torch.Tensor, *others: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            with target.record(images) as recorded:
                if others:
                    scores = margins(gc_model, images, labels, others[0], "y_tensor")
                else:
                    scores = class_scores(gc_model, images, labels, "y_tensor")
            return recorded[0].maps.detach(), recorded[0].gradient(scores.sum())

        with evaluation_mode(gc_model):
            images, labels = _checked(X_tensor, y_tensor, gc_model)
            others = [] if against is None else [check_labels(against, images, "against")]
            target = find_layer(gc_model, layer, images)
            self.activation_value, self.gradient_value = in_chunks(
                activation_and_gradient, images, labels, *others
            )
        return to_cpu(self.maps(images.shape[2:], per_image)).numpy()

    def guided_grad_cam(
        self,
        X_tensor: torch.Tensor,
        y_tensor: Labels,
        gc_model: nn.Module,
        layer: Layer | nn.Module | str | None = None,
        per_image: bool = False,
    ) -> np.ndarray:
        """Return `guided_backprop` times `grad_cam`, from one forward and two backward passes.

        Selvaraju et al.: Grad-CAM, 2017, §3.2.

        Args:
            X_tensor, y_tensor, gc_model, layer, per_image: as in `grad_cam`.

        Returns:
            float32 (N, H, W, 3).

        Raises:
            ValueError: as both.
        """

        def both(
            images: torch.Tensor, labels: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            images.requires_grad_()
            with target.record(images) as recorded:
                score = class_scores(gc_model, images, labels, "y_tensor").sum()
            # At the layer, before any ReLU is guided
            plain = recorded[0].gradient(score, retain_graph=True)
            _guide_relus(score)
            return finite(*torch.autograd.grad(score, images)), recorded[0].maps.detach(), plain

        with evaluation_mode(gc_model):
            images, labels = _checked(X_tensor, y_tensor, gc_model)
            target = find_layer(gc_model, layer, images)
            guided, self.activation_value, self.gradient_value = in_chunks(both, images, labels)
        return _channels_last(guided.float() * self.maps(images.shape[2:], per_image)[:, None])

    def maps(self, size: torch.Size, per_image: bool) -> torch.Tensor:
        """Combine the activation and gradient that are held to maps (N, H, W) in [0, 1]."""
        # Kept by who calls
        assert self.activation_value is not None and self.gradient_value is not None
        A, gradient = map(at_least_float32, (self.activation_value, self.gradient_value))
        weights = gradient.mean(dim=(2, 3), keepdim=True)  # α_k, equation 1
        maps = (weights * A).sum(dim=1, keepdim=True).relu()  # equation 2
        # antialias=True selects PIL's bicubic kernel (a = −0.5), without it torch's own is sharper
        # (a = −0.75).
        if not len(maps):
            return maps.new_zeros((0, *size))
        return _scaled(
            F.interpolate(maps, size, mode="bicubic", antialias=True)[:, 0].float(), per_image
        )


def _checked(X: torch.Tensor, y: Labels, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    images = check_images(X, model, "X_tensor")
    return images, check_labels(y, images, "y_tensor")


def _guide_relus(score: torch.Tensor) -> None:
    """Make every ReLU below a score follow the rule of `CustomReLU`.

    The hooks sit on this evaluation's graph, not on the network: modules and functions, in place or
    not, are met alike, and nothing has to be undone.
    """

    def guide(gradients: tuple[torch.Tensor], _: tuple[torch.Tensor]) -> None:
        keep_positive(*gradients)  # the tensor is the node's own

    relus = relu_nodes(score)
    if not relus:
        raise InputError("the network has no ReLU, so guided backprop is not defined for it")
    for relu in relus:
        relu.register_hook(guide)


def _scaled(maps: torch.Tensor, per_image: bool) -> torch.Tensor:
    """Bring maps (N, H, W) to [0, 1], all together or each alone; constant ones give zeros."""
    axes = (1, 2) if per_image else (0, 1, 2)
    low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
    span = high - low
    # Enlarged, a constant map is constant but for rounding, so differences below 1e-6 count as
    # zero.
    return maps.sub_(low).div_(span.where(span > 1e-6 * high, torch.inf))


def _channels_last(gradients: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) tensor → float32 array (N, H, W, 3)."""
    return to_cpu(gradients.detach().permute(0, 2, 3, 1).float().contiguous()).numpy()
