"""Photos, class names and labels, and getting the course's data into a copy of the project."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_file_utils import CONTENT, hangs, serving, whole, without_privileges

import data_utils
from data_utils import (
    COURSE_FILES,
    course_file,
    fetch_photos,
    imagenet_classes,
    load_imagenet_val,
    load_images,
    package_file,
    parse_label,
    take_course_files,
)
from file_utils import InputError, sha256_of

PHOTOS = "data/imagenet_val_25.npz"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project folder that the module takes for its own, without the course's data anywhere."""
    monkeypatch.setattr(data_utils, "ROOT", tmp_path / "project")
    monkeypatch.delenv("CS7643_DATA", raising=False)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of what getting the data needs, for the real commands: they write into their own project."""
    folder = tmp_path_factory.mktemp("copy of project")
    (folder / "data").mkdir()
    for name in ("data_utils.py", "file_utils.py", "data/get_imagenet_val.sh"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def starter(course, tmp_path) -> Path:
    """A folder like the course's starter: the files somewhere below, among others."""
    folder = tmp_path / "starter" / "assignment"
    for name in COURSE_FILES:
        source = course / name if name.startswith("styles") else course / Path(name).name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    (folder / "README.md").write_text("read me")
    return tmp_path / "starter"


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def everything_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- The photos ---


def test_the_course_s_photos(course, monkeypatch, caplog):
    monkeypatch.setenv("CS7643_DATA", str(course))
    X, y, names = load_imagenet_val()
    assert X.shape == (25, 224, 224, 3) and X.dtype == np.uint8 and y.shape == (25,) and y.dtype == np.int64
    assert sorted(names) == list(range(1000)) and all(isinstance(name, str) for name in names.values())
    assert "crane" in names[134] and names[285] == "Egyptian cat"  # the course's map lacks 134
    assert y[:5].tolist() == [958, 85, 244, 182, 294] and names[958] == "hay"
    assert not caplog.records
    first, labels, _ = load_imagenet_val(num=5)
    assert np.array_equal(first, X[:5]) and np.array_equal(labels, y[:5])
    assert len(load_imagenet_val(100)[0]) == 25 and len(load_imagenet_val(np.int64(3))[0]) == 3


def test_without_them_five_photos_of_packages(project, caplog):
    X, y, names = load_imagenet_val()
    assert X.shape == (5, 224, 224, 3) and X.dtype == np.uint8
    assert y.dtype == np.int64 and y.tolist() == [285, 967, 872, 665, 652]
    assert [names[i] for i in y] == ["Egyptian cat", "espresso", "tripod", "moped", "military uniform"]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "five" in caplog.text and "get_imagenet_val.sh" in caplog.text
    assert np.array_equal(load_imagenet_val(2)[0], X[:2]) and load_imagenet_val(2)[1].tolist() == [285, 967]
    assert (X[2] == X[2][..., :1]).all()  # the camera photo is grey


def test_the_real_network_knows_the_package_photos(real_model, batch):
    """The ids are the photos' own: the right class is among the five best for most, and at least among the best 50."""
    scores = real_model(batch[0])
    ranks = (scores > scores.gather(1, batch[1][:, None])).sum(1)
    assert (ranks < 5).sum() >= 4 and ranks.max() < 50


def test_the_file_in_the_project_comes_first(project, course, monkeypatch):
    monkeypatch.setenv("CS7643_DATA", str(course))
    assert course_file(PHOTOS) == course / "imagenet_val_25.npz"
    assert course_file("styles_images/tubingen.jpg") == course / "styles_images" / "tubingen.jpg"
    (project / "data").mkdir()
    shutil.copy(course / "imagenet_val_25.npz", project / PHOTOS)
    assert course_file(PHOTOS) == project / PHOTOS
    monkeypatch.setenv("CS7643_DATA", "/no/such/folder")
    assert course_file("data/style-transfer-checks.npz") is None


def test_an_unverified_file_is_never_unpickled(project, tmp_path):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (marker,)

    (project / "data").mkdir()
    np.savez(project / PHOTOS, X=np.zeros((1, 224, 224, 3), np.uint8), y=np.zeros(1), label_map=np.array([Bomb()]))
    with pytest.raises(InputError, match=r"imagenet_val_25\.npz' is not the course's file \(its checksum differs\)"):
        load_imagenet_val()
    assert not marker.exists()
    with np.load(project / PHOTOS, allow_pickle=True) as file:  # the bomb is a real one
        file["label_map"]
    assert marker.exists()


def test_a_missing_package_photo_is_named():
    for package, name in (("no_such_package", "photo.png"), ("skimage", "data/no_such_photo.png")):
        with pytest.raises(InputError, match=f"{name} of package {package} is missing; pip install"):
            package_file(package, name)


def test_class_names_are_torchvision_s():
    names = imagenet_classes()
    assert list(names) == list(range(1000)) and names[0] == "tench" and names[999] == "toilet tissue"


# --- One's own photos ---


def test_photos_are_cut_to_the_middle_square(tmp_path):
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, 20:80] = (0, 200, 0)  # the middle square is green
    for turned in (False, True):
        Image.fromarray(pixels.swapaxes(0, 1) if turned else pixels).save(tmp_path / "photo.png")
        X = load_images([tmp_path / "photo.png"])
        assert X.shape == (1, 224, 224, 3) and X.dtype == np.uint8 and X.flags["C_CONTIGUOUS"]
        assert (X[:, 12:-12, 12:-12] == (0, 200, 0)).all()
    assert load_images([tmp_path / "photo.png"], size=32).shape == (1, 32, 32, 3)
    assert load_images([]).shape == (0, 224, 224, 3)
    assert len(load_images(iter([tmp_path, tmp_path / "photo.png"]))) == 2


@pytest.mark.parametrize("width, height", [(1, 1), (1, 5000), (5000, 1), (223, 225), (6000, 4000)])
def test_any_size_of_photo(tmp_path, width, height):
    Image.new("RGB", (width, height), (9, 99, 199)).save(tmp_path / "photo.bmp")
    X = load_images([str(tmp_path / "photo.bmp")])
    assert X.shape == (1, 224, 224, 3) and (X == (9, 99, 199)).all()


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
    X = load_images([tmp_path / "folder", tmp_path / "folder" / "b.jpg", tmp_path / "folder" / "b.jpg"])
    main_colour = X[:, 100, 100].argmax(1).tolist()
    assert main_colour == [0, 1, 2, 1, 1]  # by name; a photo given twice is there twice
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 4 and all(line.startswith("left out: ") and "\n" not in line for line in named)
    for name in ("broken.png", "notes.txt", "pipe.png", "dangling.png"):
        assert sum(name in line for line in named) == 1
    with pytest.raises(InputError, match=r"broken\.png"):  # a bad file that was asked for is no accident
        load_images([tmp_path / "folder" / "b.jpg", tmp_path / "folder" / "broken.png"])


@pytest.mark.parametrize("name", ["", "x" * 300, "absent.png", "null\0.png"])
def test_names_of_nothing(name):
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        load_images([name])


def test_folders_that_cannot_be_searched(monkeypatch):
    with without_privileges() as folder:
        (folder / "locked").mkdir(mode=0)
        for path in (folder / "locked", folder / "locked" / "photo.png", folder / "locked" / "below"):
            with pytest.raises(InputError, match=r"Permission denied$"):
                load_images([path])
        monkeypatch.setenv("CS7643_DATA", str(folder / "locked" / "course"))
        monkeypatch.setattr(data_utils, "ROOT", folder)
        assert course_file(PHOTOS) is None
        (folder / "locked").chmod(0o755)


@pytest.mark.parametrize("content", [(), ("notes.txt",)])
def test_a_folder_without_an_image_is_named(tmp_path, content):
    for name in content:
        (tmp_path / name).write_text("text")
    with pytest.raises(InputError, match=r"^the folder '[^\n]*' holds no image$"):
        load_images([tmp_path])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: load_imagenet_val(0), "num must be a whole number from 1, or None for all, got 0"),
        (lambda: load_imagenet_val(2.5), "num must be a whole number from 1, or None for all, got 2.5"),
        (lambda: load_images("photo.jpg"), "paths must be a list of paths, got the single one 'photo.jpg'"),
        (lambda: load_images([], size=0), "size must be at least 1, got 0"),
    ],
)
def test_arguments_are_checked(call, words):
    with pytest.raises(ValueError, match=words):
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
    "text, words",
    [
        ("cat", "class 'cat' is ambiguous: 143 oystercatcher, 282 tiger cat, 283 Persian cat, .*; give the id"),
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
def test_labels_that_are_none(text, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_label(text, NAMES)
    assert "\n" not in str(caught.value)


def test_synonyms_of_the_course_s_names():
    names = {6: "stingray", 7: "cock", 292: "tiger, Panthera tigris", 282: "tiger cat", 5: "ray, torpedo"}
    assert parse_label("panthera TIGRIS", names) == parse_label("tiger", names) == 292
    assert parse_label("ray", names) == 5  # a synonym before a part
    assert parse_label("panthera", names) == 292
    with pytest.raises(InputError, match="class 'crane' is ambiguous: 134 crane, 517 crane; give the id"):
        parse_label("crane", {134: "crane", 517: "crane", 3: "crane fly"})


def test_every_id_and_every_whole_name_is_understood():
    for label, name in NAMES.items():
        assert parse_label(f" {label}", NAMES) == parse_label(f"{name} ", NAMES) == label
        if name.lower() != "cardigan":  # a dog and a garment
            assert parse_label(name.upper(), NAMES) == label


@given(st.one_of(st.text(), st.integers().map(str), st.text("abcdeghijklmnoprstuw ", min_size=2, max_size=5)))
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


# --- Getting the course's data ---


@pytest.mark.parametrize("packed", [False, True])
def test_the_starter_s_files_are_taken(project, starter, packed):
    lines = take_course_files(zipped(starter) if packed else starter)
    assert sorted(lines) == sorted(f"{name}: taken" for name in COURSE_FILES)
    assert everything_in(project) == sorted(COURSE_FILES)
    assert all(sha256_of(project / name) == checksum for name, checksum in COURSE_FILES.items())
    assert len(load_imagenet_val()[0]) == 25


def test_a_changed_file_is_not_taken(project, starter):
    changed = starter / "assignment" / "styles_images" / "muse.jpg"
    changed.write_bytes(changed.read_bytes() + b"\0")
    lines = take_course_files(starter)
    assert "'assignment/styles_images/muse.jpg': not taken, its checksum is not that of the course's file" in lines
    assert everything_in(project) == sorted(set(COURSE_FILES) - {"styles_images/muse.jpg"})


def damaged(archive: Path) -> Path:
    """The same zip with a byte of its first member's content changed."""
    content = bytearray(archive.read_bytes())
    content[200] ^= 255
    archive.write_bytes(content)
    return archive


def test_sources_that_are_no_use_are_one_line(project, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04" + CONTENT)
    for name, compression in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            archive.writestr("styles_images/muse.jpg", np.random.default_rng(0).bytes(2000))
        damaged(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../../imagenet_val_25.npz", "not the photos")
    encrypted = bytearray((tmp_path / "other.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + offset] |= 1
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    for name, words in (
        ("empty", "holds none of the course's files"),
        ("text.zip", "cannot read .* not a zip file"),
        ("cut.zip", "cannot read"),
        ("stored.zip", "cannot read .*CRC"),
        ("deflated.zip", "cannot read"),
        ("other.zip", "holds none of the course's files; .*not taken"),
        ("encrypted.zip", "cannot read .*encrypted"),
        ("absent.zip", "no such zip file or folder"),
    ):
        with pytest.raises(InputError, match=rf"^[^\n]*{name}[^\n]*$") as caught:
            take_course_files(tmp_path / name)
        caught.match(words)
    assert everything_in(project) == []


def test_a_project_that_cannot_be_written_is_one_line(project, starter):
    (project / "data").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot write"):
        take_course_files(starter / "assignment" / "data")
    with pytest.raises(InputError, match="cannot write"):
        fetch_photos()


def run(command: list, cwd: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, env={**os.environ, "no_proxy": "", **environment}
    )


def script(copy: Path) -> list:
    """The shell script as it is, with this Python for its python3."""
    (copy / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    python = copy / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return ["bash", copy / "data" / "get_imagenet_val.sh"]


def test_the_script_fetches_the_photos_through_the_proxy(copy, course, tmp_path):
    with serving(whole((course / "imagenet_val_25.npz").read_bytes())) as url:
        for said in ("fetched from http://cs231n.stanford.edu/imagenet_val_25.npz", "is there already"):
            result = run(script(copy), tmp_path, http_proxy=url)
            assert (result.returncode, result.stderr) == (0, "") and result.stdout == f"{PHOTOS}: {said}\n"
    assert sha256_of(copy / PHOTOS) == COURSE_FILES[PHOTOS]
    (copy / PHOTOS).unlink()
    assert not list((copy / "data").glob(".*"))


@pytest.mark.parametrize("answer, words", [(hangs, ("gave up", "timed out")), (whole(CONTENT), ("another file",))])
def test_a_fetch_that_fails_is_one_line(copy, tmp_path, answer, words):
    with serving(answer) as url:
        result = run(script(copy), tmp_path, http_proxy=url)
    lines = result.stderr.splitlines()
    assert result.returncode == 2 and len(lines) == 1 and any(w in lines[0] for w in words) and not result.stdout
    assert everything_in(copy / "data") == ["get_imagenet_val.sh"]


def test_the_command_takes_from_a_zip(copy, starter, tmp_path):
    command = [sys.executable, copy / "data_utils.py", "--from"]
    result = run([*command, zipped(starter)], tmp_path)
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.count(": taken\n") == len(COURSE_FILES)
    assert sha256_of(copy / "styles_images" / "muse.jpg") == COURSE_FILES["styles_images/muse.jpg"]
    shutil.rmtree(copy / "styles_images")
    for name in ("imagenet_val_25.npz", "style-transfer-checks.npz"):
        (copy / "data" / name).unlink()
    result = run([*command, "absent.zip"], tmp_path)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr == "data_utils.py: error: 'absent.zip': no such zip file or folder\n"
