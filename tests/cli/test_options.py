"""What scripts share: their options, and the run that turns an error into one line."""

import argparse
import importlib

import pytest
from helpers import options

from cli.options import SHARED_OPTIONS, add_photo_options, make_parser, real_number, whole_number

OF_PHOTOS = {"images", "labels", "num", "chunk", "size", "whole", "classes"}
SCRIPTS = {  # the options of its own that each offers, beside those of all
    "saliency_map": {"steps", "arrays", "figures"} | OF_PHOTOS,
    "gradcam": {
        "steps",
        "layer",
        "captum_layer",
        "techniques",
        "captum",
        "per_image",
        "against",
        "wrong_first",
        "arrays",
        "figures",
    }
    | OF_PHOTOS,
    "fooling_image": {"index", "target", "learning_rate", "max_iter"}
    | OF_PHOTOS - {"labels", "chunk"},
    "class_visualization": {
        "chunk",
        "size",
        "classes",
        "target",
        "iterations",
        "learning_rate",
        "l2_reg",
        "blur_every",
        "max_jitter",
        "show_every",
    },
    "style_transfer": {
        "only",
        "content",
        "style",
        "image_size",
        "style_size",
        "optimizer",
        "iterations",
        "init_random",
        "preserve_color",
        "save_every",
    },
    "writeup": {"only", "no_run", "answers", "notebooks"} | OF_PHOTOS,
}


# --- Options ---


def test_defaults():
    shared = {
        "arch": "squeezenet1_1",
        "weights": "auto",
        "device": "auto",
        "out": None,
        "seed": 1,
        "quiet": False,
        **dict.fromkeys(("mean", "std", "pixel_range", "output")),
        "sigmoid": False,
    }
    assert vars(make_parser("a test").parse_args([])) == shared
    photos = {"images": None, "labels": None, "num": None, "chunk": 8}
    assert vars(options()) == shared | photos
    photos |= {
        "size": None,
        "whole": False,
        "per_image": False,
        "against": None,
        "wrong_first": False,
        "arrays": False,
        "figures": None,
        "classes": None,
    }
    parser = make_parser("a test")
    add_photo_options(parser, *photos)
    assert vars(parser.parse_args([])) == shared | photos
    assert shared.keys() | photos.keys() == SHARED_OPTIONS


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_offers_the_options_that_it_uses(name):
    parser = make_parser("")
    importlib.import_module(name).add_options(parser)
    own = vars(parser.parse_args([])).keys() - vars(make_parser("").parse_args([])).keys()
    assert own == SCRIPTS[name]


def test_help_shows_every_option_with_its_default():
    parser = make_parser("a test")
    add_photo_options(parser, "images", "labels", "num", "chunk")
    text = " ".join(parser.format_help().split())
    for option in ("images", "labels", "num", "arch", "weights", "device", "out", "seed", "chunk"):
        assert f"--{option} " in text
        own = text.split(f"--{option} ")[-1].split(" --")[0]
        assert own.count("(default: ") == 1, own
    assert "--quiet no progress and no notices" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--num", "0"], "--num: '0' is out of range; it must be at least 1"),
        (["--num", "2.5"], "--num: '2.5' is not a whole number"),
        (["--seed", "-1"], "--seed: '-1' is out of range; it must be at least 0\n"),
        (["--seed", str(2**63)], "at least 0 and at most 9223372036854775807"),
        (["--chunk", "65"], "at least 1 and at most 64"),
        (["--chunk", "no"], "is not a whole number"),
        (["--num", "9" * 5000], "--num"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--images"], "expected at least one argument"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_mistyped_option_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        options(*arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and not out and err.count("\n") == 1 and ": error: " in err
    assert message in err


@pytest.mark.parametrize(
    "text, from_zero, above_zero",
    [
        ("0.5", True, True),
        ("1e-3", True, True),
        ("0", True, False),
        ("nan", False, False),
        ("inf", False, False),
        ("1e19", False, False),
        ("-1", False, False),
        ("x", False, False),
        ("", False, False),
    ],
)
def test_real_numbers(text, from_zero, above_zero):
    for parse, good in ((real_number(), from_zero), (real_number(above=True), above_zero)):
        if good:
            assert parse(text) == float(text)
        else:
            with pytest.raises(
                argparse.ArgumentTypeError, match=r"is out of range|is not a number"
            ):
                parse(text)


def test_whole_numbers():
    assert whole_number(3)("3") == 3 and whole_number(0, 7)(" 7 ") == 7
    for parse, text, message in (
        (whole_number(3), "2", "'2' is out of range; it must be at least 3$"),
        (whole_number(0, 7), "8", "'8' is out of range; it must be at least 0 and at most 7$"),
        (whole_number(0), "1.0", "'1.0' is not a whole number"),
        (whole_number(0), "9" * 5000, "is not a whole number|is out of range"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            parse(text)
