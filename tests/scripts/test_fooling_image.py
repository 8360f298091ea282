"""fooling_image.py from end to end."""

import numpy as np
import pytest
import torch
from PIL import Image

import fooling_image
from image_utils import preprocess
from visualizers import FoolingImage


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """The script's output folder."""
    folder = tmp_path_factory.mktemp("out")
    assert fooling_image.main(["--index", "1", "--target", "stingray", "--out", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_script_the_stored_image_fools_the_network(figures, bundled_model):
    with Image.open(figures / "fooling_image_valid.png") as image:
        assert (image.mode, image.size) == ("RGB", (224, 224))
        assert "bundled" in image.text["Weights"]
        assert FoolingImage().is_fooled(preprocess(image), 6, bundled_model)


@pytest.mark.slow
def test_script_the_figure_shows_the_perturbation(figures):
    """Its last tile is the third amplified tenfold about mid-grey, except where it is clipped."""
    with Image.open(figures / "fooling_image.png") as image:
        figure = np.asarray(image.convert("RGB")).astype(int)
    tiles = [figure[-236:-12, 6 + 230 * i : 230 + 230 * i] for i in range(4)]
    photo, fooling, once, tenfold = tiles
    inside = (fooling > 0) & (fooling < 255)
    assert np.abs((fooling - photo) - (once - 128))[inside].max() <= 1
    # Once is rounded
    assert np.abs((10 * (once - 128)).clip(-128, 127) - (tenfold - 128)).max() <= 6
    assert (tenfold == 0).any() and (tenfold == 255).any()


@pytest.mark.slow
def test_script_not_fooled(tmp_path, capsys, caplog):
    options = [
        "--weights",
        "bundled",
        "--max-iter",
        "1",
        "--learning-rate",
        "0.01",
        "--out",
        str(tmp_path),
    ]
    assert fooling_image.main(options) == 0
    assert capsys.readouterr().out == "The model is not fooled!\n"
    assert "fooling_image_valid.png does not fool the network" in caplog.text


def test_script_numbers_that_overflow(bundled_model, tmp_path, capsys):
    state = bundled_model.state_dict()
    torch.save(
        state | {"features.0.weight": 1e36 * state["features.0.weight"]}, tmp_path / "huge.pth"
    )
    out = tmp_path / "out"
    assert (
        fooling_image.main(["--weights", str(tmp_path / "huge.pth"), "--quiet", "--out", str(out)])
        == 2
    )
    assert "not finite" in capsys.readouterr().err and not list(out.iterdir())
