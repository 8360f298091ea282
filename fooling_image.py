"""Question 1.3: a fooling image, and one that still fools the network when stored in 8 bits."""

from __future__ import annotations

import argparse
import itertools
import logging
from typing import TYPE_CHECKING

from cli.options import add_photo_options, real_number, whole_number
from cli.process import print_line
from cli.run import make_main
from errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cli.pages import Dataset
    from cli.session import Session

log = logging.getLogger(__name__)

AMPLIFIED = 10  # how much larger the last tile shows the difference


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "num", "size", "whole", "classes")
    add = parser.add_argument
    add(
        "--index",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="which of the photos, counted from 0",
    )
    target = "the class to reach, id or name (default: 6, or the last if there are fewer)"
    add("--target", metavar="CLASS", help=target)
    step = "L2 norm of a step, in normalised pixels"
    add("--learning-rate", type=real_number(above=True), default=10.0, metavar="LENGTH", help=step)
    add(
        "--max-iter",
        type=whole_number(1, 10_000),
        default=100,
        metavar="N",
        help="the largest number of steps",
    )


def make_figures(session: Session) -> None:
    """Write fooling_image.png and fooling_image_valid.png; print whether the network is fooled."""
    from cli.pages import Dataset
    from visualizers import FoolingImage

    options, data = session.options, Dataset(session)
    named = options.target or data.class_or_last(6)
    photo, target = chosen_photo(session), data.class_id(named)
    X = data.batch(photo[None])
    technique = FoolingImage()

    def make(valid: bool) -> torch.Tensor:
        with session.progress(description="fooling image", total=options.max_iter) as bar:
            return technique.make_fooling_image(
                X,
                target,
                session.model,
                options.learning_rate,
                options.max_iter,
                lambda _: bar.update(),
                valid,
            )

    fooling, valid = make(valid=False), make(valid=True)
    rows, titles, heading = figure(data, photo, X, fooling, target)
    session.save_rows("fooling_image.png", rows, titles, heading, target=named)
    session.save_image(valid, "fooling_image_valid.png", target=named)
    if not technique.is_fooled(valid, target, session.model):
        log.warning(
            "fooling_image_valid.png does not fool the network; a larger --max-iter may help"
        )
    fooled = technique.is_fooled(fooling, target, session.model)
    print_line("Fooled the model!" if fooled else "The model is not fooled!")


def chosen_photo(session: Session) -> np.ndarray:
    """Return the photo at --index, uint8 (H, W, 3)."""
    index, photos = session.options.index, session.photos.photos
    photo = next(itertools.islice(photos, index, None), None)
    if photo is None:
        count = sum(1 for _ in photos)
        raise InputError(
            f"--index {index}: only 0 to {count - 1} are there; --num and --images bring more "
            f"photos"
        )
    return photo.pixels


def figure(
    data: Dataset, photo: np.ndarray, X: torch.Tensor, fooling: torch.Tensor, target: int
) -> tuple[list[tuple[str, list[np.ndarray]]], list[str], str]:
    """Return rows, titles and heading: photo, fooling image, difference, difference amplified."""
    from figure_utils import about_grey, tile
    from visualizers.common import probabilities

    before, after = (probabilities(data.model, data.scores(each))[0] for each in (X, fooling))
    likeliest = [f"{p.max():.1%} {data.title(int(p.argmax()))}" for p in (before, after)]
    difference = fooling - X
    length, largest = difference.norm().item(), difference.abs().max().item()
    size = f"difference: L2 {length:.1f}, L∞\u00a0{largest:.2f}\u00a0(normalised)"
    tiles = [photo, tile(fooling), about_grey(difference), about_grey(AMPLIFIED * difference)]
    # Without names both are the same
    names = ", ".join(dict.fromkeys((f"class {target}", data.title(target))))
    heading = (
        f"Fooling image for {names}: {before[target].item():.2%} before, "
        f"{after[target].item():.2%} after"
    )
    return [("", tiles)], [*likeliest, size, f"difference ×{AMPLIFIED}"], heading


main = make_main(__name__, __doc__, add_options, make_figures)
