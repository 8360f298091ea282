"""Saliency maps: which pixels move the score of a class most."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from .common import check_images, check_labels, chunks, evaluation_mode, labelled_scores


class SaliencyMap:
    """Image-specific class saliency (Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2014, §3)."""

    def compute_saliency_maps(self, X: torch.Tensor, y: torch.Tensor, model: nn.Module) -> torch.Tensor:
        """The largest absolute derivative, over the colour channels, of the labelled class's score by each pixel.

        Args:
            X: float (N, 3, H, W), preprocessed images.
            y: integer (N,), class ids.
            model: network with scores (N, classes); it is evaluated in eval mode and left as it was.

        Returns:
            (N, H, W) in X's dtype and on its device, values ≥ 0: max_c |∂s_y/∂x_c| (ibid., §3.1).

        Raises:
            ValueError: arguments that do not fit, or numbers that are not finite.
        """
        images = check_images(X, model)
        labels = check_labels(y, images)
        maps = []
        with evaluation_mode(model):
            for image, label in chunks(images, labels):
                maps.append(_gradient(image, label, model).abs().amax(dim=1).to(X))
        return torch.cat(maps or [X[:, 0]])

    def show_saliency_maps(
        self, X: np.ndarray, y: np.ndarray, class_names: Mapping[int, str], model: nn.Module
    ) -> None:
        """Draw photos over their saliency maps into `visualization/saliency_map.png`, as the course does.

        Args:
            X: uint8 (N, H, W, 3), RGB photos.
            y: integer (N,), class ids.
            class_names: class id → name.
            model: as in `compute_saliency_maps`.

        Raises:
            ValueError: arguments that do not fit.
            file_utils.InputError: the figure cannot be written.
        """
        # The one technique that writes a file: the course's interface asks for it.
        from file_utils import ROOT
        from image_utils import to_batch
        from script_utils import class_title, draw_rows, heat, save_figure

        if not len(X):
            raise ValueError("X must hold at least one photo, got none")
        maps = self.compute_saliency_maps(to_batch(X), torch.as_tensor(y), model).cpu().numpy()
        titles = [class_title(class_names, label) for label in y]
        figure = draw_rows([("photo", X), ("saliency map", [heat(m) for m in maps])], titles, "Saliency maps")
        save_figure(figure, ROOT / "visualization" / "saliency_map.png", model)


def _gradient(X: torch.Tensor, y: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """∂s_y/∂X: (N, 3, H, W). The sum's gradient is each image's own, since no score depends on another image."""
    X = X.requires_grad_()
    with torch.enable_grad():
        score = labelled_scores(model(X), y).sum()
    return torch.autograd.grad(score, X)[0]
