"""Fooling images: photos changed imperceptibly, so that the network names another class."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from image_utils import clip_pixels, round_to_8_bits

from .common import check_images, evaluated, integer, labelled_scores, positive, unit_length
from .evaluation import evaluation_mode, read_flags
from .replay import replayed

# Most images fool the network in fewer steps, and to record one takes a GPU as long as some eight
PLAIN_STEPS = 16


@dataclass(frozen=True)
class FoolingProgress:
    """Passed to `make_fooling_image`'s callback each time the network has seen the image."""

    iteration: int  # steps taken so far
    score: float  # the target's raw score for the image
    image: torch.Tensor  # (1, 3, H, W), normalised; with `valid` as rounded to 8 bits


class FoolingImage:
    """Fooling images: gradient ascent on the score of a class of one's choice.

    Szegedy et al.: Intriguing properties of neural networks, 2014, §4; by gradient ascent as in
    Simonyan et al.: Deep Inside Convolutional Networks, 2014, §2.
    """

    def make_fooling_image(
        self,
        X: torch.Tensor,
        target_y: int,
        model: nn.Module,
        learning_rate: float = 10,
        max_iter: int = 100,
        callback: Callable[[FoolingProgress], None] | None = None,
        valid: bool = False,
    ) -> torch.Tensor:
        """Ascend the target's score by steps of learning_rate · g/‖g‖₂ until the network is fooled.

        g is the gradient of the target's raw score by the image.

        Stops before the first step whose input is already classified as the target. When `max_iter`
        steps are not enough, the last image is returned; `is_fooled` says whether it worked.

        Args:
            X: float (1, 3, H, W), a preprocessed image.
            target_y: the id of the class to reach.
            model: network with scores (N, classes); it is evaluated in eval mode and left as it
                was.
            learning_rate: L2 length of a step in normalised units, > 0.
            max_iter: the largest number of steps, ≥ 0.
            callback: called with a `FoolingProgress` before each step, and when the network is
                fooled.
            valid: the image stays one that can be stored: after every step it is clipped to pixels
                0…255, and the network sees it, the stop test included, as rounded to 8 bits. So
                rounded it is returned.

        Returns:
            (1, 3, H, W) in X's dtype and on its device, detached.

        Raises:
            ValueError: arguments that do not fit, or scores or gradients that are not finite.
        """
        target = integer(target_y, "target_y")
        learning_rate = positive(learning_rate, "learning_rate")
        max_iter = integer(max_iter, "max_iter")
        with evaluation_mode(model, one_image=True):
            image = _check_image(X, model)
            label = torch.tensor([target], device=image.device)
            look: Callable[..., tuple[torch.Tensor, ...]] = partial(_look, model)
            for iteration in range(max_iter):
                # The gradient is taken where the stop test looks: one forward pass serves both.
                seen = (round_to_8_bits(image) if valid else image.detach()).requires_grad_()
                if iteration == PLAIN_STEPS:
                    look = replayed(look, (seen, label), [model])
                score, is_highest = look(seen, label)
                number, fooled = read_flags(score, is_highest)
                if callback:
                    callback(FoolingProgress(iteration, number, seen.detach()))
                if fooled:
                    break
                (gradient,) = torch.autograd.grad(score, seen)
                # The unrounded image takes the step, so that steps below half a grey level add up.
                image = image + learning_rate * unit_length(gradient)
                if valid:
                    image = clip_pixels(image)
        return (round_to_8_bits(image) if valid else image.clone()).to(X)

    def is_fooled(self, X: torch.Tensor, target_y: int, model: nn.Module) -> bool:
        """Return True if the network classifies the image as the target; arguments as above.

        Raises:
            ValueError: arguments that do not fit, or scores that are not finite.
        """
        with evaluation_mode(model, one_image=True), torch.no_grad():
            image = _check_image(X, model)
            label = torch.tensor([integer(target_y, "target_y")], device=image.device)
            return bool(_look(model, image, label)[1])


def _check_image(X: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return the one image (1, 3, H, W) on the network's device and in its dtype."""
    image = check_images(X, model)
    if len(image) != 1:
        raise ValueError(f"X must hold one image, (1, 3, H, W), got {tuple(X.shape)}")
    return image


def _look(
    model: nn.Module, image: torch.Tensor, label: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the raw score of a class (1,) for an image, and whether it is the highest, 0-dim."""
    scores = evaluated(model, image)
    return labelled_scores(scores, label, "target_y")[0], scores.argmax() == label[0]
