"""Part 2: style transfer and feature inversion, after the four reference checks."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import named_path, whole_number
from cli.process import print_line
from cli.run import make_main
from errors import InputError, quoted
from files.atomic import ROOT
from files.course import course_file, package_file

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import nn

    from cli.session import Session
    from style_utils import StyleTransferProgress

CONTENT_LAYER, STYLE_LAYERS = 3, (1, 4, 6, 7)
OPTIMIZERS = ("course", "adam", "lbfgs")
NIGHT = "swirling_night.jpg"  # our painting in place of the course's starry night
INVERSION = "feature_inversion"
CHECK_SIZE, CHECK_WEIGHTS = 192, (300000, 1000, 15, 3)  # short side and style weights of the reference checks

Losses = tuple[float, float, float, float]  # content, style, total variation, total


@dataclass(frozen=True)
class Preset:
    """A picture to make: from what, at which size, with which weights."""

    name: str
    content: Path
    style: Path
    style_size: int
    content_weight: float
    style_weights: tuple[float, ...]
    tv_weight: float
    image_size: int = 192
    init_random: bool = False

    def description(self) -> str:
        """Return the settings on one line."""
        weights = ", ".join(f"{weight:g}" for weight in self.style_weights)
        layers = ", ".join(map(str, STYLE_LAYERS))
        return (
            f"{self.name.replace('_', ' ')}: {self.image_size} px, style picture {self.style_size} px, weights: "
            f"content {self.content_weight:g} at layer {CONTENT_LAYER}, style {weights} at layers {layers}, "
            f"total variation {self.tv_weight:g}; start from {'noise' if self.init_random else 'the content'}"
        )


def presets() -> list[Preset]:
    """Return the course's three pictures and its inversion; without the course's paintings, the like with our own."""
    names = ("tubingen", "composition_vii", "the_scream", "starry_night")
    files = [path for name in names if (path := course_file(f"styles_images/{name}.jpg"))]
    if len(files) == len(names):
        content, vii, scream, starry = files
        made = [
            Preset("composition_vii_tubingen", content, vii, 512, 5e-2, (20000, 500, 12, 1), 5e-2),
            Preset("scream_tubingen", content, scream, 224, 3e-2, (200000, 800, 12, 1), 2e-2),
            Preset("starry_tubingen", content, starry, 192, 6e-2, (300000, 1000, 15, 3), 2e-2),
        ]
    else:
        content, own = package_file("skimage", "data/chelsea.png"), ROOT / "data" / "styles"
        made = [
            Preset("hard_edges_chelsea", content, own / "hard_edges.jpg", 256, 8e-2, (20000, 800, 20, 2), 5e-2),
            Preset("wavy_dusk_chelsea", content, own / "wavy_dusk.jpg", 224, 6e-2, (200000, 800, 12, 1), 2e-2),
            Preset("swirling_night_chelsea", content, own / NIGHT, 192, 8e-2, (300000, 1000, 15, 3), 2e-2),
        ]
    inversion = Preset(INVERSION, content, made[2].style, 192, 6e-2, (0, 0, 0, 0), 2e-2, init_random=True)
    return [*made, inversion]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="make these pictures alone (default: all; a wrong name lists them)")
    otherwise = "(default: the presets')"
    own: dict[str, Any] = {"type": named_path, "metavar": "PATH"}
    add("--content", **own, help=f"your own picture to be painted anew {otherwise}")
    add("--style", **own, help=f"your own picture to take the style from {otherwise}")
    # Less does not pass through eight layers.
    size: dict[str, Any] = {"type": whole_number(32, 4096), "metavar": "PIXELS"}
    add("--image-size", **size, help="short side of the result (default: the presets', 192)")
    add("--style-size", **size, help=f"short side of the style picture, larger for finer strokes {otherwise}")
    add("--optimizer", choices=OPTIMIZERS, default="course", help="the course's rule, or a faster one")
    add("--iterations", type=whole_number(1, 10_000), metavar="N", help="steps (default: the optimizer's own number)")
    add("--init-random", action="store_true", default=False, help="start from noise instead of the content picture")
    add("--preserve-color", action="store_true", default=False, help="keep the colours of the content picture")
    add("--save-every", type=whole_number(1, 10_000), metavar="N", help="also save NAME_0000.png, ... every N steps")


def make_figures(session: Session) -> None:
    """Print the four reference checks; make the pictures, with style_transfer.png, inverted_features.png and
    style_losses.png about them.
    """
    from figure_utils import draw_losses, tile
    from image_utils import open_image
    from style_modules import ContentLoss, StyleLoss, TotalVariationLoss

    chosen, losses = chosen_presets(session.options), (ContentLoss(), StyleLoss(), TotalVariationLoss())
    pictures = {path: open_image(path) for preset in chosen for path in (preset.content, preset.style)}
    for line in reference_checks(session, *losses):
        print_line(line)
    curves: dict[str, list[Losses]] = {}
    rows: list[tuple[str, list[np.ndarray]]] = []
    facts: dict[str, Any] = {}
    try:
        for preset in chosen:
            content, style = pictures[preset.content], pictures[preset.style]
            curves[preset.name], result = make(session, preset, content, style, losses)
            tiles = [tile(picture, (320, 240)) for picture in (content, style, result)]
            facts = {"iterations": len(curves[preset.name]) - 1, "pictures": preset.description()}
            if preset.name == INVERSION:
                titles = ["content", "inverted features"]
                session.save_rows("inverted_features.png", [("", tiles[::2])], titles, "Feature inversion", **facts)
            else:
                rows.append((preset.name.replace("_", " "), tiles))
                done = [p for p in chosen if p.name in curves and p.name != INVERSION]
                facts["pictures"] = ". ".join(p.description() for p in done)
                session.save_rows("style_transfer.png", rows, ["content", "style", "result"], "Style transfer", **facts)
    finally:  # also when a later picture is interrupted
        if curves:
            session.save(draw_losses(curves), "style_losses.png", **facts)


def chosen_presets(options: argparse.Namespace) -> list[Preset]:
    """Return the presets by --only, or the one that --content and --style make, with the options' changes.

    Raises:
        InputError: a name that no preset has.
    """
    chosen = presets()
    if options.only:
        unknown = [name for name in options.only if name not in {preset.name for preset in chosen}]
        if unknown:
            raise InputError(f"--only: no preset {quoted(unknown[0])}; there are {', '.join(p.name for p in chosen)}")
        chosen = [preset for preset in chosen if preset.name in options.only]
    elif options.content or options.style:
        chosen = [chosen[2]]
    return [changed(preset, options) for preset in chosen]


def changed(preset: Preset, options: argparse.Namespace) -> Preset:
    """Return a preset with the options' changes; a picture of the user's own gives it its name."""
    given = {key: getattr(options, key) for key in ("content", "style", "image_size", "style_size")}
    changes = {key: value for key, value in given.items() if value is not None}
    preset = dataclasses.replace(preset, **changes, init_random=preset.init_random or options.init_random)
    if preset.name != INVERSION and (options.content or options.style):
        preset = dataclasses.replace(preset, name=f"{preset.style.stem}_{preset.content.stem}")
    return preset


def reference_checks(session: Session, content_loss: nn.Module, style_loss: nn.Module, tv_loss: nn.Module) -> list[str]:
    """Return the four lines that the course asks for: relative errors against reference values.

    With the course's data and other weights than the bundled ones, the values are the course's, which were made with
    torchvision's weights. Otherwise they are those that data/reference_values.npz has for the bundled weights.
    """
    from model_utils import load_model
    from style_utils import extract_features, features_from_img, reference_values, rel_error

    names = ("data/style-transfer-checks.npz", "styles_images/tubingen.jpg", "styles_images/starry_night.jpg")
    files = [path for name in names if (path := course_file(name))]
    model = session.model
    bundled = session.options.arch != "squeezenet1_1" or model.weights_name.startswith(("bundled", "random"))
    if bundled or len(files) < len(names):
        cat, painting = package_file("skimage", "data/chelsea.png"), ROOT / "data" / "styles" / NIGHT
        files = [ROOT / "data" / "reference_values.npz", cat, painting]
        model = load_model(weights="bundled", device=session.device)
    wanted = reference_values(files[0])
    content, image = features_from_img(files[1], CHECK_SIZE, model, session.device)
    style, _ = features_from_img(files[2], CHECK_SIZE, model, session.device)
    black = extract_features(0 * image, model, CONTENT_LAYER)
    targets = [style_loss.gram_matrix(style[layer]) for layer in STYLE_LAYERS]
    found = {
        "cl_out": content_loss(6e-2, content[CONTENT_LAYER], black[CONTENT_LAYER]),
        "gm_out": style_loss.gram_matrix(style[5]),
        "sl_out": style_loss(content, STYLE_LAYERS, targets, CHECK_WEIGHTS),
        "tv_out": tv_loss(image, 2e-2),
    }
    errors = [rel_error(wanted[key], found[key].cpu().numpy()) for key in found]
    texts = ("Content Loss Maximum error", "Gram Matrix Maximum error", "Style Loss Error", "TV Loss Error")
    return [f"{text} is {error:.3f}" for text, error in zip(texts, errors, strict=True)]


def make(
    session: Session, preset: Preset, content: Image, style: Image, losses: tuple[nn.Module, nn.Module, nn.Module]
) -> tuple[list[Losses], torch.Tensor]:
    """Make one picture. Returns the losses before and after each step, and the picture (1, 3, H, W).

    Raises:
        InputError: the losses are not finite, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C; the picture reached by then is written, and the message says so.
    """
    from style_utils import ITERATIONS, style_transfer

    options, folder = session.options, session.folder("styles_images")
    count = options.iterations or ITERATIONS[options.optimizer]
    curve: list[Losses] = []
    last: list[StyleTransferProgress] = []

    def report(progress: StyleTransferProgress) -> None:
        last[:] = [progress]
        curve.append((progress.content, progress.style, progress.total_variation, progress.total))
        if progress.iteration:
            bar.update()
        if options.save_every and progress.iteration % options.save_every == 0:
            session.save_image(progress.image, f"{preset.name}_{progress.iteration:04}.png", folder)

    arguments: list[Any] = [preset.name, content, style, preset.image_size, preset.style_size]
    arguments += [CONTENT_LAYER, preset.content_weight, STYLE_LAYERS, preset.style_weights, preset.tv_weight]
    arguments += [*losses, session.model, session.device, preset.init_random]
    kwargs: dict[str, Any] = {"optimizer": options.optimizer, "num_iterations": count, "callback": report}
    kwargs |= {"seed": options.seed, "preserve_color": options.preserve_color, "output": folder}
    kwargs["notes"] = session.provenance(iterations=count, pictures=preset.description())
    with session.progress(description=preset.name, total=count) as bar:
        try:
            style_transfer(*arguments, **kwargs)
        except InputError as error:
            raise InputError(f"{preset.name}: {error}") from error
        except KeyboardInterrupt:
            written = f"; {quoted(f'{preset.name}.png')} is the picture reached by then" if last else ""
            raise KeyboardInterrupt(f"interrupted after {max(0, len(curve) - 1)} steps{written}") from None
    return curve, last[0].image


main = make_main(__name__, __doc__, add_options, make_figures)
