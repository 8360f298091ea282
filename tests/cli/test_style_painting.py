"""The pictures, one after another: what is kept when one fails or is interrupted."""

import os
import signal

import numpy as np
import pytest
from helpers import ALL_ZERO, names
from PIL import Image

import style_transfer
from cli import style_painting
from style_modules import ContentLoss
from style_transfer import presets


@pytest.mark.slow
def test_a_loss_that_is_not_finite_leaves_the_last_good_picture(tmp_path, capsys, monkeypatch):
    forward, calls = ContentLoss.forward, iter(range(100))

    def damaged(self, weight, *features):
        return forward(self, weight if next(calls) < 3 else float("nan"), *features)

    # The check, step 0 and step 1 are the last sound ones
    monkeypatch.setattr(ContentLoss, "forward", damaged)
    name = presets()[2].name
    assert (
        style_transfer.main(
            ["--only", name, "--quiet", "--save-every", "1", "--out", str(tmp_path)]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert f"{name}: the loss is not finite at step 2 (content nan" in error
    assert "step 1 is kept" in error
    assert names(tmp_path) == {f"{name}{part}.png" for part in ("", "_before", "_0000", "_0001")}
    assert np.array_equal(*(Image.open(tmp_path / f"{name}{part}.png") for part in ("", "_0001")))


@pytest.mark.slow
def test_a_later_picture_that_fails_leaves_the_figures_of_the_first(tmp_path, capsys, monkeypatch):
    first, second = (preset.name for preset in presets()[:2])
    paint, names_seen = style_painting.style_transfer, []

    def interrupted_at_the_second(name, *arguments, **options):
        names_seen.append(name)
        if name == second:
            raise KeyboardInterrupt
        return paint(name, *arguments, **options)

    monkeypatch.setattr(style_painting, "style_transfer", interrupted_at_the_second)
    options = ["--only", first, second, "--iterations", "2", "--quiet", "--out", str(tmp_path)]
    assert style_transfer.main(options) == 130 and names_seen == [first, second]
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert names(tmp_path) == {
        f"{first}.png",
        f"{first}_before.png",
        "style_transfer.png",
        "style_losses.png",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_the_picture_reached(number, status, tmp_path, capsys, monkeypatch):
    forward, calls = ContentLoss.forward, iter(range(100))

    def interrupting(*arguments):
        if next(calls) == 4:  # the check and the steps 0 to 2 came before
            os.kill(os.getpid(), number)
        return forward(*arguments)

    monkeypatch.setattr(ContentLoss, "forward", interrupting)
    name = presets()[2].name
    try:
        ended = style_transfer.main(["--only", name, "--save-every", "1", "--out", str(tmp_path)])
    except SystemExit as end:
        ended = end.code
    printed, error = capsys.readouterr()
    assert ended == status and printed == ALL_ZERO and "Traceback" not in error
    if number == signal.SIGINT:
        assert error.count("\n") == 1 and "interrupted after" in error and f"{name}.png" in error
    parts = ("", "_before", "_0000", "_0001", "_0002")
    assert names(tmp_path) == {f"{name}{part}.png" for part in parts}
    assert np.array_equal(*(Image.open(tmp_path / f"{name}{part}.png") for part in ("", "_0002")))
