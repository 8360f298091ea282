"""gradcam.py end to end: which figures it makes."""

import pytest
from helpers import SMALL, one_line

import gradcam

QUICK = ("--arch", SMALL, "--weights", "none", "--num", "1", "--size", "64", "--steps", "1", "--quiet")


@pytest.mark.parametrize(
    ("chosen", "figures"),
    [
        (["--only", "gradcam"], {"gradcam"}),
        (["--only", "guided_backprop"], {"guided_backprop", "guided_backprop_captum"}),
        (["--only", "layer_activation", "guided_gradcam", "--no-captum"], {"guided_gradcam"}),
        (["--no-captum"], {"gradcam", "guided_backprop", "guided_gradcam", "figure1"}),
    ],
)
def test_figures_of_some_techniques(tmp_path, chosen, figures):
    assert gradcam.main([*QUICK, *chosen, "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == figures


def test_only_techniques_that_the_network_has_none_of(tmp_path, capsys):
    options = [*QUICK, "--arch", "efficientnet_b0", "--only", "guided_backprop", "--out", str(tmp_path)]
    assert gradcam.main(options) == 2
    one_line(capsys, "--only", "ReLU")
    assert not list(tmp_path.iterdir())
