"""Saliency maps: which pixels move the score of a class most."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from image_utils import to_batch

from .common import Labels, check_images, check_labels, class_scores, figures, finite
from .evaluation import evaluation_mode, in_chunks, to_cpu


class SaliencyMap:
    """Image-specific class saliency.

    Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2014, §3.
    """

    def compute_saliency_maps(self, X: torch.Tensor, y: Labels, model: nn.Module) -> torch.Tensor:
        """Return max_c |∂s_y/∂x_c|: the largest derivative of the class's score by a pixel.

        Args:
            X: float (N, 3, H, W), preprocessed images.
            y: (N,) class ids, a tensor, array, list or tuple of integers; or one for all images.
            model: network with scores (N, classes); it is evaluated in eval mode and left as it
                was.

        Returns:
            (N, H, W) in X's dtype and on its device, values ≥ 0: max_c |∂s_y/∂x_c| (ibid., §3.1).

        Raises:
            ValueError: arguments that do not fit, or numbers that are not finite.
        """

        def saliency(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor]:
            images.requires_grad_()
            scores = class_scores(model, images, labels)  # s_y
            # ∂s_y/∂x: no score depends on another image
            (gradient,) = torch.autograd.grad(scores.sum(), images)
            return (finite(gradient.abs().amax(dim=1)),)  # max over the colours

        with evaluation_mode(model):
            images = check_images(X, model)
            labels = check_labels(y, images)
            (maps,) = in_chunks(saliency, images, labels)
        return (maps if X.is_cuda else to_cpu(maps)).to(X)

    def show_saliency_maps(
        self, X: np.ndarray, y: Labels, class_names: Mapping[int, str], model: nn.Module
    ):
        """Draw photos over their saliency maps into `visualization/saliency_map.png`; return that.

        Args:
            X: uint8 (N, H, W, 3), RGB photos.
            y: integer (N,), class ids.
            class_names: class id → name.
            model: as in `compute_saliency_maps`.

        Returns:
            The figure, with the methods savefig, show, close and clf of pyplot.

        Raises:
            ValueError: arguments that do not fit.
            InputError: the figure cannot be written.
        """
        if not len(X):
            raise ValueError("X must hold at least one photo, got none")
        maps = self.compute_saliency_maps(to_batch(X), y, model).cpu().numpy()
        rows = [("photo", list(X)), ("saliency map", [figures().heat(m) for m in maps])]
        titles = [
            figures().class_title(class_names, label)
            for label in np.broadcast_to(np.asarray(y), len(X))
        ]
        return figures().save_and_show(
            figures().draw_rows(rows, titles, "Saliency maps"), "saliency_map.png", model
        )
