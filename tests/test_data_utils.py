"""Photos, class names and labels, and getting the course's data into a copy of the project."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import without_privileges
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_utils import (
    Photos,
    find_photos,
    imagenet_classes,
    load_imagenet_val,
    load_images,
    open_photos,
    parse_label,
    read_class_names,
)
from errors import InputError
from files.course import course_file

# --- The photos ---


def test_the_course_s_photos(course, monkeypatch, caplog):
    monkeypatch.setenv("CS7643_DATA", str(course))
    X, y, names = load_imagenet_val()
    assert X.shape == (25, 224, 224, 3) and X.dtype == np.uint8 and y.shape == (25,)
    assert y.dtype == np.int64
    assert sorted(names) == list(range(1000))
    assert all(isinstance(name, str) for name in names.values())
    assert "crane" in names[134] and names[285] == "Egyptian cat"  # the course's map lacks 134
    assert y[:5].tolist() == [958, 85, 244, 182, 294] and names[958] == "hay"
    assert not caplog.records
    first, labels, _ = load_imagenet_val(num=5)
    assert np.array_equal(first, X[:5]) and np.array_equal(labels, y[:5])
    assert len(load_imagenet_val(np.int64(3))[0]) == 3


def test_without_them_five_photos_of_packages(project):
    with pytest.warns(
        UserWarning, match=r"five that installed packages ship.*get_imagenet_val\.sh"
    ) as caught:
        X, y, names = load_imagenet_val()
    assert len(caught) == 1 and caught[0].filename == __file__
    assert X.shape == (5, 224, 224, 3) and X.dtype == np.uint8
    assert y.dtype == np.int64 and y.tolist() == [285, 967, 872, 665, 652]
    assert [names[i] for i in y] == [
        "Egyptian cat",
        "espresso",
        "tripod",
        "moped",
        "military uniform",
    ]
    assert (X[2] == X[2][..., :1]).all()  # the camera photo is grey
    with pytest.warns(UserWarning, match="five"):
        first, labels, _ = load_imagenet_val(2)
    assert np.array_equal(first, X[:2]) and labels.tolist() == [285, 967]


def test_more_photos_than_there_are(course):
    with pytest.warns(UserWarning, match="photos: 25 are there, 100 were asked for"):
        assert len(load_imagenet_val(100)[0]) == 25
    assert len(load_imagenet_val(0)[0]) == 0


def test_photos_drawn_at_random(course):
    """The course's edition of 2023."""
    X, y, names = load_imagenet_val()
    drawn, labels, first, all_names = load_images(7, seed=3)
    places = [next(i for i in range(25) if np.array_equal(X[i], photo)) for photo in drawn]
    assert len(set(places)) == 7 and places != sorted(places)
    assert y[places].tolist() == labels.tolist()
    assert first == [names[label].split(",")[0] for label in labels] and all_names == names
    again, other = load_images(7, seed=3), load_images(7, seed=4)
    assert np.array_equal(again[0], drawn) and not np.array_equal(other[0], drawn)
    assert np.array_equal(load_images()[0], X) and np.array_equal(load_images()[1], y)


def test_the_first_of_the_course_s_photos_come_with_their_labels(course):
    chosen, (X, y, names) = find_photos(None, num=2), load_imagenet_val()
    assert np.array_equal([photo.pixels for photo in chosen.photos], X[:2])
    assert chosen.labels.tolist() == y[:2].tolist() and chosen.class_names == names


def test_the_real_network_knows_the_package_photos(real_model, batch):
    """The ids are the photos' own: the right class is among the five best for most, and at least
    among the best 50.
    """
    scores = real_model(batch[0])
    ranks = (scores > scores.gather(1, batch[1][:, None])).sum(1)
    assert (ranks < 5).sum() >= 4 and ranks.max() < 50


def test_of_an_unverified_file_nothing_is_unpickled(project, tmp_path, caplog):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (marker,)

    (project / "data").mkdir()
    path, names = project / "data/imagenet_val_25.npz", np.array([Bomb()])
    np.savez(path, X=np.zeros((1, 224, 224, 3), np.uint8), y=np.zeros(1), label_map=names)
    X, y, class_names = load_imagenet_val()
    assert (X.shape, y.tolist(), len(class_names)) == ((1, 224, 224, 3), [0], 1000)
    assert "is not the course's file" in caplog.text and not marker.exists()
    with np.load(path, allow_pickle=True) as file:  # the bomb is a real one
        file["label_map"]
    assert marker.exists()


@pytest.mark.parametrize(
    "arrays",
    [
        None,
        {"X": np.zeros((2, 224, 224), np.uint8)},
        {"X": np.zeros((1, 8, 8, 3))},
        {"photos": np.zeros(2)},
    ],
)
def test_a_file_of_photos_that_holds_something_else_is_named(tmp_path, arrays):
    path = tmp_path / "photos.npz"
    path.write_bytes(b"another file") if arrays is None else np.savez(
        path, **{"y": np.zeros(2, np.int64)} | arrays
    )
    with pytest.raises(InputError, match=r"photos\.npz"):
        load_imagenet_val(path=path)
    with pytest.raises(InputError, match=r"absent\.npz"):
        load_imagenet_val(5, tmp_path / "absent.npz")


@pytest.mark.parametrize("folder", ["cs231n/datasets", "cs7643/datasets", "datasets", "."])
def test_photos_are_found_where_the_courses_notebooks_keep_them(project, course, folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(course / "imagenet_val_25.npz", folder)
    assert (
        len(load_imagenet_val()[0])
        == len(load_imagenet_val(path=f"{folder}/imagenet_val_25.npz")[0])
        == 25
    )


def test_class_names_are_torchvision_s():
    names = imagenet_classes()
    assert list(names) == list(range(1000)) and names[0] == "tench"
    assert names[999] == "toilet tissue"


# --- One's own photos ---


def test_photos_are_cut_to_the_middle_square(tmp_path):
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, 20:80] = (0, 200, 0)  # the middle square is green
    for turned in (False, True):
        Image.fromarray(pixels.swapaxes(0, 1) if turned else pixels).save(tmp_path / "photo.png")
        X = open_photos([tmp_path / "photo.png"])
        assert X.shape == (1, 224, 224, 3) and X.dtype == np.uint8 and X.flags["C_CONTIGUOUS"]
        assert (X[:, 12:-12, 12:-12] == (0, 200, 0)).all()
    assert open_photos([tmp_path / "photo.png"], size=32).shape == (1, 32, 32, 3)
    assert open_photos([]).shape == (0, 224, 224, 3)
    assert len(open_photos(iter([tmp_path, tmp_path / "photo.png"]))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("width, height", [(1, 1), (1, 5000), (5000, 1), (223, 225), (6000, 4000)])
def test_any_size_of_photo(tmp_path, width, height):
    Image.new("RGB", (width, height), (9, 99, 199)).save(tmp_path / "photo.bmp")
    X = open_photos([str(tmp_path / "photo.bmp")])
    assert X.shape == (1, 224, 224, 3) and (X == (9, 99, 199)).all()


def test_a_whole_photo_may_be_twenty_times_as_long_as_wide(tmp_path):
    for length in (20, 21):
        Image.new("RGB", (1, length)).save(tmp_path / f"{length}.png")
    (photo,) = Photos([tmp_path / "20.png"], size=2, whole=True)
    assert photo.pixels.shape == (40, 2, 3)
    with pytest.raises(InputError, match=r"21\.png.*20 times"):
        list(Photos([tmp_path / "21.png"], size=2, whole=True))


def fill(folder: Path) -> None:
    """A folder with three photos, by name red, green, blue, and much that is none."""
    folder.mkdir()
    for name, colour in (("b.jpg", (0, 200, 0)), ("a 1.png", (200, 0, 0)), ("ü.webp", (0, 0, 200))):
        Image.new("RGB", (9, 9), colour).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a 1.png").read_bytes()[:50])
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.png").write_text("hidden")
    (folder / "more").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "more" / "c.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere")


def test_of_a_folder_the_images_are_taken_and_the_rest_is_named(tmp_path, caplog):
    fill(tmp_path / "folder")
    X = open_photos(
        [tmp_path / "folder", tmp_path / "folder" / "b.jpg", tmp_path / "folder" / "b.jpg"]
    )
    main_colour = X[:, 100, 100].argmax(1).tolist()
    assert main_colour == [0, 1, 2, 1, 1]  # by name; a photo given twice is there twice
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 4
    assert all(line.startswith("left out: ") and "\n" not in line for line in named)
    for name in ("broken.png", "notes.txt", "pipe.png", "dangling.png"):
        assert sum(name in line for line in named) == 1
    # a bad file that was asked for is no accident
    with pytest.raises(InputError, match=r"broken\.png"):
        open_photos([tmp_path / "folder" / "b.jpg", tmp_path / "folder" / "broken.png"])


@pytest.mark.parametrize("name", ["", "x" * 300, "absent.png", "null\0.png"])
def test_names_of_nothing(name):
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        open_photos([name])


def test_folders_that_cannot_be_searched(monkeypatch):
    with without_privileges() as folder:
        (folder / "locked").mkdir(mode=0)
        for path in (
            folder / "locked",
            folder / "locked" / "photo.png",
            folder / "locked" / "below",
        ):
            with pytest.raises(InputError, match=r"Permission denied$"):
                open_photos([path])
        monkeypatch.setenv("CS7643_DATA", str(folder / "locked" / "course"))
        monkeypatch.setattr("files.course.ROOT", folder)
        assert course_file("data/imagenet_val_25.npz") is None
        (folder / "locked").chmod(0o755)


@pytest.mark.parametrize("content", [(), ("notes.txt",)])
def test_a_folder_without_an_image_is_named(tmp_path, content):
    for name in content:
        (tmp_path / name).write_text("text")
    with pytest.raises(InputError, match=r"^the folder '[^\n]*' holds no image$"):
        open_photos([tmp_path])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: load_imagenet_val(-1), "num .*got -1"),
        (lambda: load_imagenet_val(2.5), "num .*got 2.5"),
        (lambda: open_photos("photo.jpg"), "paths .*got the single one 'photo.jpg'"),
        (lambda: open_photos([], size=0), "size .*got 0"),
    ],
)
def test_arguments_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- Labels ---

NAMES = imagenet_classes()


@pytest.mark.parametrize(
    "text, label",
    [
        ("285", 285),
        (" 0 ", 0),
        ("999", 999),
        ("Egyptian cat", 285),
        ("egyptian", 285),
        ("  TIGER   CAT ", 282),
        ("tench", 0),
        ("quail", 85),
        ("great white", 2),
        ("tiger", 292),
        ("Cardigan", 264),
        ("cardigan", 474),
    ],
)
def test_labels(text, label):
    assert parse_label(text, NAMES) == label


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "cat",
            "class 'cat' is ambiguous: 143 oystercatcher, 282 tiger cat, 283 Persian cat, .*; give "
            "the id",
        ),
        ("dog", r"class 'dog' is ambiguous: .* and \d+ more; give the id"),
        ("setter", "212 English setter, 213 Irish"),
        ("1000", "class 1000 is out of range; ids go from 0 to 999"),
        ("-1", "class -1 is out of range"),
        ("9" * 5000, "unknown class"),
        ("", "empty class name"),
        ("  \t", "empty class name"),
        ("unicorn", "unknown class 'unicorn'"),
        ("3.5", "unknown class"),
        ("²", "unknown class"),
        ("+5", "unknown class"),
        ("a\nb", "unknown class"),
        ("--", "unknown class"),
    ],
)
def test_labels_that_are_none(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_label(text, NAMES)
    assert "\n" not in str(caught.value)


def test_synonyms_of_the_course_s_names():
    names = {
        6: "stingray",
        7: "cock",
        292: "tiger, Panthera tigris",
        282: "tiger cat",
        5: "ray, torpedo",
    }
    assert parse_label("panthera TIGRIS", names) == parse_label("tiger", names) == 292
    assert parse_label("ray", names) == 5  # a synonym before a part
    assert parse_label("panthera", names) == 292
    with pytest.raises(
        InputError, match="class 'crane' is ambiguous: 134 crane, 517 crane; give the id"
    ):
        parse_label("crane", {134: "crane", 517: "crane", 3: "crane fly"})


@pytest.mark.slow
def test_every_id_and_every_whole_name_is_understood():
    for label, name in NAMES.items():
        assert parse_label(f" {label}", NAMES) == parse_label(f"{name} ", NAMES) == label
        if name.lower() != "cardigan":  # a dog and a garment
            assert parse_label(name.upper(), NAMES) == label


@pytest.mark.slow
@given(
    st.one_of(
        st.text(), st.integers().map(str), st.text("abcdeghijklmnoprstuw ", min_size=2, max_size=5)
    )
)
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_class_that_contains_it_or_the_one_error(text):
    wanted = " ".join(text.lower().split())
    try:
        label = parse_label(text, NAMES)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        holders = [name for name in NAMES.values() if wanted in name.lower()]
        assert not wanted or len(holders) != 1
    else:
        assert wanted in NAMES[label].lower() or int(wanted) == label


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog, hound\nsea horse\n", ["cat", "dog, hound", "sea horse"]),
        ('["cat", "dog", "horse"]', ["cat", "dog", "horse"]),
        ('{"0": "cat", "2": "horse"}', ["cat", "class 1", "horse"]),
    ],
)
def test_class_names(tmp_path, text, names):
    (tmp_path / "names").write_text(text)
    assert read_class_names(tmp_path / "names", 3) == dict(enumerate(names))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ndog\n", "holds 2 names, but the network has 3 classes, 0 to 2"),
        (b'{"3": "cat"}', "holds ids from 3 to 3, but the network has 3 classes"),
        (b'{"cat": 0}', "no ids"),
        (b'{"0": 1}', "holds 1 among the names"),
        (b'["cat", ', "Expecting value"),
        (b"cat\n\ndog", "an empty name"),
        (b"", "holds no names"),
        (b"\xff\xfe\x00", "codec"),
        (None, "No such file"),
    ],
)
def test_class_names_that_do_not_fit(tmp_path, content, message):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"names\.txt'.*{message}") as caught:
        read_class_names(tmp_path / "names.txt", 3)
    assert "\n" not in str(caught.value)
