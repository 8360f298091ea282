"""How far to trust the maps: whether they depend on what the network has learned, and name the pixels that count."""

from __future__ import annotations

import argparse
import csv
import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cli.options import add_photo_options, whole_number
from cli.run import make_main
from files.atomic import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cli.session import Page, Session
    from visualizers.common import Method
    from visualizers.sanity import Maps, Measurement, Summary

log = logging.getLogger(__name__)

COLUMNS = 5  # states of the network in sanity_randomization.png
SIGNED = ("integrated gradients", "occlusion")  # judged once with their sign, once by their absolute values
AGREEMENT = ("rank correlation", "SSIM")
GOOD = {  # measure → which way is good
    "rank correlation": "low",
    "SSIM": "low",
    "deletion area": "low",
    "insertion area": "high",
    "sensitivity": "low",
    "infidelity": "low",
    "localisation": "high",
}
RECOGNISED = 0.1  # least probability of its class for a photo that the network recognises
CLIP = 0.99  # quantile of a map that is drawn as white, so that a single pixel does not darken the rest


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk", "classes")
    add = parser.add_argument
    add("--steps", type=whole_number(1), default=10, metavar="N", help="steps of integrated gradients")
    add("--seeds", type=whole_number(1), default=3, metavar="N", help="random networks to average over")
    words = "what deletion puts in a pixel's place: the mean colour, black or the blurred photo"
    add("--deletion-baseline", choices=("mean", "zero", "blur"), default="mean", help=words)


def make_figures(session: Session) -> None:
    """Write sanity_randomization.png, sanity_curves.png and faithfulness.png; sanity_summary.csv, sanity_checks.csv,
    sanity_curves.csv and faithfulness.csv.
    """
    from visualizers.sanity import summarise

    methods = explanation_methods(session)
    table: list[Measurement] = []
    photos: list[tuple[str, float]] = []
    for page in session.pages("sanity checks"):
        states = examine(session, page, methods, table, len(photos))
        if not photos:
            draw_cascade(session, page, states)
        photos += zip(page.titles, page.compute(lambda X, y: chances_of(session, X, y)), strict=True)
    summary = summarise(table, [chance >= RECOGNISED for _, chance in photos])
    draw_agreement(session, summary)
    draw_faithfulness(session, summary)
    write_tables(session, summary, table, photos)


def chances_of(session: Session, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Return the probability of each photo's class."""
    return session.probabilities(images).gather(1, labels[:, None])[:, 0].tolist()


# --- Methods ---


def explanation_methods(session: Session) -> dict[str, Method]:
    """Return the methods that are compared, ours and Captum's, by name; without ReLUs none of the guided ones."""
    from visualizers.layers import default_layer

    layer = default_layer(session.model, session.example)
    name = next(name for name, module in session.model.named_modules() if module is layer)
    methods = methods_of(session.options.steps, name)
    if not session.count_relus()[0]:
        log.warning("guided backprop, Guided Grad-CAM: left out, since the network has no ReLU")
        del methods["guided backprop"]
    return methods


def methods_of(steps: int, layer: str | None = None) -> dict[str, Method]:
    """Return methods of explanation by name.

    Of three colours the largest absolute gradient is taken, and of attributions, which have a sign, the sum.

    Args:
        steps: of integrated gradients.
        layer: dotted name of Grad-CAM's; by default its own choice.
    """
    from captum import attr

    from visualizers import GradCam, SaliencyMap

    return {
        "saliency": lambda model, X, y: SaliencyMap().compute_saliency_maps(X, y, model),
        "guided backprop": lambda model, X, y: abs(GradCam().guided_backprop(X, y, model)).max(axis=-1),
        "Grad-CAM": lambda model, X, y: GradCam().grad_cam(X, y, model, layer, per_image=True),
        "integrated gradients": functools.partial(attribute, attr.IntegratedGradients, n_steps=steps),
        "occlusion": functools.partial(  # 16 windows cover a photo
            attribute, attr.Occlusion, sliding_window_shapes=(3, 64, 64), strides=(3, 54, 54)
        ),
    }


def attribute(algorithm, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, **kwargs) -> torch.Tensor:
    """Attribute the labelled scores, of which alone SqueezeNet's classifier is evaluated: (N, H, W)."""
    from captum_utils import compute_attributions
    from visualizers.common import class_scores, evaluation_mode

    scores = functools.partial(class_scores, model)
    with evaluation_mode(model):
        return compute_attributions(algorithm(scores), images, additional_forward_args=labels, **kwargs).sum(dim=1)


def explain(
    methods: Mapping[str, Method], model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, np.ndarray]:
    """Return every method's maps (N, H, W), and those that follow from them: Guided Grad-CAM, and absolute values."""
    from visualizers.sanity import as_array

    maps = {name: as_array(method(model, images, labels)) for name, method in methods.items()}
    if "guided backprop" in maps and "Grad-CAM" in maps:
        maps["Guided Grad-CAM"] = maps["guided backprop"] * maps["Grad-CAM"]  # which is not negative
    for name in SIGNED:
        if name in maps:
            maps[f"{name}, absolute"] = abs(maps[name])
    return maps


# --- Measuring ---


class Notes:
    """The measurements of a page's photos, added to a table."""

    def __init__(self, table: list[Measurement], first: int, seed: int):
        """Begin with the number of the page's first photo, and the seed of what is drawn once."""
        self.table, self.first, self.seed = table, first, seed

    def add(self, measure: str, values: Mapping[str, np.ndarray], step: str = "", seed: int | None = None) -> None:
        """Add method → values (N,), one per photo."""
        from visualizers.sanity import Measurement

        seed = self.seed if seed is None else seed
        for method, each in values.items():
            numbers = enumerate(each, start=self.first)
            self.table += [Measurement(method, measure, step, photo, seed, float(value)) for photo, value in numbers]


def examine(
    session: Session, page: Page, methods: Mapping[str, Method], table: list[Measurement], first: int
) -> list[tuple[str, Maps]]:
    """Add what the checks find about a page's photos to the table.

    Args:
        session, page, methods: what is examined.
        table: gets the measurements.
        first: the number of the page's first photo, from 0.

    Returns:
        The layer and the first photo's maps (H, W) down the first cascade; the first entry is of the network as it is.
    """
    from visualizers.cascade import cascade, parameter_layers
    from visualizers.sanity import CONTROLS, agreement

    options, model = session.options, session.model
    images: torch.Tensor = page.images  # type: ignore[assignment]  # without --whole they are of one size
    notes = Notes(table, first, options.seed)

    def every_map(images: torch.Tensor) -> dict[str, np.ndarray]:
        return explain(methods, model, images, page.y) | explain(CONTROLS, model, images, page.y)

    originals = every_map(images)
    states: list[tuple[str, Maps]] = [("", {name: maps[0] for name, maps in originals.items()})]
    total = options.seeds * len(parameter_layers(model)) + len(originals) + 3
    with session.progress(description=f"page {page.number}", total=total) as bar:
        for seed in range(options.seed, options.seed + options.seeds):
            for layer, network in cascade(model, images, seed):
                maps = explain(methods, network, images, page.y) | {"edge detector": originals["edge detector"]}
                found = {name: agreement(own, originals[name]) for name, own in maps.items()}
                for i, measure in enumerate(AGREEMENT):
                    notes.add(measure, {name: pairs[:, i] for name, pairs in found.items()}, layer, seed)
                if seed == options.seed:
                    states.append((layer, {name: own[0] for name, own in maps.items()}))
                bar.update()
        judge(session, images, page.y, originals, every_map, notes, bar.update)
    return states


def judge(
    session: Session,
    images: torch.Tensor,
    labels: torch.Tensor,
    originals: Maps,
    every_map: Callable[[torch.Tensor], Maps],
    notes: Notes,
    progress: Callable[[], object],
) -> None:
    """Note deletion and insertion, sensitivity, infidelity and localisation of the network's own maps."""
    from visualizers import sanity

    options, model = session.options, session.model
    removed = sanity.baseline(images, options.deletion_baseline)
    ends = removed, sanity.baseline(images, "blur")
    for name, maps in originals.items():
        curves = sanity.deletion_insertion(model, images, labels, maps, ends, seed=options.seed)
        for measure, of_photos in (("deletion", curves[:, 0]), ("insertion", curves[:, 1])):
            notes.add(f"{measure} area", {name: sanity.area(of_photos)})
            for step, chances in enumerate(of_photos.T):
                notes.add(measure, {name: chances}, f"{step / sanity.STEPS:g}")
        progress()
    notes.add("sensitivity", sanity.max_sensitivity(every_map, images, originals, options.seed))
    progress()
    notes.add("infidelity", sanity.infidelity(model, images, labels, originals, removed, options.seed))
    progress()
    if (grid := sanity.composites(images, labels)) is not None:
        found = every_map(grid[0])
        notes.add("localisation", {name: sanity.localisation(maps, grid[1]) for name, maps in found.items()})
    progress()


# --- Figures ---


def draw_cascade(session: Session, page: Page, states: Sequence[tuple[str, Maps]]) -> None:
    """Draw a photo's maps, a row per method; of more states than fit, evenly spaced ones with both ends."""
    last, count = len(states) - 1, min(len(states), COLUMNS)
    chosen = [states[round(i * last / max(1, count - 1))] for i in range(count)]
    photo, blank = page.X[0], page.X[0] * 0 + 255
    rows = [
        (name, [blank if i else photo, *(tile(session, maps[name]) for _, maps in chosen)])
        for i, name in enumerate(name for name in chosen[-1][1] if not name.endswith("absolute"))
    ]
    titles = [page.titles[0], "the network as it is", *(f"random down to {layer}" for layer, _ in chosen[1:])]
    session.save_rows("sanity_randomization.png", rows, titles, "Absolute maps, each tile on its own scale")


def tile(session: Session, values: np.ndarray) -> np.ndarray:
    """Colour the absolute values of a map (H, W); its 99th percentile is white."""
    import numpy as np

    values = abs(values)
    return session.figures.heat(values.clip(max=np.quantile(values, CLIP) or values.max()))


def draw_agreement(session: Session, summary: Mapping[tuple, Summary]) -> None:
    """Plot how far the maps stay what they were: medians and quartiles over photos and seeds."""
    panels = {
        title: curves(summary, measure)
        for title, measure in (("Spearman's rank correlation", AGREEMENT[0]), ("structural similarity", AGREEMENT[1]))
    }
    last = steps_of(summary, AGREEMENT[0])[-1]
    ends = {m: each for m, each in column(summary, AGREEMENT[0], last).items() if m != "edge detector"}
    gone = {method: each.asked - each.maps for method, each in ends.items() if each.maps < each.asked}
    words = f"With all layers random the median rank correlation is {listed(ends)}; an edge detector's is 1."
    if gone:
        counts = ", ".join(f"{method} {count}" for method, count in gone.items())
        words += f" Maps that have vanished, and are left out: {counts} of {max(e.asked for e in ends.values())}."
    names = steps_of(summary, AGREEMENT[0])
    picture = session.figures.draw_curves(panels, names, "randomised down to", "agreement with the original map")
    session.save(picture, "sanity_curves.png", found=words)


def draw_faithfulness(session: Session, summary: Mapping[tuple, Summary]) -> None:
    """Plot the probability of the class while pixels go and come, medians and quartiles; labels give median areas."""
    from visualizers.sanity import CONTROLS

    panels = {}
    for measure, good in (("deletion", "lower"), ("insertion", "higher")):
        areas = column(summary, f"{measure} area")
        own = curves(summary, measure)
        panels[f"{measure}: the {good} the better"] = {f"{areas[m].median:.2f} {m}": own[m] for m in own}
    better: dict[str, list[str]] = {}
    for measure in ("deletion area", "insertion area"):
        sign = 1 if GOOD[measure] == "high" else -1
        values = {method: sign * each.median for method, each in column(summary, measure).items()}
        best_control = max(values[method] for method in CONTROLS)
        better[measure] = [m for m, value in values.items() if m not in CONTROLS and value > best_control]
    words = "; ".join(f"by {m} better than each control: {', '.join(each) or 'none'}" for m, each in better.items())
    shares = [float(step) for step in steps_of(summary, "deletion")]
    picture = session.figures.draw_curves(panels, shares, "share of the pixels", "probability of the class")
    session.save(picture, "faithfulness.png", found=f"{words[0].upper()}{words[1:]}.")


def steps_of(summary: Mapping[tuple, Summary], measure: str) -> list[str]:
    """Return the steps of a measure, in order."""
    return list(dict.fromkeys(step for _, other, step in summary if other == measure))


def column(summary: Mapping[tuple, Summary], measure: str, step: str = "") -> dict[str, Summary]:
    """Return method → summary of a measure at a step."""
    return {method: each for (method, *key), each in summary.items() if key == [measure, step]}


def curves(summary: Mapping[tuple, Summary], measure: str) -> dict[str, np.ndarray]:
    """Return method → quartiles of a measure over its steps, (3, steps)."""
    import numpy as np

    columns = [column(summary, measure, step) for step in steps_of(summary, measure)]
    return {method: np.array([each[method].quartiles for each in columns]).T for method in columns[0]}


def listed(summaries: Mapping[str, Summary]) -> str:
    """Write medians with their quartiles: 0.54 (0.50–0.61) for saliency, …"""
    return ", ".join(f"{cell(each)} for {method}" for method, each in summaries.items())


# --- Tables ---


def write_tables(
    session: Session,
    summary: Mapping[tuple, Summary],
    table: Sequence[Measurement],
    photos: Sequence[tuple[str, float]],
) -> None:
    """Write the measures of each method for readers and for programs, the curves, and the areas photo by photo."""
    options, last = session.options, steps_of(summary, AGREEMENT[0])[-1]
    columns = {measure: column(summary, measure, last if measure in AGREEMENT else "") for measure in GOOD}
    methods = list(columns["deletion area"])
    cells = ([name, *(cell(own.get(name)) for own in columns.values())] for name in methods)
    write_csv(session, "sanity_summary.csv", ("method", *columns), cells)

    numbers = ("median", "lower quartile", "upper quartile", "mean", "mean of recognised", "maps", "of")
    made_with = ("photos", "recognised", "seeds", "steps", "deletion baseline")
    known = sum(chance >= RECOGNISED for _, chance in photos)
    facts = len(photos), known, options.seeds, options.steps, options.deletion_baseline
    rows = ((n, m, GOOD[m], *statistics(own[n]), *facts) for m, own in columns.items() for n in own)
    write_csv(session, "sanity_checks.csv", ("method", "measure", "good", *numbers, *made_with), rows)

    drawn = (*AGREEMENT, "deletion", "insertion")
    rows = ((*key, *statistics(each)) for key, each in summary.items() if key[1] in drawn)
    write_csv(session, "sanity_curves.csv", ("method", "measure", "step", *numbers), rows)

    areas = ("deletion area", "insertion area")
    values = {(each.method, each.photo, each.measure): each.value for each in table}
    of_photos = (
        (name, number, title, rounded(chance), yes_or_no(chance), *(rounded(values[name, number, a]) for a in areas))
        for name in methods
        for number, (title, chance) in enumerate(photos)
    )
    header = ("method", "photo", "class", "probability", "recognised", *areas)
    write_csv(session, "faithfulness.csv", header, of_photos)


def yes_or_no(chance: float) -> str:
    """Say whether a photo whose class has this probability is recognised."""
    return "yes" if chance >= RECOGNISED else "no"


def statistics(each: Summary) -> tuple[str | int, ...]:
    """Return a summary's numbers in the order of the tables' columns."""
    values = (each.median, each.lower, each.upper, each.mean, each.mean_recognised)
    return (*map(rounded, values), each.maps, each.asked)


def cell(each: Summary | None) -> str:
    """Write median and quartiles, 0.54 (0.50–0.61); what was not measured stays empty."""
    if each is None or not each.maps:
        return ""
    return f"{each.median:.2f} ({each.lower:.2f}–{each.upper:.2f})"


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
