"""Part 2: style transfer and feature inversion, after the four reference checks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import named_path, real_number, whole_number
from cli.process import print_line
from cli.run import make_main
from cli.style_presets import INVERSION, STRIPS, Preset, chosen_presets, given, presets
from errors import InputError, quoted

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import nn

    from cli.session import Session
    from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
    from style_utils import StyleTransferProgress

__all__ = ["INVERSION", "Preset", "add_options", "main", "make_figures", "presets"]

OPTIMIZERS = ("course", "adam", "lbfgs")

Losses = tuple[float, ...]  # content, style, total variation, total, and the style term by layer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options; those that are in the namespace only when given change nothing that is recorded."""
    presets_own, unless_given = "(default: the presets')", argparse.SUPPRESS
    path: dict[str, Any] = {"type": named_path, "metavar": "PATH"}
    pixels: dict[str, Any] = {"type": whole_number(32, 4096), "metavar": "PIXELS"}  # eight layers need 32
    number: dict[str, Any] = {"type": real_number(), "default": unless_given, "metavar": "W"}
    several: dict[str, Any] = {"nargs": "+", "default": unless_given}

    add = parser.add_argument_group("pictures").add_argument
    add("--only", nargs="+", metavar="NAME", help="make these alone; 'layers': strips by layer; a wrong name lists all")
    add("--content", **path, help=f"your own picture to be painted anew; none: a texture {presets_own}")
    add("--style", nargs="+", **path, help=f"one or more pictures to take the style from {presets_own}")
    add("--style-shares", **several, type=real_number(), metavar="S", help="shares of several styles (default: equal)")
    add("--mask", **several, **path, help="grey pictures, one per style: white where it counts")
    add("--image-size", **pixels, help="short side of the result (default: the presets', 192)")
    add("--style-size", **pixels, help=f"short side of the style picture, larger for finer strokes {presets_own}")

    add = parser.add_argument_group("losses").add_argument
    add("--style-scale", **number, help="factor of all style weights: turn this first")
    add("--content-weight", **number, help=f"weight of the content {presets_own}")
    add("--style-weights", nargs="+", **number, help=f"a weight per style layer {presets_own}")
    add("--tv-weight", **number, help=f"weight of the total variation {presets_own}")
    add("--content-layer", default=unless_given, metavar="L", help="number or name (default: the network's)")
    add("--style-layers", **several, metavar="L", help="numbers or names (default: the network's)")

    add = parser.add_argument_group("optimisation").add_argument
    add("--optimizer", choices=OPTIMIZERS, default="course", help="the course's rule, or a faster one")
    add("--iterations", type=whole_number(1, 10_000), metavar="N", help="steps (default: the optimizer's own number)")
    scales: dict[str, Any] = {"type": number_of_scales, "default": unless_given, "metavar": "N"}
    add("--scales", **scales, help="paint at N sizes, coarse to fine, or auto (default: 1)")
    add("--init-random", action="store_true", default=False, help="start from noise instead of the content picture")
    add("--preserve-color", action="store_true", default=False, help="keep the colours of the content picture")
    add("--save-every", type=whole_number(1, 10_000), metavar="N", help="also save NAME_0000.png, ... every N steps")


def number_of_scales(text: str) -> int | str:
    """Parse --scales."""
    return text if text == "auto" else whole_number(1, 8)(text)


def make_figures(session: Session) -> None:
    """Print the four reference checks; make the pictures, with style_transfer.png, inverted_features.png and
    style_losses.png about them, or the strips by layer.
    """
    from cli.style_strips import make_strips
    from cli.style_weights import fitted
    from figure_utils import draw_losses
    from style_modules import ContentLoss, StyleLoss, TotalVariationLoss

    options, losses = session.options, (ContentLoss(), StyleLoss(), TotalVariationLoss())
    chosen = chosen_presets(options)
    pictures = {path: session.open_picture(path) for preset in chosen for path in preset.files()}
    plain, chosen = chosen[0], [fitted(preset, options, session.model, session.device) for preset in chosen]
    print_checks(session, *losses)
    if plain.name == STRIPS:
        make_strips(session, plain, chosen[0].style_layers, pictures, losses)
        return
    curves: dict[str, list[Losses]] = {}
    by_layer: dict[str, list[str]] = {}
    rows: list[tuple[str, list[np.ndarray]]] = []
    facts: dict[str, Any] = {}
    try:
        for preset in chosen:
            curves[preset.name], result = make(session, preset, pictures, losses)
            used = [layer for layer, weight in zip(preset.style_layers, preset.style_weights, strict=True) if weight]
            by_layer[preset.name] = [f"style, layer {layer}" for layer in used]
            content: list[Any] = [] if preset.content is None else [pictures[preset.content]]
            styles = [pictures[path] for path in preset.styles]
            facts = {"iterations": len(curves[preset.name]) - 1, "pictures": preset.description()}
            if preset.name == INVERSION:
                tiles = [session.tile(picture, (320, 240)) for picture in (*content, result)]
                titles = ["content", "inverted features"][-len(tiles) :]
                session.save_rows("inverted_features.png", [("", tiles)], titles, "Feature inversion", **facts)
            else:
                tiles = [session.tile(picture, (320, 240)) for picture in (*content, *styles, result)]
                rows.append((preset.name.replace("_", " "), tiles))
                titles = ["content"] * len(content) + ["style"] * len(styles) + ["result"]
                done = [p for p in chosen if p.name in curves and p.name != INVERSION]
                facts["pictures"] = ". ".join(p.description() for p in done)
                session.save_rows("style_transfer.png", rows, titles, "Style transfer", **facts)
    finally:  # also when a later picture is interrupted
        if curves:
            session.save(draw_losses(curves, by_layer), "style_losses.png", **facts)


def print_checks(
    session: Session, content_loss: ContentLoss, style_loss: StyleLoss, tv_loss: TotalVariationLoss
) -> None:
    """Print the four lines that the course asks for, each as soon as it is known."""
    from cli.style_checks import content_loss_test, gram_matrix_test, reference, style_loss_test, tv_loss_test

    weights = session.model.weights_name
    official = session.options.arch == "squeezenet1_1" and not weights.startswith(("bundled", "random"))
    ref = reference(session.model, official)
    print_line(content_loss_test(content_loss, ref))
    print_line(gram_matrix_test(style_loss.gram_matrix, ref))
    print_line(style_loss_test(style_loss, style_loss.gram_matrix, ref))
    print_line(tv_loss_test(tv_loss, ref))


def make(
    session: Session, preset: Preset, pictures: Mapping[Path, Image], losses: tuple[nn.Module, nn.Module, nn.Module]
) -> tuple[list[Losses], torch.Tensor]:
    """Make one picture, coarse to fine. Returns the losses before and after each step, and the picture (1, 3, H, W).

    Raises:
        InputError: the losses are not finite, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C; the picture reached by then is written, and the message says so.
    """
    from style_modules.scales import scale_sizes, steps_by_scale
    from style_utils import ITERATIONS, style_transfer

    options, folder = session.options, session.folder("styles_images")
    count = options.iterations or ITERATIONS[options.optimizer]
    sizes = scale_sizes(preset.image_size, given(options, "scales") or 1)
    steps = steps_by_scale(count, len(sizes))
    curve: list[Losses] = []
    last: list[StyleTransferProgress] = []

    def report(progress: StyleTransferProgress) -> None:
        last[:] = [progress]
        terms = (progress.content, progress.style, progress.total_variation, progress.total)
        curve.append((*terms, *progress.style_by_layer))
        if progress.iteration:
            bar.update()
        if options.save_every and progress.iteration % options.save_every == 0:
            number = len(curve) - 1
            session.save_image(progress.image, f"{preset.name}_{number:04}.png", folder)

    kwargs: dict[str, Any] = {"optimizer": options.optimizer, "callback": report, "output": folder}
    kwargs |= {"seed": options.seed, "preserve_color": options.preserve_color, "style_shares": preset.shares}
    kwargs |= {"masks": preset.masks and [pictures[path] for path in preset.masks]}
    kwargs["notes"] = session.provenance(iterations=count, pictures=preset.description())
    content = None if preset.content is None else pictures[preset.content]
    weights = (preset.content_layer, preset.content_weight, preset.style_layers, preset.style_weights, preset.tv_weight)
    with session.progress(description=preset.name, total=sum(steps)) as bar:
        try:
            for size, number in zip(sizes, steps, strict=True):
                side = max(32, preset.style_size * size // preset.image_size)
                start = last[0].image if last else None
                style_transfer(
                    *(preset.name, content, [pictures[path] for path in preset.styles], size, side, *weights),
                    *(*losses, session.model, session.device, preset.init_random),
                    **(kwargs | {"num_iterations": number, "start": start}),
                )
        except InputError as error:
            raise InputError(f"{preset.name}: {error}") from error
        except KeyboardInterrupt:
            written = f"; {quoted(f'{preset.name}.png')} is the picture reached by then" if last else ""
            raise KeyboardInterrupt(f"interrupted after {max(0, len(curve) - 1)} steps{written}") from None
    return curve, last[0].image


main = make_main(__name__, __doc__, add_options, make_figures)
