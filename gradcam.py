"""Question 1.2: guided backprop, Grad-CAM and Guided Grad-CAM, by hand and with Captum."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from process_utils import exit_now
from script_utils import add_photo_options, run, whole_number

if TYPE_CHECKING:
    import numpy as np

    from session import Page, Session


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk", "size", "whole", "per_image", "arrays", "figures")
    add = parser.add_argument
    layer = "Grad-CAM's layer, dotted name (default: features.12 for SqueezeNet, else the last one with feature maps)"
    add("--layer", metavar="NAME", help=layer)
    layer = "layer of Captum's activation, Grad-CAM, conductance (default: features.3 for SqueezeNet, else --layer)"
    add("--captum-layer", metavar="NAME", help=layer)
    add("--steps", type=whole_number(1, 1000), default=50, metavar="N", help="steps of layer conductance")


def make_figures(session: Session) -> None:
    """Write the figures of guided backprop, Grad-CAM and Guided Grad-CAM, of Captum's counterparts, and figure1.png;
    with --arrays maps.npz, and each photo's Grad-CAM in the folder gradcam_overlays.
    """
    layer = session.layer_name("layer")
    captum_layer = session.layer_name("captum_layer", "features.3" if session.is_squeezenet else layer)
    save = functools.partial(session.save_rows, layer=layer, captum_layer=captum_layer)
    with session.maps_file() as keep:
        for page in session.pages("Grad-CAM"):
            maps = compute_maps(session, page, layer)
            keep(page, maps)
            overlays = overlaid(session, page, maps["gradcam"])
            if session.options.arrays:
                session.save_singly(overlays, page.names, "gradcam_overlays", layer=layer)
            if page.drawn:
                draw_manual(session, page, save, maps, overlays)
                draw_captum(session, page, save, layer, captum_layer)


def compute_maps(session: Session, page: Page, layer: str) -> dict[str, list[np.ndarray]]:
    """Return each technique's maps from scratch: float32 (H, W), and (H, W, 3) of the guided ones."""
    from visualizers import GradCam, SaliencyMap

    techniques, model = GradCam(), session.model
    # Maps of whole photos, which may go through one by one, are not scaled together by chance where their sizes agree.
    how = {"layer": layer, "per_image": session.options.per_image or session.options.whole}
    return {
        "saliency_map": page.compute(lambda X, y: SaliencyMap().compute_saliency_maps(X, y, model).cpu().numpy()),
        "guided_backprop": page.compute(lambda X, y: techniques.guided_backprop(X, y, model)),
        "gradcam": page.compute(lambda X, y: techniques.grad_cam(X, y, model, **how)),
        "guided_gradcam": page.compute(lambda X, y: techniques.guided_grad_cam(X, y, model, **how)),
    }


def overlaid(session: Session, page: Page, maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the photos with their Grad-CAM maps over them, uint8 (H, W, 3)."""
    colours = [session.figures.heat(m, "jet", normalize=False) for m in maps]
    return [session.figures.overlay(photo, c) for photo, c in zip(page.X, colours, strict=True)]


def draw_manual(
    session: Session, page: Page, save: Callable, maps: Mapping[str, list[np.ndarray]], overlays: list[np.ndarray]
) -> None:
    """Draw the three maps from scratch, each on its own and, with the saliency map, as the hand-out's sample figure."""
    figures, words = session.figures, titles(session, page)
    photos, cam_row = ("photo", list(page.X)), ("Grad-CAM", overlays)
    saliency_row = ("saliency map", [figures.heat(m) for m in maps["saliency_map"]])
    guided_row = ("guided backprop", [figures.signed(m) for m in maps["guided_backprop"]])
    product_row = ("Guided Grad-CAM", [figures.signed(m) for m in maps["guided_gradcam"]])
    everything = [photos, saliency_row, guided_row, cam_row, product_row]
    save(page.file_name("guided_backprop.png"), [photos, guided_row], words, "Guided backprop")
    save(page.file_name("gradcam.png"), [photos, cam_row], words, "Grad-CAM")
    save(page.file_name("guided_gradcam.png"), [photos, product_row], words, "Guided Grad-CAM")
    save(page.file_name("figure1.png"), everything, words, "What the network sees, class and its probability")


def titles(session: Session, page: Page) -> list[str]:
    """Return each photo's class with the probability that the network gives it."""
    probabilities = page.compute(lambda images, y: session.probabilities(images).gather(1, y[:, None])[:, 0].tolist())
    return [f"{title} {p:.1%}" for title, p in zip(page.titles, probabilities, strict=True)]


def draw_captum(session: Session, page: Page, save: Callable, layer: str, captum_layer: str) -> None:
    """Draw Captum's counterparts, and its layer activation, Grad-CAM and conductance."""
    from captum_utils import attr, attribution_row, compute_attributions

    model, steps = session.model, session.options.steps
    module, captum_module = model.get_submodule(layer), model.get_submodule(captum_layer)

    def draw(name, heading, label, algorithm, merge=False, target=True, **kwargs):
        def technique(images, y):
            maps = compute_attributions(algorithm, images, **kwargs, **({"target": y} if target else {}))
            return maps.mean(dim=1, keepdim=True) if merge else maps  # over the layer's channels

        maps = page.compute(technique)
        rows = [("photo", list(page.X)), attribution_row(label, maps, page.X)]
        save(page.file_name(f"{name}_captum.png"), rows, page.titles, heading)

    draw("guided_backprop", "Guided backprop by Captum", "guided backprop", attr.GuidedBackprop(model))
    product = attr.GuidedGradCam(model, module)
    heading = "Guided Grad-CAM by Captum"
    draw("guided_gradcam", heading, "Guided Grad-CAM", product, interpolate_mode="bicubic")
    activation = attr.LayerActivation(model, captum_module)
    draw(
        "layer_activation",
        f"Activation of {captum_layer} by Captum",
        "mean activation",
        activation,
        merge=True,
        target=False,
    )
    cam = attr.LayerGradCam(model, captum_module)
    draw("layer_gradcam", f"Grad-CAM at {captum_layer} by Captum", "Grad-CAM", cam, relu_attributions=True)
    conductance = attr.LayerConductance(model, captum_module)
    heading = f"Conductance of {captum_layer} by Captum, {steps} steps"
    draw("layer_conductance", heading, "mean conductance", conductance, merge=True, n_steps=steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    exit_now(main(), __file__)
