"""Question 1.1: saliency maps, by hand and with Captum's gradient and perturbation attributions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from process_utils import exit_now
from script_utils import add_photo_options, run, whole_number

if TYPE_CHECKING:
    from session import Page, Session

STRIDE, SQUARE = 40, 64  # pixels between the occluding squares, and their width: 25 of them cover a photo


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk")
    parser.add_argument(
        "--steps", type=whole_number(1, 1000), default=10, metavar="N", help="steps of integrated gradients"
    )


def make_figures(session: Session) -> None:
    """Write saliency_map.png, saliency_captum.png and attributions_captum.png."""
    for page in session.pages("saliency maps"):
        draw_manual(session, page)
        draw_captum(session, page)


def draw_manual(session: Session, page: Page) -> None:
    """Draw the maps from scratch under the photos."""
    from visualizers import SaliencyMap

    maps = SaliencyMap().compute_saliency_maps(page.images, page.y, session.model).cpu().numpy()
    rows = [("photo", list(page.X)), ("saliency map", [session.figures.heat(m) for m in maps])]
    session.save_rows(page.file_name("saliency_map.png"), rows, page.titles, "Saliency maps")


def draw_captum(session: Session, page: Page) -> None:
    """Draw Captum's Saliency, alone and beside Integrated Gradients and Occlusion."""
    from captum_utils import attr, attribution_row, compute_attributions

    def attribute(algorithm, **kwargs):
        return compute_attributions(algorithm(session.model), page.images, target=page.y, **kwargs)

    # The largest channel for Saliency, as by hand; the sum over channels keeps the sign of the other two.
    saliency = attribute(attr.Saliency).amax(dim=1, keepdim=True)
    integrated = attribute(attr.IntegratedGradients, n_steps=session.options.steps).sum(dim=1, keepdim=True)
    squares = {"sliding_window_shapes": (3, SQUARE, SQUARE), "strides": (3, STRIDE, STRIDE)}
    at_once = max(1, 8 // len(page.images))
    occlusion = attribute(attr.Occlusion, perturbations_per_eval=at_once, **squares).sum(dim=1, keepdim=True)

    rows = [
        ("photo", list(page.X)),
        attribution_row("Saliency", saliency, page.X),
        attribution_row(f"Integrated Gradients, {session.options.steps} steps", integrated, page.X),
        attribution_row(f"Occlusion, {SQUARE} px squares", occlusion, page.X),
    ]
    session.save_rows(page.file_name("saliency_captum.png"), rows[:2], page.titles, "Saliency maps by Captum")
    heading = "Gradient and perturbation attributions by Captum"
    session.save_rows(page.file_name("attributions_captum.png"), rows, page.titles, heading)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    exit_now(main(), __file__)
