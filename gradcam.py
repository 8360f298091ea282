"""Question 1.2: guided backprop, Grad-CAM and Guided Grad-CAM, by hand and with Captum."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cli.options import add_photo_options, whole_number
from cli.run import make_main

if TYPE_CHECKING:
    import numpy as np

    from cli.session import Page, Session
    from visualizers.layers import Layer

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(
        parser, "images", "labels", "num", "chunk", "size", "whole", "per_image", "arrays", "figures", "classes"
    )
    add = parser.add_argument
    layer = (
        "Grad-CAM's layer, dotted name (default: features.12 for SqueezeNet, else the last one with feature maps; of "
        "transformers the last norm that the patches pass)"
    )
    add("--layer", metavar="NAME", help=layer)
    layer = "layer of Captum's activation, Grad-CAM, conductance (default: features.3 for SqueezeNet, else --layer)"
    add("--captum-layer", metavar="NAME", help=layer)
    add("--steps", type=whole_number(1, 1000), default=50, metavar="N", help="steps of layer conductance")


def make_figures(session: Session) -> None:
    """Write the figures of guided backprop, Grad-CAM and Guided Grad-CAM, of Captum's counterparts, and figure1.png; of
    a network without ReLUs those of Grad-CAM alone and of Captum's layers. With --arrays also maps.npz, and each
    photo's Grad-CAM in the folder gradcam_overlays.
    """
    layer = session.layer("layer")
    captum_layer = session.layer("captum_layer", "features.3" if session.is_squeezenet else layer)
    guided = has_relus(session)
    save = functools.partial(session.save_rows, layer=layer.name, captum_layer=captum_layer.name)
    with session.maps_file() as keep:
        for page in session.pages("Grad-CAM"):
            maps = compute_maps(session, page, layer, guided)
            keep(page, maps)
            overlays = overlaid(session, page, maps["gradcam"])
            if session.options.arrays:
                session.save_singly(overlays, page.names, "gradcam_overlays", layer=layer.name)
            if page.drawn:
                draw_manual(session, page, save, maps, overlays)
                draw_captum(session, page, save, layer, captum_layer, guided)


def has_relus(session: Session) -> bool:
    """Return whether the network has ReLUs, which guided backprop is about; a notice says where it has none, and where
    Captum's counterpart is something else.
    """
    relus, modules = session.count_relus()
    if not relus:
        log.warning("guided backprop, Guided Grad-CAM: left out, by Captum as well, since the network has no ReLU")
    elif modules < relus:
        log.warning(
            "guided backprop, Guided Grad-CAM by Captum: the plain gradient at %s ReLUs, since Captum sees "
            "nn.ReLU modules only, not functions or ReLU6",
            "all" if not modules else f"{relus - modules} of {relus}",
        )
    return relus > 0


def compute_maps(session: Session, page: Page, layer: Layer, guided: bool) -> dict[str, list[np.ndarray]]:
    """Return each technique's maps from scratch: float32 (H, W), and (H, W, 3) if `guided`."""
    from visualizers import GradCam, SaliencyMap

    techniques, model = GradCam(), session.model
    # Maps of whole photos, which may go through one by one, are not scaled together by chance where their sizes agree.
    how = {"layer": layer, "per_image": session.options.per_image or session.options.whole}
    maps = {
        "saliency_map": page.compute(lambda X, y: SaliencyMap().compute_saliency_maps(X, y, model).cpu().numpy()),
        "gradcam": page.compute(lambda X, y: techniques.grad_cam(X, y, model, **how)),
    }
    if guided:
        maps["guided_backprop"] = page.compute(lambda X, y: techniques.guided_backprop(X, y, model))
        maps["guided_gradcam"] = page.compute(lambda X, y: techniques.guided_grad_cam(X, y, model, **how))
    return maps


def overlaid(session: Session, page: Page, maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the photos with their Grad-CAM maps over them, uint8 (H, W, 3)."""
    colours = [session.figures.heat(m, "jet", normalize=False) for m in maps]
    return [session.figures.overlay(photo, c) for photo, c in zip(page.X, colours, strict=True)]


def draw_manual(
    session: Session, page: Page, save: Callable, maps: Mapping[str, list[np.ndarray]], overlays: list[np.ndarray]
) -> None:
    """Draw the maps from scratch, each on its own and, with the saliency map, as the hand-out's sample figure."""
    figures, words = session.figures, titles(session, page)
    photos, cam_row = ("photo", list(page.X)), ("Grad-CAM", overlays)
    rows = [photos, ("saliency map", [figures.heat(m) for m in maps["saliency_map"]]), cam_row]
    pictures = {"gradcam.png": ("Grad-CAM", [photos, cam_row])}
    if "guided_backprop" in maps:
        guided_row = ("guided backprop", [figures.signed(m) for m in maps["guided_backprop"]])
        product_row = ("Guided Grad-CAM", [figures.signed(m) for m in maps["guided_gradcam"]])
        pictures["guided_backprop.png"] = ("Guided backprop", [photos, guided_row])
        pictures["guided_gradcam.png"] = ("Guided Grad-CAM", [photos, product_row])
        rows = [*rows[:2], guided_row, cam_row, product_row]
    pictures["figure1.png"] = ("What the network sees, class and its probability", rows)
    for name, (heading, rows) in pictures.items():
        save(page.file_name(name), rows, words, heading)


def titles(session: Session, page: Page) -> list[str]:
    """Return each photo's class with the probability that the network gives it."""
    probabilities = page.compute(lambda images, y: session.probabilities(images).gather(1, y[:, None])[:, 0].tolist())
    return [f"{title} {p:.1%}" for title, p in zip(page.titles, probabilities, strict=True)]


def draw_captum(
    session: Session, page: Page, save: Callable, layer: Layer, captum_layer: Layer, guided: bool = True
) -> None:
    """Draw Captum's counterparts, and its layer activation, Grad-CAM and conductance."""
    from captum_utils import attr, attribution_row, compute_attributions

    model, steps = session.model, session.options.steps

    def draw(name, heading, label, make, at=None, merge=False, target=True, **kwargs):
        def technique(images, y):
            with at.as_maps(images) if at else contextlib.nullcontext() as module:
                algorithm = make(model, module) if at else make(model)
                maps = compute_attributions(algorithm, images, **kwargs, **({"target": y} if target else {}))
            return maps.mean(dim=1, keepdim=True) if merge else maps  # over the layer's channels

        maps = page.compute(technique)
        rows = [("photo", list(page.X)), attribution_row(label, maps, page.X)]
        save(page.file_name(f"{name}_captum.png"), rows, page.titles, heading)

    if guided:
        draw("guided_backprop", "Guided backprop by Captum", "guided backprop", attr.GuidedBackprop)
        product = functools.partial(draw, "guided_gradcam", "Guided Grad-CAM by Captum", "Guided Grad-CAM")
        product(attr.GuidedGradCam, layer, interpolate_mode="bicubic")
    heading = f"Activation of {captum_layer.name} by Captum"
    draw("layer_activation", heading, "mean activation", attr.LayerActivation, captum_layer, merge=True, target=False)
    heading = f"Grad-CAM at {captum_layer.name} by Captum"
    draw("layer_gradcam", heading, "Grad-CAM", attr.LayerGradCam, captum_layer, relu_attributions=True)
    heading = f"Conductance of {captum_layer.name} by Captum, {steps} steps"
    conductance = functools.partial(draw, "layer_conductance", heading, "mean conductance", attr.LayerConductance)
    conductance(captum_layer, merge=True, n_steps=steps)


main = make_main(__name__, __doc__, add_options, make_figures)
