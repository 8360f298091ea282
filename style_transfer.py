"""Part 2: style transfer and feature inversion, after the four reference checks."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from file_utils import ROOT, InputError, shown
from script_utils import Session, draw_rows, leave, positive, run, say

CONTENT_LAYER, STYLE_LAYERS = 3, (1, 4, 6, 7)
OPTIMIZERS = ("course", "adam", "lbfgs")
INVERSION = "feature_inversion"


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
        """The settings on one line."""
        weights = ", ".join(f"{weight:g}" for weight in self.style_weights)
        layers = ", ".join(map(str, STYLE_LAYERS))
        return (
            f"{self.name.replace('_', ' ')}: {self.image_size} px, style picture {self.style_size} px, weights: "
            f"content {self.content_weight:g} at layer {CONTENT_LAYER}, style {weights} at layers {layers}, "
            f"total variation {self.tv_weight:g}; start from {'noise' if self.init_random else 'the content'}"
        )


def presets() -> list[Preset]:
    """The course's three pictures and its feature inversion; without the course's paintings, the like with our own."""
    from data_utils import course_file, package_file

    files = [
        course_file(f"styles_images/{name}.jpg")
        for name in ("tubingen", "composition_vii", "the_scream", "starry_night")
    ]
    if all(files):
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
            Preset(
                "swirling_night_chelsea", content, own / "swirling_night.jpg", 192, 8e-2, (300000, 1000, 15, 3), 2e-2
            ),
        ]
    inversion = Preset(INVERSION, content, made[2].style, 192, 6e-2, (0, 0, 0, 0), 2e-2, init_random=True)
    return [*made, inversion]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this script knows."""
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="make these pictures alone (default: all; a wrong name lists them)")
    add("--content", type=Path, metavar="PATH", help="your own picture to be painted anew (default: the presets')")
    add("--style", type=Path, metavar="PATH", help="your own picture to take the style from (default: the presets')")
    add("--image-size", type=positive, metavar="PIXELS", help="short side of the result (default: the presets', 192)")
    add(
        "--style-size",
        type=positive,
        metavar="PIXELS",
        help="short side of the style picture, larger for finer strokes (default: the presets')",
    )
    add("--optimizer", choices=OPTIMIZERS, default="course", help="the course's rule, or a faster one")
    add("--iterations", type=positive, metavar="N", help="steps (default: the optimizer's own number)")
    add("--init-random", action="store_true", default=False, help="start from noise instead of the content picture")
    add("--preserve-color", action="store_true", default=False, help="keep the colours of the content picture")
    add("--save-every", type=positive, metavar="N", help="also save NAME_0000.png, ... every N steps")


def make_figures(session: Session) -> None:
    """Print the four reference checks; make the pictures, with style_transfer.png, inverted_features.png and
    style_losses.png about them.
    """
    from style_utils import ITERATIONS

    options = session.options
    chosen = chosen_presets(options)
    options.iterations = options.iterations or ITERATIONS[options.optimizer]
    folder = session.folder("styles_images")
    for line in reference_checks(session):
        say(line)
    rows, curves, transfers = [], {}, []
    for preset in chosen:
        curves[preset.name] = make(session, preset, folder)
        pictures = tiles(preset, folder)
        if preset.name == INVERSION:
            options.pictures = preset.description()  # what the figure records
            figure = draw_rows([("", pictures[::2])], ["content", "inverted features"], "Feature inversion")
            session.save_figure(figure, "inverted_features.png")
        else:
            transfers.append(preset)
            rows.append((preset.name.replace("_", " "), pictures))
            options.pictures = ". ".join(preset.description() for preset in transfers)
            figure = draw_rows(rows, ["content", "style", "result"], "Style transfer")
            session.save_figure(figure, "style_transfer.png")
        session.save_figure(draw_losses(curves), "style_losses.png")


def chosen_presets(options: argparse.Namespace) -> list[Preset]:
    """The presets by --only, or the one picture that --content and --style make, with the options' changes.

    Raises:
        InputError: a name that no preset has, or a picture that cannot be opened.
    """
    from image_utils import open_image

    chosen = presets()
    if options.only:
        unknown = [name for name in options.only if name not in {preset.name for preset in chosen}]
        if unknown:
            raise InputError(f"--only: no preset {shown(unknown[0])}; there are {', '.join(p.name for p in chosen)}")
        chosen = [preset for preset in chosen if preset.name in options.only]
    elif options.content or options.style:
        chosen = [chosen[2]]
    changes = {
        key: value
        for key in ("content", "style", "image_size", "style_size")
        if (value := getattr(options, key)) is not None
    }
    chosen = [
        dataclasses.replace(preset, **changes, init_random=preset.init_random or options.init_random)
        for preset in chosen
    ]
    if options.style or options.content:
        chosen = [
            preset
            if preset.name == INVERSION
            else dataclasses.replace(preset, name=f"{preset.style.stem}_{preset.content.stem}")
            for preset in chosen
        ]
    for path in {path for preset in chosen for path in (preset.content, preset.style)}:
        open_image(path)  # before the work begins
    return chosen


def reference_checks(session: Session) -> list[str]:
    """The four lines that the course asks for: relative errors against reference values.

    With the course's data and other weights than the bundled ones, the values are the course's, which were made with
    torchvision's weights. Otherwise they are those that data/reference_values.npz has for the bundled weights.
    """
    import numpy as np
    import torch

    from data_utils import COURSE_FILES, course_file, package_file
    from model_utils import load_model
    from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
    from style_utils import extract_features, features_from_img, rel_error

    files = [
        course_file(name)
        for name in ("data/style-transfer-checks.npz", "styles_images/tubingen.jpg", "styles_images/starry_night.jpg")
        if name in COURSE_FILES
    ]
    model = session.model
    if not all(files) or model.arch != "squeezenet1_1" or model.weights_name.startswith(("bundled", "random")):
        files = [
            ROOT / "data" / "reference_values.npz",
            package_file("skimage", "data/chelsea.png"),
            ROOT / "data" / "styles" / "swirling_night.jpg",
        ]
        model = load_model(weights="bundled", device=session.device)
    if not files[0].is_file():
        raise InputError(f"{shown(files[0])}: no such file; the project's data folder belongs beside the scripts")
    with np.load(files[0]) as reference:
        wanted = {key: reference[key] for key in ("cl_out", "gm_out", "sl_out", "tv_out")}
    content, image = features_from_img(files[1], 192, model, session.device)
    style, _ = features_from_img(files[2], 192, model, session.device)
    black, style_loss = extract_features(torch.zeros_like(image), model, CONTENT_LAYER), StyleLoss()
    weights = (300000, 1000, 15, 3)
    targets = [style_loss.gram_matrix(style[layer]) for layer in STYLE_LAYERS]
    found = {
        "cl_out": ContentLoss()(6e-2, content[CONTENT_LAYER], black[CONTENT_LAYER]),
        "gm_out": style_loss.gram_matrix(style[5]),
        "sl_out": style_loss(content, STYLE_LAYERS, targets, weights),
        "tv_out": TotalVariationLoss()(image, 2e-2),
    }
    errors = [rel_error(wanted[key], found[key].cpu().numpy()) for key in found]
    texts = ("Content Loss Maximum error", "Gram Matrix Maximum error", "Style Loss Error", "TV Loss Error")
    return [f"{text} is {error:.3f}" for text, error in zip(texts, errors, strict=True)]


def make(session: Session, preset: Preset, folder: Path) -> list[tuple[float, float, float, float]]:
    """Make one picture; returns content, style, total variation and total loss before and after each step.

    Raises:
        InputError: an option that does not fit.
        KeyboardInterrupt: Ctrl-C; the picture reached by then is written, and the message says so.
    """
    from image_utils import deprocess
    from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
    from style_utils import style_transfer

    options, losses = session.options, []

    def report(progress) -> None:
        losses.append((progress.content, progress.style, progress.total_variation, progress.total))
        if progress.iteration:
            bar.update()
        if options.save_every and progress.iteration % options.save_every == 0:
            name = f"{preset.name}_{progress.iteration:04}.png"
            session.save_image(deprocess(progress.image, should_rescale=False), name, folder)

    with session.progress(description=preset.name, total=options.iterations) as bar:
        try:
            style_transfer(
                preset.name,
                preset.content,
                preset.style,
                preset.image_size,
                preset.style_size,
                CONTENT_LAYER,
                preset.content_weight,
                STYLE_LAYERS,
                preset.style_weights,
                preset.tv_weight,
                ContentLoss(),
                StyleLoss(),
                TotalVariationLoss(),
                session.model,
                session.device,
                preset.init_random,
                optimizer=options.optimizer,
                num_iterations=options.iterations,
                callback=report,
                seed=options.seed,
                preserve_color=options.preserve_color,
                output=folder,
            )
        except KeyboardInterrupt:
            written = f"; {shown(f'{preset.name}.png')} is the picture reached by then" if losses else ""
            raise KeyboardInterrupt(f"interrupted after {max(0, len(losses) - 1)} steps{written}") from None
        except ValueError as error:
            raise InputError(f"{preset.name}: {error}") from error
    return losses


def tiles(preset: Preset, folder: Path) -> list:
    """Content, style (white where it has no part) and result as pictures of one size, uint8 (H, W, 3)."""
    import numpy as np
    from PIL import Image, ImageOps

    from image_utils import open_image

    pictures = [open_image(path) for path in (preset.content, preset.style, folder / f"{preset.name}.png")]
    if not any(preset.style_weights):
        pictures[1] = Image.new("RGB", (1, 1), "white")
    return [np.asarray(ImageOps.pad(picture, (320, 240), color="white")) for picture in pictures]


def draw_losses(curves: dict[str, list]):
    """The terms of the loss over the steps, on logarithmic axes, one for each picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * min(2, len(curves)), 3.6 * -(-len(curves) // 2)), dpi=120, layout="constrained")
    axes = figure.subplots(-(-len(curves) // 2), min(2, len(curves)), squeeze=False).ravel()
    for ax, (name, losses) in zip(axes, curves.items(), strict=False):
        terms = dict(zip(("content", "style", "total variation", "total"), zip(*losses, strict=True), strict=True))
        for (label, values), line in zip(terms.items(), ("C0-", "C1-", "C2-", "k--"), strict=True):
            if any(values):
                ax.plot(values, line, label=label, linewidth=1.4)
        # The content term starts at zero, which no logarithmic axis has.
        least = min(value for values in terms.values() for value in values[1:] if value)
        ax.set(yscale="log", ylim=(least / 2, None), xlabel="step", ylabel="weighted loss")
        ax.set_title(name.replace("_", " "))
        ax.legend(fontsize=8)
        ax.grid(alpha=0.3)
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    leave(main())
