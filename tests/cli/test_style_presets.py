"""Which pictures are made, from what and with which weights: the course's, and by the options."""

import pytest
from helpers import ROOT
from PIL import Image

import style_transfer
from cli.options import make_parser
from cli.style_presets import INVERSION, chosen_presets, presets
from errors import InputError


def chosen(*arguments: str):
    parser = make_parser("")
    style_transfer.add_options(parser)
    return chosen_presets(parser.parse_args([*arguments]))


def test_the_course_s_presets(course):
    keys = ("name", "image_size", "style_size", "content_weight", "style_weights", "tv_weight")
    assert [
        (*(getattr(preset, key) for key in keys), preset.init_random) for preset in presets()
    ] == [
        ("composition_vii_tubingen", 192, 512, 5e-2, (20000, 500, 12, 1), 5e-2, False),
        ("scream_tubingen", 192, 224, 3e-2, (200000, 800, 12, 1), 2e-2, False),
        ("starry_tubingen", 192, 192, 6e-2, (300000, 1000, 15, 3), 2e-2, False),
        (INVERSION, 192, 192, 6e-2, (0, 0, 0, 0), 2e-2, True),
    ]
    assert {(preset.content_layer, preset.style_layers) for preset in presets()} == {
        (3, (1, 4, 6, 7))
    }


def test_without_the_course_s_paintings_our_own(monkeypatch, project):
    assert [preset.name for preset in presets()][-1] == INVERSION and len(presets()) == 4
    files = [path for preset in presets() for path in preset.files()]
    assert all(path.is_file() for path in files)
    paintings = {path for path in files if path.suffix == ".jpg"}
    assert {path.parent for path in paintings} == {ROOT / "data" / "styles"}
    for path in paintings:
        with Image.open(path) as painting:
            assert (painting.size, painting.mode) == ((512, 512), "RGB")


def test_pictures_of_one_s_own_give_the_name_and_take_the_third_preset_s_weights():
    (one,) = chosen("--content", "a/cat.jpg", "--style", "b/night.png", "--image-size", "96")
    assert (one.name, one.image_size, one.style_size) == ("night_cat", 96, 192)
    assert one.style_weights == presets()[2].style_weights and not one.init_random
    two = chosen("--style", "x.png", "y.png", "--style-shares", "3", "1", "--content", "none")
    assert two[0].name == "x_y_texture" and two[0].shares == (3, 1) and two[0].content is None
    assert "in shares 3 : 1" in two[0].description() and "start from noise" in two[0].description()
    regions = ["--content", "c.jpg", "--style", "x.png", "y.png", "--mask", "s.png", "g.png"]
    (masked,) = chosen(*regions)
    assert [path.name for path in masked.files()] == ["c.jpg", "x.png", "y.png", "s.png", "g.png"]
    assert "in regions s.png, g.png" in masked.description()
    assert [preset.name for preset in chosen("--only", INVERSION, "layers")] == ["layers"]
    assert [preset.name for preset in chosen("--only", INVERSION)] == [INVERSION]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mona_lisa"], "'mona_lisa'"),
        (["--content", "none", "--preserve-color"], "--preserve-color"),
        (["--style", "a.png", "b.png", "--style-shares", "1"], "1 shares for 2 styles"),
        (["--style", "a.png", "--style-shares", "0"], "all are 0"),
        (["--style", "a.png", "--mask", "b.png", "c.png"], "2 masks for 1 styles"),
        (["--style", "a.png", "--mask", "b.png", "--content", "none"], "content picture"),
        (["--style", "a.png", "--mask", "b.png", "--style-shares", "1"], "--style-shares"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        chosen(*arguments)
