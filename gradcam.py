"""Question 1.2: guided backprop, Grad-CAM and Guided Grad-CAM, by hand and with Captum."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from process_utils import exit_now
from script_utils import add_photo_options, run, whole_number

if TYPE_CHECKING:
    from session import Page, Session


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk")
    add = parser.add_argument
    layer = "Grad-CAM's layer, dotted name (default: features.12 for SqueezeNet, else the last one with feature maps)"
    add("--layer", metavar="NAME", help=layer)
    layer = "layer of Captum's activation, Grad-CAM, conductance (default: features.3 for SqueezeNet, else --layer)"
    add("--captum-layer", metavar="NAME", help=layer)
    add("--steps", type=whole_number(1, 1000), default=50, metavar="N", help="steps of layer conductance")


def make_figures(session: Session) -> None:
    """Write the figures of guided backprop, Grad-CAM and Guided Grad-CAM, of Captum's counterparts, and figure1.png."""
    layer = session.layer_name("layer")
    captum_layer = session.layer_name("captum_layer", "features.3" if session.is_squeezenet else layer)
    save = functools.partial(session.save_rows, layer=layer, captum_layer=captum_layer)
    for page in session.pages("Grad-CAM"):
        draw_manual(session, page, save, layer)
        draw_captum(session, page, save, layer, captum_layer)


def draw_manual(session: Session, page: Page, save: Callable, layer: str) -> None:
    """Draw the three maps from scratch, each on its own and, with the saliency map, as the hand-out's sample figure."""
    from visualizers import GradCam, SaliencyMap

    techniques, arguments = GradCam(), (page.images, page.y, session.model)
    saliency = SaliencyMap().compute_saliency_maps(*arguments).cpu().numpy()
    guided = techniques.guided_backprop(*arguments)
    cam = techniques.grad_cam(*arguments, layer=layer)
    product = techniques.guided_grad_cam(*arguments, layer=layer)

    figures, photos = session.figures, ("photo", list(page.X))
    saliency_row = ("saliency map", [figures.heat(m) for m in saliency])
    guided_row = ("guided backprop", [figures.signed(m) for m in guided])
    colours = [figures.heat(m, "jet", normalize=False) for m in cam]
    cam_row = ("Grad-CAM", [figures.overlay(photo, c) for photo, c in zip(page.X, colours, strict=True)])
    product_row = ("Guided Grad-CAM", [figures.signed(m) for m in product])
    everything = [photos, saliency_row, guided_row, cam_row, product_row]
    words = titles(session, page)
    save(page.file_name("guided_backprop.png"), [photos, guided_row], words, "Guided backprop")
    save(page.file_name("gradcam.png"), [photos, cam_row], words, "Grad-CAM")
    save(page.file_name("guided_gradcam.png"), [photos, product_row], words, "Guided Grad-CAM")
    save(page.file_name("figure1.png"), everything, words, "What the network sees, class and its probability")


def titles(session: Session, page: Page) -> list[str]:
    """Return each photo's class with the probability that the network gives it."""
    probabilities = session.probabilities(page.images).gather(1, page.y[:, None])[:, 0].tolist()
    return [f"{title} {p:.1%}" for title, p in zip(page.titles, probabilities, strict=True)]


def draw_captum(session: Session, page: Page, save: Callable, layer: str, captum_layer: str) -> None:
    """Draw Captum's counterparts, and its layer activation, Grad-CAM and conductance."""
    from captum_utils import attr, attribution_row, compute_attributions

    model, steps, target = session.model, session.options.steps, page.y
    module, captum_module = model.get_submodule(layer), model.get_submodule(captum_layer)

    def draw(name, heading, label, algorithm, merge=False, **kwargs):
        maps = compute_attributions(algorithm, page.images, **kwargs)
        if merge:
            maps = maps.mean(dim=1, keepdim=True)  # over the layer's channels
        rows = [("photo", list(page.X)), attribution_row(label, maps, page.X)]
        save(page.file_name(f"{name}_captum.png"), rows, page.titles, heading)

    draw("guided_backprop", "Guided backprop by Captum", "guided backprop", attr.GuidedBackprop(model), target=target)
    product = attr.GuidedGradCam(model, module)
    heading = "Guided Grad-CAM by Captum"
    draw("guided_gradcam", heading, "Guided Grad-CAM", product, target=target, interpolate_mode="bicubic")
    activation = attr.LayerActivation(model, captum_module)
    draw("layer_activation", f"Activation of {captum_layer} by Captum", "mean activation", activation, merge=True)
    cam = attr.LayerGradCam(model, captum_module)
    draw(
        "layer_gradcam", f"Grad-CAM at {captum_layer} by Captum", "Grad-CAM", cam, target=target, relu_attributions=True
    )
    conductance = attr.LayerConductance(model, captum_module)
    heading = f"Conductance of {captum_layer} by Captum, {steps} steps"
    draw("layer_conductance", heading, "mean conductance", conductance, merge=True, target=target, n_steps=steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    exit_now(main(), __file__)
