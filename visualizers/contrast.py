"""Why this class and not that one, and what speaks against a class: contrasts for Grad-CAM."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .common import evaluated, labelled_scores

if TYPE_CHECKING:
    from .gradcam import GradCam


def margins(
    model: nn.Module, images: torch.Tensor, y: torch.Tensor, against: torch.Tensor, name: str = "y"
) -> torch.Tensor:
    """Return s_y − s_c: by how much each image's class y outscores another class c, (N,).

    Images (N, 3, H, W), classes (N,) and (N,).

    Prabhushankar et al.: Contrastive Explanations in Neural Networks, 2020, ask "why y, rather than
    c?" by a loss between the two; the difference of logits is what decides between them.
    """
    scores = evaluated(model, images)
    return labelled_scores(scores, y, name) - labelled_scores(scores, against, "against")


def counterfactual(cam: GradCam, size: torch.Size, per_image: bool = False) -> np.ndarray:
    """Return what speaks against the class that `cam.grad_cam` has explained last.

    L = relu(Σ_k −α_k · A_k): where to take something away so that the class gets likelier.

    Selvaraju et al.: Grad-CAM, 2017, §3.3.

    Args:
        cam: holds the layer's maps and their gradient.
        size: (H, W), the images'.
        per_image: as in `grad_cam`.

    Returns:
        float32 (N, H, W), values in [0, 1].
    """
    opposite = copy.copy(cam)
    opposite.gradient_value = -cam.gradient_value
    return opposite.maps(size, per_image).cpu().numpy()


def runners_up(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the class with the highest score but the labelled one: (N, classes), (N,) → (N,)."""
    others = scores.scatter(1, y[:, None], -torch.inf)
    return others.argmax(dim=1)
