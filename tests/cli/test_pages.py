"""One's own photos in the scripts: which are opened and when, their size and proportions, and the
arrays of maps.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import pixels_of, smooth
from networks import small_network
from PIL import Image

import class_visualization
import fooling_image
import gradcam
import saliency_map
import writeup
from adapters.preparation import Preparation
from cli.options import make_parser
from cli.pages import FIGURES, Dataset, figure_saver, maps_file
from cli.run import run
from cli.session import Session
from data_utils import Photos, open_photos
from errors import InputError
from figure_utils import GAP, HEADING_BAND, LABEL_BAND, TITLE_BAND, draw_rows
from files.course import package_file
from image_utils import open_image, to_batch
from report.pages import read_pictures
from visualizers import GradCam, SaliencyMap

QUICK = ["--arch", "shufflenet_v2_x0_5", "--weights", "none"]
TECHNIQUES = ("saliency_map", "gradcam", "guided_backprop", "guided_gradcam")
CAT = package_file("skimage", "data/chelsea.png")  # 451×300
OFFICER = package_file("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")  # 512×600


def dataset(script, *arguments, model=None) -> Dataset:
    """The photos that a script's options name."""
    parser = make_parser("")
    script.add_options(parser)
    return Dataset(Session(parser.parse_args([*map(str, arguments)]), model))


def saliency(*arguments) -> int:
    """saliency_map.py without Captum's figures, in this process."""

    def make_figures(session):
        with maps_file(session) as keep:
            for page in Dataset(session).pages(""):
                save = figure_saver(session, page)
                keep(page, {"saliency_map": saliency_map.draw_manual(session.model, page, save)})

    return run("", saliency_map.add_options, make_figures, [*map(str, arguments)])


def cam(*arguments) -> int:
    """gradcam.py in this process, with few steps of conductance."""
    return gradcam.main([*map(str, arguments), "--steps", "2", "--quiet"])


def names_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def options_of(path: Path) -> dict:
    with Image.open(path) as figure:
        return json.loads(figure.text["Options"])


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a.png (96×64), b.png (64×96), c.png (64×64), d.png (96×64), and a file that is
    no photo.
    """
    (tmp_path / "photos").mkdir()
    for name, size in (("a", (96, 64)), ("b", (64, 96)), ("c", (64, 64)), ("d", (96, 64))):
        smooth(size).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "b2.txt").write_text("text")
    return tmp_path / "photos"


# --- Which photos are opened, and when ---


def test_num_opens_no_more_than_it_needs(folder, caplog):
    broken = smooth().tobytes()
    (folder / "c2.png").write_bytes(broken)
    opened = [photo.name for photo in Photos([folder], num=3)]
    # Three good ones; b2.txt is left out, c2.png is not reached
    assert opened == ["a.png", "b.png", "c.png"]
    assert len(caplog.messages) == 1 and "b2.txt" in caplog.messages[0]
    photos = Photos([folder / "a.png", folder / "c2.png", folder / "absent.png"], num=1)
    assert [photo.name for photo in photos] == ["a.png"]
    with pytest.raises(InputError, match=r"c2\.png"):  # told of before the first photo is used
        Photos([folder / "a.png", folder / "c2.png"], num=2)


def test_a_notice_is_given_once_and_a_folder_without_photos_is_named(folder, caplog):
    photos = Photos([folder])
    assert len(list(photos)) == len(list(photos)) == 4 and len(caplog.messages) == 1
    no_photos = folder / "no_photos"
    no_photos.mkdir()
    (no_photos / "notes.txt").write_text("text")
    photos = iter(Photos([folder, no_photos]))
    assert [next(photos).name for _ in range(4)] == ["a.png", "b.png", "c.png", "d.png"]
    with pytest.raises(InputError, match="no_photos' holds no image"):
        next(photos)


@pytest.mark.slow
def test_a_large_folder_with_num_1_is_quick(tmp_path):
    (tmp_path / "many").mkdir()
    smooth().save(tmp_path / "photo.png")
    for i in range(2000):
        os.link(tmp_path / "photo.png", tmp_path / "many" / f"{i:04}.png")
    begin = time.perf_counter()
    assert len(list(Photos([tmp_path / "many"], num=1))) == 1
    few = time.perf_counter() - begin
    begin = time.perf_counter()
    assert len(list(Photos([tmp_path / "many"], num=200))) == 200
    # Finding 2,000 takes less than opening a hundred.
    assert few < 0.5 * (time.perf_counter() - begin)


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("*.png", ["a.png", "b.png", "c.png", "d.png"]),
        ("[ac].png", ["a.png", "c.png"]),
        ("?.png", ["a.png", "b.png", "c.png", "d.png"]),
        ("../*/c.png", ["c.png"]),
        ("../phot*", ["a.png", "b.png", "c.png", "d.png"]),  # a folder
        ("../**/d.png", ["d.png"]),
    ],
)
def test_wildcards_that_the_shell_left_alone(folder, pattern, names):
    assert [photo.name for photo in Photos([f"{folder}/{pattern}"])] == names


def test_a_pattern_that_is_a_file_s_name_or_fits_nothing(folder):
    smooth((32, 32)).save(folder / "a[1].png")
    smooth((32, 32)).save(folder / "a1.png")
    assert [photo.name for photo in Photos([folder / "a[1].png"])] == ["a[1].png"]
    with pytest.raises(InputError, match=r"^no file or folder fits the pattern '[^\n]*\*\.gif'$"):
        Photos([folder / "*.gif"])


def test_subfolders_and_web_addresses_get_a_sentence_that_helps(tmp_path, folder):
    with pytest.raises(
        InputError, match=r"holds no image; its subfolders are not searched, but '([^\n]*)' names"
    ):
        Photos([tmp_path])
    assert len(list(Photos([f"{tmp_path}/*/"]))) == 4  # what the sentence advises
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match=r"holds no image; its subfolders are not searched"):
        list(Photos([tmp_path]))
    with pytest.raises(
        InputError, match=r"^'https://example\.org/cat\.jpg' is a web address; save the photo"
    ):
        Photos(["https://example.org/cat.jpg"])


@pytest.mark.slow
def test_names_with_bytes_that_are_no_text(tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/photos/\xff\xfe.png"
    (tmp_path / "photos").mkdir()
    with open(name, "wb") as file:  # noqa: PTH123 (pathlib knows no bytes)
        smooth().save(file, format="PNG")
    with open(name + b".txt", "wb") as file:  # noqa: PTH123
        file.write(b"text")
    for images in (tmp_path / "photos", os.fsdecode(name)):
        out = tmp_path / "out"
        assert saliency("--images", images, "--arrays", "--out", out, "--quiet", *QUICK) == 0
        with np.load(out / "maps.npz") as maps:
            assert maps["names"].tolist() == ["\udcff\udcfe.png"]
    assert cam("--images", os.fsdecode(name), "--arrays", "--out", out, *QUICK) == 0
    assert os.fsencode(out) + b"/gradcam_overlays/\xff\xfe.png" in [
        os.fsencode(path) for path in (out / "gradcam_overlays").iterdir()
    ]
    assert capsys.readouterr() == ("", "")
    assert saliency("--images", os.fsdecode(name) + ".txt", "--out", out) == 2
    assert "\\udcff\\udcfe.png.txt' cannot be read as an image" in capsys.readouterr().err


# --- Size and proportions ---


def test_whole_photos_keep_their_proportions(tmp_path):
    (whole,) = Photos([CAT], whole=True)
    assert whole.pixels.shape == (224, 337, 3)
    expected = open_image(CAT).resize((337, 224), Image.Resampling.BICUBIC)
    assert np.array_equal(whole.pixels, expected)
    (small,) = Photos([OFFICER], size=64, whole=True)
    assert small.pixels.shape == (75, 64, 3)
    (square,) = Photos([OFFICER], size=64)
    assert np.array_equal(square.pixels, open_photos([OFFICER], size=64)[0])
    Image.new("RGB", (21, 1)).save(tmp_path / "thin.png")
    assert len(list(Photos([tmp_path / "thin.png"]))) == 1
    with pytest.raises(
        InputError,
        match=r"thin\.png' is 21×1 pixels; as a whole its long side may be at most 20 times",
    ):
        list(Photos([tmp_path / "thin.png"], whole=True))


def test_photos_are_framed_as_the_network_s_are(tmp_path):
    model = small_network()
    model.photo_preparation = Preparation(size=48, interpolation="bilinear")
    own = dataset(saliency_map, "--images", CAT, "--whole", "--out", tmp_path, model=model)
    (page,) = own.pages("")
    expected = open_image(CAT).resize((72, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(page.X[0], expected) and own.example.shape == (1, 3, 48, 72)
    black = dataset(class_visualization, "--out", tmp_path, model=model).example
    assert black.shape == (1, 3, 48, 48)
    given = dataset(saliency_map, "--images", CAT, "--size", 32, "--out", tmp_path, model=model)
    assert given.example.shape == (1, 3, 32, 32)


def test_pages_of_whole_photos(tmp_path, folder, bundled_model):
    own = dataset(
        gradcam, "--images", folder, "--whole", "--size", 64, "--out", tmp_path, model=bundled_model
    )
    (page,) = own.pages("")
    assert [x.shape for x in page.X] == [(64, 96, 3), (96, 64, 3), (64, 64, 3), (64, 96, 3)]
    maps = page.compute(
        lambda images, y: SaliencyMap().compute_saliency_maps(images, y, bundled_model)
    )
    for x, label, found in zip(page.X, page.y, maps, strict=True):  # one at a time
        images = to_batch(x[None])
        assert label == bundled_model(images).argmax()
        assert torch.equal(
            found, SaliencyMap().compute_saliency_maps(images, label[None], bundled_model)[0]
        )
    same = dataset(
        saliency_map,
        "--images",
        folder / "a.png",
        folder / "d.png",
        "--whole",
        "--out",
        tmp_path,
        model=bundled_model,
    )
    (page,) = same.pages("")  # of one size: together
    assert len(page.X) == 2 and [images.shape for images in page.batches] == [(2, 3, 224, 336)]
    without = dataset(
        saliency_map, "--images", folder, "--size", 64, "--out", tmp_path, model=bundled_model
    )
    assert next(without.pages("")).batches[0].shape == (4, 3, 64, 64)


@pytest.mark.slow
def test_figures_of_whole_photos_pad_to_a_common_tile(tmp_path, folder):
    out = tmp_path / "out"
    assert saliency("--images", folder, "--whole", "--size", 200, "--out", out, *QUICK) == 0
    with Image.open(out / "saliency_map.png") as figure:
        assert figure.size == (
            LABEL_BAND + 4 * (300 + GAP),
            HEADING_BAND + TITLE_BAND + 2 * (300 + GAP) + GAP,
        )
    assert options_of(out / "saliency_map.png") == {"steps": 10, "size": 200, "whole": True}
    tiles = [np.full(shape, 7, np.uint8) for shape in ((200, 300, 3), (300, 200, 3))]
    pixels = np.asarray(draw_rows([("", tiles)], []))
    assert pixels.shape == (300 + 2 * GAP, 2 * (300 + GAP) + GAP, 3)
    first = pixels[:300, GAP : GAP + 300]
    assert (first[50:250] == 7).all() and (first[:50] == 255).all() and (first[250:] == 255).all()
    second = pixels[:300, 300 + 2 * GAP :][:, :300]
    assert (second[:, 50:250] == 7).all() and (second[:, :50] == 255).all()
    assert (second[:, 250:] == 255).all()


def test_size_and_whole_without_photos_of_one_s_own(tmp_path, course, monkeypatch, caplog):
    monkeypatch.setenv("CS7643_DATA", str(course))
    photos = list(dataset(saliency_map, "--size", 96, "--out", tmp_path).session.photos.photos)
    assert [photo.name for photo in photos] == [f"photo_{i}" for i in range(1, 6)]
    assert {photo.pixels.shape for photo in photos} == {(96, 96, 3)}
    monkeypatch.delenv("CS7643_DATA")
    photos = list(
        dataset(saliency_map, "--whole", "--num", 2, "--out", tmp_path).session.photos.photos
    )
    assert [(photo.name, photo.pixels.shape) for photo in photos] == [
        ("chelsea.png", (224, 337, 3)),
        ("coffee.png", (224, 336, 3)),
    ]
    assert len(caplog.messages) == 1 and "five that installed packages ship" in caplog.text


@pytest.mark.slow
def test_every_script_with_photos_takes_size_and_whole(tmp_path, capsys):
    images = ["--images", str(CAT), str(OFFICER)]
    more = ["--size", "64", "--whole", "--quiet"]
    assert saliency_map.main([*images, *more, "--steps", "2", "--out", str(tmp_path)]) == 0
    assert cam(*images, *more, "--out", tmp_path) == 0
    # Tiles of 96×75, enlarged three times
    with Image.open(tmp_path / "attributions_captum.png") as figure:
        assert figure.size == (
            LABEL_BAND + 2 * (288 + GAP),
            HEADING_BAND + TITLE_BAND + 4 * (225 + GAP) + GAP,
        )
    assert options_of(tmp_path / "gradcam.png")["whole"] is True
    assert (
        fooling_image.main(
            [*images, *more, "--index", "1", "--max-iter", "3", "--out", str(tmp_path)]
        )
        == 0
    )
    with Image.open(tmp_path / "fooling_image_valid.png") as valid:
        assert valid.size == (64, 75)
    report = ["--only", "saliency_map", "--out", str(tmp_path / "report"), *images, *more]
    assert writeup.main(report) == 0
    assert options_of(tmp_path / "report" / "saliency_map.png")["size"] == 64
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_size_that_the_network_does_not_take_is_one_line(tmp_path, capsys):
    for more in (["--labels", "1"], []):
        arguments = [
            "--images",
            str(CAT),
            "--size",
            "64",
            "--arch",
            "vit_b_32",
            "--weights",
            "none",
            *more,
        ]
        assert saliency(*arguments, "--out", tmp_path) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        assert "the network vit_b_32, on a picture of 64×64: " in err
    assert not names_in(tmp_path)
    with pytest.raises(SystemExit):
        saliency_map.main(["--size", "8"])
    assert (
        "--size: '8' is out of range; it must be at least 16 and at most 2048"
        in capsys.readouterr().err
    )


# --- Each Grad-CAM map alone ---


@pytest.mark.slow
def test_grad_cam_maps_scaled_alone(tmp_path, bundled_model):
    images = ["--images", CAT, OFFICER]
    for more, alone in (([], False), (["--per-image"], True), (["--whole"], True)):
        own = dataset(gradcam, *images, *more, "--out", tmp_path, model=bundled_model)
        (page,) = own.pages("")
        maps = gradcam.compute_maps(
            bundled_model,
            page,
            "features.12",
            TECHNIQUES,
            own.options.per_image or own.options.whole,
        )
        assert ([m.max() for m in maps["gradcam"]] == [1, 1]) == alone
        if not own.options.whole:
            expected = GradCam().grad_cam(page.batches[0], page.y, bundled_model, per_image=alone)
            assert np.array_equal(maps["gradcam"], expected)
            product = GradCam().guided_grad_cam(
                page.batches[0], page.y, bundled_model, per_image=alone
            )
            assert np.array_equal(maps["guided_gradcam"], product)


@pytest.mark.slow
def test_the_report_says_how_the_maps_are_scaled(tmp_path):
    assert cam("--images", CAT, "--per-image", "--out", tmp_path / "alone", *QUICK) == 0
    assert cam("--images", CAT, "--out", tmp_path / "together", *QUICK) == 0
    question = next(question for question in writeup.QUESTIONS if question.name == "gradcam")
    for name, words in (
        ("alone", "scaled each alone."),
        ("together", "scaled over the photos together."),
    ):
        (picture,) = read_pictures([tmp_path / name / "gradcam.png"])
        assert words in question.caption(picture.name, picture.made_with)


# --- Arrays ---


@pytest.mark.slow
def test_arrays_of_every_technique(tmp_path, folder, bundled_model):
    out = tmp_path / "out"
    images = ["--images", folder, "--num", 3, "--chunk", 2, "--labels", 285, 1, 2]
    assert cam(*images, "--arrays", "--out", out, "--weights", "bundled") == 0
    own = dataset(gradcam, *images, "--out", out, model=bundled_model)
    expected = [
        gradcam.compute_maps(bundled_model, page, "features.12", TECHNIQUES, False)
        for page in own.pages("")
    ]
    with np.load(out / "maps.npz") as maps:
        assert sorted(maps) == [
            "gradcam", "guided_backprop", "guided_gradcam", "labels", "names", "saliency_map",
        ]  # fmt: skip
        assert maps["labels"].tolist() == [285, 1, 2] and maps["labels"].dtype == np.int64
        assert maps["names"].tolist() == ["a.png", "b.png", "c.png"]
        for technique in expected[0]:
            together = np.concatenate([page[technique] for page in expected])
            assert maps[technique].dtype == np.float32 and np.array_equal(maps[technique], together)
    overlays = [f"gradcam_overlays/{name}.png" for name in "abc"]
    assert [name for name in names_in(out) if "overlays" in name] == overlays
    first = next(own.pages(""))
    tiles = gradcam.overlaid(first, expected[0]["gradcam"])
    assert len(tiles) == 2
    assert all(
        np.array_equal(pixels_of(out / name), tile)
        for name, tile in zip(overlays[:2], tiles, strict=True)
    )
    assert {"gradcam.png", "gradcam_2.png", "figure1.png", "layer_conductance_captum_2.png"} < {
        *names_in(out)
    }


@pytest.mark.slow
def test_arrays_of_whole_photos(tmp_path, folder):
    out = tmp_path / "out"
    assert (
        saliency("--images", folder, "--whole", "--size", 64, "--arrays", "--out", out, *QUICK) == 0
    )
    with np.load(out / "maps.npz") as maps:  # one for each photo, since their sizes differ
        shapes = {name: maps[name].shape for name in maps if name.startswith("saliency")}
    assert shapes == {
        "saliency_map_0": (64, 96),
        "saliency_map_1": (96, 64),
        "saliency_map_2": (64, 64),
        "saliency_map_3": (64, 96),
    }
    assert (
        saliency(
            "--images", folder / "a.png", "--whole", "--size", 64, "--arrays", "--out", out, *QUICK
        )
        == 0
    )
    with np.load(out / "maps.npz") as maps:
        assert maps["saliency_map"].shape == (1, 64, 96)


@pytest.mark.slow
def test_photos_of_one_name_keep_their_overlays_apart(tmp_path):
    folders = [tmp_path / name for name in "xyz"]
    names = ["cat.png", "Cat.jpg", "gradcam.png"], ["cat.png", "cat_2.png"], ["n" * 251 + ".png"]
    for path, photos in zip(folders, names, strict=True):
        path.mkdir()
        for name in photos:
            smooth((32, 32)).save(path / name)
    assert (
        cam("--images", *folders, "--size", 32, "--arrays", "--out", tmp_path / "out", *QUICK) == 0
    )
    overlays = [path.name for path in (tmp_path / "out" / "gradcam_overlays").iterdir()]
    assert sorted(overlays) == sorted(
        ["Cat.png", "cat_2.png", "gradcam.png", "cat_3.png", "cat_2_2.png", "n" * 50 + ".png"]
    )


@pytest.mark.slow
def test_figures_of_the_first_pages_only(tmp_path, folder, monkeypatch):
    assert FIGURES == 10
    monkeypatch.setattr("cli.pages.FIGURES", 2)
    images = ["--images", folder, "--size", 32, "--chunk", 1, *QUICK]

    def pages(*more) -> int:
        out = tmp_path / "-".join(["out", *map(str, more)])
        assert saliency(*images, *more, "--out", out) == 0
        if "--arrays" in more:
            with np.load(out / "maps.npz") as maps:
                assert len(maps["saliency_map"]) == len(maps["names"]) == 4
        return sum(name.endswith(".png") for name in names_in(out))

    assert pages() == pages("--arrays", "--figures", 99) == 4 and pages("--arrays") == 2
    assert pages("--figures", 3) == pages("--arrays", "--figures", 3) == 3


def test_a_run_that_fails_leaves_no_arrays(tmp_path, folder, capsys):
    (folder / "z.png").write_bytes((folder / "a.png").read_bytes()[:3000])
    out = tmp_path / "out"
    earlier = out / "maps.npz"
    out.mkdir()
    earlier.write_bytes(b"earlier")
    images = [folder / "a.png", folder / "b.png", folder / "z.png"]
    assert saliency("--images", *images, "--chunk", 2, "--arrays", "--out", out, *QUICK) == 2
    assert "z.png' cannot be read as an image" in capsys.readouterr().err
    assert earlier.read_bytes() == b"earlier" and names_in(out) == ["maps.npz", "saliency_map.png"]
