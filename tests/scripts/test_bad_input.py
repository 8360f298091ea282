"""What cannot be used, over all scripts: one line, status 2, earlier results untouched."""

import importlib
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers import Bomb, assert_one_line_error, one_line, quick, run_script, without_privileges

import class_visualization
import saliency_map
from files.course import package_file

RANDOM = ["--arch", "shufflenet_v2_x0_5", "--weights", "none", "--quiet"]


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("saliency_map", ["--steps", "1001"], ["at most 1000"]),
        ("gradcam", ["--steps", "9" * 18], ["at most 1000"]),
        ("fooling_image", ["--max-iter", "10001"], ["at most 10000"]),
        ("class_visualization", ["--max-jitter", "225"], ["at most 224"]),
        ("class_visualization", ["--iterations", "99999"], ["at most 10000"]),
        ("style_transfer", ["--iterations", "0"], ["--iterations", "'0'"]),
        ("style_transfer", ["--scales", "9"], ["--scales", "'9'", "at most 8"]),
        ("style_transfer", ["--optimizer", "sgd"], ["--optimizer", "'sgd'", "lbfgs"]),
        ("style_transfer", ["--image-size", "-3"], ["--image-size", "'-3'", "at least 32"]),
        ("style_transfer", ["--style", "absent.jpg"], ["absent.jpg", "no such file"]),
        ("sanity_checks", ["--steps", "0"], ["--steps", "at least 1"]),
        ("sanity_checks", ["--images", "none.jpg"], ["none.jpg"]),
        ("writeup", ["--only", "no_such"], ["--only", "no_such", "gradcam"]),
        ("style_transfer", ["--image-size", "4097"], ["at least 32 and at most 4096"]),
        ("style_transfer", ["--style-size", "31"], ["at least 32 and at most 4096"]),
        ("style_transfer", ["--save-every", "0"], ["at least 1 and at most 10000"]),
        ("saliency_map", ["--colour\nred", "x"], ["unrecognized arguments: --colour red"]),
        ("class_visualization", ["--images", "cat.jpg"], ["unrecognized arguments: --images"]),
        ("style_transfer", ["--num", "3"], ["unrecognized arguments: --num"]),
        ("fooling_image", ["--labels", "3"], ["unrecognized arguments: --labels"]),
        ("saliency_map", ["--out", ""], ["the name is empty"]),  # as of an unset variable
        ("gradcam", ["--classes", ""], ["the name is empty"]),
        ("style_transfer", ["--content", ""], ["the name is empty"]),
        ("writeup", ["--answers", ""], ["the name is empty"]),
        ("gradcam", ["--layer", "features.99"], ["--layer", "features.99"]),
        ("gradcam", ["--captum-layer", "no"], ["--captum-layer", "no"]),
        ("fooling_image", ["--index", "99"], ["--index 99", "0 to 4"]),
        ("fooling_image", ["--target", "1000"], ["class 1000"]),
        ("fooling_image", ["--target", "no such class"], ["'no such class'"]),
        ("class_visualization", ["--target", "187", "1000"], ["class 1000"]),
        ("class_visualization", ["--target", "terrier"], ["'terrier' is ambiguous"]),
    ],
)
def test_an_option_that_cannot_be_used(tmp_path, capsys, script, arguments, message):
    main = importlib.import_module(script).main
    try:
        status = main([*arguments, "--quiet", "--out", str(tmp_path)])
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2
    one_line(capsys, *message)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_ends_the_process_with_2(tmp_path):
    assert_one_line_error(
        run_script("saliency_map.py", "--steps", "1001", "--out", tmp_path),
        "--steps",
        "at most 1000",
    )


def test_a_gradient_that_is_not_finite(tmp_path, capsys):
    options = [
        "--l2-reg",
        "9e18",
        "--learning-rate",
        "9e18",
        "--show-every",
        "99",
        "--quiet",
        "--out",
        str(tmp_path),
    ]
    assert class_visualization.main(options) == 2
    one_line(capsys, "gradient is not finite")


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, figure", [("saliency_map", "saliency_captum.png"), ("gradcam", "figure1.png")]
)
def test_a_folder_in_the_way_is_told_before_any_figure_is_written(tmp_path, capsys, script, figure):
    (tmp_path / figure).mkdir()
    (tmp_path / "saliency_map.png").write_bytes(b"an earlier result")
    assert importlib.import_module(script).main([*RANDOM, "--out", str(tmp_path)]) == 2
    one_line(capsys, figure, "is a folder")
    assert (tmp_path / "saliency_map.png").read_bytes() == b"an earlier result"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([figure, "saliency_map.png"])


@pytest.fixture
def photo(tmp_path) -> Path:
    return Path(shutil.copy(package_file("skimage", "data/chelsea.png"), tmp_path / "chelsea.png"))


def with_earlier_result(folder: Path) -> None:
    folder.mkdir()
    (folder / "saliency_map.png").write_text("an earlier result")


def untouched(folder: Path) -> bool:
    """Whether the folder holds the earlier result and nothing else."""
    return [(p.name, p.read_text()) for p in folder.iterdir()] == [
        ("saliency_map.png", "an earlier result")
    ]


def prepare(folder: Path) -> None:
    """A folder of bad input."""
    for name, content in (
        ("empty.jpg", b""),
        ("text.jpg", b"Dear Sir or Madam"),
        ("text.pth", b"text"),
        ("bomb.pth", pickle.dumps(Bomb(folder / "executed"))),
    ):
        (folder / name).write_bytes(content)
    (folder / "cut.png").write_bytes(
        package_file("skimage", "data/coffee.png").read_bytes()[:20000]
    )
    os.mkfifo(folder / "pipe")
    (folder / "nothing").mkdir()
    (folder / "holiday" / "day 1").mkdir(parents=True)
    (folder / "none" / "below").mkdir(parents=True)
    (folder / "none" / "notes.txt").write_text("notes")
    torch.save({"fc.weight": torch.zeros(2, 2)}, folder / "other.pth")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--images", "absent.jpg"], ["'absent.jpg': no such file"]),
        (["--images", "empty.jpg"], ["empty.jpg", "no image format"]),
        (["--images", "text.jpg"], ["text.jpg", "no image format"]),
        (["--images", "cut.png"], ["cut.png", "truncated"]),
        (["--images", "pipe"], ["'pipe' is not a file"]),
        (["--images", "nothing"], ["folder 'nothing' holds no image"]),
        (["--images", "none"], ["folder 'none' holds no image"]),
        (["--images", ""], ["is empty"]),
        (["--images", "https://example.org/cat.jpg"], ["is a web address"]),
        (["--images", "holiday"], ["its subfolders are not searched, but 'holiday/*/' names all"]),
        (["--images", "*.gif"], ["no file or folder fits the pattern '*.gif'"]),
        (["--images", "chelsea.png", "absent.jpg"], ["absent.jpg"]),
        (["--images", "chelsea.png", "--labels", "unicorn"], ["unknown class 'unicorn'"]),
        (["--images", "chelsea.png", "--labels", "dog"], ["'dog' is ambiguous", "give the id"]),
        (
            ["--images", "chelsea.png", "--labels", "1000"],
            ["class 1000 is out of range; ids go from 0 to 999"],
        ),
        (["--images", "chelsea.png", "--labels", "-1"], ["class -1 is out of range"]),
        (["--images", "chelsea.png", "--labels", ""], ["empty class name"]),
        (
            ["--images", "chelsea.png", "--labels", "1", "2"],
            ["2 labels for 1 photos; give one for each"],
        ),
        (["--images", "chelsea.png", "chelsea.png", "--labels", "1"], ["1 labels for 2 photos"]),
        (["--arch", "squeezenet9"], ["unknown network 'squeezenet9'; did you mean"]),
        (["--weights", "absent.pth"], ["weights 'absent.pth': no such file"]),
        (["--weights", "nothing"], ["weights 'nothing': a folder, not a file"]),
        (["--weights", "text.pth"], ["weights 'text.pth': not a readable state dict"]),
        (["--weights", "bomb.pth"], ["weights 'bomb.pth': refused"]),
        (
            ["--weights", "other.pth"],
            ["'other.pth' do not fit squeezenet1_1", "Missing key(s)", "features.0.weight"],
        ),
        (["--arch", "resnet18", "--weights", "bundled"], ["SqueezeNet 1.1's, not resnet18's"]),
        (["--device", "quantum"], ["unknown device 'quantum'"]),
        (["--device", "cuda:77"], ["device cuda:77", "use cpu or auto"]),
        (["--out", "text.jpg"], ["cannot write into the folder 'text.jpg'"]),
        (["--out", "text.jpg/below"], ["cannot write into the folder"]),
        (["--out", "/proc/x"], ["cannot write into the folder"]),
    ],
)
def test_bad_input(tmp_path, photo, monkeypatch, capsys, arguments, message):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    with_earlier_result(tmp_path / "out")
    if "--images" not in arguments:
        arguments = ["--images", "chelsea.png", *arguments]
    out = [] if "--out" in arguments else ["--out", "out"]
    assert saliency_map.main([*arguments, *out]) == 2
    one_line(capsys, *message)
    assert untouched(tmp_path / "out")
    assert not (tmp_path / "executed").exists()


def test_weights_that_overflow_are_reported_not_drawn(tmp_path, photo, capsys, bundled_model):
    state = bundled_model.state_dict()
    torch.save(
        {key: state[key] * (1e20 if "features.1" in key else 1) for key in state},
        tmp_path / "huge.pth",
    )
    for more in ([], ["--labels", "285"]):
        assert (
            quick(
                "--images",
                photo,
                "--weights",
                tmp_path / "huge.pth",
                "--out",
                tmp_path / "out",
                *more,
            )
            == 2
        )
        one_line(capsys, "scores are not finite")
        assert list((tmp_path / "out").iterdir()) == []


def test_an_output_folder_without_the_right_to_write(capsys):
    with without_privileges() as folder:
        (folder / "locked").mkdir(mode=0o555)
        for out in (folder / "locked", folder / "locked" / "new"):
            assert quick("--out", out) == 2
            one_line(capsys, "cannot write into the folder", "Permission denied")


def test_a_full_disk(tmp_path, photo, capsys):
    resource = pytest.importorskip("resource")
    with_earlier_result(tmp_path / "out")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # a file that grows further is as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert quick("--images", photo, "--out", tmp_path / "out", "--labels", "285") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    one_line(capsys, "cannot write", "saliency_map.png", "File too large")
    assert untouched(tmp_path / "out")
