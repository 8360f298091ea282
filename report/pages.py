"""The report's pages: text, figures and Markdown set from top to bottom with fpdf2.

fpdf2, because it takes single letters from other fonts where the text's own has none, TrueType and
PostScript ones, keeps JPEG and indexed pictures as they are, and gives the same bytes for the same
pages.
"""

import contextlib
import datetime
import io
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fpdf import FPDF, FontFace
from markdown_it.tree import SyntaxTreeNode
from PIL import Image

from errors import cause, quoted
from files.atomic import atomic_write
from report.fonts import FONT, FONT_FILES, MONO, fonts_for, letters_of
from report.markdown import MARKDOWN, Run, read_sections, read_table, runs_in

__all__ = ["Picture", "Report", "read_pictures", "read_sections", "read_table"]

log = logging.getLogger(__name__)

# All lengths are points (1/72 inch) from the top left corner.
# Letter; where a figure's words were too small, letter on its side; two
PAPERS = ((612, 792), (792, 612), (1224, 792))
MARGIN = 36
GAP = 12  # between figures
# Points a pixel: the words in figures are 17 pixels high, and 7 points can be read
SMALLEST = 7 / 17
LARGEST = 0.6  # points a pixel
NARROWEST = 140  # figure beside another: its file's name fits below it
RESOLUTION = 200  # pixels an inch at most
LEADING = 1.4  # line height over font size
RULE = 22  # between ruled lines
INDENT = 18
BODY, SMALL = 10, 9  # font sizes
PIECE = 500  # letters given to fpdf2 at once; its time for one piece grows with the square of them

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


# --- Files ---


@dataclass(frozen=True)
class Picture:
    """A figure from the disk, RGB, and what its PNG text says about how it was made."""

    name: str
    image: Image.Image
    made_with: Mapping[str, str]


def read_pictures(paths: Iterable[Path]) -> list[Picture]:
    """Load figures; of one that cannot be read, a line on standard error tells."""
    with ThreadPoolExecutor() as threads:
        return [picture for picture in threads.map(_read_picture, paths) if picture]


def _read_picture(path: Path) -> Picture | None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return Picture(path.name, image.convert("RGB"), dict(image.text))
    except (OSError, ValueError, SyntaxError) as error:
        print(f"{quoted(path)} is not a readable PNG: {cause(error)}", file=sys.stderr)
        return None


# --- Pages ---


class Report(FPDF):
    """A PDF with a cursor: each method draws there and moves it down, on to new pages."""

    def __init__(self, title: str, date: datetime.date):
        """Begin the first page."""
        super().__init__(unit="pt", format=PAPERS[0])
        self.set_title(title)
        self.set_creation_date(
            datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.timezone.utc)
        )
        self.alias_nb_pages(None)  # "{nb}" is text
        self.set_margin(MARGIN)
        self.set_auto_page_break(True, MARGIN)
        self.c_margin = 0
        # Letters that all fonts or fallbacks have
        self.known = {"\n", *letters_of(FONT_FILES[FONT, ""])}
        self.fallbacks: dict[Path, str] = {}  # file → family
        self.unknown: dict[int, str] = {}
        self._load([(FONT, ""), (FONT, "B")])
        self.set_font(FONT, size=BODY)
        self.add_page()

    def _load(self, fonts: Iterable[tuple[str, str]]) -> None:
        """Load fonts by family and style, unless they are."""
        for family, style in fonts:
            if family + style not in self.fonts:
                self.add_font(family, style, FONT_FILES[family, style])
                self.known &= {"\n", *letters_of(FONT_FILES[family, style])}

    def footer(self) -> None:
        """Write the page's number, except on the title page; called by fpdf2."""
        if self.page_no() > 1:
            self.set_font(FONT, size=8)
            self.set_text_color(102)
            self.set_xy(0, self.h - MARGIN + 6)
            self.cell(self.w, 12, str(self.page_no()), align="C")

    def fresh_page(self) -> None:
        """Begin a page, unless this one is empty."""
        if self.y > self.t_margin:
            self.add_page(format=PAPERS[0])

    def keep(self, height: float) -> None:
        """Begin a page unless there is that much room on this one."""
        if self.will_page_break(height):
            self.add_page(same=True)

    def skip(self, height: float) -> None:
        """Leave room."""
        self.set_y(self.y + height)

    @contextlib.contextmanager
    def indented(self, width: float = INDENT) -> Iterator[None]:
        """Move the left margin to the right."""
        self.set_left_margin(self.l_margin + width)
        try:
            yield
        finally:
            self.set_left_margin(self.l_margin - width)
            self.set_x(self.l_margin)

    def settable(self, text: str) -> str:
        """Return a text without control characters; load fonts for all its letters.

        For a letter that no installed font has, the replacement character � is set, and a notice is
        logged.
        """
        text = CONTROL_CHARACTERS.sub("", text.replace("\t", "    "))
        if missing := set(text) - self.known:
            for path in fonts_for(missing):
                if path not in self.fallbacks:
                    self.fallbacks[path] = f"fallback{len(self.fallbacks)}"
                    self.add_font(self.fallbacks[path], fname=path)
                self.known |= letters_of(path)
            self.set_fallback_fonts(list(self.fallbacks.values()), exact_match=False)
            if missing := missing - self.known:
                log.warning(
                    "no installed font has %s; the report shows �", " ".join(sorted(missing))
                )
                self.unknown |= {ord(letter): "�" for letter in missing}
                self.known |= missing
        return text.translate(self.unknown)

    def heading(self, text: str) -> None:
        """Set a chapter's heading, with its entry in the outline."""
        self.start_section(text)
        self.text_line(text, 15, "B", after=4)

    def text_line(self, text: str, size: float = BODY, style: str = "", after: float = 0) -> None:
        """Set a paragraph in one font."""
        self._load([(FONT, style)])
        self.paragraph([Run(text, style=style)], size, after)

    def paragraph(self, runs: Iterable[Run], size: float = BODY, after: float = 6) -> None:
        """Set a paragraph. A word that is wider than a line is broken anywhere."""
        self.set_x(self.l_margin)
        with self.text_columns(line_height=LEADING) as columns, columns.paragraph() as paragraph:
            for run in runs:
                text = self.settable(run.text)
                self.set_font(run.family, run.style, size)
                for start in range(0, len(text), PIECE):
                    paragraph.write(text[start : start + PIECE], link=run.link)
        self.set_font(FONT, size=size)
        self.skip(after)

    def entry(self, name: str, text: str, width: float = 80, link: int | None = None) -> None:
        """Set a paragraph, and a name in bold beside its first line."""
        self._beside(name, width, "B")
        with self.indented(width):
            self.paragraph([Run(text or " ", link=link)], after=0)

    def _beside(self, name: str, width: float, style: str = "") -> None:
        """Set a name to the left of what comes next, on the same line."""
        self.keep(BODY * LEADING)
        self.set_x(self.l_margin)
        self.set_font(FONT, style, BODY)
        self.cell(width, BODY * LEADING, name, new_x="LMARGIN", new_y="TOP")

    def blank_line(self, name: str) -> None:
        """Set a name and a line to write on."""
        self.skip(RULE - BODY * LEADING)
        self._beside(name, 80, "B")
        self.skip(BODY * LEADING)
        self._rule(self.l_margin + 80)

    def ruled(self) -> None:
        """Rule the rest of the page."""
        while not self.will_page_break(RULE):
            self.skip(RULE)
            self._rule(self.l_margin)

    def _rule(self, left: float) -> None:
        self.set_draw_color(178)
        self.set_line_width(0.5)
        self.line(left, self.y, self.w - self.r_margin, self.y)

    def contents(self) -> None:
        """Leave room for the list of chapters; it is set when their pages are known."""
        self.keep(160)
        self.insert_toc_placeholder(_set_contents)

    def save(self, path: Path) -> None:
        """Write the PDF, whole or not at all; the same pages give the same bytes."""
        with atomic_write(path) as temporary:
            temporary.write_bytes(self.output())

    # --- Figures ---

    def figures(self, figures: Sequence[tuple[Image.Image, str]]) -> None:
        """Set pictures and captions, narrow ones side by side, as large as the page allows."""
        row: list[tuple[Image.Image, str]] = []
        for figure in figures:
            wider = [*row, figure]
            if row and (
                _scale(wider, PAPERS[0]) < SMALLEST
                or min(i.width for i, _ in wider) * SMALLEST < NARROWEST
            ):
                self._row(row)
                row = []
            row.append(figure)
        if row:
            self._row(row)

    def _row(self, row: Sequence[tuple[Image.Image, str]]) -> None:
        paper = next((size for size in PAPERS if _scale(row, size) >= SMALLEST), PAPERS[-1])
        scale = self._fitting(row)
        if scale < SMALLEST:
            self.add_page(format=paper)
            scale = self._fitting(row)
        top, x, lowest = self.y, self.l_margin, self.y
        for image, caption in row:
            wide, high = scale * image.width, scale * image.height
            self.image(_compressed(image, wide), x, top, wide, high)
            self.set_xy(x, top + high + 3)
            self._caption(caption, self.epw if len(row) == 1 else wide)
            lowest = max(lowest, self.y)
            x += wide + GAP
        self.set_xy(self.l_margin, lowest + GAP)

    def _fitting(self, row: Sequence[tuple[Image.Image, str]]) -> float:
        """Return the points a pixel at which a row and its captions fill this page's rest."""
        scale = min(LARGEST, _scale(row, (self.w, self.h)))
        captions = (
            self._caption(c, self.epw if len(row) == 1 else i.width * scale, dry_run=True)
            for i, c in row
        )
        room = self.page_break_trigger - self.y - max(captions) - 3
        return min(scale, room / max(image.height for image, _ in row))

    def _caption(self, text: str, width: float, dry_run: bool = False) -> float:
        """Set a caption at the position and return its height."""
        self.set_font(FONT, size=SMALL)
        place = {"new_x": "LEFT", "new_y": "NEXT", "align": "L"}
        return self.multi_cell(
            width, 12, self.settable(text), dry_run=dry_run, output="HEIGHT", **place
        )

    def rows(self, rows: Sequence[Sequence[str]], caption: str) -> None:
        """Set a table, its header first, numbers to the right, and its caption."""
        if rows:
            self.keep(16 * len(rows) + 60)
            self._table(
                [[[Run(text)] for text in row] for row in rows], ["L", *"R" * (len(rows[0]) - 1)]
            )
            self._caption(caption, self.epw)
            self.skip(GAP)

    # --- Markdown ---

    def markdown(self, text: str) -> None:
        """Set Markdown: paragraphs, headings, lists, quotes, code, tables, emphasis, links."""
        self._load(FONT_FILES)
        for node in SyntaxTreeNode(MARKDOWN.parse(text)).children:
            self._block(node)

    def _block(self, node: SyntaxTreeNode) -> None:
        if node.type == "paragraph":
            # Hidden: in a list without empty lines
            self.paragraph(runs_in(node), after=2 if node.hidden else 6)
        elif node.type == "heading":
            self.keep(50)
            self.paragraph(runs_in(node, "B"), 12 if node.tag in ("h1", "h2") else 11, after=3)
        elif node.type in ("fence", "code_block"):
            self.code(node.content)
        elif node.type in ("bullet_list", "ordered_list"):
            for number, item in enumerate(node.children, start=int(node.attrs.get("start", 1))):
                self._beside("•" if node.type == "bullet_list" else f"{number}.", INDENT)
                self._inner(item, max(INDENT, 7 * len(str(number)) + 7))
            self.skip(4)
        elif node.type == "blockquote":
            self._inner(node, INDENT)
        elif node.type == "hr":
            self.skip(6)
            self._rule(self.l_margin)
            self.skip(6)
        elif node.type == "table":
            rows = [row.children for part in node.children for row in part.children]
            styles = [
                str(cell.attrs.get("style", "")).removeprefix("text-align:")[:1].upper()
                for cell in rows[0]
            ]
            self._table(
                [[list(runs_in(cell)) for cell in row] for row in rows],
                [style or "L" for style in styles],
            )

    def _inner(self, node: SyntaxTreeNode, indent: float) -> None:
        """Set the blocks in a block, farther right."""
        with self.indented(indent):
            for child in node.children:
                self._block(child)
            if not node.children:
                self.skip(BODY * LEADING)

    def code(self, code: str, fill: bool = True) -> None:
        """Set lines in a font of equal widths, on grey unless told otherwise."""
        self._load([(MONO, "")])
        self.set_fill_color(243)
        for line in self.settable(code.rstrip("\n")).split("\n"):
            self.set_font(MONO, size=SMALL)
            fit = int(self.epw / self.get_string_width("x"))
            for start in range(0, len(line) or 1, fit):
                piece = line[start : start + fit] or " "
                self.multi_cell(
                    0,
                    12,
                    piece,
                    fill=fill,
                    wrapmode="CHAR",
                    align="L",
                    new_x="LMARGIN",
                    new_y="NEXT",
                )
        self.skip(6)

    def _table(self, rows: Sequence[Sequence[Sequence[Run]]], aligned: Sequence[str]) -> None:
        """Set a table, each cell in one font; as lines where no page is wide enough."""
        texts = [["".join(self.settable(run.text) for run in cell) for cell in row] for row in rows]
        self.set_font(FONT, "B", SMALL)
        needs = [[self.get_string_width(cell) + 12 for cell in row] for row in texts]
        widths = [min(max(24, *column), self.epw / 2) for column in zip(*needs, strict=True)]
        share = min(1, self.epw / sum(widths))
        fullest = max(
            need / (share * width - 8)
            for row in needs
            for need, width in zip(row, widths, strict=True)
        )
        if share * min(widths) < 20 or fullest * 13 > 400:
            for row in rows:
                self.paragraph(
                    [run for cell in row for run in (*cell, Run("  |  "))][:-1], SMALL, after=2
                )
            return
        layout = {
            "align": "L",
            "borders_layout": "HORIZONTAL_LINES",
            "line_height": 13,
            "padding": (1, 4),
        }
        self.set_draw_color(178)
        self.set_font(FONT, size=SMALL)
        with self.table(
            col_widths=widths, width=share * sum(widths), text_align=aligned, **layout
        ) as table:
            for cells, contents in zip(rows, texts, strict=True):
                line = table.row()
                for cell, text in zip(cells, contents, strict=True):
                    line.cell(text, style=_font_of(cell))
        self.skip(8)


def _font_of(cell: Sequence[Run]) -> FontFace | None:
    """Return the one font of a table's cell; None where it has several."""
    fonts = {(run.family, run.style.replace("U", "")) for run in cell if run.text.strip()}
    if len(fonts) != 1 or fonts == {(FONT, "")}:
        return None
    family, style = fonts.pop()
    return FontFace(family=family, emphasis=style or None)


def _set_contents(report: Report, outline: Sequence) -> None:
    for section in outline:
        report.entry(
            f"Page {section.page_number}",
            section.name,
            link=report.add_link(page=section.page_number),
        )


def _scale(row: Sequence[tuple[Image.Image, str]], paper: tuple[float, float]) -> float:
    """Return the points a pixel at which a row of pictures, and two lines below, fill a page."""
    wide = (paper[0] - 2 * MARGIN - GAP * (len(row) - 1)) / sum(image.width for image, _ in row)
    return min(wide, (paper[1] - 2 * MARGIN - 30) / max(image.height for image, _ in row))


def _compressed(image: Image.Image, width: float) -> io.BytesIO:
    """Return a picture as JPEG; a drawing, of few colours, as an indexed PNG: smaller and sharp."""
    most = round(width / 72 * RESOLUTION)
    if image.width > most:
        image = image.resize(
            (most, round(image.height * most / image.width)), Image.Resampling.LANCZOS
        )
    file = io.BytesIO()
    if image.getcolors(8192):
        image.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=82, subsampling=0)
    return file
