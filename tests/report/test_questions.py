"""The report's questions: every option of every script is told in a caption."""

import dataclasses
import importlib
import json
import string

import pytest

from cli.options import SHARED_OPTIONS, make_parser
from report.questions import QUESTIONS

# In {pictures}, which style_transfer.py records for its presets as these options have changed them;
# or of no matter.
NOT_IN_CAPTIONS = {
    "only",
    "techniques",
    "captum",
    "content",
    "style",
    "image_size",
    "style_size",
    "init_random",
    "save_every",
}


def defaults(script: str) -> dict:
    """The options that only this script has, at their defaults."""
    parser = make_parser("")
    importlib.import_module(script).add_options(parser)
    return {
        key: value
        for key, value in vars(parser.parse_args([])).items()
        if key not in SHARED_OPTIONS
    }


def test_every_option_of_every_script_is_told_in_a_caption():
    for script in {script for question in QUESTIONS for script in question.scripts}:
        captions = [
            c
            for question in QUESTIONS
            if script in question.scripts
            for c in question.figures.values()
        ]
        told = {
            field
            for caption in captions
            for _, field, _, _ in string.Formatter().parse(caption)
            if field
        }
        assert set(defaults(script)) - told <= NOT_IN_CAPTIONS, script


@pytest.mark.parametrize("option", ["per_image", "whole", None])
def test_a_caption_tells_the_options_that_are_recorded(option):
    gradcam = next(question for question in QUESTIONS if question.name == "gradcam")
    options = {"layer": "features.12", **dict.fromkeys([option] * bool(option), True)}
    caption = gradcam.caption("gradcam_2.png", {"Options": json.dumps(options)})
    scaled = "each alone" if option else "over the photos together"
    assert "at features.12" in caption and caption.endswith(f"scaled {scaled}.")
    for record in ({}, {"Options": "no JSON"}):
        assert gradcam.caption("gradcam.png", record) == "Grad-CAM over the photos."


def test_lists_and_flags_stand_as_text():
    style = next(question for question in QUESTIONS if question.name == "style_transfer")
    made = dataclasses.replace(style, figures={"a.png": "Of {names}: {flag}."})
    options = json.dumps({"names": ["b", "c"], "flag": False})
    assert made.caption("a.png", {"Options": options}) == "Of b, c: no."
