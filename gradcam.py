"""Question 1.2: guided backprop, Grad-CAM and Guided Grad-CAM, by hand and with Captum."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.options import add_photo_options, whole_number
from cli.run import make_main
from errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from cli.pages import Dataset, Page
    from cli.session import Session
    from visualizers.layers import Layer

log = logging.getLogger(__name__)

CAPTUM = ("guided_backprop", "guided_gradcam", "layer_activation", "layer_gradcam", "layer_conductance")


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
    from cli.pages import Dataset, figure_saver, maps_file

    options, model, data = session.options, session.model, Dataset(session)
    layers = find_layers(data)
    facts = {"layer": layers[0].name, "captum_layer": layers[1].name}
    guided = has_relus(data)
    by_captum = [name for name in CAPTUM if guided or not name.startswith("guided")]
    # Maps of whole photos, which may go through one by one, are not scaled together by chance where their sizes agree.
    per_image = options.per_image or options.whole
    with maps_file(session) as keep:
        for page in data.pages("Grad-CAM"):
            maps = compute_maps(model, page, layers[0], guided, per_image)
            keep(page, maps)
            overlays = overlaid(page, maps["gradcam"])
            if options.arrays:
                session.save_singly(overlays, page.names, "gradcam_overlays", layer=layers[0].name)
            if page.drawn:
                save = figure_saver(session, page, **facts)
                draw_manual(page, maps, overlays, save)
                draw_captum(model, page, layers, options.steps, save, by_captum)


def find_layers(data: Dataset) -> tuple[Layer, Layer]:
    """Return the layers of Grad-CAM and of Captum's layer attributions.

    Raises:
        InputError: the network has no such layer, or it gives no feature maps that have influence on the scores.
    """
    from torchvision.models import SqueezeNet

    layer = layer_of_option(data, "layer")
    return layer, layer_of_option(data, "captum_layer", "features.3" if isinstance(data.model, SqueezeNet) else layer)


def layer_of_option(data: Dataset, option: str, default: Layer | str | None = None) -> Layer:
    """Return the layer that an option names; without it the default, or Grad-CAM's own choice."""
    from visualizers.layers import check_influence, find_layer

    example = data.example  # whose faults are not the layer's
    try:
        layer = find_layer(data.model, getattr(data.options, option) or default, example)
        check_influence(data.model, layer, example)
    except InputError as error:
        raise InputError(f"--{option.replace('_', '-')}: {error}") from error
    return layer


def has_relus(data: Dataset) -> bool:
    """Return whether the network has ReLUs, which guided backprop is about; a notice says where it has none, and where
    Captum's counterpart is something else.
    """
    from visualizers.gradcam import count_relus

    relus, modules = count_relus(data.model, data.example)
    if not relus:
        log.warning("guided backprop, Guided Grad-CAM: left out, by Captum as well, since the network has no ReLU")
    elif modules < relus:
        log.warning(
            "guided backprop, Guided Grad-CAM by Captum: the plain gradient at %s ReLUs, since Captum sees "
            "nn.ReLU modules only, not functions or ReLU6",
            "all" if not modules else f"{relus - modules} of {relus}",
        )
    return relus > 0


def compute_maps(
    model: nn.Module, page: Page, layer: Layer, guided: bool, per_image: bool
) -> dict[str, list[np.ndarray]]:
    """Return each technique's maps from scratch: float32 (H, W), and (H, W, 3) if `guided`."""
    from visualizers import GradCam, SaliencyMap

    techniques = GradCam()
    kwargs: dict[str, Any] = {"layer": layer, "per_image": per_image}
    maps = {
        "saliency_map": page.compute(lambda X, y: SaliencyMap().compute_saliency_maps(X, y, model).cpu().numpy()),
        "gradcam": page.compute(lambda X, y: techniques.grad_cam(X, y, model, **kwargs)),
    }
    if guided:
        maps["guided_backprop"] = page.compute(lambda X, y: techniques.guided_backprop(X, y, model))
        maps["guided_gradcam"] = page.compute(lambda X, y: techniques.guided_grad_cam(X, y, model, **kwargs))
    return maps


def overlaid(page: Page, maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the photos with their Grad-CAM maps over them, uint8 (H, W, 3)."""
    from figure_utils import heat, overlay

    return [overlay(photo, heat(cam, "jet", normalize=False)) for photo, cam in zip(page.X, maps, strict=True)]


def draw_manual(
    page: Page, maps: Mapping[str, list[np.ndarray]], overlays: list[np.ndarray], save: Callable[..., None]
) -> None:
    """Draw the maps from scratch, each on its own and, with the saliency map, as the hand-out's sample figure."""
    from figure_utils import heat, signed

    # Above each photo its class, with the probability that the network gives it.
    titles = [f"{title} {p:.1%}" for title, p in zip(page.titles, page.probabilities(), strict=True)]
    photos, cam_row = ("photo", page.X), ("Grad-CAM", overlays)
    rows = [photos, ("saliency map", [heat(values) for values in maps["saliency_map"]]), cam_row]
    figures = {"gradcam.png": ([photos, cam_row], "Grad-CAM")}
    if "guided_backprop" in maps:
        guided_row = ("guided backprop", [signed(values) for values in maps["guided_backprop"]])
        product_row = ("Guided Grad-CAM", [signed(values) for values in maps["guided_gradcam"]])
        figures["guided_backprop.png"] = ([photos, guided_row], "Guided backprop")
        figures["guided_gradcam.png"] = ([photos, product_row], "Guided Grad-CAM")
        rows = [*rows[:2], guided_row, cam_row, product_row]
    figures["figure1.png"] = (rows, "What the network sees, class and its probability")
    for name, (rows, heading) in figures.items():
        save(name, rows, heading, titles)


def draw_captum(
    model: nn.Module,
    page: Page,
    layers: Sequence[Layer],
    steps: int,
    save: Callable[..., None],
    only: Collection[str] = CAPTUM,
) -> None:
    """Draw Captum's counterparts of guided backprop and Guided Grad-CAM, and its layer activation, Grad-CAM and
    conductance: a figure each, the photos and a row of maps under them.

    Args:
        model: the network.
        page: its photos are `page.X`; `page.compute(attribution(algorithm, model, layer))` lists their attributions.
        layers: the layer of Guided Grad-CAM, and that of the three others.
        steps: of the conductance.
        save: called with a figure's file name, its rows and a heading.
        only: those of `CAPTUM` that are drawn.
    """
    from captum_utils import attr, attribution, attribution_row

    cam_layer, layer = layers
    photos = ("photo", page.X)
    if "guided_backprop" in only:
        maps = page.compute(attribution(attr.GuidedBackprop, model))
        row = attribution_row("guided backprop", maps, page.X)
        save("guided_backprop_captum.png", [photos, row], "Guided backprop by Captum")
    if "guided_gradcam" in only:
        maps = page.compute(attribution(attr.GuidedGradCam, model, cam_layer, interpolate_mode="bicubic"))
        row = attribution_row("Guided Grad-CAM", maps, page.X)
        save("guided_gradcam_captum.png", [photos, row], "Guided Grad-CAM by Captum")
    if "layer_activation" in only:
        maps = page.compute(attribution(attr.LayerActivation, model, layer))
        row = attribution_row("mean activation", [channels.mean(dim=0, keepdim=True) for channels in maps], page.X)
        save("layer_activation_captum.png", [photos, row], f"Activation of {layer.name} by Captum")
    if "layer_gradcam" in only:
        maps = page.compute(attribution(attr.LayerGradCam, model, layer, relu_attributions=True))
        row = attribution_row("Grad-CAM", maps, page.X)
        save("layer_gradcam_captum.png", [photos, row], f"Grad-CAM at {layer.name} by Captum")
    if "layer_conductance" in only:
        maps = page.compute(attribution(attr.LayerConductance, model, layer, n_steps=steps))
        row = attribution_row("mean conductance", [channels.mean(dim=0, keepdim=True) for channels in maps], page.X)
        save("layer_conductance_captum.png", [photos, row], f"Conductance of {layer.name} by Captum, {steps} steps")


main = make_main(__name__, __doc__, add_options, make_figures)
