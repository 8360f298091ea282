"""What scripts share: options, the session, figures pixel by pixel, errors in one line."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.figure import Figure
from PIL import Image

import script_utils
from file_utils import InputError
from script_utils import (
    GAP,
    HEADING_BAND,
    LABEL_BAND,
    TITLE_BAND,
    Session,
    class_title,
    draw_rows,
    heat,
    make_parser,
    overlay,
    run,
    save_figure,
)

SMALL = ["--arch", "shufflenet_v2_x0_5", "--weights", "none"]  # quick to make


def options(*arguments: str):
    return make_parser("a test").parse_args([*map(str, arguments)])


def script(work, *arguments, add_options=lambda parser: None) -> int:
    """Run `work(session)` as a script does."""
    return run("a test", add_options, work, [*map(str, arguments)])


@pytest.fixture
def folder(tmp_path, photos) -> Path:
    """A folder with the five photos, by name in their order."""
    (tmp_path / "photos").mkdir()
    for i, photo in enumerate(photos[0]):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{i}.png", compress_level=1)
    return tmp_path / "photos"


# --- Options ---


def test_defaults():
    chosen = options()
    assert vars(chosen) == {
        "images": None,
        "labels": None,
        "num": None,
        "arch": "squeezenet1_1",
        "weights": "auto",
        "device": "auto",
        "out": None,
        "seed": 1,
        "chunk": 8,
        "quiet": False,
    }


def test_help_shows_every_option_with_its_default():
    text = " ".join(make_parser("a test").format_help().split())
    for option in ("images", "labels", "num", "arch", "weights", "device", "out", "seed", "chunk"):
        assert f"--{option} " in text
        own = text.split(f"--{option} ")[-1].split(" --")[0]
        assert own.count("(default: ") == 1, own
    assert "--quiet no progress and no notices" in text


@pytest.mark.parametrize(
    "arguments, words",
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
def test_a_mistyped_option_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        options(*arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and not out and err.count("\n") == 1 and ": error: " in err and words in err


@pytest.mark.parametrize(
    "text, good",
    [("0.5", True), ("1e-3", True), ("0", False), ("nan", False), ("inf", False), ("-1", False), ("x", False)],
)
def test_real_numbers(text, good):
    if good:
        assert script_utils.positive_real(text) == script_utils.natural_real(text) == float(text)
    else:
        with pytest.raises(Exception, match=r"is out of range|is not a number"):
            script_utils.positive_real(text)
    assert script_utils.natural_real("0") == 0


def test_the_environment_s_weights_are_for_squeezenet_only(tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEEZENET_WEIGHTS", "none")
    assert Session(options("--out", tmp_path)).model.weights_name == "random (seed 0)"
    monkeypatch.setenv("SQUEEZENET_WEIGHTS", "bundled")
    assert Session(options("--out", tmp_path, *SMALL)).model.arch == "shufflenet_v2_x0_5"


# --- The session ---


def test_photos_of_one_s_own_get_the_predicted_classes(tmp_path, folder, photos, bundled_model, batch):
    session = Session(options("--images", folder, "--out", tmp_path, "--chunk", 2), model=bundled_model)
    X, y = session.photos
    assert np.array_equal(X, photos[0])
    assert np.array_equal(y, bundled_model(batch[0]).argmax(1)) and y.dtype == np.int64
    pages = list(session.pages(""))
    assert [len(page.X) for page in pages] == [2, 2, 1] and [page.number for page in pages] == [1, 2, 3]
    assert [page.file("a.png") for page in pages] == ["a.png", "a_2.png", "a_3.png"]
    assert torch.equal(torch.cat([page.images for page in pages]), batch[0])
    assert torch.equal(torch.cat([page.y for page in pages]), torch.from_numpy(y))
    assert pages[0].titles[0] == class_title(session.class_names, y[0])


def test_labels_and_numbers_of_photos(tmp_path, folder, bundled_model):
    def photos(*arguments):
        return Session(options("--out", tmp_path, "--images", *arguments), model=bundled_model).photos

    X, y = photos(folder / "1.png", folder / "1.png", folder / "0.png", "--labels", "espresso", "7", "egyptian")
    assert y.tolist() == [967, 7, 285] and np.array_equal(X[0], X[1])
    assert len(photos(folder, "--num", 3)[0]) == 3 and len(photos(folder, "--num", 99)[0]) == 5
    for labels in (["1"], ["1"] * 6):
        with pytest.raises(InputError, match=f"--labels: {len(labels)} labels for 5 photos; give one for each"):
            photos(folder, "--labels", *labels)
    for label, words in (("cat", "ambiguous"), ("1000", "out of range"), ("-1", "out of range"), ("", "empty")):
        with pytest.raises(InputError, match=words):
            photos(folder, "--labels", label, "1", "1", "1", "1")


def test_without_photos_of_one_s_own_the_course_s(tmp_path, course, bundled_model):
    X, y = Session(options("--out", tmp_path), model=bundled_model).photos
    assert len(X) == 5 and y.tolist() == [958, 85, 244, 182, 294]
    X, y = Session(options("--out", tmp_path, "--num", 2, "--labels", 1, 2), model=bundled_model).photos
    assert len(X) == 2 and y.tolist() == [1, 2]


def test_the_seed_is_set(tmp_path):
    draws = []
    for seed in (3, 3, 4):
        Session(options("--out", tmp_path, "--seed", seed))
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_output_folders(tmp_path, monkeypatch):
    assert Session(options("--out", tmp_path / "a" / "b")).out == tmp_path / "a" / "b" and (tmp_path / "a/b").is_dir()
    monkeypatch.setattr(script_utils, "ROOT", tmp_path / "project")
    assert Session(options()).folder("other") == tmp_path / "project" / "other"
    assert sorted(p.name for p in (tmp_path / "project").iterdir()) == ["other", "visualization"]
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        with pytest.raises(InputError, match=r"^cannot write into the folder '[^\n]*$"):
            Session(options("--out", out))


def test_damaged_weights_are_reported_before_anything_is_predicted(tmp_path, folder, bundled_model):
    import copy

    model = copy.deepcopy(bundled_model)
    model.classifier[1].bias[5] = torch.inf
    with pytest.raises(InputError, match="scores are not finite"):
        _ = Session(options("--out", tmp_path, "--images", folder), model=model).photos


# --- Running ---


def test_a_script_that_goes_well(tmp_path, capsys):
    seen = []
    assert (
        script(
            lambda session: seen.append(session.options.extra),
            "--out",
            tmp_path,
            "--extra",
            "3",
            add_options=lambda parser: parser.add_argument("--extra", type=int),
        )
        == 0
    )
    assert seen == [3] and capsys.readouterr() == ("", "")


def raises(error):
    def work(_):
        raise error

    return work


@pytest.mark.parametrize(
    "work, status, words",
    [
        (raises(InputError("two\nlines of 'words'")), 2, "two lines of 'words'"),
        (raises(KeyboardInterrupt()), 130, "interrupted"),
        (raises(KeyboardInterrupt("stopped at 7")), 130, "stopped at 7"),
        (lambda _: torch.empty(1 << 60), 2, "out of memory; a smaller --chunk or --device cpu needs less"),
        (raises(torch.OutOfMemoryError("CUDA out of memory.")), 2, "out of memory"),
        (lambda _: np.empty(1 << 50, np.uint8), 2, "out of memory"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, capsys, work, status, words):
    assert script(work, "--out", tmp_path) == status
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and ": error: " in err and words in err


def test_a_defect_keeps_its_traceback(tmp_path):
    for error in (RuntimeError("a defect"), ValueError("a defect"), KeyError("a defect")):
        with pytest.raises(type(error), match="a defect"):
            script(raises(error), "--out", tmp_path)


def test_notices_and_quiet(tmp_path, caplog):
    def work(_):
        logging.getLogger("data_utils").warning("a notice")

    level = logging.getLogger().level
    script(work, "--out", tmp_path)
    assert caplog.messages == ["a notice"]
    script(work, "--out", tmp_path, "--quiet")
    assert caplog.messages == ["a notice"] and logging.getLogger().level == level


def test_sigterm_unwinds_and_the_handler_is_put_back(tmp_path):
    before, closed = signal.getsignal(signal.SIGTERM), []

    def work(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            closed.append(True)

    with pytest.raises(SystemExit) as caught:
        script(work, "--out", tmp_path)
    assert caught.value.code == 143 and closed and signal.getsignal(signal.SIGTERM) == before


def test_what_is_said_is_no_reason_to_stop(tmp_path):
    """The reader of standard output may have gone (`| head`)."""
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from script_utils import say
sys.stdin.readline()
say("one")
say("two")
print("still here", file=sys.stderr)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        process.stdout.close()
        process.stdin.write("go\n")
        process.stdin.close()
        assert process.stderr.read() == "still here\n" and process.wait() == 0


def test_closed_streams(tmp_path):
    """`2>&-`, `>&-`: what would be said is lost, and nothing else."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import script_utils
def work(session):
    for _ in session.progress(range(3), "progress"):
        print("said")
    (session.out / "file").write_text("written")
assert script_utils.run("", lambda parser: None, work, ["--out", "out"]) == 0
raise SystemExit(script_utils.run("", lambda parser: None, work, ["--out", "out/file"]))
"""
    for closed in ("2>&-", "<&- >&- 2>&-"):
        result = subprocess.run(
            ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 2 and (tmp_path / "out" / "file").read_text() == "written"
        assert "error" not in result.stdout
        (tmp_path / "out" / "file").unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_output_that_cannot_be_written_is_one_line(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from script_utils import leave, run, say
leave(run("", lambda parser: None, lambda session: say("one"), ["--out", "out"]))
"""
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "cannot write to standard output" in result.stderr


def test_leaving_runs_the_exit_handlers_and_takes_nothing_apart(tmp_path):
    program = f"""
import atexit, sys
sys.path.insert(0, {str(ROOT)!r})
from script_utils import leave

class Kept:
    def __del__(self):
        print("taken apart")

kept = Kept()
atexit.register(print, "handler", end="")
print("unflushed", end=", ")
leave(3)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (3, "unflushed, handler", "")


# --- Figures ---


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as figure:
        return np.asarray(figure.convert("RGB"))


def tiles(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def test_a_figure_is_drawn_pixel_by_pixel(tmp_path):
    first, second = tiles(3, 170, 230), tiles(3, 170, 230, seed=1)
    figure = draw_rows([("one", first), ("two", second)], ["a", "b", "c"], "Heading")
    assert isinstance(figure, Figure)
    save_figure(figure, tmp_path / "new" / "f.png")
    pixels = pixels_of(tmp_path / "new" / "f.png")
    top = HEADING_BAND + TITLE_BAND
    assert pixels.shape == (top + 2 * (170 + GAP) + GAP, LABEL_BAND + 3 * (230 + GAP), 3)
    for row, row_tiles in enumerate((first, second)):
        for column, tile in enumerate(row_tiles):
            y, x = top + row * (170 + GAP), LABEL_BAND + column * (230 + GAP)
            assert np.array_equal(pixels[y : y + 170, x : x + 230], tile)
    assert pixels[:HEADING_BAND].min() < 100 and pixels[top:, :LABEL_BAND].min() < 100  # words are there
    assert (pixels[:, -GAP:] == 255).all() and (pixels[-GAP:] == 255).all()


def test_small_pictures_are_enlarged_and_rows_may_differ(tmp_path):
    first, second = tiles(2, 40, 50), tiles(1, 40, 50, seed=1)
    save_figure(draw_rows([("", first), ("", second)], [["a", "b"], ["c"]]), tmp_path / "f.png")
    pixels = pixels_of(tmp_path / "f.png")
    assert pixels.shape == (2 * (TITLE_BAND + 160 + GAP) + GAP, GAP + 2 * (200 + GAP), 3)
    assert np.array_equal(pixels[TITLE_BAND : TITLE_BAND + 160 : 4, GAP : GAP + 200 : 4], first[0])
    assert (pixels[2 * TITLE_BAND + 160 + GAP : -GAP, 2 * GAP + 200 :] == 255).all()


@pytest.mark.parametrize("title", ["$100 bill$", "a \\frac", "{", "%s", "x" * 200, "two words " * 30, "ü 猫", "_^_"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_title_stays_over_its_own_tile(tmp_path, title):
    photo = np.full((160, 160, 3), 255, np.uint8)
    save_figure(draw_rows([("", [photo] * 3)], ["", title, ""]), tmp_path / "f.png")
    pixels = pixels_of(tmp_path / "f.png")
    columns = np.flatnonzero((pixels < 128).any(axis=(0, 2)))
    assert len(columns) and columns.min() >= GAP + 160 and columns.max() < GAP + 2 * (160 + GAP)
    rows = np.flatnonzero((pixels < 128).any(axis=(1, 2)))
    assert rows.min() > 0 and rows.max() < TITLE_BAND


def test_the_widest_figure_that_the_options_allow(tmp_path):
    photo = np.zeros((224, 224, 3), np.uint8)
    save_figure(draw_rows([("photo", [photo] * 64)], ["title"] * 64), tmp_path / "f.png")
    assert pixels_of(tmp_path / "f.png").shape[1] == LABEL_BAND + 64 * (224 + GAP)


def test_metadata(tmp_path, bundled_model):
    chosen = options("--out", tmp_path, "--seed", 5)
    session = Session(chosen, model=bundled_model)
    session.save_figure(draw_rows([("", tiles(1, 9, 9))], [""]), "figure.png")
    session.save_image(Image.new("RGB", (3, 2)), "image.png")
    for name in ("figure.png", "image.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.text["Network"] == "squeezenet1_1" and picture.text["Seed"] == "5"
            assert picture.text["Weights"] == bundled_model.weights_name
            for package in ("torch ", "torchvision ", "captum ", "matplotlib ", "pillow "):
                assert package in picture.text["Software"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "image.png"]


@pytest.mark.parametrize("name", ["weights ü.pth", "猫.pth", "a\nb.pth", os.fsdecode(b"\xff\xfe.pth")])
def test_metadata_of_weights_with_an_odd_name(tmp_path, bundled_model, monkeypatch, name):
    monkeypatch.setattr(bundled_model, "weights_name", name)
    session = Session(options("--out", tmp_path), model=bundled_model)
    session.save_figure(draw_rows([("", tiles(1, 9, 9))], [""]), "figure.png")
    session.save_image(Image.new("RGB", (3, 2)), "image.png")
    for file in ("figure.png", "image.png"):
        with Image.open(tmp_path / file) as picture:
            assert picture.text["Weights"].endswith(".pth")


def test_colours():
    ramp = np.linspace(-3, 5, 12).reshape(3, 4)
    hot = heat(ramp)
    assert hot.shape == (3, 4, 3) and hot.dtype == np.uint8
    assert hot[0, 0].max() < 20 and hot[2, 3].tolist() == [255, 255, 255]  # its own range fills the map
    grey = heat(np.array([[0.25, 0.5]]), "gray", spread=False)
    assert np.abs(grey[0, :, 0].astype(int) - [64, 128]).max() <= 1
    assert (heat(np.zeros((2, 2))) == heat(np.ones((2, 2)))).all()
    photo = np.full((1, 1, 3), 100, np.uint8)
    assert overlay(photo, np.full((1, 1, 3), 201, np.uint8), 0.25).tolist() == [[[125, 125, 125]]]
    with pytest.raises(ValueError, match="no such map"):
        heat(ramp, "no such map")


def test_class_titles():
    assert class_title({1: "tench, Tinca tinca"}, 1) == "tench" and class_title({}, np.int64(134)) == "class 134"
