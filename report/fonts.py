"""Fonts: those that matplotlib ships, and for letters that they lack those that are installed."""

import functools
import re
from pathlib import Path

import matplotlib
from fontTools.ttLib import TTFont
from matplotlib.font_manager import findSystemFonts

FONT, MONO = "sans", "mono"
FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONT_FILES = {  # family and style: B bold, I italic
    (FONT, ""): FOLDER / "DejaVuSans.ttf",
    (FONT, "B"): FOLDER / "DejaVuSans-Bold.ttf",
    (FONT, "I"): FOLDER / "DejaVuSans-Oblique.ttf",
    (FONT, "BI"): FOLDER / "DejaVuSans-BoldOblique.ttf",
    (MONO, ""): FOLDER / "DejaVuSansMono.ttf",
}
# In the names of fonts
UNLIKE = re.compile("bold|italic|oblique|black|light|thin|serif|mono|cond", re.IGNORECASE)


@functools.cache
def letters_of(path: Path) -> frozenset[str]:
    """Return the letters that a font has; none of one that fpdf2 cannot embed."""
    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            usable = ("glyf" in font or "CFF " in font) and "fvar" not in font
            return frozenset(map(chr, font.getBestCmap() or ())) if usable else frozenset()
    except Exception:  # whatever a damaged font leads to
        return frozenset()


@functools.cache
def _installed() -> list[Path]:
    """Return the fonts that may be used, matplotlib's own first, then upright ones."""
    found = sorted(
        map(Path, findSystemFonts()), key=lambda path: (bool(UNLIKE.search(path.stem)), str(path))
    )
    return [FONT_FILES[FONT, ""], *found]


def fonts_for(letters: set[str]) -> list[Path]:
    """Choose fonts, of those installed, that together have as many of the letters as can be."""
    chosen = []
    while letters:
        whole = next((path for path in _installed() if letters <= letters_of(path)), None)
        best = whole or max(_installed(), key=lambda path: len(letters_of(path) & letters))
        if not (has := letters_of(best) & letters):
            break
        chosen.append(best)
        letters = letters - has
    return chosen
