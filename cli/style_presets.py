"""The presets of style transfer, and what the options make of them."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError, quoted
from files.atomic import ROOT
from files.course import course_file, package_file

CONTENT_LAYER, STYLE_LAYERS = 3, (1, 4, 6, 7)
NIGHT = "swirling_night.jpg"  # our painting in place of the course's starry night
INVERSION, STRIPS = "feature_inversion", "layers"


@dataclass(frozen=True)
class Preset:
    """A picture to make: from what, at which size, with which weights."""

    name: str
    content: Path | None  # None: a texture, from the style alone
    styles: tuple[Path, ...]
    style_size: int
    content_weight: float
    style_weights: tuple[float, ...]
    tv_weight: float
    image_size: int = 192
    init_random: bool = False
    content_layer: int = CONTENT_LAYER
    style_layers: tuple[int, ...] = STYLE_LAYERS
    shares: tuple[float, ...] | None = None
    masks: tuple[Path, ...] | None = None

    def files(self) -> list[Path]:
        """Return the pictures that it is made from."""
        return [
            path for path in (self.content, *self.styles, *(self.masks or ())) if path is not None
        ]

    def description(self) -> str:
        """Return the settings on one line."""
        weights = ", ".join(f"{weight:g}" for weight in self.style_weights)
        layers = ", ".join(map(str, self.style_layers))
        start = "noise" if self.init_random or self.content is None else "the content"
        shares = (
            f" in shares {' : '.join(f'{share:g}' for share in self.shares)}" if self.shares else ""
        )
        regions = f" in regions {', '.join(path.name for path in self.masks)}" if self.masks else ""
        return (
            f"{self.name.replace('_', ' ')}: {self.image_size} px, style picture {self.style_size} "
            f"px"
            f"{shares}{regions}, weights: content {self.content_weight:g} at layer "
            f"{self.content_layer}, "
            f"style {weights} at layers {layers}, total variation {self.tv_weight:g}; start from "
            f"{start}"
        )


def presets() -> list[Preset]:
    """Return the course's three pictures and its inversion; without its paintings, with our own."""
    names = ("tubingen", "composition_vii", "the_scream", "starry_night")
    files = [path for name in names if (path := course_file(f"styles_images/{name}.jpg"))]
    if len(files) == len(names):
        content, vii, scream, starry = files
        made = [
            Preset(
                "composition_vii_tubingen", content, (vii,), 512, 5e-2, (20000, 500, 12, 1), 5e-2
            ),
            Preset("scream_tubingen", content, (scream,), 224, 3e-2, (200000, 800, 12, 1), 2e-2),
            Preset("starry_tubingen", content, (starry,), 192, 6e-2, (300000, 1000, 15, 3), 2e-2),
        ]
    else:
        content, own = package_file("skimage", "data/chelsea.png"), ROOT / "data" / "styles"
        made = [
            Preset(
                "hard_edges_chelsea",
                content,
                (own / "hard_edges.jpg",),
                256,
                8e-2,
                (20000, 800, 20, 2),
                5e-2,
            ),
            Preset(
                "wavy_dusk_chelsea",
                content,
                (own / "wavy_dusk.jpg",),
                224,
                6e-2,
                (200000, 800, 12, 1),
                2e-2,
            ),
            Preset(
                "swirling_night_chelsea",
                content,
                (own / NIGHT,),
                192,
                8e-2,
                (300000, 1000, 15, 3),
                2e-2,
            ),
        ]
    inversion = Preset(
        INVERSION, content, made[2].styles, 192, 6e-2, (0, 0, 0, 0), 2e-2, init_random=True
    )
    return [*made, inversion]


def given(options: argparse.Namespace, name: str) -> Any:
    """Return an option that is in the namespace only when it was given; None: it was not."""
    return getattr(options, name, None)


def chosen_presets(options: argparse.Namespace) -> list[Preset]:
    """Return the presets by --only, or the one of --content and --style."""
    chosen = presets()
    names = [*(preset.name for preset in chosen), STRIPS]
    if options.only:
        unknown = [name for name in options.only if name not in names]
        if unknown:
            raise InputError(
                f"--only: no preset {quoted(unknown[0])}; there are {', '.join(names)}"
            )
        if STRIPS not in options.only:
            chosen = [preset for preset in chosen if preset.name in options.only]
        else:
            chosen = [dataclasses.replace(chosen[2], name=STRIPS)]
    elif options.content or options.style:
        chosen = [chosen[2]]
    return [_with_pictures(preset, options) for preset in chosen]


def _with_pictures(preset: Preset, options: argparse.Namespace) -> Preset:
    """Return a preset with the options' pictures and sizes, named after the user's picture."""
    sizes = {key: getattr(options, key) for key in ("image_size", "style_size")}
    changes: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    styles = tuple(options.style or preset.styles)
    texture = options.content == Path("none")
    content = None if texture else options.content or preset.content
    style_shares, masks = given(options, "style_shares"), given(options, "mask")
    if texture and options.preserve_color:
        raise InputError(
            "--preserve-color: there is no content picture whose colours could be kept"
        )
    shares = _shares(style_shares, len(styles))
    if masks and len(masks) != len(styles):
        raise InputError(f"--mask: {len(masks)} masks for {len(styles)} styles; give one for each")
    if masks and (texture or style_shares):
        raise InputError("--mask: regions need a content picture, and no --style-shares")
    if preset.name == STRIPS and (texture or len(styles) > 1 or masks):
        raise InputError("--only layers: the strips need a content picture and one style, no mask")
    if preset.name not in (INVERSION, STRIPS) and (options.content or options.style):
        stem = "_".join(path.stem for path in styles)
        changes["name"] = f"{stem}_{'texture' if content is None else content.stem}"
    random = preset.init_random or options.init_random
    changes |= {"content": content, "styles": styles, "shares": shares, "init_random": random}
    return dataclasses.replace(preset, **changes, masks=tuple(masks) if masks else None)


def _shares(shares: list[float] | None, count: int) -> tuple[float, ...] | None:
    if shares is None:
        return None
    if len(shares) != count:
        raise InputError(
            f"--style-shares: {len(shares)} shares for {count} styles; give one for each"
        )
    if not sum(shares):
        raise InputError("--style-shares: all are 0; one at least must be above")
    return tuple(shares)
