"""The script: what it prints and writes, own pictures, faults, Ctrl-C; the paintings and the
reference values.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import HALF_WEIGHTS, ROOT, names
from PIL import Image

import style_transfer
from files.course import package_file
from style_transfer import INVERSION, presets

sys.path.insert(0, str(ROOT / "data"))
import make_reference_values

CHECKS = (
    "Content Loss Maximum error",
    "Gram Matrix Maximum error",
    "Style Loss Error",
    "TV Loss Error",
)
SHORT = ("--optimizer", "adam", "--iterations", "4")
OWN = ("--content", "a.png", "--style", "a.png")


def call(capsys, *arguments) -> str:
    """Run the script in this process and return what it printed."""
    assert style_transfer.main([*map(str, arguments), "--quiet"]) == 0
    return capsys.readouterr().out


# --- What it prints and writes ---


@pytest.mark.slow
def test_every_picture_records_how_it_was_made(tmp_path, capsys):
    name = presets()[2].name
    call(
        capsys,
        *SHORT,
        "--only",
        name,
        "--seed",
        7,
        "--weights",
        "bundled",
        "--save-every",
        4,
        "--out",
        tmp_path,
    )
    pictures = (
        f"{name}.png",
        f"{name}_before.png",
        f"{name}_0004.png",
        "style_transfer.png",
        "style_losses.png",
    )
    for file in pictures:
        with Image.open(tmp_path / file) as picture:
            assert list(picture.text) == [
                "Network",
                "Weights",
                "Seed",
                "Software",
                "Threads",
                "Options",
            ], file
            assert picture.text["Network"] == "squeezenet1_1" and picture.text["Seed"] == "7"
            assert picture.text["Weights"].startswith("bundled")
            assert "torch " in picture.text["Software"]
            options = json.loads(picture.text["Options"])
        assert options["optimizer"] == "adam" and options["save_every"] == 4
        assert "seed" not in options
        if file != f"{name}_0004.png":
            assert options["iterations"] == 4
            assert options["pictures"].startswith(name.replace("_", " "))


@pytest.mark.slow
def test_the_courses_pictures_and_values(course, tmp_path, capsys):
    printed = call(
        capsys,
        "--weights",
        course / HALF_WEIGHTS,
        *SHORT,
        "--only",
        "starry_tubingen",
        INVERSION,
        "--out",
        tmp_path,
    )
    errors = [
        float(re.fullmatch(rf"{text} is (\d\.\d{{3}})", line)[1])
        for text, line in zip(CHECKS, printed.splitlines(), strict=True)
    ]
    assert all(
        error <= limit for error, limit in zip(errors, (0.001, 0.005, 0.004, 0.001), strict=True)
    )
    assert errors[1] > 0.0005  # the course's values, which rounded weights do not meet
    assert [preset.name for preset in presets()] == [
        "composition_vii_tubingen",
        "scream_tubingen",
        "starry_tubingen",
        INVERSION,
    ]
    assert {"starry_tubingen.png", "starry_tubingen_before.png", f"{INVERSION}.png"} < names(
        tmp_path
    )
    assert Image.open(tmp_path / "starry_tubingen.png").size == (256, 192)


# --- Own pictures ---


@pytest.mark.slow
def test_own_pictures_of_any_kind(tmp_path, capsys):
    photo = Image.open(package_file("skimage", "data/coffee.png")).resize((90, 60))
    photo.convert("L").save(tmp_path / "my photo.png")
    photo.putalpha(photo.convert("L"))
    photo.rotate(90, expand=True).save(tmp_path / "glass.webp")
    out = tmp_path / "out"
    own = ("--content", tmp_path / "my photo.png", "--style", tmp_path / "glass.webp")
    call(capsys, *own, "--image-size", 40, "--style-size", 64, *SHORT, "--out", out)
    assert names(out) == {
        "glass_my photo.png",
        "glass_my photo_before.png",
        "style_transfer.png",
        "style_losses.png",
    }
    first = np.asarray(Image.open(out / "glass_my photo.png")).astype(int)
    assert first.shape == (40, 60, 3)
    call(
        capsys,
        *own,
        "--image-size",
        40,
        "--style-size",
        64,
        *SHORT,
        "--out",
        out,
        "--preserve-color",
    )
    kept = np.asarray(Image.open(out / "glass_my photo.png")).astype(int)
    assert np.ptp(kept, axis=2).max() <= 1 < np.ptp(first, axis=2).max()  # the photo is grey
    call(capsys, *own, "--image-size", 40, *SHORT, "--out", out, "--init-random", "--save-every", 4)
    noise = np.asarray(Image.open(out / "glass_my photo_0000.png")).astype(int)
    # 255 · 0.225 / √12, and no neighbours alike
    assert 14 < np.diff(noise, axis=1).std() / 2**0.5 < 19


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mona_lisa"], f"--only: no preset 'mona_lisa'; there are .*{INVERSION}"),
        ([*OWN, "--mask", "square.png"], "--mask: 'square.png' is 40×40 pixels"),
        ([*OWN, "--mask", "black.png"], "--mask: 'black.png' is black"),
        (["--style", "a.png", "--mask", "a.png", "a.png"], "--mask: 2 masks for 1 styles"),
        (["--style", "a.png", "a.png", "--style-shares", "0", "0"], "--style-shares: all are 0"),
        (["--style-layers", "1", "13"], "--style-layers: no layer '13'; there are 0 to 12"),
        (["--style-weights", "1"], "--style-weights: 1 weights for 4 style layers"),
        (["--only", "layers", "--content", "none"], "--only layers: .* content picture"),
        (["--content", "text.jpg"], "text.jpg' cannot be read as an image"),
        (["--style", "."], "'.' is not a file"),
        (
            ["--style", "long.png"],
            "long_.*: the picture is 2×900 pixels; the long side may be at most 8 times",
        ),
        (
            ["--arch", "shufflenet_v2_x0_5", "--weights", "none", "--style-layers", "1", "7"],
            "--style-layers: no layer '7'; there are 0 to 6, or conv1",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("no picture")
    Image.new("RGB", (2, 900)).save("long.png")
    Image.new("RGB", (60, 40), "white").save("a.png")
    Image.new("L", (40, 40), 255).save("square.png")
    Image.new("L", (60, 40)).save("black.png")
    assert style_transfer.main([*arguments, "--quiet", "--iterations", "1", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and re.search(message, error)
    assert not any(Path("out").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "heights"), [("adam", [32] * 4 + [64] * 2), ("course", [64])]
)
def test_the_fast_rules_paint_coarse_to_fine(optimizer, heights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("style_modules.scales.COARSEST", 32)
    steps = ("--optimizer", optimizer, "--iterations", "3", "--save-every", "1")
    name = presets()[2].name
    call(capsys, "--only", name, "--image-size", "64", *steps, "--out", tmp_path)
    painted = [Image.open(tmp_path / f"{name}_{t:04}.png").height for t in range(len(heights))]
    assert painted == heights and Image.open(tmp_path / f"{name}.png").height == 64


# --- Faults and interruptions ---


def test_a_network_that_gives_no_numbers_is_one_line(bundled_model, tmp_path, capsys):
    state = bundled_model.state_dict()
    torch.save(
        state | {"features.0.weight": 1e30 * state["features.0.weight"]}, tmp_path / "huge.pth"
    )
    options = ["--weights", str(tmp_path / "huge.pth"), "--only", presets()[2].name, "--quiet"]
    assert style_transfer.main([*options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "the loss is not finite at step 0" in error
    assert "kept" not in error


# --- The data ---


def test_the_reference_values_are_what_their_generator_computes(tmp_path, monkeypatch):
    folder = ROOT / "data"
    (tmp_path / "styles").symlink_to(folder / "styles")
    monkeypatch.setattr(make_reference_values, "FOLDER", tmp_path)
    make_reference_values.main()
    with (
        np.load(tmp_path / "reference_values.npz") as made,
        np.load(folder / "reference_values.npz") as stored,
    ):
        assert set(made) == set(stored) == {"cl_out", "gm_out", "sl_out", "tv_out"}
        for key in stored:
            np.testing.assert_allclose(made[key], stored[key], rtol=1e-5)


def test_a_uniform_picture_with_itself_and_an_odd_name(tmp_path, capsys):
    picture, out = tmp_path / "$grey^_{.png", tmp_path / "out"
    Image.new("RGB", (64, 64), (124, 116, 104)).save(picture)
    own = ("--content", picture, "--style", picture, "--image-size", 64, "--style-size", 64)
    assert call(capsys, *own, "--iterations", 2, "--out", out).count("\n") == 4
    assert {"$grey^_{_$grey^_{.png", "style_losses.png"} < names(out)
