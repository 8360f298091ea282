"""How far to trust the maps: whether they depend on what the network has learned, and name the pixels that count."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.options import add_photo_options, whole_number
from cli.run import make_main
from files.atomic import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from cli.pages import Page
    from cli.session import Session
    from visualizers.sanity import Findings, State

COLUMNS = 5  # states of the network in sanity_randomization.png
MEASURES = ("rank correlation", "SSIM", "deletion area", "insertion area", "sensitivity")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk", "classes")
    parser.add_argument("--steps", type=whole_number(1), default=10, metavar="N", help="steps of integrated gradients")


def make_figures(session: Session) -> None:
    """Write sanity_randomization.png, sanity_curves.png, faithfulness.png, faithfulness.csv and sanity_checks.csv."""
    from cli.pages import Dataset

    findings: dict[str, Findings] = {}
    titles: list[str] = []
    firsts: list[tuple[Page, list[State]]] = []
    for page in Dataset(session).pages("sanity checks"):
        found, states = examine(session, page)
        findings = {name: findings[name] + found[name] if findings else found[name] for name in found}
        titles += page.titles
        firsts = firsts or [(page, states)]
    page, states = firsts[0]
    draw_cascade(session, page, states)
    draw_agreement(session, findings, [state.layer for state in states])
    draw_faithfulness(session, findings)
    write_tables(session, findings, titles)


def examine(session: Session, page: Page) -> tuple[dict[str, Findings], list[State]]:
    """Return what the checks find about every method and control, and the first photo's maps down the cascade."""
    from captum_utils import explanation_methods, max_sensitivity
    from visualizers import sanity

    methods = explanation_methods(session.options.steps) | {"edge detector": sanity.edges}
    seed = session.options.seed
    (images,), labels = page.batches, page.y  # without --whole, the photos are one batch
    model = session.model
    layers = len(sanity.parameter_layers(model))
    originals: dict[str, Any] = {}
    probability: dict[str, np.ndarray] = {}
    sensitivity: dict[str, np.ndarray] = {}
    states: list[State] = []

    def report(state: State) -> None:
        originals.update(originals or state.maps)
        states.append(state.of_first_image())
        bar.update()

    total = layers + 1 + 2 * len(methods) + len(sanity.CONTROLS)
    with session.progress(description=f"page {page.number}", total=total) as bar:
        agreement = sanity.randomization(model, methods, images, labels, seed, report)
        for name, control in sanity.CONTROLS.items():
            originals[name] = control(model, images, labels)
        for name, maps in originals.items():
            probability[name] = sanity.deletion_insertion(model, images, labels, maps, seed=seed)
            bar.update()
        for name, method in methods.items():
            sensitivity[name] = max_sensitivity(method, model, images, labels, seed)
            bar.update()
    findings = {n: sanity.Findings(probability[n], agreement.get(n), sensitivity.get(n)) for n in originals}
    return findings, states


def draw_cascade(session: Session, page: Page, states: Sequence[State]) -> None:
    """Draw a photo's maps, a row per method; of more states than fit, evenly spaced ones with both ends."""
    from figure_utils import heat

    last, count = len(states) - 1, min(len(states), COLUMNS)
    chosen = [states[round(i * last / max(1, count - 1))] for i in range(count)]
    photo, blank = page.X[0], page.X[0] * 0 + 255
    rows = [
        (name, [blank if i else photo, *(heat(abs(state.maps[name])) for state in chosen)])
        for i, name in enumerate(states[0].maps)
    ]
    titles = [page.titles[0], "the network as it is", *(f"random down to {state.layer}" for state in chosen[1:])]
    session.save_rows(
        "sanity_randomization.png", rows, titles, "Maps while the network is made random from the top down"
    )


def draw_agreement(session: Session, findings: Mapping[str, Findings], layers: Sequence[str]) -> None:
    """Plot how far the maps stay what they were: medians and middle halves over the photos."""
    from figure_utils import draw_curves

    panels = {}
    for i, title in enumerate(("Spearman's rank correlation", "structural similarity (SSIM)")):
        panels[title] = {name: own.spread()[..., i] for name, own in findings.items() if own.agreement is not None}
    picture = draw_curves(panels, layers, "randomised down to", "agreement with the original map")
    session.save(picture, "sanity_curves.png")


def draw_faithfulness(session: Session, findings: Mapping[str, Findings]) -> None:
    """Plot the mean probability of the class while pixels go and come; the labels give the areas."""
    from figure_utils import draw_curves

    panels = {}
    for i, title in enumerate(("deletion: the lower the better", "insertion: the higher the better")):
        means = {name: own.probability[:, i].mean(axis=0) for name, own in findings.items()}
        panels[title] = {f"{findings[name].summary()[2 + i]:.2f} {name}": mean for name, mean in means.items()}
    steps = len(next(iter(means.values()))) - 1
    shares = [step / steps for step in range(steps + 1)]
    picture = draw_curves(panels, shares, "share of the pixels", "probability of the class")
    session.save(picture, "faithfulness.png")


def write_tables(session: Session, findings: Mapping[str, Findings], titles: Sequence[str]) -> None:
    """Write all measures of each method, and the areas photo by photo."""
    measures = ([name, *map(rounded, own.summary())] for name, own in findings.items())
    write_csv(session, "sanity_checks.csv", ("method", *MEASURES), measures)
    areas = (
        [name, number, title, *map(rounded, pair)]
        for name, own in findings.items()
        for number, (title, pair) in enumerate(zip(titles, own.areas(), strict=True))
    )
    write_csv(session, "faithfulness.csv", ("method", "photo", "class", *MEASURES[2:4]), areas)


def rounded(value: float) -> str:
    """Write a number with three decimals; what was not measured stays empty."""
    return "" if math.isnan(value) else f"{value:.3f}"


def write_csv(session: Session, name: str, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(session.out / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


main = make_main(__name__, __doc__, add_options, make_figures)
