"""Question 1.5: do the maps depend on what was learned, and name the pixels that count?"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cli.options import add_photo_options, whole_number
from cli.run import make_main
from files.atomic import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from cli.session import Session

log = logging.getLogger(__name__)

COLUMNS = 5  # states of the network in sanity_randomization.png
# Quantile of a map that fills its tile's scale, so that a single pixel does not darken the rest
CLIP = 0.99
CURVES = {"rank correlation": "Spearman's rank correlation", "SSIM": "structural similarity (SSIM)"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk", "size", "classes")
    add = parser.add_argument
    add(
        "--steps",
        type=whole_number(1),
        default=10,
        metavar="N",
        help="steps of integrated gradients",
    )
    add(
        "--seeds",
        type=whole_number(1),
        default=3,
        metavar="N",
        help="random networks to average over",
    )
    text = "what deletion puts in a pixel's place: the mean colour, black or the blurred photo"
    add("--deletion-baseline", choices=("mean", "zero", "blur"), default="mean", help=text)


def make_figures(session: Session) -> None:
    """Write sanity_randomization.png, sanity_curves.png, faithfulness.png, and four tables.

    The tables are sanity_summary.csv, sanity_checks.csv, sanity_curves.csv and faithfulness.csv.
    """

    import report.trust as trust
    from cli.pages import Dataset
    from visualizers.gradcam import count_relus, default_layer

    options, model, data = session.options, session.model, Dataset(session)
    methods = trust.explanation_methods(options.steps, default_layer(model, data.example).name)
    if not count_relus(model, data.example)[0]:
        log.warning("guided backprop, Guided Grad-CAM: left out, since the network has no ReLU")
        del methods["guided backprop"]
    results = trust.Results(
        trust.Settings(options.seed, options.seeds, options.steps, options.deletion_baseline)
    )
    with session.progress(description="sanity checks") as bar:

        def progress(total: int) -> None:
            bar.total = total
            bar.update()

        for page in data.pages("pages"):
            bar.reset()
            (images,), photos = (
                page.batches,
                list(zip(page.titles, page.probabilities(), strict=True)),
            )
            states = trust.examine(results, model, methods, images, page.y, photos, progress)
            if page.number == 1:
                draw_cascade(session, page.X[0], page.titles[0], states)
    draw_agreement(session, results, trust.describe_agreement(results))
    draw_faithfulness(session, results, trust.describe_areas(results))
    for name, rows in trust.tables(results).items():
        write_csv(session, name, rows)


def draw_cascade(
    session: Session,
    photo: np.ndarray,
    title: str,
    states: Sequence[tuple[str, Mapping[str, np.ndarray]]],
) -> None:
    """Draw a photo's maps, a row per method; of too many states, evenly spaced ones."""
    from figure_utils import heat

    last, count = len(states) - 1, min(len(states), COLUMNS)
    chosen = [states[round(i * last / max(1, count - 1))] for i in range(count)]
    names = [name for name in chosen[-1][1] if not name.endswith(", absolute")]
    rows = [(name, [heat(abs(maps[name]), top=CLIP) for _, maps in chosen]) for name in names]
    rows = [
        (name, [photo * 0 + 255 if i else photo, *tiles]) for i, (name, tiles) in enumerate(rows)
    ]
    titles = [
        title,
        "the network as it is",
        *(f"random down to {layer}" for layer, _ in chosen[1:]),
    ]
    session.save_rows(
        "sanity_randomization.png", rows, titles, "Absolute maps, each tile on its own scale"
    )


def draw_agreement(session: Session, results, caption: str) -> None:
    """Plot how far maps stay what they were: medians, quartiles over photos and random networks."""
    panels = {title: results.curves(measure) for measure, title in CURVES.items()}
    layers = results.steps("SSIM")
    axes = "randomised down to", "agreement with the original map"
    save_curves(session, "sanity_curves.png", panels, layers, axes, caption)


def draw_faithfulness(session: Session, results, caption: str) -> None:
    """Plot the class's probability while pixels go and come: medians, quartiles, median areas."""
    panels = {}
    for measure, good in (("deletion", "lower"), ("insertion", "higher")):
        areas = results.column(f"{measure} area")
        curves = results.curves(measure).items()
        panels[f"{measure}: the {good} the better"] = {
            f"{areas[m].median:.2f} {m}": own for m, own in curves
        }
    shares = [float(step) for step in results.steps("deletion")]
    axes = "share of the pixels", "probability of the class"
    save_curves(session, "faithfulness.png", panels, shares, axes, caption)


def save_curves(
    session: Session, name: str, panels: Mapping, x: Sequence, axes: tuple[str, str], caption: str
) -> None:
    """Plot curves and save the plot, with what its numbers say for the caption."""
    from figure_utils import draw_curves

    session.save(draw_curves(panels, x, *axes), name, found=caption)


def write_csv(session: Session, name: str, rows: Iterable[Sequence]) -> None:
    """Write a table, whole or not at all."""
    with (
        atomic_write(session.out / name) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


main = make_main(__name__, __doc__, add_options, make_figures)
