"""Notebooks as PDFs: every cell and output in order, formulas drawn, PDFs joined in their order."""

import base64
import io
import json

import pypdf
import pytest
from pdf import DAY, saved, text_of
from PIL import Image

from errors import InputError
from report.notebooks import formula, join, set_notebook
from report.pages import Report


def png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


CELLS = [
    ("markdown", ["# Maps\n", "One of $x$:\n", "\n", r"$$a = \frac{b}{c}$$", "\n\nand after"], []),
    (
        "code",
        ["print('hello')\n", "show()"],
        [
            {"output_type": "stream", "text": ["printed one\n", "printed two\n"]},
            {
                "output_type": "display_data",
                "data": {"image/png": png(), "text/plain": ["<Image>"]},
            },
            {"output_type": "execute_result", "data": {"text/plain": ["'a value'"]}},
            {"output_type": "error", "traceback": ["\x1b[31mTraceback\x1b[0m", "ValueError: no"]},
        ],
    ),
    ("code", [], []),
    ("markdown", [r"$$\unknown{1}$$"], []),
]


def test_every_cell_and_output_is_set_in_order(tmp_path):
    cells = [{"cell_type": kind, "source": source, "outputs": out} for kind, source, out in CELLS]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    report = Report("a", DAY)
    set_notebook(report, tmp_path / "a.ipynb")
    reader = saved(report, tmp_path)
    message = text_of(reader)
    expected = ["Maps", "and after", "print('hello')", "show()", "printed one", "printed two"]
    expected += ["'a value'", "Traceback ValueError: no", r"\unknown{1}"]
    places = [message.index(each) for each in expected]
    assert places == sorted(places) and "frac" not in message and "<Image>" not in message
    assert len(reader.pages[0].images) == 2  # the formula, and what the cell drew


@pytest.mark.parametrize(
    "source", [r"\lVert g \rVert_2", r"\left| \max_{c} x \right|", "a\n= b", r"L_{\text{tv}}"]
)
def test_formulas_of_the_notebooks_are_drawn(source):
    picture = formula(source)
    assert picture is not None and picture.convert("L").getextrema()[0] < 100


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"cells": [{}]}',
        b"\xff",
        b'{"cells": [{"cell_type": "code", "source": "x", "outputs": [{"data": {"image/png": "eA=="}}]}]}',
    ],
)
def test_what_is_no_notebook_is_named(content, tmp_path):
    (tmp_path / "b.ipynb").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.ipynb"):
        set_notebook(Report("b", DAY), tmp_path / "b.ipynb")


def test_pdfs_are_joined_in_order(tmp_path):
    paths = [tmp_path / f"{name}.pdf" for name in ("one", "two")]
    for path in paths:
        report = Report(path.stem, DAY)
        report.text_line(path.stem)
        report.save(path)
    assert join([paths[1], *paths], tmp_path / "all.pdf") == 3
    assert text_of(pypdf.PdfReader(tmp_path / "all.pdf")) == "two one two"
    (tmp_path / "all.pdf").unlink()
    paths[1].write_bytes(b"no PDF")
    for absent in (paths[1], tmp_path / "three.pdf"):
        with pytest.raises(InputError, match=absent.name):
            join([paths[0], absent], tmp_path / "all.pdf")
        assert not (tmp_path / "all.pdf").exists()
