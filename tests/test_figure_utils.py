"""Figures: maps to tiles, tiles to pictures, pixel by pixel; what a PNG says of how it was made."""

import json
import os

import matplotlib
import numpy as np
import pytest
import torch
import warm
from helpers import ROOT, pixels_of, tiles
from PIL import Image

from errors import InputError
from figure_utils import (
    GAP,
    HEADING_BAND,
    LABEL_BAND,
    TITLE_BAND,
    about_grey,
    class_title,
    draw_curves,
    draw_losses,
    draw_rows,
    heat,
    overlay,
    provenance,
    save_png,
    signed,
)


def test_a_figure_is_drawn_pixel_by_pixel(tmp_path):
    first, second = tiles(3, 170, 230), tiles(3, 170, 230, seed=1)
    figure = draw_rows([("one", first), ("two", second)], ["a", "b", "c"], "Heading")
    save_png(figure, tmp_path / "new" / "f.png", {})
    pixels = pixels_of(tmp_path / "new" / "f.png")
    top = HEADING_BAND + TITLE_BAND
    assert pixels.shape == (top + 2 * (170 + GAP) + GAP, LABEL_BAND + 3 * (230 + GAP), 3)
    for row, row_tiles in enumerate((first, second)):
        for column, tile in enumerate(row_tiles):
            y, x = top + row * (170 + GAP), LABEL_BAND + column * (230 + GAP)
            assert np.array_equal(pixels[y : y + 170, x : x + 230], tile)
    # Words are there
    assert pixels[:HEADING_BAND].min() < 100 and pixels[top:, :LABEL_BAND].min() < 100
    assert (pixels[:, -GAP:] == 255).all() and (pixels[-GAP:] == 255).all()


def test_small_pictures_are_enlarged_and_rows_may_differ(tmp_path):
    first, second = tiles(2, 40, 50), tiles(1, 40, 50, seed=1)
    save_png(draw_rows([("", first), ("", second)], [["a", "b"], ["c"]]), tmp_path / "f.png", {})
    pixels = pixels_of(tmp_path / "f.png")
    assert pixels.shape == (2 * (TITLE_BAND + 160 + GAP) + GAP, GAP + 2 * (200 + GAP), 3)
    assert np.array_equal(pixels[TITLE_BAND : TITLE_BAND + 160 : 4, GAP : GAP + 200 : 4], first[0])
    assert (pixels[2 * TITLE_BAND + 160 + GAP : -GAP, 2 * GAP + 200 :] == 255).all()


@pytest.mark.parametrize(
    "title", ["$100 bill$", "a \\frac", "{", "%s", "x" * 200, "two words " * 30, "ü 猫", "_^_"]
)
def test_any_title_stays_over_its_own_tile(tmp_path, title):
    photo = np.full((160, 160, 3), 255, np.uint8)
    save_png(draw_rows([("", [photo] * 3)], ["", title, ""]), tmp_path / "f.png", {})
    pixels = pixels_of(tmp_path / "f.png")
    columns = np.flatnonzero((pixels < 128).any(axis=(0, 2)))
    assert len(columns) and columns.min() >= GAP + 160 and columns.max() < GAP + 2 * (160 + GAP)
    rows = np.flatnonzero((pixels < 128).any(axis=(1, 2)))
    assert rows.min() > 0 and rows.max() < TITLE_BAND


def test_the_widest_figure_that_the_options_allow(tmp_path):
    photo = np.zeros((224, 224, 3), np.uint8)
    save_png(draw_rows([("photo", [photo] * 64)], ["title"] * 64), tmp_path / "f.png", {})
    assert pixels_of(tmp_path / "f.png").shape[1] == LABEL_BAND + 64 * (224 + GAP)


def test_colours():
    ramp = np.linspace(-3, 5, 12).reshape(3, 4)
    hot = heat(ramp)
    assert hot.shape == (3, 4, 3) and hot.dtype == np.uint8
    # Its own range fills the map
    assert hot[0, 0].max() < 20 and hot[2, 3].tolist() == [255, 255, 255]
    grey = heat(np.array([[0.25, 0.5]]), "gray", normalize=False)
    assert np.abs(grey[0, :, 0].astype(int) - [64, 128]).max() <= 1
    assert (heat(np.zeros((2, 2))) == heat(np.ones((2, 2)))).all()
    photo = np.full((1, 1, 3), 100, np.uint8)
    blended = overlay(photo, np.full((1, 1, 3), 201, np.uint8))
    assert isinstance(blended, Image.Image) and blended.getpixel((0, 0)) == (150, 150, 150)
    as_array = draw_rows([("", [np.asarray(blended)])], ["a"])
    assert draw_rows([("", [blended])], ["a"]).tobytes() == as_array.tobytes()
    with pytest.raises(ValueError, match="no such map"):
        heat(ramp, "no such map")


def test_class_titles():
    assert class_title({1: "tench, Tinca tinca"}, 1) == "tench"
    assert class_title({}, np.int64(134)) == "class 134"


def test_differences_are_clipped_about_grey():
    values = torch.tensor([-9, -0.5, 0, 0.25, 0.5, 9]) / torch.tensor(0.225)
    difference = torch.zeros(1, 3, 1, 6)
    difference[0, 2, 0] = values
    assert about_grey(difference)[0, :, 2].tolist() == [0, 0, 128, 192, 255, 255]
    assert (about_grey(difference)[..., :2] == 128).all()


def test_signed_gradients_stand_about_grey():
    gradient = np.zeros((10, 20, 3), np.float32)
    assert (signed(gradient) == 128).all()  # a blank one is no NaN
    gradient[:5] = 0.002
    gradient[5:, 0] = -0.001
    shown = signed(gradient)
    assert shown.dtype == np.uint8 and shown.shape == gradient.shape
    assert shown[0, 0, 0] == 255 and shown[9, 0, 0] == 64 and shown[9, 9, 0] == 128
    gradient[0, 0, 0] = 1000  # a single outlier saturates, and takes no contrast from the others
    assert np.array_equal(signed(gradient), shown)


@pytest.mark.slow
def test_loss_curves_leave_the_caller_s_matplotlib_alone():
    rising = [(0, 3.0, 1.0, 4.0), (1.0, 2.0, 1.0, 4.0), (2.0, 1.0, 0.5, 3.5)]
    with matplotlib.rc_context({"axes.facecolor": "red", "savefig.dpi": 13}):
        before = dict(matplotlib.rcParams)
        one, three = draw_losses({"a_$b$ 猫": rising}), draw_losses(dict.fromkeys("abc", rising))
        assert dict(matplotlib.rcParams) == before
        red = np.asarray(one)
    assert one.mode == "RGB" and three.width > 1.8 * one.width and three.height > 1.8 * one.height
    assert not ((red[..., 0] > 250) & (red[..., 1] < 5) & (red[..., 2] < 5)).any()
    assert len(np.unique(red.reshape(-1, 3), axis=0)) > 50
    draw_losses({"nothing": [(0, 0, 0, 0)]})  # no value that a logarithmic axis has


# --- PNGs ---


def test_the_text_of_a_png_is_read_back(tmp_path, bundled_model):
    facts = {"steps": 3, "path": tmp_path / "content.jpg", "target": ["187", "oböe"]}
    save_png(
        Image.new("RGB", (3, 2), "red"),
        tmp_path / "new" / "image",
        provenance(bundled_model, 5, facts),
    )
    with Image.open(tmp_path / "new" / "image.png") as picture:
        assert picture.size == (3, 2) and picture.getpixel((0, 0)) == (255, 0, 0)
        assert list(picture.text) == [
            "Network",
            "Weights",
            "Seed",
            "Software",
            "Threads",
            "Options",
        ]
        assert picture.text["Network"] == "squeezenet1_1" and picture.text["Seed"] == "5"
        assert picture.text["Weights"] == bundled_model.weights_name
        for package in ("torch ", "torchvision ", "captum ", "matplotlib ", "pillow "):
            assert package in picture.text["Software"]
        assert json.loads(picture.text["Options"]) == {
            "steps": 3,
            "path": "content.jpg",
            "target": ["187", "oböe"],
        }


def test_what_is_not_known_of_a_figure_is_said():
    assert provenance()["Network"] == provenance()["Weights"] == "unknown"
    assert provenance()["Seed"] == "none"
    assert provenance(torch.nn.Sequential(), 3)["Network"] == "Sequential"
    assert "Options" not in provenance(seed=3)


@pytest.mark.parametrize(
    "name", ["weights ü.pth", "猫.pth", "a\nb.pth", os.fsdecode(b"\xff\xfe.pth")]
)
def test_weights_with_an_odd_name(tmp_path, bundled_model, monkeypatch, name):
    monkeypatch.setattr(bundled_model, "weights_name", name)
    save_png(Image.new("RGB", (3, 2)), tmp_path / "f.png", provenance(bundled_model))
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.text["Weights"].endswith(".pth")


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "f.png").mkdir()
    with pytest.raises(InputError, match=r"^cannot write '[^\n]*f\.png': Is a directory$"):
        save_png(Image.new("RGB", (3, 2)), tmp_path / "f.png", {})
    assert [p.name for p in tmp_path.iterdir()] == ["f.png"]


def test_a_heading_wider_than_the_grid_takes_two_lines():
    tile = np.full((200, 200, 3), 255, np.uint8)
    words = "What the network sees, class and its probability"
    one, narrow = (draw_rows([("photo", [tile] * count)], [], words) for count in (5, 1))
    assert narrow.height - one.height == HEADING_BAND
    wide, dark = (np.asarray(picture.convert("L")) < 128 for picture in (one, narrow))
    # All its letters are there
    assert wide.sum() > 0 and abs(int(dark.sum()) - int(wide.sum())) < 0.02 * wide.sum()
    assert draw_rows([("photo", [tile])], [], 50 * words).size == narrow.size


@pytest.mark.slow
def test_a_matplotlibrc_of_the_user_changes_nothing(tmp_path, monkeypatch):
    settings = "text.usetex: True\nsavefig.bbox: tight\nsavefig.dpi: 13\nfont.family: no such font\naxes.facecolor: red\n"
    (tmp_path / "matplotlibrc").write_text(settings)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import matplotlib, numpy as np\n"
        "from figure_utils import draw_losses, draw_rows, heat\n"
        "before = dict(matplotlib.rcParams)\n"
        "draw_losses({'a_b': [(1, 2, 3, 6), (2, 3, 1, 6)]}).save('losses.png')\n"
        "draw_rows([('x', [heat(np.eye(200))])], ['t'], 'h').save('rows.png')\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    anew = "import sys\nfor name in [n for n in sys.modules if n.startswith('matplotlib')]:\n    del sys.modules[name]\n"
    result = warm.run("-c", anew + program, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    exec(program, {})
    for name in ("losses.png", "rows.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name", ["$x^{", "\\frac{", "猫_\U0001f600", os.fsdecode(b"\xff"), "a\nb", "x" * 500]
)
def test_any_file_name_titles_a_plot_and_a_picture(name):
    losses = draw_losses({name: [(0, 2, 3, 5), (1, 1, 1, 3)]})
    assert losses.size == draw_losses({"plain": [(0, 2, 3, 5), (1, 1, 1, 3)]}).size
    tile = np.zeros((200, 200, 3), np.uint8)
    plain = draw_rows([("a", [tile])], ["b"], "c").size
    assert draw_rows([(name, [tile])], [name], "c").size == plain
    # A heading wider than the grid takes a second line, not a third.
    more = HEADING_BAND if len(name) > 40 else 0
    assert draw_rows([("a", [tile])], ["b"], name).size == (plain[0], plain[1] + more)


@pytest.mark.slow
def test_losses_that_are_zero_throughout_are_plotted():
    plain = draw_losses({"a": [(1, 2, 3, 6), (1, 1, 1, 3)]}).size
    for losses in ([(0, 0, 0, 0)], [(0, 0, 0, 0)] * 3, [(0, 0, 1, 1)]):
        picture = draw_losses({"a": losses})
        assert picture.size == plain
        if not any(map(any, losses)):  # words stand in the middle, where no curve can
            left, top = picture.width // 3, picture.height // 3
            assert picture.convert("L").crop((left, top, 2 * left, 2 * top)).getextrema()[0] < 100


@pytest.mark.slow
def test_curves_with_and_without_a_band_over_names_and_numbers():
    plain = draw_curves({"a": {"line": np.array([0.0, 1.0, 2.0])}}, [0, 1, 2], "x", "y")
    band = draw_curves(
        {"a": {"line": np.array([[0, 0, 0], [0, 1, 2], [2, 2, 4]])}}, ["p", "q", "r"], "x", "y"
    )
    two = draw_curves(
        {"a": {"line": np.arange(3)}, "b": {"line": np.arange(3)}}, [0, 1, 2], "x", "y"
    )
    assert plain.size == band.size and abs(two.width - 2 * plain.width) <= 1
    tint = (228, 239, 246)  # the first curve's blue, 12 % on white
    shaded = [
        (abs(np.asarray(picture).astype(int) - tint).max(axis=2) <= 2).sum()
        for picture in (plain, band)
    ]
    assert shaded[1] > 1000 + shaded[0]


def test_a_single_bright_pixel_need_not_darken_a_map():
    values = np.linspace(0, 1, 400).reshape(20, 20)
    values[3, 4] = 100
    assert heat(values)[19, 19].max() < 50 < heat(values, top=0.99)[19, 19].min()
    assert heat(np.where(values == 100, 1.0, 0), top=0.99)[3, 4].min() == 255
