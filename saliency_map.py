"""Question 1.1: saliency maps, by hand and with Captum's gradient and perturbation attributions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.options import add_photo_options, whole_number
from cli.run import make_main

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from cli.pages import Page
    from cli.session import Session


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(
        parser, "images", "labels", "num", "chunk", "size", "whole", "arrays", "figures", "classes"
    )
    steps = "steps of integrated gradients"
    parser.add_argument("--steps", type=whole_number(1, 1000), default=10, metavar="N", help=steps)


def make_figures(session: Session) -> None:
    """Write saliency_map.png, saliency_captum.png, attributions_captum.png; --arrays: maps.npz."""
    from cli.pages import Dataset, figure_saver, maps_file

    with maps_file(session) as keep:
        for page in Dataset(session).pages("saliency maps"):
            save = figure_saver(session, page)
            keep(page, {"saliency_map": draw_manual(session.model, page, save)})
            if page.drawn:
                draw_captum(session.model, page, session.options.steps, save)


def draw_manual(model: nn.Module, page: Page, save: Callable[..., None]) -> list[np.ndarray]:
    """Draw the maps from scratch under the photos, where the page gets figures; return them."""
    from figure_utils import heat
    from visualizers import SaliencyMap

    technique = SaliencyMap()
    maps = page.compute(
        lambda images, y: technique.compute_saliency_maps(images, y, model).cpu().numpy()
    )
    if page.drawn:
        rows = [("photo", page.X), ("saliency map", [heat(values) for values in maps])]
        save("saliency_map.png", rows, "Saliency maps")
    return maps


def draw_captum(model: nn.Module, page: Page, steps: int, save: Callable[..., None]) -> None:
    """Draw Captum's Saliency, alone and beside Integrated Gradients and Occlusion.

    Args:
        model: the network.
        page: its photos are `page.X`; `page.compute(attribution(algorithm, model))` lists their
            attributions (3, H, W).
        steps: of integrated gradients.
        save: called with a figure's file name, its rows and a heading.
    """
    from captum_utils import attr, attribution, attribution_row, occlusion_windows

    windows = occlusion_windows(page.X[0])
    saliency = page.compute(attribution(attr.Saliency, model))
    integrated = page.compute(attribution(attr.IntegratedGradients, model, n_steps=steps))
    occlusion = page.compute(attribution(attr.Occlusion, model, **windows))
    # The largest channel for Saliency, as by hand; the sum over channels keeps the sign of the
    # other two.
    saliency = [values.amax(dim=0, keepdim=True) for values in saliency]
    integrated = [values.sum(dim=0, keepdim=True) for values in integrated]
    occlusion = [values.sum(dim=0, keepdim=True) for values in occlusion]
    side = windows["sliding_window_shapes"][1]
    rows = [
        ("photo", page.X),
        attribution_row("Saliency", saliency, page.X),
        attribution_row(f"Integrated Gradients, {steps} steps", integrated, page.X),
        attribution_row(f"Occlusion, {side} px squares", occlusion, page.X),
    ]
    save("saliency_captum.png", rows[:2], "Saliency maps by Captum")
    save("attributions_captum.png", rows, "Gradient and perturbation attributions by Captum")


main = make_main(__name__, __doc__, add_options, make_figures)
