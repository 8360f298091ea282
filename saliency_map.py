"""Question 1.1: saliency maps, by hand and with Captum's gradient and perturbation attributions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cli.options import add_photo_options, whole_number
from cli.run import make_main

if TYPE_CHECKING:
    import numpy as np

    from cli.session import Page, Session

STRIDE, SQUARE = 40 / 224, 64 / 224  # between the occluding squares, and their width, as shares of a photo's short
# side: 25 of them cover a square photo


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk", "size", "whole", "arrays", "figures", "classes")
    steps = "steps of integrated gradients"
    parser.add_argument("--steps", type=whole_number(1, 1000), default=10, metavar="N", help=steps)


def make_figures(session: Session) -> None:
    """Write saliency_map.png, saliency_captum.png and attributions_captum.png; with --arrays maps.npz."""
    with session.maps_file() as keep:
        for page in session.pages("saliency maps"):
            keep(page, {"saliency_map": draw_manual(session, page)})
            if page.drawn:
                draw_captum(session, page)


def draw_manual(session: Session, page: Page) -> list[np.ndarray]:
    """Draw the maps from scratch under the photos, where the page gets figures; return them."""
    from visualizers import SaliencyMap

    technique = SaliencyMap()
    maps = page.compute(lambda images, y: technique.compute_saliency_maps(images, y, session.model).cpu().numpy())
    if page.drawn:
        rows = [("photo", list(page.X)), ("saliency map", [session.figures.heat(m) for m in maps])]
        session.save_rows(page.file_name("saliency_map.png"), rows, page.titles, "Saliency maps")
    return maps


def draw_captum(session: Session, page: Page) -> None:
    """Draw Captum's Saliency, alone and beside Integrated Gradients and Occlusion."""
    from captum_utils import attr, attribution_row, compute_attributions

    size = session.option("size")
    square, stride = round(SQUARE * size), round(STRIDE * size)

    def attribute(algorithm, merge, **kwargs):
        def technique(images, y):
            maps = compute_attributions(algorithm(session.model), images, target=y, **kwargs)
            return getattr(maps, merge)(dim=1, keepdim=True)

        return page.compute(technique)

    # The largest channel for Saliency, as by hand; the sum over channels keeps the sign of the other two.
    squares = {"sliding_window_shapes": (3, square, square), "strides": (3, stride, stride)}
    at_once = max(1, 8 // len(page.images))
    saliency = attribute(attr.Saliency, "amax")
    integrated = attribute(attr.IntegratedGradients, "sum", n_steps=session.options.steps)
    occlusion = attribute(attr.Occlusion, "sum", perturbations_per_eval=at_once, **squares)

    rows = [
        ("photo", list(page.X)),
        attribution_row("Saliency", saliency, page.X),
        attribution_row(f"Integrated Gradients, {session.options.steps} steps", integrated, page.X),
        attribution_row(f"Occlusion, {square} px squares", occlusion, page.X),
    ]
    session.save_rows(page.file_name("saliency_captum.png"), rows[:2], page.titles, "Saliency maps by Captum")
    heading = "Gradient and perturbation attributions by Captum"
    session.save_rows(page.file_name("attributions_captum.png"), rows, page.titles, heading)


main = make_main(__name__, __doc__, add_options, make_figures)
