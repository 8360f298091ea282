"""Question 1.4: class visualization, the pictures that the network likes best for its classes."""

import argparse
from collections.abc import Callable, Sequence

from script_utils import Session, draw_rows, leave, natural, natural_real, positive, positive_real, run

STRIP = 8  # iterations in class_visualization.png at most


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this script knows."""
    add = parser.add_argument
    add("--target", nargs="+", default=["187"], metavar="CLASS", help="the classes, ids or names (default: 187)")
    add("--iterations", type=positive, default=100, metavar="N", help="of gradient ascent")
    add(
        "--learning-rate",
        type=positive_real,
        default=25.0,
        metavar="LENGTH",
        help="length of a step: L2 norm, pixels normalised",
    )
    add("--l2-reg", type=natural_real, default=1e-3, metavar="WEIGHT", help="of the picture's squared L2 norm")
    add("--blur-every", type=positive, default=10, metavar="N", help="iterations from one blur to the next")
    add("--max-jitter", type=natural, default=16, metavar="PIXELS", help="the largest shift before a step")
    add("--show-every", type=positive, default=25, metavar="N", help="iterations from one figure to the next")


def make_figures(session: Session) -> None:
    """Write class_visualization_iter_N.png for the first, each --show-every-th and the last iteration N, and all in
    class_visualization.png. More classes than --chunk go on further pages: name_2.png, name_3.png, …
    """
    from data_utils import imagenet_classes, parse_label

    names, chunk = imagenet_classes(), session.options.chunk
    targets = list(dict.fromkeys(parse_label(text, names) for text in session.options.target))
    for start in range(0, len(targets), chunk):
        page = f"_{start // chunk + 1}" if start else ""
        draw(session, {target: names[target].split(",")[0] for target in targets[start : start + chunk]}, page)


def draw(session: Session, names: dict[int, str], page: str) -> None:
    """Grow the pictures of the classes `names` together; draw them on the way, and as a strip in the end."""
    columns = []  # (iteration, tiles, titles) of each snapshot

    def report(progress) -> None:
        bar.update()
        if progress.snapshot:
            tiles, words = judged(session, progress.image, list(names))
            columns.append((progress.iteration, tiles, words))
            titles = [f"{name}: {judgement}" for name, judgement in zip(names.values(), words, strict=True)]
            heading = f"Iteration {progress.iteration} / {session.options.iterations}"
            session.save_figure(
                draw_rows([("", tiles)], titles, heading), f"class_visualization_iter_{progress.iteration}{page}.png"
            )

    with session.progress(description="class visualization", total=session.options.iterations) as bar:
        optimise(session, list(names), report)
    session.save_figure(strip(columns, names), f"class_visualization{page}.png")


def optimise(session: Session, targets: list[int], callback: Callable) -> None:
    """Run the gradient ascent by the options.

    Raises:
        InputError: the network's numbers overflow.
    """
    from file_utils import InputError
    from visualizers import ClassVisualization

    options = session.options
    try:
        ClassVisualization().visualize_classes(
            targets,
            session.model,
            l2_reg=options.l2_reg,
            learning_rate=options.learning_rate,
            num_iterations=options.iterations,
            blur_every=options.blur_every,
            max_jitter=options.max_jitter,
            show_every=options.show_every,
            seed=options.seed,
            callback=callback,
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def judged(session: Session, images, targets: list[int]) -> tuple[list, list[str]]:
    """Normalised pictures as uint8 (H, W, 3), and in words what the network thinks of each: score and probability."""
    import numpy as np
    import torch

    from image_utils import deprocess

    tiles, words = [], []
    for image, target in zip(images.split(1), targets, strict=True):
        with torch.no_grad():
            scores = session.model(image)[0]
        tiles.append(np.asarray(deprocess(image, should_rescale=False)))
        # No-break spaces hold it together on one line of the title.
        words.append(f"score\u00a0{scores[target]:.1f},\u00a0{scores.softmax(dim=0)[target]:.1%}")
    return tiles, words


def strip(columns: list[tuple[int, list, list[str]]], names: dict[int, str]):
    """One row per class, one column per snapshot; of more than fit, evenly spaced ones with the first and the last."""
    last, shown = len(columns) - 1, min(len(columns), STRIP)
    columns = [columns[round(i * last / max(1, shown - 1))] for i in range(shown)]
    rows = [(name, [tiles[i] for _, tiles, _ in columns]) for i, name in enumerate(names.values())]
    titles = [[f"iteration {t}: {words[i]}" for t, _, words in columns] for i in range(len(names))]
    return draw_rows(rows, titles, "Class visualization: class score and probability")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    leave(main())
