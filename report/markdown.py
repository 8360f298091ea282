"""Texts and tables for the report: answers by heading, Markdown's text by font, CSV."""

import csv
import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from errors import InputError, cause, quoted
from report.fonts import FONT, MONO

log = logging.getLogger(__name__)

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Section:
    """A heading of a Markdown text and what follows; what stands before the first has level 0."""

    level: int
    heading: str
    source: str  # the heading's lines
    text: str


def read_sections(path: Path) -> list[Section]:
    """Read the file of --answers and split it at its headings of levels 1 and 2."""
    try:
        text = _decoded(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"--answers: cannot read {quoted(path)}: {cause(error)}") from error
    if "\0" in text:
        raise InputError(f"--answers: {quoted(path)} is no text")
    lines, tokens = [f"{line}\n" for line in text.split("\n")], MARKDOWN.parse(text)
    headings = [
        (int(token.tag[1]), content.content, *(token.map or (0, 0)))
        for token, content in itertools.pairwise(tokens)
        if token.type == "heading_open" and token.level == 0 and token.tag in ("h1", "h2")
    ]
    starts = [start for _, _, start, _ in headings]
    sections = [Section(0, "", "", "".join(lines[: min(starts, default=None)]))]
    for (level, heading, start, end), following in zip(headings, [*starts[1:], None], strict=False):
        sections.append(
            Section(level, heading, "".join(lines[start:end]), "".join(lines[end:following]))
        )
    return sections


def read_table(path: Path) -> list[list[str]]:
    """Read a CSV file, its header first; return nothing, with a notice, where that fails."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        print(f"{quoted(path)} is not a readable table: {cause(error)}", file=sys.stderr)
        return []


def _decoded(content: bytes) -> str:
    """Decode a text file: UTF-16 by its mark, UTF-8 with or without one, else Western."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Run:
    """A piece of text in one font."""

    text: str
    family: str = FONT
    style: str = ""  # of the letters B, I and U
    link: str | int | None = None  # an address, or a page of the report


def runs_in(node: SyntaxTreeNode, style: str = "", link: str | None = None) -> Iterator[Run]:
    """Yield the text of a Markdown node, font by font."""
    for child in node.children:
        if child.type == "text":
            yield Run(child.content, FONT, style, link)
        elif child.type == "code_inline":
            yield Run(child.content, MONO, "", link)
        elif child.type in ("softbreak", "hardbreak"):
            yield Run(" " if child.type == "softbreak" else "\n", FONT, style)
        elif child.type == "image":
            log.warning("the report does not show pictures in answers: %s", quoted(child.content))
            yield Run(child.content, FONT, style, link)
        else:
            more = {"strong": "B", "em": "I", "link": "U"}.get(child.type, "")
            yield from runs_in(
                child,
                "".join(sorted({*style, *more})),
                link or str(child.attrs.get("href", "")) or None,
            )
