"""Class visualization: the picture that a network likes best for a class, grown out of noise."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn

from image_utils import blur_image, deprocess

from .common import evaluation_mode, integer, labelled_scores, positive, unit_length
from .fooling_image import project

SIZE = 224  # height and width of the pictures in pixels
BLUR_SIGMA = 0.5  # of the blur every few iterations, in pixels


@dataclass(frozen=True)
class ClassVisualizationProgress:
    """What the optimisation tells its callback after each iteration; N is the number of targets."""

    iteration: int  # iterations done: 1 … num_iterations
    score: torch.Tensor  # (N,), raw scores of the targets for the shifted images that the step started from
    image: torch.Tensor  # (N, 3, 224, 224), normalised, after the step
    snapshot: bool  # whether the course plots this iteration: the first, every `show_every`-th and the last


class ClassVisualization:
    """Class model visualization (Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2014, §2), with
    jitter and blur (Yosinski et al.: Understanding Neural Networks Through Deep Visualization, 2015, §3) against noise.
    """

    def jitter(self, X: torch.Tensor, ox: int, oy: int) -> torch.Tensor:
        """Shift images (N, C, H, W) cyclically by ox pixels to the right and oy pixels down; −ox, −oy undoes it."""
        return torch.roll(X, shifts=(oy, ox), dims=(2, 3))

    def blur_image(self, X: torch.Tensor, sigma: float = 1) -> torch.Tensor:
        """Gaussian blur of images (N, C, H, W) along height and width, in place: `image_utils.blur_image`."""
        return blur_image(X, sigma)

    def create_class_visualization(
        self,
        target_y: int,
        class_names: Mapping[int, str] | None,
        model: nn.Module,
        dtype: torch.dtype | torch.device | type | str,
        **kwargs,
    ) -> Image.Image:
        """The picture of one class.

        Args:
            target_y: the id of the class.
            class_names: taken for the course's callers; titles are the business of whoever draws.
            model: network with scores (N, classes); it is evaluated in eval mode and left as it was.
            dtype: what to compute with, on a copy of the network where it differs from the network's own: a
                `torch.dtype`, a `torch.device`, or an old tensor type such as `torch.cuda.FloatTensor`.
            **kwargs: as in `visualize_classes`.

        Returns:
            RGB, 224×224. The pixels are those that the network saw, not stretched.

        Raises:
            TypeError: an unknown keyword argument.
            ValueError: arguments that do not fit, or scores or gradients that are not finite.
        """
        return deprocess(self.visualize_classes([target_y], model, dtype, **kwargs), should_rescale=False)

    def visualize_classes(
        self,
        targets: Sequence[int],
        model: nn.Module,
        dtype: torch.dtype | torch.device | type | str = torch.float32,
        *,
        l2_reg: float = 1e-3,
        learning_rate: float = 25,
        num_iterations: int = 100,
        blur_every: int = 10,
        max_jitter: int = 16,
        show_every: int = 25,
        generate_plots: bool = True,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        callback: Callable[[ClassVisualizationProgress], None] | None = None,
    ) -> torch.Tensor:
        """Ascend s_y(I) − l2_reg · ‖I‖² for several classes at once, each image by its own steps of length
        `learning_rate`. All start from the same noise and shift alike, so each is what it is alone with the same seed.

        An iteration shifts the images by 0 … max_jitter pixels each way, takes the step, shifts them back and clips
        them to pixels 0…255; the first and every `blur_every`-th after it end with a blur of sigma 0.5.

        Args:
            targets: N class ids.
            model, dtype: as in `create_class_visualization`.
            l2_reg: weight λ of the squared L2 norm, ≥ 0.
            learning_rate: L2 length of a step in normalised units, > 0.
            num_iterations, blur_every, show_every: ≥ 1.
            max_jitter: the largest shift in pixels, ≥ 0.
            generate_plots: whether progress reports are marked as snapshots (files and plots are the callback's).
            generator: source of the noise and the shifts; its state moves on. By default torch's global one.
            seed: seeds a generator of its own instead.
            callback: called with a `ClassVisualizationProgress` after every iteration.

        Returns:
            (N, 3, 224, 224), normalised, in `dtype` and on its device, detached.

        Raises:
            ValueError: arguments that do not fit, or scores or gradients that are not finite.
        """
        ids = [integer(target, "target_y") for target in targets]
        if not ids:
            raise ValueError("targets must name at least one class, got none")
        if not 0 <= l2_reg < math.inf:
            raise ValueError(f"l2_reg must be at least 0 and finite, got {l2_reg}")
        learning_rate = positive(learning_rate, "learning_rate")
        num_iterations, max_jitter = integer(num_iterations, "num_iterations", 1), integer(max_jitter, "max_jitter")
        blur_every, show_every = integer(blur_every, "blur_every", 1), integer(show_every, "show_every", 1)
        source = _source(generator, seed)
        model, reference = _placed(model, dtype)

        start = torch.randn(1, 3, SIZE, SIZE, dtype=torch.float32, **source)
        images, scores = [start.to(reference)] * len(ids), [None] * len(ids)
        with evaluation_mode(model):
            for t in range(num_iterations):
                ox, oy = torch.randint(max_jitter + 1, (2,), **source).tolist()
                # One image at a time: in a batch the network rounds otherwise, which 100 steps make another picture.
                for i, target in enumerate(ids):
                    shifted = self.jitter(images[i], ox, oy)
                    scores[i], gradient = objective_gradient(shifted, target, model, l2_reg)
                    shifted = shifted + learning_rate * unit_length(gradient)
                    images[i] = project(self.jitter(shifted, -ox, -oy))
                    if t % blur_every == 0:
                        images[i] = project(self.blur_image(images[i], BLUR_SIGMA))  # again, as the blur rounds
                if callback:
                    plotted = t == 0 or (t + 1) % show_every == 0 or t + 1 == num_iterations
                    snapshot = generate_plots and plotted
                    callback(ClassVisualizationProgress(t + 1, torch.stack(scores), torch.cat(images), snapshot))
        return torch.cat(images)


def objective_gradient(
    image: torch.Tensor, target: int, model: nn.Module, l2_reg: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The raw score s_y of an image (1, 3, H, W), 0-dim, and the gradient of s_y(I) − l2_reg · ‖I‖² with respect to I.

    Raises:
        ValueError: a class that the network does not know, or scores that are not finite.
    """
    image = image.detach().requires_grad_()
    with torch.enable_grad():
        score = labelled_scores(model(image), torch.tensor([target], device=image.device), "target_y")[0]
    (gradient,) = torch.autograd.grad(score, image)
    return score.detach(), gradient - 2 * l2_reg * image.detach()


def _source(generator: torch.Generator | None, seed: int | None) -> dict:
    """Where random numbers come from, as arguments of torch.rand…: the generator's device, so that the numbers are the
    same wherever the network is; by default torch's global generator on the CPU.
    """
    if generator is not None and seed is not None:
        raise ValueError("generator and seed were both given, one of them was expected")
    if seed is not None:
        generator = torch.Generator().manual_seed(integer(seed, "seed"))
    return {"generator": generator, "device": generator.device if generator is not None else "cpu"}


def _placed(model: nn.Module, dtype: torch.dtype | torch.device | type | str) -> tuple[nn.Module, torch.Tensor]:
    """The network, or a copy of it where `dtype` asks for other numbers or another device, and an empty tensor of that
    type on that device.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    own = next(model.parameters(), torch.empty(0)).detach().new_empty(0)
    try:
        wanted = own.to(dtype) if isinstance(dtype, torch.device) else own.type(dtype)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"dtype {dtype!r} cannot be used here: {error}") from error
    if not isinstance(wanted, torch.Tensor) or not wanted.is_floating_point():
        raise ValueError(f"dtype must be a floating-point type or a device, got {dtype!r}")
    if (wanted.device, wanted.dtype) == (own.device, own.dtype):
        return model, own
    return copy.deepcopy(model).to(wanted.device, wanted.dtype), wanted
