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
    import torch
    from PIL import Image
    from torch import nn

    from cli.pages import Dataset, Page
    from cli.session import Session
    from visualizers.layers import Layer

log = logging.getLogger(__name__)

MANUAL = ("guided_backprop", "gradcam", "guided_gradcam")  # from scratch
SAVED = ("saliency_map", "gradcam", "guided_backprop", "guided_gradcam")  # in maps.npz, in order
CAPTUM = (
    "guided_backprop",
    "guided_gradcam",
    "layer_activation",
    "layer_gradcam",
    "layer_conductance",
)
TECHNIQUES = tuple(dict.fromkeys((*MANUAL, *CAPTUM)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(
        parser,
        "images",
        "labels",
        "num",
        "chunk",
        "size",
        "whole",
        "per_image",
        "against",
        "wrong_first",
        "arrays",
        "figures",
        "classes",
    )
    add = parser.add_argument
    layer = (
        "Grad-CAM's layer, dotted name (default: features.12 for SqueezeNet, else the last one "
        "with feature maps; of "
        "transformers the last norm that the patches pass)"
    )
    add("--layer", metavar="NAME", help=layer)
    layer = (
        "layer of Captum's activation, Grad-CAM, conductance (default: features.3 for SqueezeNet, "
        "else --layer)"
    )
    add("--captum-layer", metavar="NAME", help=layer)
    add(
        "--steps",
        type=whole_number(1, 1000),
        default=50,
        metavar="N",
        help="steps of layer conductance",
    )
    only = (
        f"the figures of these techniques alone: {', '.join(TECHNIQUES)} (default: all, and "
        f"figure1.png)"
    )
    add(
        "--only",
        nargs="+",
        choices=TECHNIQUES,
        default=TECHNIQUES,
        dest="techniques",
        metavar="TECHNIQUE",
        help=only,
    )
    leave_out = "leave out Captum's figures, which take most of the time"
    add("--no-captum", action="store_false", default=True, dest="captum", help=leave_out)


def make_figures(session: Session) -> None:
    """Write the figures of guided backprop, Grad-CAM, Guided Grad-CAM, and Captum's counterparts.

    figure1.png shows them together. Without ReLUs, those of Grad-CAM and of Captum's layers alone;
    with --only, those of some techniques. With --arrays also maps.npz, and each photo's Grad-CAM in
    the folder gradcam_overlays.
    """
    from cli.pages import Dataset, figure_saver, maps_file

    options, model, data = session.options, session.model, Dataset(session)
    layers = find_layers(data)
    facts = {"layer": layers[0].name, "captum_layer": layers[1].name}
    techniques = defined_techniques(data)
    by_captum = [name for name in CAPTUM if name in techniques and options.captum]
    # Maps of whole photos, which may go through one by one, are not scaled together by chance where
    # their sizes agree.
    per_image = options.per_image or options.whole
    with maps_file(session) as keep:
        for page in data.pages("Grad-CAM"):
            others = other_classes(data, page)
            save = figure_saver(session, page, **facts) if page.drawn else None
            maps: dict[str, list[np.ndarray]] = {}
            for name in (name for name in MANUAL if name in techniques):  # each figure as it comes
                maps |= compute_maps(model, page, layers[0], [name], per_image)
                if save:
                    draw_manual(page, name, maps[name], save)
            contrasts = contrasting_maps(data, page, layers[0], others, per_image)
            overlays = overlaid(page, maps["gradcam"]) if "gradcam" in maps else []
            if options.arrays and overlays:
                session.save_singly(overlays, page.names, "gradcam_overlays", layer=layers[0].name)
            if save:
                draw_contrasts(data, page, contrasts, overlays, others, save)
                if by_captum:
                    draw_captum(model, page, layers, options.steps, save, by_captum)
            if "saliency_map" in techniques:  # question 1.1's, for which 1.2 does not wait
                maps |= compute_maps(model, page, layers[0], ["saliency_map"], per_image)
                if save:
                    draw_sample(page, maps, save)
            keep(page, {name: maps[name] for name in SAVED if name in maps} | contrasts)


def find_layers(data: Dataset) -> tuple[Layer, Layer]:
    """Return the layers of Grad-CAM and of Captum's layer attributions."""
    from torchvision.models import SqueezeNet

    layer = layer_of_option(data, "layer")
    return layer, layer_of_option(
        data, "captum_layer", "features.3" if isinstance(data.model, SqueezeNet) else layer
    )


def layer_of_option(data: Dataset, option: str, default: Layer | str | None = None) -> Layer:
    """Return the layer that an option names; without it the default, or Grad-CAM's own choice."""
    from visualizers.layers import check_influence, find_layer

    example, name = data.example, getattr(data.options, option)
    try:
        layer = find_layer(data.model, name or default, example)
        check_influence(data.model, layer, example)
    except InputError as error:
        if name is None:
            raise
        raise InputError(f"--{option.replace('_', '-')}: {error}") from error
    return layer


def defined_techniques(data: Dataset) -> list[str]:
    """Return the techniques by --only that the network has: guided ones need ReLUs.

    A notice says where it has none, and where Captum's counterpart is something else.
    """
    from visualizers.relus import count_relus, unguided

    techniques = [name for name in TECHNIQUES if name in data.options.techniques]
    if set(MANUAL) <= set(techniques):
        techniques.append("saliency_map")  # for figure1.png, which shows them together
    if not any(name.startswith("guided") for name in techniques):
        return techniques
    relus, modules = count_relus(data.model, data.example)
    others = unguided(data.model, data.example)
    if not relus:
        techniques = [name for name in techniques if not name.startswith("guided")]
        if not techniques:
            raise InputError(
                "--only: the network has no ReLU, so guided backprop is not defined for it"
            )
        log.warning(
            "guided backprop, Guided Grad-CAM: left out, by Captum as well, since the network has "
            "no ReLU" + (" on its main path" if modules else "")
        )
        return techniques
    if others:
        log.warning(
            "guided backprop, Guided Grad-CAM: guided at %s ReLUs, the plain gradient at %s",
            *(relus, ", ".join(f"{count} {name}" for name, count in others.items())),
        )
    if modules < relus and data.options.captum:
        log.warning(
            "guided backprop, Guided Grad-CAM by Captum: the plain gradient at %s ReLUs, since "
            "Captum sees "
            "nn.ReLU modules only, not functions or ReLU6",
            "all" if not modules else f"{relus - modules} of {relus}",
        )
    return techniques


def compute_maps(
    model: nn.Module, page: Page, layer: Layer, techniques: Collection[str], per_image: bool
) -> dict[str, list[np.ndarray]]:
    """Return the maps from scratch by technique: float32 (H, W), of the guided ones (H, W, 3)."""
    from visualizers import GradCam, SaliencyMap

    ours, saliency = GradCam(), SaliencyMap()
    kwargs: dict[str, Any] = {"layer": layer, "per_image": per_image}
    compute: dict[str, Callable] = {
        "saliency_map": lambda X, y: saliency.compute_saliency_maps(X, y, model).cpu().numpy(),
        "gradcam": lambda X, y: ours.grad_cam(X, y, model, **kwargs),
        "guided_backprop": lambda X, y: ours.guided_backprop(X, y, model),
        "guided_gradcam": lambda X, y: ours.guided_grad_cam(X, y, model, **kwargs),
    }
    return {name: page.compute(compute[name]) for name in compute if name in techniques}


def other_classes(data: Dataset, page: Page) -> torch.Tensor | None:
    """Return the classes by --against, (N,)."""
    from visualizers.contrast import runners_up

    named = data.options.against
    if named is None:
        return None
    if "gradcam" not in data.options.techniques:
        raise InputError("--against is about Grad-CAM: let --only name gradcam as well")
    if data.class_count < 2:
        raise InputError("--against: the network knows a single class")
    if named == "second":
        return runners_up(page.chances, page.y)
    other = data.class_id(named)
    same = [name for name, label in zip(page.names, page.y.tolist(), strict=True) if label == other]
    if same:
        raise InputError(f"--against {named}: it is the class of {same[0]} itself; or give second")
    return page.y.new_full(page.y.shape, other)


def contrasting_maps(
    data: Dataset, page: Page, layer: Layer, others: torch.Tensor | None, per_image: bool
) -> dict[str, list[np.ndarray]]:
    """Return Grad-CAM's maps of labels and not other classes, and of what speaks against labels.

    With --wrong-first also of the guesses; float32 (H, W).
    """
    from visualizers import GradCam
    from visualizers.contrast import counterfactual

    cam, model, maps = GradCam(), data.model, {}

    def explain(X, y, against=None):
        return cam.grad_cam(X, y, model, layer, per_image, against)

    def explain_opposite(X, y):
        explain(X, y)
        return counterfactual(cam, X.shape[2:], per_image)

    if others is not None:
        maps["gradcam_against"] = page.compute(explain, others)
        maps["counterfactual"] = page.compute(explain_opposite)
    if data.options.wrong_first:
        maps["gradcam_guess"] = page.compute(lambda X, _, guess: explain(X, guess), page.guesses)
    return maps


def draw_contrasts(
    data: Dataset,
    page: Page,
    maps: Mapping[str, list[np.ndarray]],
    overlays: list[Image.Image],
    others: torch.Tensor | None,
    save: Callable[..., None],
) -> None:
    """Draw Grad-CAM beside its contrasts; of photos that the network gets wrong, both classes'."""
    photos, plain = ("photo", page.X), ("Grad-CAM", overlays)
    if others is not None:
        chances = page.chances.gather(1, others[:, None])[:, 0].tolist()
        titles = [
            f"{caption}, not {data.title(other)} {chance:.1%}"
            for caption, other, chance in zip(
                page.captions(), others.tolist(), chances, strict=True
            )
        ]
        contrast = "for it and not the other", overlaid(page, maps["gradcam_against"])
        opposite = "against it", overlaid(page, maps["counterfactual"])
        heading = "Why this class and not that one"
        save("gradcam_against.png", [photos, plain, contrast, opposite], heading, titles)
    wrong = (page.y != page.guesses).nonzero()[:, 0].tolist()
    if wrong and overlays and data.options.wrong_first:
        guess = "Grad-CAM of the guess", overlaid(page, maps["gradcam_guess"])
        three = photos, ("Grad-CAM of the label", overlays), guess
        titles = [page.captions()[i] for i in wrong]
        rows = [(label, [tiles[i] for i in wrong]) for label, tiles in three]
        save("gradcam_wrong.png", rows, "What the network gets wrong: label → guess", titles)


def overlaid(page: Page, maps: Sequence[np.ndarray]) -> list[Image.Image]:
    """Return the photos with their Grad-CAM maps over them, RGB pictures."""
    from figure_utils import heat, overlay

    return [
        overlay(photo, heat(cam, "jet", normalize=False))
        for photo, cam in zip(page.X, maps, strict=True)
    ]


def draw_manual(
    page: Page, name: str, maps: Sequence[np.ndarray], save: Callable[..., None]
) -> None:
    """Draw the maps from scratch, each alone and, with the saliency map, as figure1.png."""
    label, tiles = manual_row(page, name, maps)
    heading = label[0].upper() + label[1:]
    save(f"{name}.png", [("photo", page.X), (label, tiles)], heading, page.captions())


def draw_sample(
    page: Page, maps: Mapping[str, list[np.ndarray]], save: Callable[..., None]
) -> None:
    """Draw all maps from scratch, as the hand-out's sample figure does."""
    names = [name for name in ("saliency_map", *MANUAL) if name in maps]  # without ReLUs, two
    rows = [manual_row(page, name, maps[name]) for name in names]
    heading = "What the network sees, class and its probability"
    save("figure1.png", [("photo", page.X), *rows], heading, page.captions())


def manual_row(page: Page, name: str, maps: Sequence[np.ndarray]) -> tuple[str, Sequence]:
    """Return a technique's name for readers, and its maps as tiles."""
    from figure_utils import heat, signed

    if name == "gradcam":
        return "Grad-CAM", overlaid(page, maps)
    if name == "saliency_map":
        return "saliency map", [heat(values) for values in maps]
    label = "guided backprop" if name == "guided_backprop" else "Guided Grad-CAM"
    return label, [signed(values) for values in maps]


def draw_captum(
    model: nn.Module,
    page: Page,
    layers: Sequence[Layer],
    steps: int,
    save: Callable[..., None],
    only: Collection[str] = CAPTUM,
) -> None:
    """Draw guided backprop, Guided Grad-CAM, layer activation, Grad-CAM, conductance by Captum.

    A figure each: the photos and a row of maps under them.

    Args:
        model: the network.
        page: its photos are `page.X`; `page.compute(attribution(algorithm, model, layer))` lists
            their attributions.
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
        maps = page.compute(
            attribution(attr.GuidedGradCam, model, cam_layer, interpolate_mode="bicubic")
        )
        row = attribution_row("Guided Grad-CAM", maps, page.X)
        save("guided_gradcam_captum.png", [photos, row], "Guided Grad-CAM by Captum")
    if "layer_activation" in only:
        maps = page.compute(attribution(attr.LayerActivation, model, layer))
        row = attribution_row(
            "mean activation", [channels.mean(dim=0, keepdim=True) for channels in maps], page.X
        )
        save("layer_activation_captum.png", [photos, row], f"Activation of {layer.name} by Captum")
    if "layer_gradcam" in only:
        maps = page.compute(attribution(attr.LayerGradCam, model, layer, relu_attributions=True))
        row = attribution_row("Grad-CAM", maps, page.X)
        save("layer_gradcam_captum.png", [photos, row], f"Grad-CAM at {layer.name} by Captum")
    if "layer_conductance" in only:
        maps = page.compute(attribution(attr.LayerConductance, model, layer, n_steps=steps))
        row = attribution_row(
            "mean conductance", [channels.mean(dim=0, keepdim=True) for channels in maps], page.X
        )
        save(
            "layer_conductance_captum.png",
            [photos, row],
            f"Conductance of {layer.name} by Captum, {steps} steps",
        )


main = make_main(__name__, __doc__, add_options, make_figures)
