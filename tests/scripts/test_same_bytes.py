"""Every script as a user runs it, from another folder, and once more in this process: what it
prints and writes, and that both runs give the same bytes.
"""

import importlib

import pytest
import torch
from helpers import ALL_ZERO, run_script
from PIL import Image

from style_transfer import INVERSION, presets

CAPTUM = (
    "guided_backprop",
    "guided_gradcam",
    "layer_activation",
    "layer_gradcam",
    "layer_conductance",
)
ONE = ["--num", "1", "--steps", "1"]

NETWORK = """
from torch import nn
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""

# Options, what is printed, how many notices there are (the first is of the photos), the figures.
RUNS = {
    "saliency_map": (ONE, "", 1, ["saliency_map", "saliency_captum", "attributions_captum"]),
    "gradcam": (
        ONE,
        "",
        1,
        ["gradcam", "guided_backprop", "guided_gradcam", "figure1"]
        + [f"{name}_captum" for name in CAPTUM],
    ),
    "fooling_image": (
        ["--index", "1", "--target", "stingray"],
        "Fooled the model!\n",
        1,
        ["fooling_image", "fooling_image_valid"],
    ),
    "class_visualization": (
        ["--iterations", "2", "--show-every", "2", "--seed", "7"],
        "",
        0,
        ["class_visualization", "class_visualization_iter_1", "class_visualization_iter_2"],
    ),
    "style_transfer": (
        ["--optimizer", "adam", "--iterations", "2", "--save-every", "2", "--seed", "5"],
        ALL_ZERO,
        0,
        ["style_transfer", "inverted_features", "style_losses"],  # and the presets' own
    ),
    "sanity_checks": (
        [*ONE, "--seeds", "2", "--arch", "own.py:network", "--labels", "guess", "--size", "64"],
        "",
        2,  # and of how the photos are prepared
        ["faithfulness", "sanity_curves", "sanity_randomization"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", RUNS)
def test_a_users_run_and_one_in_this_process(script, tmp_path, capsys, monkeypatch):
    options, printed, notices, names = RUNS[script]
    monkeypatch.setenv("CS7643_DATA", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(NETWORK)
    if script == "style_transfer":
        assert len(presets()) == 4 and INVERSION in {preset.name for preset in presets()}
        parts = ("", "_before", "_0000", "_0002")
        names = [*names, *(preset.name + part for preset in presets() for part in parts)]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    threads = str(torch.get_num_threads())
    result = run_script(
        f"{script}.py", *options, "--out", "theirs", cwd=tmp_path, OMP_NUM_THREADS=threads
    )
    assert (result.returncode, result.stdout) == (0, printed), result.stderr
    assert len(result.stderr.splitlines()) == notices, result.stderr
    assert importlib.import_module(script).main([*options, "--out", str(ours)]) == 0
    assert capsys.readouterr().out == printed
    assert {path.stem for path in theirs.glob("*.png")} == {*names}
    assert {path.name for path in theirs.iterdir()} == {path.name for path in ours.iterdir()}
    for path in theirs.iterdir():
        assert path.read_bytes() == (ours / path.name).read_bytes(), path.name
    for path in theirs.glob("*.png"):
        with Image.open(path) as figure:
            figure.load()
            text = figure.text
        if "--arch" not in options:
            assert text["Network"] == "squeezenet1_1" and text["Weights"].startswith("bundled")
        assert text["Seed"] == (options[-1] if "--seed" in options else "1")
        assert f"torch {torch.__version__.partition('+')[0]}" in text["Software"]
