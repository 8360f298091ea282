"""Question 1.1: saliency maps, by hand and with Captum's gradient and perturbation attributions."""

import argparse
from collections.abc import Sequence

from script_utils import Page, Session, draw_rows, heat, leave, positive, run

STRIDE, SQUARE = 40, 64  # pixels between the occluding squares, and their width: 25 of them cover a photo


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this script knows."""
    parser.add_argument("--steps", type=positive, default=10, metavar="N", help="of integrated gradients")


def make_figures(session: Session) -> None:
    """Write saliency_map.png, saliency_captum.png and attributions_captum.png."""
    for page in session.pages("saliency maps"):
        draw_manual(session, page)
        draw_captum(session, page)


def draw_manual(session: Session, page: Page) -> None:
    """The maps from scratch, under the photos."""
    from visualizers import SaliencyMap

    maps = SaliencyMap().compute_saliency_maps(page.images, page.y, session.model).cpu().numpy()
    rows = [("photo", page.X), ("saliency map", [heat(m) for m in maps])]
    session.save_figure(draw_rows(rows, page.titles, "Saliency maps"), page.file("saliency_map.png"))


def draw_captum(session: Session, page: Page) -> None:
    """Captum's Saliency, alone and beside Integrated Gradients and Occlusion."""
    from captum.attr import IntegratedGradients, Occlusion, Saliency

    from captum_utils import compute_attributions, visualize_attr_maps

    def attribute(algorithm, **how):
        # The largest channel for Saliency, as by hand; the sum over channels keeps the sign of the other two.
        return compute_attributions(algorithm(session.model), page.images, target=page.y, **how)

    saliency = attribute(Saliency).amax(dim=1, keepdim=True)
    integrated = attribute(IntegratedGradients, n_steps=session.options.steps).sum(dim=1, keepdim=True)
    occlusion = attribute(
        Occlusion,
        sliding_window_shapes=(3, SQUARE, SQUARE),
        strides=(3, STRIDE, STRIDE),
        perturbations_per_eval=max(1, 8 // len(page.images)),
    ).sum(dim=1, keepdim=True)

    def draw(name, heading, attributions, titles):
        visualize_attr_maps(
            session.out / page.file(name),
            page.X,
            page.y.cpu().numpy(),
            session.class_names,
            attributions,
            titles,
            model=session.model,
            seed=session.options.seed,
            options=session.options,
            heading=heading,
        )

    draw("saliency_captum.png", "Saliency maps by Captum", [saliency], ["Saliency"])
    draw(
        "attributions_captum.png",
        "Gradient and perturbation attributions by Captum",
        [saliency, integrated, occlusion],
        ["Saliency", f"Integrated Gradients, {session.options.steps} steps", f"Occlusion, {SQUARE} px squares"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    leave(main())
