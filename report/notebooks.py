"""Notebooks as PDFs, without LaTeX: text, formulas, code, and what the cells printed and drew."""

import base64
import binascii
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib.mathtext
import pypdf
from matplotlib.font_manager import FontProperties
from PIL import Image

from errors import InputError, cause, quoted
from files.atomic import atomic_write
from report.pages import Report

FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)  # on lines of its own
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # in tracebacks
PLAINER = {r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\lvert": "|", r"\rvert": "|"}
DPI = 120  # of formulas: as large as figures, at whose 0.6 points a pixel they are set


def set_notebook(report: Report, path: Path) -> None:
    """Set a notebook's cells, from top to bottom, as they are stored."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code":
                _set_text(report, source)
            elif source.strip():
                report.code(source)
                for output in cell["outputs"]:
                    _set_output(report, output)
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
        raise InputError(f"{quoted(path)} is not a readable notebook: {cause(error)}") from error


def _set_text(report: Report, text: str) -> None:
    for i, part in enumerate(FORMULA.split(text)):
        if i % 2 == 0:
            report.markdown(part)
        elif picture := formula(part):
            report.figures([(picture, "")])
        else:
            report.code(part.strip())


def formula(source: str) -> Image.Image | None:
    """Return a formula of TeX as a picture, or nothing where matplotlib does not know a part."""
    for name, known in PLAINER.items():
        source = source.replace(name, known)
    file = io.BytesIO()
    try:
        formula = f"${' '.join(source.split())}$"
        matplotlib.mathtext.math_to_image(formula, file, FontProperties(size=14), DPI, "png")
    except ValueError:
        return None
    return Image.open(file).convert("RGB")


def _set_output(report: Report, output: dict) -> None:
    data = output.get("data", {})
    pictures = [data[kind] for kind in ("image/png", "image/jpeg") if kind in data]
    if pictures:
        content = base64.b64decode("".join(pictures[0]))
        report.figures([(Image.open(io.BytesIO(content)).convert("RGB"), "")])
    else:
        lines = output.get("text") or output.get("traceback") or data.get("text/plain", "")
        text = ("\n" * ("traceback" in output)).join(lines)
        report.code(COLOURS.sub("", text), fill=False)


def join(paths: Iterable[Path], target: Path) -> int:
    """Write one PDF of several, in their order; return its number of pages."""
    whole = pypdf.PdfWriter()
    for path in paths:
        try:
            whole.append(path)
        except (OSError, ValueError, pypdf.errors.PyPdfError) as error:
            raise InputError(f"{quoted(path)} is not a readable PDF: {cause(error)}") from error
    with atomic_write(target) as temporary:
        whole.write(temporary)
    return len(whole.pages)
