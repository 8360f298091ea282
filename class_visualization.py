"""Question 1.4: class visualization, the pictures that the network likes best for its classes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cli.options import add_photo_options, real_number, whole_number
from cli.run import make_main

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cli.session import Session

STRIP, ACROSS = 8, 4  # iterations in class_visualization.png at most, and of them beside one another

Column = tuple[int, list["np.ndarray"], list[str]]  # iteration, and for each class its tile and what the network says


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "chunk", "classes")
    add = parser.add_argument
    target = "the classes, ids or names (default: 187, or the last if there are fewer)"
    add("--target", nargs="+", metavar="CLASS", help=target)
    count = whole_number(1, 10_000)
    add("--iterations", type=count, default=100, metavar="N", help="steps of gradient ascent")
    step = "L2 norm of a step, in normalised pixels"
    add("--learning-rate", type=real_number(above=True), default=25.0, metavar="LENGTH", help=step)
    add("--l2-reg", type=real_number(), default=1e-3, metavar="WEIGHT", help="weight of the picture's squared L2 norm")
    add("--blur-every", type=count, default=10, metavar="N", help="iterations from one blur to the next")
    add("--max-jitter", type=whole_number(0, 224), default=16, metavar="PIXELS", help="the largest shift before a step")
    add("--show-every", type=count, default=25, metavar="N", help="iterations from one figure to the next")


def make_figures(session: Session) -> None:
    """Write class_visualization_iter_N.png for the first, each --show-every-th and the last iteration N, and all in
    class_visualization.png. More classes than --chunk go on further pages: name_2.png, name_3.png, …
    """
    session.options.target = session.options.target or [session.class_or_last(187)]
    targets = list(dict.fromkeys(map(session.class_id, session.options.target)))
    chunk = session.options.chunk
    for start in range(0, len(targets), chunk):
        draw(session, targets[start : start + chunk], page=f"_{start // chunk + 1}" if start else "")


def draw(session: Session, targets: list[int], page: str) -> None:
    """Grow the pictures of some classes together; draw them on the way, and as a strip in the end."""
    from visualizers.class_visualization import ClassVisualization, draw_iteration, is_shown

    options = session.options
    columns: list[Column] = []

    def report(progress) -> None:
        bar.update()
        if is_shown(progress.iteration, options.show_every, options.iterations):
            images = progress.image.split(1)
            words = [with_probability(session, image, target) for image, target in zip(images, targets, strict=True)]
            columns.append((progress.iteration, [session.tile(image) for image in images], words))
            titles = [f"{session.title(target)}: {said}" for target, said in zip(targets, words, strict=True)]
            picture = draw_iteration(progress, titles, options.iterations)
            session.save(picture, f"class_visualization_iter_{progress.iteration}{page}.png")

    with session.progress(description="class visualization", total=options.iterations) as bar:
        names = ("l2_reg", "learning_rate", "blur_every", "max_jitter", "seed")
        kwargs = {name: getattr(options, name) for name in names}
        kwargs |= {"num_iterations": options.iterations, "callback": report}
        ClassVisualization().visualize_classes(targets, session.model, **kwargs)
    draw_strip(session, columns, targets, page)


def with_probability(session: Session, image: torch.Tensor, target: int) -> str:
    """Say what the network thinks of a picture: the class's score and probability."""
    scores = session.scores(image)[0]
    # No-break spaces hold it together on one line of the title.
    return f"score\u00a0{scores[target]:.1f},\u00a0{scores.softmax(dim=0)[target]:.1%}"


def draw_strip(session: Session, columns: list[Column], targets: list[int], page: str) -> None:
    """Draw each class's iterations in one row or two; of more than fit, evenly spaced ones with both ends."""
    last, count = len(columns) - 1, min(len(columns), STRIP)
    columns = [columns[round(i * last / max(1, count - 1))] for i in range(count)]
    across = -(-count // -(-count // ACROSS))  # rows of equal length, as nearly as can be
    rows, titles = [], []
    for i, target in enumerate(targets):
        for start in range(0, count, across):
            part = columns[start : start + across]
            rows.append((session.title(target), [tiles[i] for _, tiles, _ in part]))
            titles.append([f"{t}: {words[i]}" for t, _, words in part])
    heading = "Class visualization: iteration, class score and probability"
    session.save_rows(f"class_visualization{page}.png", rows, titles, heading)


main = make_main(__name__, __doc__, add_options, make_figures)
