"""Each kind of fault once: it works, or one line says what to do, and earlier results are untouched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, assert_one_line_error, run_script
from PIL import Image

from figure_utils import HEADING_BAND, draw_losses, draw_rows

SMALL = ["--arch", "shufflenet_v2_x0_5", "--weights", "none", "--quiet"]


@pytest.mark.parametrize(
    "script, option, value, words",
    [
        ("saliency_map.py", "--steps", "1001", "at most 1000"),
        ("gradcam.py", "--steps", "9" * 18, "at most 1000"),
        ("fooling_image.py", "--max-iter", "10001", "at most 10000"),
        ("class_visualization.py", "--max-jitter", "225", "at most 224"),
        ("class_visualization.py", "--iterations", "99999", "at most 10000"),
        ("style_transfer.py", "--image-size", "4097", "at least 32 and at most 4096"),
        ("style_transfer.py", "--style-size", "31", "at least 32 and at most 4096"),
        ("style_transfer.py", "--save-every", "0", "at least 1 and at most 10000"),
        ("saliency_map.py", "--colour\nred", "x", "unrecognized arguments: --colour red"),
        ("class_visualization.py", "--images", "cat.jpg", "unrecognized arguments: --images"),
        ("style_transfer.py", "--num", "3", "unrecognized arguments: --num"),
        ("fooling_image.py", "--labels", "3", "unrecognized arguments: --labels"),
        ("saliency_map.py", "--out", "", "the name is empty"),  # as of an unset variable
        ("gradcam.py", "--classes", "", "the name is empty"),
        ("style_transfer.py", "--content", "", "the name is empty"),
        ("writeup.py", "--answers", "", "the name is empty"),
    ],
)
def test_an_option_out_of_range_or_without_a_meaning_is_one_line(tmp_path, script, option, value, words):
    assert_one_line_error(run_script(script, option, value, "--out", tmp_path), option.split("\n")[0], words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a folder that is in use")
def test_a_working_directory_that_no_longer_exists_is_one_line(tmp_path):
    gone = f"import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); sys.path[:0] = [{str(ROOT)!r}]"
    program = f"{gone}; import saliency_map; sys.exit(saliency_map.main(['--out', {str(tmp_path / 'out')!r}]))"
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert_one_line_error(result, "working directory", "no longer exists")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("script, figure", [("saliency_map.py", "saliency_captum.png"), ("gradcam.py", "figure1.png")])
def test_a_folder_in_the_way_is_told_before_any_figure_is_written(tmp_path, script, figure):
    (tmp_path / figure).mkdir()
    (tmp_path / "saliency_map.png").write_bytes(b"an earlier result")
    assert_one_line_error(run_script(script, "--out", tmp_path, *SMALL), figure, "is a folder")
    assert (tmp_path / "saliency_map.png").read_bytes() == b"an earlier result"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([figure, "saliency_map.png"])


@pytest.mark.slow
def test_a_matplotlibrc_of_the_user_changes_nothing(tmp_path):
    settings = (
        "text.usetex: True\nsavefig.bbox: tight\nsavefig.dpi: 13\nfont.family: no such font\naxes.facecolor: red\n"
    )
    (tmp_path / "matplotlibrc").write_text(settings)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import matplotlib, numpy as np\n"
        "from figure_utils import draw_losses, draw_rows, heat\n"
        "before = dict(matplotlib.rcParams)\n"
        "draw_losses({'a_b': [(1, 2, 3, 6), (2, 3, 1, 6)]}).save('losses.png')\n"
        "draw_rows([('x', [heat(np.eye(200))])], ['t'], 'h').save('rows.png')\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    pictures = []
    for folder in (tmp_path, tmp_path / "plain"):
        folder.mkdir(exist_ok=True)
        result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        pictures.append([(folder / name).read_bytes() for name in ("losses.png", "rows.png")])
    assert pictures[0] == pictures[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$x^{", "\\frac{", "猫_\U0001f600", os.fsdecode(b"\xff"), "a\nb", "x" * 500])
def test_any_file_name_titles_a_plot_and_a_picture(name):
    losses = draw_losses({name: [(0, 2, 3, 5), (1, 1, 1, 3)]})
    assert losses.size == draw_losses({"plain": [(0, 2, 3, 5), (1, 1, 1, 3)]}).size
    tile = np.zeros((200, 200, 3), np.uint8)
    plain = draw_rows([("a", [tile])], ["b"], "c").size
    assert draw_rows([(name, [tile])], [name], "c").size == plain
    # A heading wider than the grid takes a second line, not a third.
    more = HEADING_BAND if len(name) > 40 else 0
    assert draw_rows([("a", [tile])], ["b"], name).size == (plain[0], plain[1] + more)


@pytest.mark.slow
def test_losses_that_are_zero_throughout_are_plotted():
    plain = draw_losses({"a": [(1, 2, 3, 6), (1, 1, 1, 3)]}).size
    for losses in ([(0, 0, 0, 0)], [(0, 0, 0, 0)] * 3, [(0, 0, 1, 1)]):
        picture = draw_losses({"a": losses})
        assert picture.size == plain
        if not any(map(any, losses)):  # words stand in the middle, where no curve can
            left, top = picture.width // 3, picture.height // 3
            assert picture.convert("L").crop((left, top, 2 * left, 2 * top)).getextrema()[0] < 100


@pytest.mark.slow
def test_style_transfer_of_a_uniform_picture_with_itself_and_an_odd_name(tmp_path):
    picture = tmp_path / "$grey^_{.png"
    Image.new("RGB", (64, 64), (124, 116, 104)).save(picture)
    result = run_script(
        *("style_transfer.py", "--content", picture, "--style", picture, "--image-size", "64", "--style-size", "64"),
        *("--iterations", "2", "--out", tmp_path / "out", "--quiet"),
    )
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.count("\n") == 4
    assert (tmp_path / "out" / "$grey^_{_$grey^_{.png").is_file() and (tmp_path / "out" / "style_losses.png").is_file()


# --- The Makefile, in places that are not like ours ---


@pytest.fixture
def unpacked(tmp_path):
    """The Makefile and a requirements.txt, without git, in a folder whose name has spaces and other letters."""
    folder = tmp_path / "my wörk (1) & 猫"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.txt").write_text("")
    (folder / "writeup.py").write_text("print('figures made')\n")
    return folder


def make(folder, *arguments, **environment):
    """Run make there; what the make that runs these tests was given does not count."""
    own = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKEOVERRIDES", "VENV")}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=own | environment)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
@pytest.mark.slow
def test_make_figures_in_an_odd_folder_and_with_an_environment_of_ones_own(unpacked, tmp_path):
    result = make(unpacked, "figures", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0 and "figures made" in result.stdout, result.stderr
    (unpacked / ".venv").rename(tmp_path / "own environment")
    result = make(unpacked, "figures", f"VENV={tmp_path / 'own environment'}")
    assert result.returncode == 0 and "figures made" in result.stdout, result.stderr
    assert not (unpacked / ".venv").exists()


@needs_make
def test_make_says_what_is_missing(unpacked, tmp_path):
    for target in ("figures", "lint", "test-fast"):
        result = make(unpacked, target, "VENV=/no such place")
        assert result.returncode == 2 and "VENV=/no such place: there is no bin/python in it\n" in result.stderr
    old = tmp_path / "python2"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 8); exec(sys.argv[2])' \"$@\"\n"
    )
    old.chmod(0o755)
    result = make(unpacked, "figures", f"PYTHON={old}")
    assert result.returncode == 2 and "Python 3.10 or newer is needed, this is 3.8" in result.stderr
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    result = make(unpacked, "figures", f"PYTHON={bare}")
    assert result.returncode == 2 and "apt install python3-venv" in result.stderr
    assert not Path(unpacked / ".venv").exists()
