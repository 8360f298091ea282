"""Question 1.3: a fooling image, and one that still fools the network after it has been stored in 8 bits."""

import argparse
import logging
from collections.abc import Sequence

from script_utils import Session, draw_rows, leave, natural, positive, positive_real, run, say

log = logging.getLogger(__name__)

AMPLIFIED = 10  # how much larger the last tile shows the difference


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this script knows."""
    add = parser.add_argument
    add("--index", type=natural, default=0, metavar="N", help="which of the photos, counted from 0")
    add("--target", default="6", metavar="CLASS", help="the class to reach, id or name")
    add(
        "--learning-rate",
        type=positive_real,
        default=10.0,
        metavar="LENGTH",
        help="length of a step: L2 norm, pixels normalised",
    )
    add("--max-iter", type=positive, default=100, metavar="N", help="the largest number of steps")


def make_figures(session: Session) -> None:
    """Write fooling_image.png and fooling_image_valid.png, and print whether the network is fooled."""
    from data_utils import parse_label
    from image_utils import deprocess, to_batch
    from visualizers import FoolingImage

    photo = chosen_photo(session)
    target = parse_label(session.options.target, session.class_names)
    X = to_batch(photo[None]).to(session.device)

    fooling = make(session, X, target)
    session.save_figure(draw(session, photo, X, fooling, target), "fooling_image.png")
    valid = make(session, X, target, valid=True)
    session.save_image(deprocess(valid, should_rescale=False), "fooling_image_valid.png")

    technique = FoolingImage()
    if not technique.is_fooled(valid, target, session.model):
        log.warning("fooling_image_valid.png does not fool the network; a larger --max-iter may help")
    say("Fooled the model!" if technique.is_fooled(fooling, target, session.model) else "The model is not fooled!")


def chosen_photo(session: Session):
    """The photo at --index, uint8 (H, W, 3).

    Raises:
        InputError: there are fewer photos.
    """
    from file_utils import InputError

    X, _ = session.photos
    index = session.options.index
    if index >= len(X):
        raise InputError(f"--index {index}: only 0 to {len(X) - 1} are there; --num and --images bring more photos")
    return X[index]


def make(session: Session, X, target: int, valid: bool = False):
    """A fooling image (1, 3, H, W) by the options, under a progress bar.

    Raises:
        InputError: the network's numbers overflow.
    """
    from file_utils import InputError
    from visualizers import FoolingImage

    rate, steps = session.options.learning_rate, session.options.max_iter
    with session.progress(description="fooling image", total=steps) as bar:
        try:
            return FoolingImage().make_fooling_image(
                X, target, session.model, rate, steps, callback=lambda _: bar.update(), valid=valid
            )
        except ValueError as error:
            raise InputError(str(error)) from error


def draw(session: Session, photo, X, fooling, target: int):
    """Photo, fooling image, their difference, and the difference amplified."""
    import torch

    from image_utils import SQUEEZENET_STD, deprocess_image

    with torch.no_grad():
        probabilities = [session.model(image).softmax(dim=1)[0] for image in (X, fooling)]
    likeliest = [f"{p.max():.1%} {session.title(p.argmax())}" for p in probabilities]
    perturbation = (fooling - X)[0].permute(1, 2, 0).double().cpu().numpy()
    pixels = perturbation * SQUEEZENET_STD  # 1 is the range from black to white
    titles = [
        *likeliest,
        f"difference: L2 {(perturbation**2).sum() ** 0.5:.1f}, L∞\u00a0{abs(perturbation).max():.2f}\u00a0(normalised)",
        f"difference ×{AMPLIFIED}",
    ]
    shown = deprocess_image(fooling[0].permute(1, 2, 0).cpu().numpy())
    tiles = [photo, shown, about_grey(pixels), about_grey(AMPLIFIED * pixels)]
    before, after = (f"{p[target].item():.2%}" for p in probabilities)
    heading = f"Fooling image for class {target}, {session.title(target)}: {before} before, {after} after"
    return draw_rows([("", tiles)], titles, heading)


def about_grey(difference):
    """A difference of pixels in [−1, 1] as a picture about mid-grey; what goes beyond black and white is clipped."""
    import numpy as np

    return np.rint(128 + 255 * difference).clip(0, 255).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    leave(main())
