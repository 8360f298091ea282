"""Part 2: style transfer and feature inversion, after the four reference checks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cli.options import named_path, real_number, whole_number
from cli.run import make_main
from cli.style_presets import INVERSION, STRIPS, Preset, chosen_presets, presets
from errors import quoted

if TYPE_CHECKING:
    import numpy as np

    from cli.session import Session

__all__ = ["INVERSION", "Preset", "add_options", "main", "make_figures", "presets"]

OPTIMIZERS = ("course", "adam", "lbfgs")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's options; some are in the namespace, and recorded, only when given."""
    parser.usage = "%(prog)s [options]"  # else it takes a screen of its own
    unless_given = argparse.SUPPRESS
    path: dict[str, Any] = {"type": named_path, "metavar": "PATH"}
    # Eight layers need 32
    pixels: dict[str, Any] = {"type": whole_number(32, 4096), "metavar": "PIXELS"}
    number: dict[str, Any] = {"type": real_number(), "default": unless_given, "metavar": "W"}
    several: dict[str, Any] = {"nargs": "+", "default": unless_given}

    add = parser.add_argument_group("pictures (default: the presets')").add_argument
    add(
        "--only",
        nargs="+",
        metavar="NAME",
        help="these alone, or layers: strips; a wrong name lists all",
    )
    add("--content", **path, help="picture to be painted anew; none: a texture")
    add("--style", nargs="+", **path, help="one or more pictures to take the style from")
    add(
        "--style-shares",
        **several,
        type=real_number(),
        metavar="S",
        help="shares of several styles (default: equal)",
    )
    add("--mask", **several, **path, help="grey pictures, one per style: white where it counts")
    add("--image-size", **pixels, help="short side of the result")
    add("--style-size", **pixels, help="short side of the style; larger: finer strokes")

    add = parser.add_argument_group(
        "losses (default: the presets', fitted to the network)"
    ).add_argument
    add("--style-scale", **number, help="factor of all style weights: turn this first")
    add("--content-weight", **number, help="weight of the content")
    add("--style-weights", nargs="+", **number, help="a weight per style layer")
    add("--tv-weight", **number, help="weight of the total variation")
    add("--content-layer", default=unless_given, metavar="L", help="number or name")
    add("--style-layers", **several, metavar="L", help="numbers or names")

    add = parser.add_argument_group("optimisation").add_argument
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default="course",
        help="the course's rule, or a faster one",
    )
    add(
        "--iterations",
        type=whole_number(1, 10_000),
        metavar="N",
        help="steps (default: the optimizer's own number)",
    )
    scales: dict[str, Any] = {"type": number_of_scales, "default": unless_given, "metavar": "N"}
    add("--scales", **scales, help="N sizes, coarse to fine (default: auto; course: 1)")
    add(
        "--init-random",
        action="store_true",
        default=False,
        help="start from noise instead of the content picture",
    )
    add(
        "--preserve-color",
        action="store_true",
        default=False,
        help="keep the colours of the content picture",
    )
    add(
        "--save-every",
        type=whole_number(1, 10_000),
        metavar="N",
        help="also save NAME_0000.png, ... every N steps",
    )


def number_of_scales(text: str) -> int | str:
    """Parse --scales."""
    return text if text == "auto" else whole_number(1, 8)(text)


def make_figures(session: Session) -> None:
    """Print the four reference checks; make the pictures and the figures about them, or strips."""
    from cli.style_checks import print_checks
    from cli.style_painting import make, make_strips, save_losses
    from cli.style_weights import fitted
    from figure_utils import tile
    from image_utils import open_image
    from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
    from style_modules.guided_style import check_mask

    options, losses = session.options, (ContentLoss(), StyleLoss(), TotalVariationLoss())
    chosen = chosen_presets(options)
    pictures = {path: open_image(path) for preset in chosen for path in preset.files()}
    for preset in chosen:
        for path in preset.masks or ():
            assert preset.content is not None  # or it would have been refused
            check_mask(pictures[path], pictures[preset.content].size, f"--mask: {quoted(path)}")
    plain = chosen[0]
    chosen = [fitted(preset, options, session.model, session.device) for preset in chosen]
    print_checks(session, *losses)
    if plain.name == STRIPS:
        make_strips(session, plain, chosen[0].style_layers, pictures, losses)
        return
    curves: dict[str, list[tuple[float, ...]]] = {}
    rows: list[tuple[str, list[np.ndarray]]] = []
    facts: dict[str, Any] = {}
    try:
        for preset in chosen:
            curves[preset.name], result = make(session, preset, pictures, losses)
            content: list[Any] = [] if preset.content is None else [pictures[preset.content]]
            styles = [pictures[path] for path in preset.styles]
            facts = {"iterations": len(curves[preset.name]) - 1, "pictures": preset.description()}
            if preset.name == INVERSION:
                tiles = [tile(picture, (320, 240)) for picture in (*content, result)]
                titles = ["content", "inverted features"][-len(tiles) :]
                session.save_rows(
                    "inverted_features.png", [("", tiles)], titles, "Feature inversion", **facts
                )
            else:
                tiles = [tile(picture, (320, 240)) for picture in (*content, *styles, result)]
                rows.append((preset.name.replace("_", " "), tiles))
                titles = ["content"] * len(content) + ["style"] * len(styles) + ["result"]
                done = [p for p in chosen if p.name in curves and p.name != INVERSION]
                facts["pictures"] = ". ".join(p.description() for p in done)
                session.save_rows("style_transfer.png", rows, titles, "Style transfer", **facts)
    finally:  # also when a later picture is interrupted
        if curves:
            save_losses(session, chosen, curves, **facts)


main = make_main(__name__, __doc__, add_options, make_figures)
