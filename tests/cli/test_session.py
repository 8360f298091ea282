"""The session: photos and their classes, pages, folders, layers, and the figures that it saves."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL, options, pixels_of, tiles
from PIL import Image

import gradcam
from cli.options import make_parser
from cli.pages import Dataset, Page
from cli.session import Session
from errors import InputError
from figure_utils import class_title, tile
from image_utils import to_batch


@pytest.fixture
def folder(tmp_path, photos) -> Path:
    """A folder with the five photos, by name in their order."""
    (tmp_path / "photos").mkdir()
    for i, photo in enumerate(photos[0]):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{i}.png", compress_level=1)
    return tmp_path / "photos"


# --- Network and folders ---


def test_the_environment_s_weights_are_for_squeezenet_only(tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEEZENET_WEIGHTS", "none")
    assert Session(options("--out", tmp_path)).model.weights_name == "random (seed 0)"
    monkeypatch.setenv("SQUEEZENET_WEIGHTS", "bundled")
    session = Session(
        options("--out", tmp_path, "--arch", SMALL, "--weights", "none", "--device", "cpu")
    )
    assert session.model.arch == SMALL and session.device == torch.device("cpu")


def test_the_seed_is_set(tmp_path):
    draws = []
    for seed in (3, 3, 4):
        session = Session(options("--out", tmp_path, "--seed", seed))
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    session.for_script(session.options)
    assert torch.equal(torch.rand(3), draws[2])


def test_output_folders(tmp_path, monkeypatch):
    assert Session(options("--out", tmp_path / "a" / "b")).out == tmp_path / "a" / "b"
    assert (tmp_path / "a/b").is_dir()
    assert Session(options("--out", tmp_path / "a")).folder("other") == tmp_path / "a"
    monkeypatch.setattr("cli.session.ROOT", tmp_path / "project")
    assert Session(options()).folder("other") == tmp_path / "project" / "other"
    assert sorted(p.name for p in (tmp_path / "project").iterdir()) == ["other", "visualization"]
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        with pytest.raises(InputError, match=r"^cannot write into the folder '[^\n]*$"):
            Session(options("--out", out))


def test_layers_by_option(tmp_path, bundled_model):
    def layers(*arguments):
        parser = make_parser("")
        gradcam.add_options(parser)
        session = Session(
            parser.parse_args(["--out", str(tmp_path), *arguments]), model=bundled_model
        )
        return tuple(layer.name for layer in gradcam.find_layers(Dataset(session)))

    assert layers() == ("features.12", "features.3")
    assert layers("--captum-layer", "features.4.expand3x3") == (
        "features.12",
        "features.4.expand3x3",
    )
    with pytest.raises(InputError, match=r"^--captum-layer: layer must be .*'features\.99'"):
        layers("--captum-layer", "features.99")


# --- Photos and classes ---


def test_photos_of_one_s_own_get_the_predicted_classes(
    tmp_path, folder, photos, bundled_model, batch
):
    session = Session(
        options("--images", folder, "--out", tmp_path, "--chunk", 2), model=bundled_model
    )
    data = Dataset(session)
    predicted = bundled_model(batch[0]).argmax(1)
    assert np.array_equal([photo.pixels for photo in session.photos.photos], photos[0])
    assert data.labels is None
    pages = list(data.pages(""))
    assert [len(page.X) for page in pages] == [2, 2, 1]
    assert [page.number for page in pages] == [1, 2, 3]
    assert [page.file_name("a.png") for page in pages] == ["a.png", "a_2.png", "a_3.png"]
    assert torch.equal(torch.cat([images for page in pages for images in page.batches]), batch[0])
    assert np.array_equal(np.concatenate([page.X for page in pages]), photos[0])
    y = torch.cat([page.y for page in pages])
    assert torch.equal(y, predicted) and y.dtype == torch.int64
    titles = [title for page in pages for title in page.titles]
    assert titles == [class_title(data.class_names, label) for label in predicted]


def test_labels_and_numbers_of_photos(tmp_path, folder, bundled_model):
    def data(*arguments):
        return Dataset(
            Session(options("--out", tmp_path, "--images", *arguments), model=bundled_model)
        )

    given = data(
        folder / "1.png",
        folder / "1.png",
        folder / "0.png",
        "--labels",
        "espresso",
        "7",
        "egyptian",
    )
    assert given.labels.tolist() == [967, 7, 285] and given.labels.dtype == np.int64
    first, second, _ = given.session.photos.photos
    assert np.array_equal(first.pixels, second.pixels)
    assert [page.titles for page in given.pages("")] == [["espresso", "cock", "Egyptian cat"]]
    assert [len([*data(folder, "--num", num).session.photos.photos]) for num in (3, 99)] == [3, 5]
    for labels in (["1"], ["1"] * 6):
        with pytest.raises(
            InputError, match=f"--labels: {len(labels)} labels for 5 photos; give one for each"
        ):
            _ = data(folder, "--labels", *labels).labels
    for label, message in (
        ("cat", "ambiguous"),
        ("1000", "out of range"),
        ("-1", "out of range"),
        ("", "empty"),
    ):
        with pytest.raises(InputError, match=message):
            list(data(folder, "--labels", label, "1", "1", "1", "1").pages(""))


def test_without_photos_of_one_s_own_the_course_s(tmp_path, course, bundled_model):
    data = Dataset(Session(options("--out", tmp_path), model=bundled_model))
    assert len(data.session.photos.photos) == 5 and data.labels.tolist() == [958, 85, 244, 182, 294]
    assert data.title(958) == "hay" and data.class_id("hay") == 958
    data = Dataset(
        Session(options("--out", tmp_path, "--num", 2, "--labels", 1, 2), model=bundled_model)
    )
    assert len(data.session.photos.photos) == 2 and data.labels.tolist() == [1, 2]
    (page,) = data.pages("")
    assert page.y.tolist() == [1, 2] and page.titles == [data.title(1), data.title(2)]


def test_damaged_weights_are_reported_before_anything_is_predicted(tmp_path, folder, bundled_model):
    model = copy.deepcopy(bundled_model)
    model.classifier[1].bias[5] = torch.inf
    with pytest.raises(InputError, match="scores are not finite"):
        list(
            Dataset(Session(options("--out", tmp_path, "--images", folder), model=model)).pages("")
        )


def test_scores_and_probabilities(tmp_path, bundled_model, batch):
    data = Dataset(Session(options("--out", tmp_path), model=bundled_model))
    scores = data.scores(batch[0][:2])
    assert torch.equal(scores, bundled_model(batch[0][:2])) and not scores.requires_grad
    chances = scores.softmax(dim=1)
    page = Page([], [batch[0][:2]], torch.tensor([3, 4]), ["a", "b"], chances)
    assert page.probabilities() == [
        p[label].item() for p, label in zip(chances, (3, 4), strict=True)
    ]


def test_predictions():
    chances = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]).softmax(dim=1)
    page = Page([], [], torch.tensor([2, 0]), ["a", "b"], chances, ["a.png", "\udcff.png"])
    assert page.predictions() == [
        ["a.png", 2, 1, "0.6652", 2, "0.2447"],
        ["\\udcff.png", 0, 0, "0.9094", 1, "0.0453"],
    ]
    one = Page([], [], torch.tensor([0]), ["a"], torch.tensor([[1.0]]), ["a.png"])
    assert one.predictions() == [["a.png", 0, 0, "1.0000"]]


# --- Figures ---


@pytest.mark.slow
def test_figures_record_how_they_were_made(tmp_path, bundled_model, photos):
    chosen = options("--out", tmp_path, "--seed", 5, "--num", 2)
    chosen.steps, chosen.content = 7, Path("/somewhere/cat.jpg")  # as a script's own
    session = Session(chosen, model=bundled_model)
    session.save(Image.new("RGB", (3, 2)), "picture.png", layer="features.3")
    session.save_image(to_batch(photos[0][:1]), "image.png")
    session.save_image(to_batch(photos[0][:1]), "image.png", tmp_path / "folder")
    session.save_rows("rows.png", [("", tiles(1, 9, 9))], [""], "Heading")
    facts = {"steps": 7, "content": "cat.jpg"}  # no --num, --seed …, which all scripts have
    for name, more in (
        ("picture.png", {"layer": "features.3"}),
        ("image.png", {}),
        ("folder/image.png", {}),
        ("rows.png", {}),
    ):
        with Image.open(tmp_path / name) as picture:
            assert picture.text["Network"] == "squeezenet1_1" and picture.text["Seed"] == "5"
            assert picture.text["Weights"] == bundled_model.weights_name
            assert "torch " in picture.text["Software"]
            assert json.loads(picture.text["Options"]) == facts | more
    assert np.array_equal(pixels_of(tmp_path / "image.png"), photos[0][0])
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")}
    assert written == {"picture.png", "image.png", "folder/image.png", "rows.png"}


def test_pictures_of_photos_keep_their_names_apart(tmp_path, bundled_model):
    session = Session(options("--out", tmp_path), model=bundled_model)
    names = ["a/cat.jpg", "CAT.png", "dog.png", "cat.webp", f"{'x' * 300}.png"]
    session.save_singly([Image.new("RGB", (2, 2))] * 5, names, "maps")
    written = {path.name for path in (tmp_path / "maps").iterdir()}
    assert written == {"cat.png", "CAT_2.png", "dog.png", "cat_3.png", f"{'x' * 50}.png"}


def test_tiles(photos):
    assert np.array_equal(tile(to_batch(photos[0][:1])), photos[0][0])
    wide = tile(Image.new("RGB", (100, 10), "red"), (50, 20))
    assert wide.shape == (20, 50, 3) and (wide[0] == 255).all() and (wide[10] == (255, 0, 0)).all()
