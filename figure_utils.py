"""Figures: maps become tiles, tiles one picture with titles, the picture a PNG with its provenance.

A figure is a Pillow picture in which every pixel of a tile is a pixel of the file. Matplotlib gives
the colour maps and the loss curves; neither touches the backend or the figures of the caller.
"""

import bisect
import functools
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from files.atomic import ROOT, atomic_write
from files.class_names import class_title as class_title  # it is drawn, so it is found here too
from image_utils import SQUEEZENET_STD, deprocess, rescale

FOLDER = ROOT / "visualization"
GAP = 6  # pixels between tiles
# Pixels, the sizes of letters; five photos side by side on letter paper leave 7 points of 17
WORDS, HEADING = 17, 19
TITLE_BAND = 50  # pixels above a column: two lines
HEADING_BAND = 36
LABEL_BAND = 160  # pixels left of a row: three lines
SMALLEST_TILE = 160  # pixels; smaller tiles are enlarged by a whole factor so that titles fit


# --- Maps to tiles ---


def heat(
    values: np.ndarray, cmap: str = "hot", normalize: bool = True, top: float = 1
) -> np.ndarray:
    """Colour a map (H, W): uint8 (H, W, 3). Its range fills the colours; [0, 1] if not `normalize`.

    Of the range all above the quantile `top` is clipped, unless nothing else would be left.
    """
    if top < 1:
        values = values.clip(max=np.quantile(values, top) or values.max())
    colours = matplotlib.colormaps.get_cmap(cmap)(
        rescale(values) if normalize else values, bytes=True
    )
    return np.asarray(colours)[..., :3]


def overlay(photo: np.ndarray, colours: np.ndarray) -> Image.Image:
    """Blend colours and a photo, both uint8 (H, W, 3), half and half: RGB picture."""
    return Image.fromarray((0.5 * colours + 0.5 * photo).round().astype(np.uint8))


def signed(gradient: np.ndarray) -> np.ndarray:
    """Show a gradient (H, W, 3) about mid-grey: uint8 (H, W, 3); its largest 0.5 % saturate."""
    top = np.quantile(np.abs(gradient), 0.995) or 1
    return np.rint(255 * (gradient / (2 * top) + 0.5).clip(0, 1)).astype(np.uint8)


def about_grey(difference: torch.Tensor) -> np.ndarray:
    """Show a difference of normalised images (1, 3, H, W) about mid-grey: uint8 (H, W, 3)."""
    pixels = difference[0].permute(1, 2, 0).cpu().numpy() * SQUEEZENET_STD
    return np.rint(128 + 255 * pixels).clip(0, 255).astype(np.uint8)


def tile(image: torch.Tensor | Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
    """Show a picture, or a normalised image (1, 3, H, W): uint8 (H, W, 3).

    With `size`, (width, height), it is scaled to fit and padded with white.
    """
    picture = image if isinstance(image, Image.Image) else deprocess(image, should_rescale=False)
    return np.asarray(ImageOps.pad(picture, size, color="white") if size else picture)


# --- Tiles to one picture ---


def draw_rows(
    rows: Sequence[tuple[str, Sequence[np.ndarray | Image.Image]]],
    titles: Sequence[str | Sequence[str]],
    heading: str = "",
) -> Image.Image:
    """Draw a grid of tiles.

    Args:
        rows: the label of each row (empty: none) and its tiles, uint8 (H, W, 3) or RGB pictures;
            smaller ones than the largest are centred on white.
        titles: one per column; or, one list per row, one per tile.
        heading: a line above everything, or two where the grid is narrow.

    Returns:
        RGB picture.
    """
    grid = [(label, [np.asarray(tile) for tile in tiles]) for label, tiles in rows]
    height, width = (
        max(side)
        for side in zip(*(tile.shape[:2] for _, tiles in grid for tile in tiles), strict=True)
    )
    factor = max(1, -(-SMALLEST_TILE // min(height, width)))
    tall, wide = height * factor, width * factor
    per_tile = bool(titles) and not isinstance(titles[0], str)
    bands = [TITLE_BAND if per_tile or (i == 0 and titles) else 0 for i in range(len(rows))]
    left = LABEL_BAND if any(label for label, _ in grid) else GAP
    width = left + max(len(tiles) for _, tiles in grid) * (wide + GAP)
    plain, bold = _font(WORDS), _font(HEADING, "DejaVuSans-Bold")
    heading = _wrapped(heading, bold, width - 2 * GAP, 2)
    y = len(heading.splitlines()) * HEADING_BAND
    picture = Image.new("RGB", (width, y + sum(bands) + len(rows) * (tall + GAP) + GAP), "white")
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((GAP, y / 2), heading, "black", bold, anchor="lm")
    for i, (label, tiles) in enumerate(grid):
        y += bands[i]
        label = _wrapped(label, plain, LABEL_BAND - 2 * GAP, 3)
        draw.multiline_text((GAP, y + tall / 2), label, "black", plain, anchor="lm")
        for j, tile in enumerate(tiles):
            x = left + j * (wide + GAP)
            enlarged = Image.fromarray(tile.repeat(factor, axis=0).repeat(factor, axis=1))
            picture.paste(
                enlarged, (x + (wide - enlarged.width) // 2, y + (tall - enlarged.height) // 2)
            )
            if bands[i]:
                title = _wrapped(str(titles[i][j] if per_tile else titles[j]), plain, wide, 2)
                draw.multiline_text(
                    (x + wide / 2, y - GAP), title, "black", plain, anchor="md", align="center"
                )
        y += tall + GAP
    return picture


@functools.cache
def _font(pixels: int, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    """Load a font that matplotlib ships."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, room: float, most: int) -> str:
    """Break a text into at most `most` lines of `room` pixels; "…" marks what is cut off."""
    lines: list[str] = []
    rest = " ".join(text.encode(errors="replace").decode().split("\n"))[:400]
    while rest and len(lines) < most:
        fits = bisect.bisect(range(1, len(rest) + 1), room, key=lambda n: font.getlength(rest[:n]))
        if fits < len(rest):
            fits = rest.rfind(" ", 1, fits + 1) if " " in rest[1 : fits + 1] else max(fits, 1)
        lines.append(rest[:fits])
        rest = rest[fits:].lstrip(" ")
    if rest:
        while lines[-1] and font.getlength(f"{lines[-1]} …") > room:
            lines[-1] = lines[-1].rpartition(" ")[0] or lines[-1][:-1]
        lines[-1] += " …"
    return "\n".join(lines)


def draw_losses(
    curves: Mapping[str, Sequence[tuple[float, ...]]],
    more: Mapping[str, Sequence[str]] | None = None,
) -> Image.Image:
    """Plot content, style, TV and total loss over the steps, logarithmic, a panel per picture.

    Args:
        curves: the four terms before and after each step, and further ones, drawn dotted.
        more: the labels of a picture's further terms.
    """
    panels = {name: (losses, (more or {}).get(name, ())) for name, losses in curves.items()}
    return _draw_panels(panels, _plot_losses)


def draw_curves(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    x: Sequence[float] | Sequence[str],
    xlabel: str,
    ylabel: str,
) -> Image.Image:
    """Plot labelled curves over the same `x`, numbers or names.

    Args:
        panels: title → label → the curve, (points,), or with a band (3, points): its lower edge,
            curve, upper edge.
    """

    def plot(ax: Axes, curves: Mapping[str, np.ndarray]) -> None:
        for number, (label, values) in enumerate(curves.items()):
            line = values[1] if values.ndim == 2 else values
            style = "-" if number < 10 else "--"  # there are ten colours
            ax.plot(x, line, f"C{number % 10}{style}", label=label, linewidth=1.4)
            if values.ndim == 2:
                ax.fill_between(
                    x, values[0], values[2], color=f"C{number % 10}", alpha=0.12, linewidth=0
                )
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.tick_params(axis="x", labelrotation=60 if isinstance(x[0], str) else 0)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        ax.grid(alpha=0.3)

    return _draw_panels(panels, plot, width=5.6)


def _draw_panels(
    panels: Mapping[str, Any], plot: Callable[[Axes, Any], None], width: float = 5
) -> Image.Image:
    """Draw what `plot` makes of each panel, two in a row, each `width` inches wide."""
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # the user's matplotlibrc is for their plots
        # Letters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(
            figsize=(width * columns, 3.6 * rows), dpi=WORDS / 10 * 72, layout="constrained"
        )
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (name, panel) in zip(axes, panels.items(), strict=False):
            plot(ax, panel)
            ax.set_title(name.replace("_", " ").encode(errors="replace").decode(), parse_math=False)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _plot_losses(ax: Axes, panel: tuple[Sequence[tuple[float, ...]], Sequence[str]]) -> None:
    losses, more = panel
    names = ("content", "style", "total variation", "total", *more)
    styles = ("C0-", "C1-", "C2-", "k--", *(f"C{3 + i}:" for i in range(len(more))))
    for label, style, values in zip(names, styles, zip(*losses, strict=True), strict=True):
        if any(values):
            ax.plot(values, style, label=label, linewidth=1.4)
    # The content term starts at zero, which no logarithmic axis has.
    positive = [value for terms in losses[1:] or losses for value in terms if value > 0]
    ax.set(
        yscale="log",
        ylim=(min(positive, default=1) / 2, None),
        xlabel="step",
        ylabel="weighted loss",
    )
    if positive:
        ax.legend(ncols=1 if len(ax.lines) <= 4 else 2, fontsize="small")
    else:
        ax.text(0.5, 0.5, "every loss is zero", ha="center", transform=ax.transAxes)
    ax.grid(alpha=0.3)


# --- A picture to a PNG ---


def provenance(
    model=None, seed: int | None = None, facts: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Return how a figure was made: network, weights, seed, versions; as JSON further facts."""
    weights = str(getattr(model, "weights_name", "unknown"))
    own = {"Photos": "photo_preparation", "Scores": "score_reading"}
    notes = {key: getattr(getattr(model, name, None), "note", "") for key, name in own.items()}
    return {
        "Network": getattr(model, "arch", "unknown" if model is None else type(model).__name__),
        "Weights": weights.encode(errors="replace").decode(),  # the name of any file
        **{key: note for key, note in notes.items() if note},
        "Seed": "none" if seed is None else str(seed),
        "Software": ", ".join(
            f"{p} {version(p)}" for p in ("torch", "torchvision", "captum", "matplotlib", "pillow")
        ),
        "Threads": str(torch.get_num_threads()),  # sums are rounded otherwise with another number
        **({} if facts is None else {"Options": json.dumps(facts, default=lambda path: path.name)}),
    }


class Drawn:
    """A drawn figure with pyplot's methods: in one edition these functions return `plt`."""

    def __init__(self, picture: Image.Image):
        """Hold the picture."""
        self.picture = picture
        self.show = functools.partial(show_inline, picture)
        self.close = self.clf = self._ipython_display_ = lambda *_: None

    def savefig(self, path: str | Path, **_) -> None:
        """Save it as what the suffix names, else as a PNG."""
        path = Path(path)
        kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
        with atomic_write(path if path.suffix else path.with_suffix(".png")) as temporary:
            self.picture.save(temporary, format=kind)


def save_and_show(picture: Image.Image, name: str, model) -> Drawn:
    """Save a figure into the project's folder `visualization`, and show it in a notebook.

    Raises:
        InputError: the file cannot be written.
    """
    save_png(picture, FOLDER / name, provenance(model))
    show_inline(picture)
    return Drawn(picture)


def show_inline(picture: Image.Image) -> None:
    """Show a picture below the cell of a notebook with inline figures; elsewhere do nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if hasattr(shell, "kernel") and "inline" in matplotlib.get_backend():
        sys.modules["IPython.display"].display(picture)


def save_png(picture: Image.Image, path: str | Path, text: Mapping[str, str]) -> None:
    """Save a picture as a PNG with text in it, whole or not at all. The suffix may be left out.

    Raises:
        InputError: the file cannot be written.
    """
    path, info = Path(path), PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    with atomic_write(path if path.suffix else path.with_suffix(".png")) as temporary:
        # 0.4 of the time of 6 for 8 % more bytes
        picture.save(temporary, format="PNG", pnginfo=info, compress_level=1)
