"""Markdown: set with its marks, as text where it is none, and read as editors save it."""

import logging
import re

import hypothesis
import pytest
from hypothesis import strategies as st
from pdf import DAY, markdown, pieces, saved, text_of

from report.markdown import read_sections
from report.pages import MARGIN, Report
from report.questions import QUESTIONS
from writeup import assign


def test_markdown_is_set_with_its_marks_in_order(tmp_path):
    text = "A *b* **c** ***d*** `e_f`  \ng [h](https://x.org/y)\n\n- one\n- two\n  1. deep\n\n> quote\n\n"
    text += "```\n# i\n    j\n```\n"
    reader = markdown(text, tmp_path)
    assert text_of(reader) == "A b c d e_f g h • one • two 1. deep quote # i j"
    fonts = {words: font for words, font, _, _ in pieces(reader.pages[0])}
    assert fonts["b"] == "DejaVuSansOblique" and fonts["c"] == "DejaVuSansBold"
    assert fonts["one"] == "DejaVuSansBook"
    assert (
        fonts["d"] == "DejaVuSansBoldOblique"
        and fonts["e_f"] == fonts["# i"] == "DejaVuSansMonoBook"
    )
    assert reader.pages[0]["/Annots"][0].get_object()["/A"]["/URI"] == "https://x.org/y"


def test_tables_keep_words_and_the_font_of_a_whole_cell(tmp_path):
    text = "| name | is |\n|:--|--:|\n| `a__b__` | **bold** |\n| \\*\\*c\\*\\* --x-- ~~y~~ [l](u) **m** | plain |\n"
    reader = markdown(text, tmp_path)
    assert text_of(reader) == "name is a__b__ bold **c** --x-- ~~y~~ l m plain"
    fonts = {words: font for words, font, _, _ in pieces(reader.pages[0])}
    assert fonts["bold"] == fonts["name"] == "DejaVuSansBold"
    assert fonts["a__b__"] == "DejaVuSansMonoBook"
    assert fonts["plain"] == "DejaVuSansBook"


@pytest.mark.slow
def test_tables_that_no_page_holds_are_set_as_lines(tmp_path):
    wide = "".join(f"| c{i} " for i in range(60)) + "|\n" + "|-" * 60 + "|\n"
    assert "c0 | c1 | c2" in text_of(markdown(wide, tmp_path))
    high = f"| a | b |\n|-|-|\n| 1 | {'word ' * 3000}|\n"
    assert text_of(markdown(high, tmp_path)).count("word") == 3000


def test_lists_begin_at_their_own_number(tmp_path):
    assert text_of(markdown("9. nine\n1. ten\n", tmp_path)) == "9. nine 10. ten"


def test_a_heading_stays_with_what_follows(tmp_path):
    report = Report("Title", DAY)
    report.skip(report.h - 2 * MARGIN - 45)
    report.markdown("## Heading\n\nText.")
    assert "Heading\nText." in saved(report, tmp_path).pages[1].extract_text()


def test_html_and_the_sign_for_the_number_of_pages_are_text(tmp_path):
    assert text_of(markdown("<b>x</b> {nb} &amp; $5^2$", tmp_path)) == "<b>x</b> {nb} & $5^2$"


def test_a_picture_in_an_answer_is_told_and_its_description_set(tmp_path, caplog):
    assert (
        text_of(markdown(f"![a plot](data:image/png;base64,{'iVBOR' * 900})", tmp_path)) == "a plot"
    )
    assert "a plot" in caplog.text


FRAGMENTS = [
    "word ",
    "*a* ",
    "**b** ",
    "`c` ",
    "\n",
    "\n\n",
    "- ",
    "    - ",
    "7. ",
    "> ",
    "```\n",
    "# h\n",
    "---\n",
    "é ",
]
FRAGMENTS += [
    "| a | b |\n|---|:-:|\n| **x** | `y` |\n",
    "|",
    "x" * 300,
    "[l](u)",
    "![i](p)",
    "<b>",
    "\\",
    "{nb}",
    "__",
]
FRAGMENTS += ["**", "~~", "--", "\0", "\t", "\u00ad", "\uf8f0", "  \n"]


@pytest.mark.slow
@hypothesis.settings(max_examples=12)
@hypothesis.given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
def test_any_markdown_can_be_set(text):
    report = Report("Title", DAY)
    report.markdown(text)
    assert report.output().startswith(b"%PDF")


ANSWER = "# saliency_map\r\n\r\nnaïve – “quoted”\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_answers_are_read_as_editors_save_them(tmp_path, encoding):
    (tmp_path / "a.md").write_bytes(ANSWER.encode(encoding))
    assert assign(read_sections(tmp_path / "a.md")) == {"": "", "saliency_map": "naïve – “quoted”"}


def test_big_endian_old_line_ends_and_latin_1(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xfe\xff" + ANSWER.encode("utf-16-be"))
    assert assign(read_sections(tmp_path / "a.md"))["saliency_map"] == "naïve – “quoted”"
    (tmp_path / "a.md").write_bytes(ANSWER.replace("\r\n", "\r").encode())
    assert assign(read_sections(tmp_path / "a.md"))["saliency_map"] == "naïve – “quoted”"
    (tmp_path / "a.md").write_bytes("Größe".encode("latin-1"))
    assert assign(read_sections(tmp_path / "a.md")) == {"": "Größe"}


def test_no_heading_in_code_and_underlined_headings_are_some(tmp_path):
    code = "```python\n# gradcam\nx = 1\n```\n\n    # gradcam\n\n> # gradcam"
    (tmp_path / "a.md").write_text(
        f"Me\n\nSaliency *maps*\n======\n{code}\n\n## gradcam ##\n\n    indented\n\n### Small\ntext"
    )
    assert assign(read_sections(tmp_path / "a.md")) == {
        "": "Me",
        "saliency_map": code,
        "gradcam": "    indented\n\n### Small\ntext",
    }


def test_unknown_headings_are_text_with_a_notice(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "a.md").write_text(
        "# My answers\nA. Student\n\n## saliency_map\nOne.\n\n## In short\nTwo.\n\n# Thanks\nto "
        "all\n"
    )
    assert assign(read_sections(tmp_path / "a.md")) == {
        "": "# My answers\nA. Student\n\n# Thanks\nto all",
        "saliency_map": "One.\n\n## In short\nTwo.",
    }
    *notices, known = [record.getMessage() for record in caplog.records]
    assert all(question.name in known and question.heading in known for question in QUESTIONS)
    assert [re.search(r"'(.+?)'", notice)[1] for notice in notices] == [
        "My answers",
        "In short",
        "Thanks",
    ]
