"""Question 1.4: class visualization, the pictures that the network likes best for its classes."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.options import add_photo_options, real_number, whole_number
from cli.run import make_main

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

    from cli.pages import Dataset
    from cli.session import Session

# Iterations in class_visualization.png at most, and of them beside one another
STRIP, ACROSS = 8, 4

# Iteration, and for each class its tile and what the network says
Column = tuple[int, list["np.ndarray"], list[str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "chunk", "size", "classes")
    add = parser.add_argument
    target = "the classes, ids or names (default: 187, or the last if there are fewer)"
    add("--target", nargs="+", metavar="CLASS", help=target)
    count = whole_number(1, 10_000)
    add("--iterations", type=count, default=100, metavar="N", help="steps of gradient ascent")
    step = "L2 norm of a step, in normalised pixels"
    add("--learning-rate", type=real_number(above=True), default=25.0, metavar="LENGTH", help=step)
    add(
        "--l2-reg",
        type=real_number(),
        default=1e-3,
        metavar="WEIGHT",
        help="weight of the picture's squared L2 norm",
    )
    add(
        "--blur-every",
        type=count,
        default=10,
        metavar="N",
        help="iterations from one blur to the next",
    )
    add(
        "--max-jitter",
        type=whole_number(0, 224),
        default=16,
        metavar="PIXELS",
        help="the largest shift before a step",
    )
    add(
        "--show-every",
        type=count,
        default=25,
        metavar="N",
        help="iterations from one figure to the next",
    )


def make_figures(session: Session) -> None:
    """Write class_visualization.png and class_visualization_iter_N.png.

    N is the first, each --show-every-th and the last iteration. More classes than --chunk go on
    further pages: name_2.png, name_3.png, …
    """
    from cli.pages import Dataset

    data, chunk = Dataset(session), session.options.chunk
    named = session.options.target or [data.class_or_last(187)]
    targets = list(dict.fromkeys(map(data.class_id, named)))
    save = functools.partial(session.save, target=named)
    for start in range(0, len(targets), chunk):
        draw(data, targets[start : start + chunk], f"_{start // chunk + 1}" if start else "", save)


def draw(data: Dataset, targets: list[int], suffix: str, save: Callable[..., None]) -> None:
    """Grow the pictures of some classes together; draw them on the way and as a strip."""
    from figure_utils import tile
    from visualizers.class_visualization import ClassVisualization, draw_iteration, is_shown

    options = data.options
    columns: list[Column] = []

    def report(progress) -> None:
        bar.update()
        if is_shown(progress.iteration, options.show_every, options.iterations):
            images = progress.image.split(1)
            captions = [
                with_probability(data, image, target)
                for image, target in zip(images, targets, strict=True)
            ]
            columns.append((progress.iteration, [tile(image) for image in images], captions))
            titles = [
                f"{data.title(target)}: {caption}"
                for target, caption in zip(targets, captions, strict=True)
            ]
            picture = draw_iteration(progress, titles, options.iterations)
            save(picture, f"class_visualization_iter_{progress.iteration}{suffix}.png")

    with data.session.progress(description="class visualization", total=options.iterations) as bar:
        names = ("l2_reg", "learning_rate", "blur_every", "max_jitter", "seed")
        kwargs = {name: getattr(options, name) for name in names}
        kwargs |= {"num_iterations": options.iterations, "callback": report}
        kwargs["size"] = data.session.preparation.size
        ClassVisualization().visualize_classes(targets, data.model, **kwargs)
    save(
        strip(columns, [data.title(target) for target in targets]),
        f"class_visualization{suffix}.png",
    )


def with_probability(data: Dataset, image: torch.Tensor, target: int) -> str:
    """Say what the network thinks of a picture: the class's score and probability."""
    from visualizers.common import probabilities

    scores = data.scores(image)
    score, chance = scores[0, target], probabilities(data.model, scores)[0, target]
    # No-break spaces hold it together on one line of the title.
    return f"score\u00a0{score:.1f},\u00a0{chance:.1%}"


def strip(columns: list[Column], names: list[str]) -> Image:
    """Draw each class's iterations in one row or two; of too many, evenly spaced ones."""
    from figure_utils import draw_rows

    last, count = len(columns) - 1, min(len(columns), STRIP)
    columns = [columns[round(i * last / max(1, count - 1))] for i in range(count)]
    across = -(-count // -(-count // ACROSS))  # rows of equal length, as nearly as can be
    rows, titles = [], []
    for i, name in enumerate(names):
        for start in range(0, count, across):
            part = columns[start : start + across]
            rows.append((name, [tiles[i] for _, tiles, _ in part]))
            titles.append([f"{t}: {captions[i]}" for t, _, captions in part])
    return draw_rows(rows, titles, "Class visualization: iteration, class score and probability")


main = make_main(__name__, __doc__, add_options, make_figures)
