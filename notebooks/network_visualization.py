"""EECS 498/598's functions: saliency maps, adversarial attacks and class visualization.

Notebooks of that course put the network into eval mode themselves; here it stays in eval mode too.
"""

import cs231n  # noqa: F401  # finds the project
import torch
from cs231n.net_visualization_pytorch import ascent, compute_saliency_maps, make_fooling_image
from torch import nn

__all__ = ["class_visualization_step", "compute_saliency_maps", "hello", "make_adversarial_attack"]


def hello() -> None:
    """Say that the module was found, as the course's does."""
    print("Hello from network_visualization.py!")


def make_adversarial_attack(
    X: torch.Tensor, target_y: int, model: nn.Module, max_iter: int = 100, verbose: bool = True
) -> torch.Tensor:
    """Return an image (1, 3, H, W) near X that is classified as the target, by steps of length 1.

    Args:
        X: float (1, 3, H, W), a preprocessed image.
        target_y: the id of the class to reach.
        model: network with scores (N, classes).
        max_iter: the largest number of steps.
        verbose: print the scores before each step.
    """

    def report(progress) -> None:
        with torch.no_grad():
            highest = model(progress.image).max()
        print(
            f"Iteration {progress.iteration}: target score {progress.score:.3f}, max score "
            f"{highest:.3f}"
        )

    return make_fooling_image(
        X, target_y, model, max_iter=max_iter, callback=report if verbose else None
    )


def class_visualization_step(
    img: torch.Tensor,
    target_y: int,
    model: nn.Module,
    *,
    l2_reg: float = 1e-3,
    learning_rate: float = 25,
) -> torch.Tensor:
    """Change an image (1, 3, H, W) in place by a step up s_y(I) − l2_reg · ‖I‖²; return it."""
    gradient = ascent(img, target_y, model, l2_reg)
    with torch.no_grad():
        img += learning_rate * gradient
    return img
