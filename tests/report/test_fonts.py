"""Letters: those of many languages, from an installed font, or replaced."""

import pytest
from fontTools.ttLib import TTFont, newTable
from pdf import markdown, pieces, text_of

from report import fonts

UNKNOWN = "\U0010fffd"  # of private use: no font has it


CHINESE = "你好，世界"


needs_chinese = pytest.mark.skipif(
    not fonts.fonts_for({"你"}), reason="needs a font with Chinese letters"
)


def test_letters_of_many_languages_are_in_the_fonts_that_matplotlib_ships(tmp_path, caplog):
    words = "naïve Größe наука ελληνικά → ≤ ∑ 100 %"
    assert text_of(markdown(words, tmp_path)) == words
    assert "fallback" not in str(caplog.text)


def test_a_font_that_cannot_be_embedded_has_no_letters(tmp_path):
    path = fonts.FOLDER / "DejaVuSansDisplay.ttf"
    assert "ƒ" not in fonts.letters_of(path) and len(fonts.letters_of(path)) > 5
    with TTFont(path) as font:
        font["fvar"] = newTable("fvar")  # a variable font
        font.save(tmp_path / "variable.ttf")
    (tmp_path / "damaged.ttf").write_bytes(path.read_bytes()[:300])
    for name in ("variable.ttf", "damaged.ttf", "absent.ttf"):
        assert fonts.letters_of(tmp_path / name) == frozenset()


@pytest.mark.slow
@needs_chinese
def test_other_letters_are_taken_from_an_installed_font(tmp_path, caplog):
    reader = markdown(
        f"**{CHINESE}** and\n\n`x = {CHINESE}`\n\n| {CHINESE} |\n|-|\n\n# "
        f"{CHINESE}\n\n```\n{CHINESE}\n```",
        tmp_path,
    )
    assert text_of(reader).count(CHINESE) == 5 and not caplog.records
    fonts = {font for words, font, _, _ in pieces(reader.pages[0]) if "你" in words}
    assert len(fonts) == 1 and not fonts.pop().startswith("DejaVu")


@pytest.mark.slow
def test_a_letter_that_no_font_has_is_replaced_and_told_once(tmp_path, caplog):
    assert text_of(markdown(f"a{UNKNOWN}b\n\n{UNKNOWN}", tmp_path)) == "a�b �"
    assert len(caplog.records) == 1 and UNKNOWN in caplog.text
