"""Typesetting for the report: pages filled from top to bottom with text, pictures and ruled lines."""

import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from PIL.Image import Image

from file_utils import atomic_write

# All lengths are points (1/72 inch), all positions from the top left corner.
WIDTH, HEIGHT = 612, 792  # letter paper
MARGIN = 50
TEXT_WIDTH = WIDTH - 2 * MARGIN
HIGHEST = 520  # picture
LARGEST = 0.8  # points a pixel of a picture
LEADING = 1.4  # line height over font size
RULE = 22  # between ruled lines
FONT = "DejaVu Sans"  # matplotlib ships it


class Report:
    """Pages, and a position on the last one, from which what is added goes on; a full page begins a new one."""

    def __init__(self):
        self.pages: list[Figure] = []
        self.y = HEIGHT

    def new_page(self) -> None:
        """Begin a page."""
        self.pages.append(Figure(figsize=(WIDTH / 72, HEIGHT / 72), facecolor="white"))
        self.y = MARGIN

    def keep(self, height: float) -> None:
        """Begin a page unless there is that much room on this one."""
        if self.y + height > HEIGHT - MARGIN:
            self.new_page()

    def skip(self, height: float) -> None:
        """Leave room."""
        self.y += height

    def text(self, words: str, size: float = 10, indent: float = 0, **style) -> None:
        """Set a paragraph; it is broken into lines by the measured width of its words."""
        for line in broken(words, (TEXT_WIDTH - indent) / size, style.get("weight", "normal")):
            self.keep(size * LEADING)
            self.y += size * LEADING
            self._write(line, MARGIN + indent, self.y, size, **style)

    def entry(self, name: str, words: str, indent: float = 80, size: float = 10, weight: str = "bold") -> None:
        """Set a paragraph, and a name beside its first line."""
        self.keep(size * LEADING)
        self._write(name, MARGIN, self.y + size * LEADING, size, weight=weight)
        self.text(words or " ", size, indent)

    def picture(self, image: Image, caption: str, size: float = 9) -> None:
        """Set a picture as large as it can be, and its caption, together on one page."""
        below = size * LEADING * sum(1 for _ in broken(caption, TEXT_WIDTH / size)) + 2
        scale = min(TEXT_WIDTH / image.width, HIGHEST / image.height, LARGEST)
        wide, high = scale * image.width, scale * image.height
        self.keep(high + below)
        place = ((WIDTH - wide) / 2 / WIDTH, 1 - (self.y + high) / HEIGHT, wide / WIDTH, high / HEIGHT)
        axes = self.pages[-1].add_axes(place)
        axes.imshow(image, interpolation="none", aspect="auto")
        axes.set_axis_off()
        self.skip(high + 2)
        self.text(caption, size)
        self.skip(14)

    def ruled(self) -> None:
        """Rule the rest of the page."""
        while self.y + RULE <= HEIGHT - MARGIN:
            self.y += RULE
            self._rule(MARGIN)

    def blank_line(self, name: str, size: float = 10) -> None:
        """A name and a line to write on."""
        self.keep(RULE)
        self.y += RULE
        self._write(name, MARGIN, self.y, size, weight="bold")
        self._rule(MARGIN + 80)

    def footer(self, page: Figure, words: str) -> None:
        """Write in the middle below a page's text."""
        page.text(0.5, MARGIN / 2 / HEIGHT, words, size=8, color="0.4", ha="center", family=FONT)

    def save(self, path: Path, title: str) -> None:
        """Write the PDF, whole or not at all; the same pages give the same bytes.

        Raises:
            InputError: it cannot be written.
        """
        metadata = {"Title": title}
        if "SOURCE_DATE_EPOCH" not in os.environ:  # matplotlib takes the date from there
            metadata["CreationDate"] = None
        with matplotlib.rc_context({"pdf.fonttype": 42}), atomic_write(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # what the font lacks shows as a box
            with PdfPages(temporary, metadata=metadata) as pdf:
                for page in self.pages:
                    pdf.savefig(page)

    def _write(self, line: str, x: float, baseline: float, size: float, **style) -> None:
        self.pages[-1].text(
            x / WIDTH, 1 - baseline / HEIGHT, line, size=size, family=FONT, parse_math=False, va="baseline", **style
        )

    def _rule(self, left: float) -> None:
        level = 1 - self.y / HEIGHT
        self.pages[-1].add_artist(Line2D([left / WIDTH, 1 - MARGIN / WIDTH], [level, level], color="0.7", lw=0.5))


def broken(words: str, width: float, weight: str = "normal") -> Iterator[str]:
    """Break a paragraph into lines at most `width` font sizes wide; what is wider alone is broken anywhere."""
    line, length, space = "", 0.0, measured("a b", weight) - measured("ab", weight)
    for word in words.split():
        if line and length + space + measured(word, weight) > width:
            yield line
            line, length = "", 0.0
        while measured(word, weight) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or measured(word[:n], weight) <= width)
            yield word[:fits]
            word = word[fits:]
        length += measured(word, weight) + (space if line else 0)
        line = f"{line} {word}" if line else word
    if line:
        yield line


@functools.lru_cache(maxsize=4096)
def measured(text: str, weight: str) -> float:
    """The width of a text in font sizes."""
    font = FontProperties(family=FONT, weight=weight, size=100)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 100
