"""class_visualization.py from end to end."""

import numpy as np
import pytest
import torch
from helpers import tile_of
from PIL import Image

import class_visualization
from cli.options import make_parser
from figure_utils import GAP, LABEL_BAND
from visualizers import ClassVisualization


@pytest.mark.slow
def test_script_figures_of_the_first_the_last_and_some_iterations(tmp_path):
    parser = make_parser("")
    class_visualization.add_options(parser)
    defaults = parser.parse_args([])
    assert (defaults.iterations, defaults.show_every) == (100, 25)
    shown = (1, 2, 4, 6, 8)  # as the course's 1, 25, 50, 75, 100
    options = ["--iterations", "8", "--show-every", "2", "--out", str(tmp_path)]
    assert class_visualization.main(options) == 0
    names = {"class_visualization.png"} | {f"class_visualization_iter_{t}.png" for t in shown}
    assert {path.name for path in tmp_path.iterdir()} == names
    places = [(0, 3, 1), (1, 3, 1), (2, 3, 1), (0, 3), (1, 3)]  # three above two
    for place, iteration in zip(places, shown, strict=True):
        alone = tile_of(tmp_path / f"class_visualization_iter_{iteration}.png", 0, 1)
        assert np.array_equal(tile_of(tmp_path / "class_visualization.png", *place), alone)


@pytest.mark.slow
def test_script_several_classes(bundled_model, tmp_path, capsys):
    options = ["--iterations", "5", "--show-every", "3", "--seed", "7", "--chunk", "2"]
    targets = ["--target", "187", "tarantula", "oboe", "76"]  # the last is the tarantula again
    assert class_visualization.main([*options, *targets, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    assert {path.name for path in tmp_path.iterdir()} == {
        f"class_visualization{name}{page}.png"
        for name in ("", "_iter_1", "_iter_3", "_iter_5")
        for page in ("", "_2")
    }
    alone = ClassVisualization().create_class_visualization(
        683, None, bundled_model, torch.float32, seed=7, num_iterations=5, generate_plots=False
    )
    shown = tile_of(tmp_path / "class_visualization_iter_5_2.png", 0, 1)
    assert np.array_equal(shown, np.asarray(alone))


@pytest.mark.slow
def test_script_strip_is_thinned_out(tmp_path, capsys):
    options = [
        "--weights",
        "bundled",
        "--iterations",
        "21",
        "--show-every",
        "1",
        "--chunk",
        "1",
        "--quiet",
    ]
    assert class_visualization.main([*options, "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == 22
    with Image.open(tmp_path / "class_visualization.png") as strip:
        assert strip.width == LABEL_BAND + 4 * (224 + GAP)
    for column, iteration in enumerate((1, 4, 7, 10, 12, 15, 18, 21)):
        one = tile_of(tmp_path / f"class_visualization_iter_{iteration}.png", 0, 1)
        place = (column % 4, 4, 1 - column // 4)  # two rows of four
        assert np.array_equal(tile_of(tmp_path / "class_visualization.png", *place), one)
