"""Paint the three style pictures in data/styles: seeded brush strokes and shapes, by numpy and PIL alone.

    python data/make_styles.py

The same numbers give the same pictures, byte by byte, with the same Pillow.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from files.atomic import atomic_write

FOLDER = Path(__file__).resolve().parent / "styles"
SIZE = 512  # pixels a side
FINE = 2  # painted at twice the size, then reduced: smooth edges

Field = Callable[[float, float], tuple[float, float]]  # place in [0, 1]² → direction
Colour = Callable[[float, float], np.ndarray]  # place in [0, 1]² → RGB in 0…255


class Canvas:
    """A picture in the making, with a brush."""

    def __init__(self, seed: int, ground: tuple[int, int, int]):
        self.random = np.random.default_rng(seed)
        self.image = Image.new("RGB", (SIZE * FINE, SIZE * FINE), ground)
        self.draw = ImageDraw.Draw(self.image)

    def strokes(self, count: int, length: float, width: float, field: Field, colour: Colour, spread: float) -> None:
        """Brush strokes at random places: `length` and `width` in shares of the side, along a field, in a place's
        colour give or take `spread` grey levels."""
        for _ in range(count):
            x, y = self.random.uniform(-length, 1), self.random.random()  # strokes enter from the left, too
            self.stroke(x, y, length * self.random.uniform(0.6, 1.3), width, field, colour, spread)

    def stroke(self, x: float, y: float, length: float, width: float, field: Field, colour: Colour, spread: float):
        """One brush stroke: three bristles beside one another, each in a shade of its own."""
        steps = max(3, int(length / 0.008))
        path = [(x, y)]
        for _ in range(steps):
            dx, dy = field(*path[-1])
            norm = max(1e-9, (dx * dx + dy * dy) ** 0.5)
            path.append((path[-1][0] + length / steps * dx / norm, path[-1][1] + length / steps * dy / norm))
        base = colour(x, y) + self.random.normal(0, spread, 3)
        dx, dy = path[-1][0] - x, path[-1][1] - y
        norm = max(1e-9, (dx * dx + dy * dy) ** 0.5)
        for side in (-1, 0, 1):
            shift = side * width / 3
            points = (np.array(path) + shift * np.array([-dy, dx]) / norm) * SIZE * FINE
            shade = tuple(int(v) for v in np.clip(base + self.random.normal(0, 14) + 12 * side, 0, 255))
            thick = max(2, round(width / 2.2 * SIZE * FINE))
            self.draw.line([tuple(p) for p in points], fill=shade, width=thick, joint="curve")

    def polygon(self, points: np.ndarray, fill, outline=None, width: float = 0.0) -> None:
        """Draw a filled polygon; points (n, 2) in [0, 1]²."""
        scaled = [tuple(p) for p in np.asarray(points) * SIZE * FINE]
        self.draw.polygon(scaled, fill=fill)
        if outline is not None:
            self.draw.line([*scaled, scaled[0]], fill=outline, width=round(width * SIZE * FINE), joint="curve")

    def circle(self, x: float, y: float, radius: float, fill=None, outline=None, width: float = 0.0) -> None:
        """Draw a circle; lengths in shares of the side."""
        box = [v * SIZE * FINE for v in (x - radius, y - radius, x + radius, y + radius)]
        self.draw.ellipse(box, fill=fill, outline=outline, width=round(width * SIZE * FINE))

    def line(self, points: np.ndarray, fill, width: float) -> None:
        """Draw a line through points (n, 2) in [0, 1]²."""
        self.draw.line(
            [tuple(p) for p in np.asarray(points) * SIZE * FINE],
            fill=fill,
            width=max(1, round(width * SIZE * FINE)),
            joint="curve",
        )

    def finished(self) -> Image.Image:
        """Return the picture, reduced to its size."""
        return self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def colours(text: str) -> list[tuple[int, ...]]:
    """Parse colours, hexadecimal, separated by spaces."""
    return [tuple(bytes.fromhex(word)) for word in text.split()]


def blend(stops: list[tuple[float, tuple[int, ...]]], t: float) -> np.ndarray:
    """Return the colour at t on a scale of colour stops."""
    places, colours = zip(*stops, strict=True)
    return np.array([np.interp(t, places, channel) for channel in zip(*colours, strict=True)])


def swirling_night() -> Image.Image:
    """Paint a night sky that turns around its stars, in short thick strokes, over dark hills."""
    canvas = Canvas(1, (18, 32, 84))
    whirls = [(0.42, 0.36, 0.17, 1), (0.70, 0.46, 0.12, -1), (0.16, 0.16, 0.08, 1), (0.85, 0.15, 0.11, 1)]
    whirls += [(0.60, 0.12, 0.06, -1), (0.13, 0.50, 0.07, -1), (0.93, 0.62, 0.05, 1), (0.31, 0.66, 0.05, 1)]
    blues = list(zip((0, 0.25, 0.5, 0.75, 1), colours("0c184e 1c3e8c 3e74ba 84b2ce dee2be"), strict=True))

    def hills(x: float) -> float:
        return 0.78 + 0.06 * np.sin(7 * x + 1) + 0.03 * np.sin(17 * x)

    def wind(x: float, y: float) -> tuple[float, float]:
        dx, dy = 1.0, 0.25 * np.cos(9 * x)
        for cx, cy, radius, turn in whirls:
            rx, ry = x - cx, y - cy
            force = 6 * np.exp(-((rx * rx + ry * ry) / radius**2))
            dx, dy = dx - turn * force * ry / radius, dy + turn * force * rx / radius
        return dx, dy

    def sky(x: float, y: float) -> np.ndarray:
        distance = min(((x - cx) ** 2 + (y - cy) ** 2) ** 0.5 / radius for cx, cy, radius, _ in whirls)
        rings = 0.5 + 0.5 * np.cos(5.2 * distance)
        colour = blend(blues, np.clip(0.62 * rings * np.exp(-0.28 * distance) + 0.28 * rings + 0.10 * y, 0, 1))
        return colour if distance > 0.36 else blend([(0, (250, 232, 120)), (1, (236, 178, 52))], distance / 0.36)

    def slope(x: float, y: float) -> tuple[float, float]:
        return 1.0, 0.42 * np.cos(7 * x + 1) + 0.5 * np.sin(25 * y)

    def land(x: float, y: float) -> np.ndarray:
        return blend([(0, (38, 70, 96)), (0.4, (22, 46, 70)), (1, (12, 20, 40))], (y - hills(x)) / 0.22)

    canvas.strokes(9000, 0.055, 0.012, wind, sky, 10)
    canvas.strokes(6000, 0.042, 0.009, wind, sky, 16)
    for _ in range(2600):
        x = canvas.random.random()
        canvas.stroke(x, canvas.random.uniform(hills(x), 1), 0.045, 0.011, slope, land, 9)
    for _ in range(46):  # lit windows
        x = canvas.random.random()
        y, lit = canvas.random.uniform(hills(x) + 0.03, 0.97), np.array([238, 190, 70])
        canvas.stroke(x, y, 0.014, 0.010, slope, lambda *_, lit=lit: lit, 14)
    return canvas.finished()


def hard_edges() -> Image.Image:
    """Paint a composition of overlapping discs, triangles, grids and lines with hard edges."""
    canvas = Canvas(2, (238, 226, 200))
    random = canvas.random
    palette = colours("ce342a 1c3e8a f0b628 1a1c22 3a846c e27434 764082 f6eeda 5c9cc4 c46078")
    ink = (24, 24, 30)

    def pick() -> tuple[int, ...]:
        return palette[random.integers(len(palette))]

    for _ in range(70):  # a ground of large facets
        centre, turn = random.random(2), random.random() * 6.3
        angles = turn + np.sort(random.random(4) * 6.3)
        shade = tuple(int(v) for v in np.clip(0.55 * np.array(pick()) + 0.45 * np.array((238, 226, 200)), 0, 255))
        canvas.polygon(centre + random.uniform(0.06, 0.2) * np.stack([np.cos(angles), np.sin(angles)], 1), shade)
    for _ in range(130):
        centre, size, kind = random.random(2), random.uniform(0.02, 0.095), random.integers(5)
        turn = random.random() * 6.3
        along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        if kind == 0:  # rings
            for share in (1, 0.74, 0.5, 0.26):
                canvas.circle(*centre, size * share, fill=pick(), outline=ink, width=0.003)
        elif kind == 1:  # triangle
            angles = turn + np.array([0, 2.1, 4.0])
            corners = centre + size * 1.3 * np.stack([np.cos(angles), np.sin(angles)], 1)
            canvas.polygon(corners, pick(), ink, 0.004)
        elif kind == 2:  # chequered band
            for i in range(6):
                for j in range(2):
                    corner = centre + size * 0.45 * (i * along + j * across)
                    steps = (0 * along, along, along + across, across)
                    square = np.array([corner + 0.45 * size * step for step in steps])
                    canvas.polygon(square, ink if (i + j) % 2 else pick())
        elif kind == 3:  # sheaf of lines
            colour = pick()
            for i in range(7):
                start = centre + 0.16 * size * i * across
                canvas.line(np.array([start, start + 3.4 * size * along]), colour, 0.004)
        else:  # arcs
            angles = np.linspace(turn, turn + 2.6, 24)
            for i in range(4):
                arc = centre + size * (0.5 + 0.3 * i) * np.stack([np.cos(angles), np.sin(angles)], 1)
                canvas.line(arc, pick(), 0.006)
    for _ in range(26):
        start, turn = random.random(2), random.random() * 6.3
        end = start + random.uniform(0.2, 0.7) * np.array([np.cos(turn), np.sin(turn)])
        canvas.line(np.array([start, end]), ink, random.uniform(0.002, 0.007))
    return canvas.finished()


def wavy_dusk() -> Image.Image:
    """Paint a burning dusk in long wavy bands over dark water, and a pier."""
    canvas = Canvas(3, (150, 70, 40))
    fire = list(
        zip(
            (0, 0.2, 0.38, 0.5, 0.66, 0.82, 1), colours("a82c1a e25c24 f2a83a e87a2c f8ce68 d65832 f0be60"), strict=True
        )
    )
    water = [(0, (52, 78, 106)), (0.3, (26, 42, 72)), (0.55, (92, 116, 120)), (0.75, (34, 52, 60)), (1, (20, 26, 44))]

    def sway(x: float, y: float) -> float:
        return 0.035 * np.sin(7.5 * x + 4 * y) + 0.022 * np.sin(15 * x - 9 * y) + 0.05 * np.sin(3.1 * x + 1)

    def flow(x: float, y: float) -> tuple[float, float]:
        return 1.0, -(sway(x + 1e-3, y) - sway(x - 1e-3, y)) / 2e-3

    def dusk(x: float, y: float) -> np.ndarray:
        level = y + sway(x, y)
        if level < 0.52:
            return blend(fire, (level / 0.52 * 2.1) % 1)
        return blend(water, ((level - 0.52) / 0.48 * 2.6) % 1)

    canvas.strokes(4200, 0.26, 0.010, flow, dusk, 9)
    canvas.strokes(3600, 0.16, 0.007, flow, dusk, 15)
    for i in range(9):  # the pier
        start, end = np.array([-0.02, 0.70 + 0.034 * i]), np.array([0.58, 0.545 + 0.006 * i])
        shade = (92 + 14 * (i % 3), 58 + 8 * (i % 2), 40)
        canvas.line(np.array([start, end]), shade, 0.017 - 0.001 * i)
        canvas.line(np.array([start + 0.006, end + 0.003]), (40, 26, 30), 0.004)
    for i in range(11):
        x = 0.02 + 0.05 * i
        base = 0.70 - 0.26 * x
        canvas.line(np.array([[x, base], [x, base - 0.10 + 0.008 * i]]), (44, 28, 32), 0.007 - 0.0004 * i)
    return canvas.finished()


PAINTINGS = {"swirling_night": swirling_night, "hard_edges": hard_edges, "wavy_dusk": wavy_dusk}


def main() -> None:
    """Paint them all."""
    for name, paint in PAINTINGS.items():
        with atomic_write(FOLDER / f"{name}.jpg") as temporary:
            paint().save(temporary, format="JPEG", quality=92)


if __name__ == "__main__":
    main()
