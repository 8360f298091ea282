"""PDF files as the tests of the report read them."""

import datetime

import pypdf

from report.pages import Report

DAY = datetime.date(2026, 1, 31)


def saved(report: Report, tmp_path) -> pypdf.PdfReader:
    report.save(tmp_path / "r.pdf")
    return pypdf.PdfReader(tmp_path / "r.pdf")


def markdown(text: str, tmp_path) -> pypdf.PdfReader:
    report = Report("Title", DAY)
    report.markdown(text)
    return saved(report, tmp_path)


def text_of(reader: pypdf.PdfReader) -> str:
    """The text of all pages, line breaks as spaces; pypdf puts zeros between the letters of
    PostScript fonts.
    """
    return " ".join(
        " ".join(page.extract_text().replace("\0", "").split()) for page in reader.pages
    )


def pieces(page) -> list[tuple[str, str, float, float]]:
    """Each piece of text on a page: words, name of the font, its size, and height above the lower
    edge.
    """
    found = []

    def visit(text, matrix, text_matrix, font, size):
        if text.strip() and font:
            found.append(
                (
                    text.strip(),
                    font["/BaseFont"].partition("+")[2],
                    size * text_matrix[3],
                    text_matrix[5],
                )
            )

    page.extract_text(visitor_text=visit)
    return found
