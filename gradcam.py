"""Question 1.2: guided backprop, Grad-CAM and Guided Grad-CAM, by hand and with Captum."""

import argparse
from collections.abc import Sequence

from file_utils import InputError
from script_utils import Page, Session, draw_rows, heat, leave, overlay, positive, run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this script knows."""
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="Grad-CAM's layer, dotted name (default: features.12 for "
        "SqueezeNet, else the last one with spatial feature maps)",
    )
    parser.add_argument(
        "--captum-layer",
        metavar="NAME",
        help="layer of Captum's activation, Grad-CAM and conductance "
        "(default: features.3 for SqueezeNet, else as --layer)",
    )
    parser.add_argument("--steps", type=positive, default=50, metavar="N", help="of layer conductance")


def make_figures(session: Session) -> None:
    """Write the figures of guided backprop, Grad-CAM and Guided Grad-CAM, of Captum's counterparts, and figure1.png."""
    layer, captum_layer = _layers(session)
    for page in session.pages("Grad-CAM"):
        try:
            draw_manual(session, page, layer)
        except ValueError as error:  # a network or a layer that the techniques refuse
            raise InputError(f"--arch {session.options.arch}: {error}") from error
        draw_captum(session, page, layer, captum_layer)


def _layers(session: Session):
    """The modules meant by --layer and --captum-layer."""
    from visualizers.gradcam import default_layer, find_module

    def chosen(option: str, name: str | None, default):
        try:
            return default() if name is None else find_module(session.model, name)
        except ValueError as error:
            raise InputError(f"{option}: {error}") from error

    options = session.options
    layer = chosen("--layer", options.layer, lambda: default_layer(session.model))
    squeezenet = options.arch.startswith("squeezenet")
    captum_layer = chosen(
        "--captum-layer", options.captum_layer, lambda: session.model.features[3] if squeezenet else layer
    )
    names = {module: name for name, module in session.model.named_modules()}
    options.layer, options.captum_layer = names[layer], names[captum_layer]  # what the figures record
    return layer, captum_layer


def draw_manual(session: Session, page: Page, layer) -> None:
    """The three maps from scratch, each on its own and, with the saliency map, as the hand-out's sample figure."""
    import torch

    from visualizers import GradCam, SaliencyMap

    techniques, arguments = GradCam(), (page.images, page.y, session.model)
    with torch.no_grad():
        probabilities = session.model(page.images).softmax(dim=1).gather(1, page.y[:, None])[:, 0].tolist()
    titles = [f"{title} {p:.1%}" for title, p in zip(page.titles, probabilities, strict=True)]
    photos = ("photo", page.X)
    saliency = ("saliency map", [heat(m) for m in SaliencyMap().compute_saliency_maps(*arguments).cpu().numpy()])
    guided = ("guided backprop", [signed(m) for m in techniques.guided_backprop(*arguments)])
    cams = [heat(m, "jet", spread=False) for m in techniques.grad_cam(*arguments, layer=layer)]
    cam = ("Grad-CAM", [overlay(photo, colours) for photo, colours in zip(page.X, cams, strict=True)])
    product = ("Guided Grad-CAM", [signed(m) for m in techniques.guided_grad_cam(*arguments, layer=layer)])
    for name, rows, heading in (
        ("guided_backprop.png", [photos, guided], "Guided backprop"),
        ("gradcam.png", [photos, cam], "Grad-CAM"),
        ("guided_gradcam.png", [photos, product], "Guided Grad-CAM"),
        ("figure1.png", [photos, saliency, guided, cam, product], "What the network sees, class and its probability"),
    ):
        session.save_figure(draw_rows(rows, titles, heading), page.file(name))


def signed(gradient):
    """A gradient (H, W, 3) as a picture: zero is mid-grey, and the largest half per cent of the values saturates."""
    import numpy as np

    top = np.quantile(np.abs(gradient), 0.995) or 1
    return np.rint(255 * (gradient / (2 * top) + 0.5).clip(0, 1)).astype(np.uint8)


def draw_captum(session: Session, page: Page, layer, captum_layer) -> None:
    """Captum's counterparts, and its layer activation, Grad-CAM and conductance."""
    from captum.attr import GuidedBackprop, GuidedGradCam, LayerActivation, LayerConductance, LayerGradCam

    from captum_utils import compute_attributions, visualize_attr_maps

    model, steps, name = session.model, session.options.steps, session.options.captum_layer

    def draw(file, heading, row, algorithm, target=True, merge=False, **how):
        if target:
            how["target"] = page.y
        maps = compute_attributions(algorithm, page.images, **how)
        if merge:
            maps = maps.mean(dim=1, keepdim=True)  # over the layer's channels
        visualize_attr_maps(
            session.out / page.file(file),
            page.X,
            page.y.cpu().numpy(),
            session.class_names,
            [maps],
            [row],
            heading=heading,
            model=model,
            seed=session.options.seed,
            options=session.options,
        )

    draw("guided_backprop_captum.png", "Guided backprop by Captum", "guided backprop", GuidedBackprop(model))
    draw(
        "guided_gradcam_captum.png",
        "Guided Grad-CAM by Captum",
        "Guided Grad-CAM",
        GuidedGradCam(model, layer),
        interpolate_mode="bicubic",
    )
    draw(
        "layer_activation_captum.png",
        f"Activation of {name} by Captum",
        "mean activation",
        LayerActivation(model, captum_layer),
        target=False,
        merge=True,
    )
    draw(
        "layer_gradcam_captum.png",
        f"Grad-CAM at {name} by Captum",
        "Grad-CAM",
        LayerGradCam(model, captum_layer),
        relu_attributions=True,
    )
    draw(
        "layer_conductance_captum.png",
        f"Conductance of {name} by Captum, {steps} steps",
        "mean conductance",
        LayerConductance(model, captum_layer),
        merge=True,
        n_steps=steps,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    leave(main())
