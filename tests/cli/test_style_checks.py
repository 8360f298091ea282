"""The four reference checks: zero for right losses with any weights, and only for those."""

import pytest
from helpers import ALL_ZERO, options

from cli.session import Session
from cli.style_checks import print_checks
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss

RIGHT = [ContentLoss(), StyleLoss(), TotalVariationLoss()]


@pytest.mark.parametrize("weights", ["bundled", "none"])
def test_the_checks_fit_any_weights(weights, tmp_path, capsys):
    print_checks(Session(options("--out", tmp_path, "--weights", weights)), *RIGHT)
    assert capsys.readouterr().out == ALL_ZERO


class WrongContent(ContentLoss):
    def forward(self, weight, current, original):
        return super().forward(1.01 * weight, current, original)


class WrongGram(StyleLoss):
    def gram_matrix(self, features, normalize=True):
        return 1.01 * super().gram_matrix(features, normalize)


class WrongStyle(StyleLoss):
    def forward(self, *arguments):
        return 1.01 * super().forward(*arguments)


class WrongVariation(TotalVariationLoss):
    def forward(self, img, weight):
        return super().forward(img, 1.01 * weight)


def test_a_wrong_loss_shows_in_its_line(tmp_path, capsys):
    session = Session(options("--out", tmp_path))
    content, style, variation = RIGHT
    for losses, wrong in (
        ((WrongContent(), style, variation), [0]),
        ((content, WrongGram(), variation), [1, 2]),  # the style loss stands on it
        ((content, WrongStyle(), variation), [2]),
        ((content, style, WrongVariation()), [3]),
    ):
        print_checks(session, *losses)
        lines = capsys.readouterr().out.splitlines()
        assert [i for i, line in enumerate(lines) if not line.endswith(" 0.000")] == wrong
