"""Class visualization: the picture that scores highest for a class, grown out of noise."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from image_utils import as_type, blur_image, clip_pixels, deprocess

from .common import class_scores, figures, integer, positive, unit_length
from .evaluation import check_model, copied, evaluation_mode, read_flags
from .replay import replayed

SIZE = 224  # height and width of the pictures in pixels
BLUR_SIGMA = 0.5  # of the blur every few iterations, in pixels


@dataclass(frozen=True)
class ClassVisualizationProgress:
    """What the optimisation tells its callback after each iteration; N is the number of targets."""

    iteration: int  # iterations done: 1 … num_iterations
    # (N,), raw scores of the targets for the shifted images that the step started from
    score: torch.Tensor
    image: torch.Tensor  # (N, 3, 224, 224), normalised, after the step


class ClassVisualization:
    """Class visualization: the image whose class score is largest, with jitter and blur.

    Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2014, §2; jitter and blur
    against noise: Yosinski et al., Understanding Neural Networks Through Deep Visualization, 2015,
    §3.
    """

    def jitter(self, X: torch.Tensor, ox: int, oy: int) -> torch.Tensor:
        """Shift images (N, C, H, W) cyclically by ox pixels right and oy down; −ox, −oy undo it."""
        return torch.roll(X, shifts=(oy, ox), dims=(2, 3))

    def blur_image(self, X: torch.Tensor, sigma: float = 1) -> torch.Tensor:
        """Blur images (N, C, H, W) along height and width, in place: `image_utils.blur_image`."""
        return blur_image(X, sigma)

    def create_class_visualization(
        self,
        target_y: int,
        class_names: Mapping[int, str] | None,
        model: nn.Module,
        dtype: torch.dtype | torch.device | type | str,
        *,
        generate_plots: bool = True,
        show_every: int = 25,
        num_iterations: int = 100,
        callback: Callable[[ClassVisualizationProgress], None] | None = None,
        **kwargs,
    ) -> Image.Image:
        """Grow the picture of one class, and draw it on the way as the course does.

        Args:
            target_y: the id of the class.
            class_names: class id → name, for the titles; None: titles are `class 3`.
            model: network with scores (N, classes); it is evaluated in eval mode and left as it
                was.
            dtype: what to compute with, on a copy of the network where it differs from the
                network's own: a `torch.dtype`, a `torch.device`, or an old tensor type such as
                `torch.cuda.FloatTensor`.
            generate_plots: write `visualization/class_visualization_iter_N.png` for the first, each
                `show_every`-th and the last iteration N.
            show_every: ≥ 1.
            num_iterations, callback, **kwargs: as in `visualize_classes`.

        Returns:
            RGB, 224×224. The pixels are those that the network saw, not stretched.

        Raises:
            TypeError: an unknown keyword argument.
            ValueError: arguments that do not fit, or scores or gradients that are not finite.
            InputError: a figure cannot be written.
        """
        show_every = integer(show_every, "show_every", 1)

        def report(progress: ClassVisualizationProgress) -> None:
            if generate_plots and is_shown(progress.iteration, show_every, num_iterations):
                title = figures().class_title(class_names or {}, target_y)
                picture = draw_iteration(progress, [title], num_iterations)
                figures().save_and_show(
                    picture, f"class_visualization_iter_{progress.iteration}.png", model
                )
            if callback:
                callback(progress)

        kwargs |= {"num_iterations": num_iterations, "callback": report}
        return deprocess(
            self.visualize_classes([target_y], model, dtype, **kwargs), should_rescale=False
        )

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
        size: int = SIZE,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        callback: Callable[[ClassVisualizationProgress], None] | None = None,
    ) -> torch.Tensor:
        """Ascend s_y(I) − l2_reg · ‖I‖² for several classes at once.

        Each image takes its own steps of length `learning_rate`. All start from the same noise and
        shift alike, so each is what it is alone with the same seed.

        An iteration shifts the images by 0 … max_jitter pixels each way, takes the step, shifts
        them back and clips them to pixels 0…255; the first and every `blur_every`-th after it end
        with a blur of sigma 0.5.

        Args:
            targets: N class ids.
            model, dtype: as in `create_class_visualization`.
            l2_reg: weight λ of the squared L2 norm, ≥ 0.
            learning_rate: L2 length of a step in normalised units, > 0.
            num_iterations, blur_every: ≥ 1.
            max_jitter: the largest shift in pixels, ≥ 0.
            size: height and width in pixels, ≥ 1.
            generator: source of the noise and the shifts; its state moves on. By default torch's
                global one.
            seed: seeds a generator of its own instead.
            callback: called with a `ClassVisualizationProgress` after every iteration.

        Returns:
            (N, 3, size, size), normalised, in `dtype` and on its device, detached.

        Raises:
            ValueError: arguments that do not fit, or scores or gradients that are not finite.
        """
        ids = [integer(target, "target_y") for target in targets]
        if not ids:
            raise ValueError("targets must name at least one class, got none")
        if not 0 <= l2_reg < math.inf:
            raise ValueError(f"l2_reg must be at least 0 and finite, got {l2_reg}")
        learning_rate = positive(learning_rate, "learning_rate")
        num_iterations, max_jitter = (
            integer(num_iterations, "num_iterations", 1),
            integer(max_jitter, "max_jitter"),
        )
        blur_every, size = integer(blur_every, "blur_every", 1), integer(size, "size", 1)
        source = _source(generator, seed)
        model, reference = _placed(model, dtype)

        with evaluation_mode(model, one_image=True):
            start = torch.randn(1, 3, size, size, dtype=torch.float32, **source)
            images, scores = [start.to(reference)] * len(ids), [reference] * len(ids)
            evaluate, inputs = _objective(model, l2_reg, ids, images[0])
            for t in range(num_iterations):
                ox, oy = torch.randint(max_jitter + 1, (2,), **source).tolist()
                # One image at a time: in a batch the network rounds otherwise, which 100 steps make
                # another picture.
                for i, target in enumerate(inputs):
                    shifted = self.jitter(images[i], ox, oy)
                    score, gradient = evaluate(shifted, target)
                    scores[i] = score.clone()  # the next class may overwrite it
                    shifted = shifted + learning_rate * unit_length(gradient)
                    images[i] = clip_pixels(self.jitter(shifted, -ox, -oy))
                    if t % blur_every == 0:
                        # Again, as the blur rounds
                        images[i] = clip_pixels(self.blur_image(images[i], BLUR_SIGMA))
                read_flags()
                if callback:
                    callback(
                        ClassVisualizationProgress(t + 1, torch.stack(scores), torch.cat(images))
                    )
        return torch.cat(images)


def is_shown(iteration: int, show_every: int, num_iterations: int) -> bool:
    """Whether the course plots this iteration: the first, every `show_every`-th and the last."""
    return iteration == 1 or iteration % show_every == 0 or iteration == num_iterations


def draw_iteration(
    progress: ClassVisualizationProgress, titles: Sequence[str], num_iterations: int
) -> Image.Image:
    """Draw the pictures of an iteration side by side, one title each."""
    tiles = [
        np.asarray(deprocess(image, should_rescale=False)) for image in progress.image.split(1)
    ]
    return figures().draw_rows(
        [("", tiles)], titles, f"Iteration {progress.iteration} / {num_iterations}"
    )


def objective_gradient(
    image: torch.Tensor, target: int | torch.Tensor, model: nn.Module, l2_reg: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the score s_y(I), 0-dim, and the gradient of s_y(I) − l2_reg · ‖I‖² by I (1, 3, H, W).

    Raises:
        ValueError: a class that the network does not know, or scores that are not finite.
    """
    image = image.detach().requires_grad_()
    label = torch.as_tensor(target, device=image.device).view(1)
    (score,) = class_scores(model, image, label, "target_y")
    (gradient,) = torch.autograd.grad(score, image)
    return score.detach(), gradient - 2 * l2_reg * image.detach()


def _objective(
    model: nn.Module, l2_reg: float, ids: Sequence[int], example: torch.Tensor
) -> tuple[Callable[..., tuple[torch.Tensor, ...]], Sequence[int] | Sequence[torch.Tensor]]:
    """Return `objective_gradient` as a function of an image and a target, and its targets.

    On a GPU it is replayed, and the targets are tensors there.
    """

    def evaluate(image: torch.Tensor, target: int | torch.Tensor) -> tuple[torch.Tensor, ...]:
        return objective_gradient(image, target, model, l2_reg)

    if not example.is_cuda:
        return evaluate, ids
    targets = [torch.tensor(target, device=example.device) for target in ids]
    return replayed(evaluate, (example, targets[0]), [model]), targets


def _source(generator: torch.Generator | None, seed: int | None) -> dict:
    """Return the source of random numbers as keyword arguments; by default torch's global one.

    Numbers are drawn on the generator's device, so that they are the same wherever the network is.
    """
    if generator is not None and seed is not None:
        raise ValueError("generator and seed were both given, one of them was expected")
    if seed is not None:
        generator = torch.Generator().manual_seed(integer(seed, "seed"))
    return {"generator": generator, "device": generator.device if generator is not None else "cpu"}


def _placed(
    model: nn.Module, dtype: torch.dtype | torch.device | type | str
) -> tuple[nn.Module, torch.Tensor]:
    """Return the network in `dtype`'s type and device, and an empty tensor of that kind."""
    check_model(model)
    like = next(
        (parameter for parameter in model.parameters() if parameter.is_floating_point()),
        torch.empty(0),
    )
    own = torch.empty(0, dtype=like.dtype, device=like.device)
    wanted = as_type(own, dtype)
    if (wanted.device, wanted.dtype) == (own.device, own.dtype):
        return model, own
    return copied(model).to(wanted.device, wanted.dtype), wanted
