"""The course's files: found where they are, verified, and brought into a copy of the project by the
real commands.
"""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import CONTENT, ROOT, hangs, one_line, serving, whole

import data_utils
from data_utils import load_imagenet_val
from errors import InputError
from files.atomic import sha256_of
from files.course import (
    COURSE_FILES,
    course_file,
    fetch_photos,
    main,
    package_file,
    take_course_files,
)

PHOTOS = "data/imagenet_val_25.npz"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of what getting the data needs, for the real commands: they write into their own
    project.
    """
    folder = tmp_path_factory.mktemp("copy of project")
    for name in ("data", "files"):
        (folder / name).mkdir()
    for name in (
        "files/course.py",
        "errors.py",
        "files/atomic.py",
        "files/download.py",
        "data/get_imagenet_val.sh",
    ):
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


def test_files_are_looked_for_in_the_folder_named_the_working_directory_and_the_project(
    project, course, monkeypatch
):
    assert course_file(PHOTOS) is None
    for folder in (project, Path.cwd()):
        (folder / "data").mkdir()
        shutil.copy(course / "imagenet_val_25.npz", folder / PHOTOS)
        assert course_file(PHOTOS) == folder / PHOTOS
    monkeypatch.setenv("CS7643_DATA", "/no/such/folder")
    assert course_file(PHOTOS) == Path.cwd() / PHOTOS
    assert course_file("data/style-transfer-checks.npz") is None
    monkeypatch.setenv("CS7643_DATA", str(course))
    assert course_file(PHOTOS) == course / "imagenet_val_25.npz"
    assert course_file("styles_images/tubingen.jpg") == course / "styles_images" / "tubingen.jpg"


def test_a_missing_package_photo_is_named():
    for package, name in (("no_such_package", "photo.png"), ("skimage", "data/no_such_photo.png")):
        with pytest.raises(
            InputError, match=f"{name} of package {package} is missing; pip install"
        ):
            package_file(package, name)


@pytest.mark.slow
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
    assert (
        "'assignment/styles_images/muse.jpg': not taken, its checksum is not that of the course's "
        "file" in lines
    )
    assert everything_in(project) == sorted(set(COURSE_FILES) - {"styles_images/muse.jpg"})


def damaged(archive: Path) -> Path:
    """The same zip with a byte of its first member's content changed."""
    content = bytearray(archive.read_bytes())
    content[200] ^= 255
    archive.write_bytes(content)
    return archive


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def put(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = folder / next(file for file in COURSE_FILES if name in file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


X, Y = np.zeros((2, 224, 224, 3), np.uint8), np.array([3, 999])
CHECKS = {"cl_out": 3.0, "gm_out": np.ones((1, 128, 128)), "sl_out": [2.0], "tv_out": 1.0}
PHOTOS_OF_OTHERS = npz(X=X, y=Y, label_map=np.array({1: "a"}, dtype=object))


def test_another_edition_s_arrays_are_taken_with_a_notice(project, tmp_path, capsys, caplog):
    source = put(tmp_path / "other", imagenet=PHOTOS_OF_OTHERS, checks=npz(**CHECKS))
    for given in (source, zipped(source)):
        assert main(["--from", str(given)], data_utils.fault) == 0
    taken = {PHOTOS, "data/style-transfer-checks.npz"}
    assert set(everything_in(project)) == taken
    assert capsys.readouterr().out.count(": taken\n") == 4
    assert all(any(name in said for said in caplog.messages) for name in taken)
    assert len(load_imagenet_val()[0]) == 2  # and are read


@pytest.mark.parametrize(
    "file, content, said",
    [
        ("imagenet", npz(X=X), "y"),
        ("imagenet", npz(X=X / 255, y=Y), "uint8"),
        ("imagenet", npz(X=X.transpose(0, 3, 1, 2), y=Y), "uint8"),
        ("imagenet", npz(X=X, y=Y[:1]), "uint8"),
        ("imagenet", npz(X=X, y=Y + 1), "classes from 0 to 999"),
        ("imagenet", b"PK no zip", "read"),
        ("checks", npz(**CHECKS | {"gm_out": np.ones((1, 64, 64))}), "gm_out"),
        ("checks", npz(**CHECKS | {"tv_out": np.nan}), "tv_out"),
        ("muse", b"no picture", "read"),
    ],
)
def test_other_arrays_are_refused_and_why(project, tmp_path, capsys, file, content, said):
    source = put(tmp_path / "other", **{file: content})
    assert main(["--from", str(source)], data_utils.fault) == 2
    one_line(capsys, "not taken", said)
    assert everything_in(project) == []


def test_sources_that_are_no_use_are_one_line(project, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04" + CONTENT)
    for name, compression in (
        ("stored.zip", zipfile.ZIP_STORED),
        ("deflated.zip", zipfile.ZIP_DEFLATED),
        ("lzma.zip", zipfile.ZIP_LZMA),
    ):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            archive.writestr("styles_images/muse.jpg", np.random.default_rng(0).bytes(2000))
        damaged(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../../imagenet_val_25.npz", "not the photos")
    encrypted = bytearray((tmp_path / "other.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + offset] |= 1
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    with zipfile.ZipFile(tmp_path / "name.zip", "w") as archive:
        archive.writestr("styles_images/\u00e9muse.jpg", "")  # flagged as UTF-8
    content = (tmp_path / "name.zip").read_bytes()
    (tmp_path / "name.zip").write_bytes(content.replace("\u00e9".encode(), b"\xff\xff"))
    for name, message in (
        ("empty", "holds none of the course's files"),
        ("text.zip", "cannot read .* not a zip file"),
        ("cut.zip", "cannot read"),
        ("stored.zip", "cannot read .*CRC"),
        ("deflated.zip", "cannot read"),
        ("lzma.zip", "cannot read"),
        ("name.zip", "cannot read"),
        ("other.zip", "holds none of the course's files; .*not taken"),
        ("encrypted.zip", "cannot read .*encrypted"),
        ("absent.zip", "no such zip file or folder"),
    ):
        with pytest.raises(InputError, match=rf"^[^\n]*{name}[^\n]*$") as caught:
            take_course_files(tmp_path / name)
        caught.match(message)
    assert everything_in(project) == []


def test_a_project_that_cannot_be_written_is_one_line(project, starter):
    (project / "data").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot write"):
        take_course_files(starter / "assignment" / "data")
    with pytest.raises(InputError, match="cannot write"):
        fetch_photos()


def run(command: list, cwd: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "no_proxy": "", **environment},
    )


def test_an_empty_name_is_not_the_working_directory(project, capsys):
    shutil.copy(ROOT / "README.md", "tubingen.jpg")
    assert main(["--from", ""]) == 2
    one_line(capsys, "--from", "empty")


def test_a_zip_may_hold_a_file_twice_but_none_that_is_huge(project, course, tmp_path, capsys):
    muse = (course / "styles_images/muse.jpg").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("one/muse.jpg", "other/muse.jpg"):
            archive.writestr(name, muse)
        archive.writestr("tubingen.jpg", bytes(1 << 26))
    assert main(["--from", str(tmp_path / "a.zip")]) == 0
    assert capsys.readouterr() == ("styles_images/muse.jpg: taken\n", "")
    assert everything_in(project) == ["styles_images/muse.jpg"]


def test_photos_that_are_there_are_not_fetched(project, course, capsys):
    (project / "data").mkdir()
    shutil.copy(course / "imagenet_val_25.npz", project / PHOTOS)
    assert main(["--fetch"]) == 0
    assert capsys.readouterr() == (f"{PHOTOS}: is there already\n", "")


def test_a_reader_who_has_gone_does_not_matter(copy, course, tmp_path):
    command = f'"{sys.executable}" -m files.course --from "{course}/styles_images" | true; exit ${{PIPESTATUS[0]}}'
    result = run(["bash", "-c", command], tmp_path, PYTHONPATH=str(copy))
    assert (result.returncode, result.stderr) == (0, "")


def script(copy: Path) -> list:
    """The shell script as it is, with this Python for its python3."""
    (copy / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    python = copy / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return ["bash", copy / "data" / "get_imagenet_val.sh"]


def test_the_script_fetches_the_photos_through_the_proxy(copy, course, tmp_path):
    with serving(whole((course / "imagenet_val_25.npz").read_bytes())) as url:
        for said in (
            "fetched from http://cs231n.stanford.edu/imagenet_val_25.npz",
            "is there already",
        ):
            result = run(script(copy), tmp_path, http_proxy=url)
            assert (result.returncode, result.stderr) == (0, "")
            assert result.stdout == f"{PHOTOS}: {said}\n"
    assert sha256_of(copy / PHOTOS) == COURSE_FILES[PHOTOS]
    (copy / PHOTOS).unlink()
    assert not list((copy / "data").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer, message", [(hangs, ("gave up", "timed out")), (whole(CONTENT), ("another file",))]
)
def test_a_fetch_that_fails_is_one_line(copy, tmp_path, answer, message):
    with serving(answer) as url:
        result = run(script(copy), tmp_path, http_proxy=url)
    lines = result.stderr.splitlines()
    assert result.returncode == 2 and len(lines) == 1 and any(w in lines[0] for w in message)
    assert not result.stdout
    assert everything_in(copy / "data") == ["get_imagenet_val.sh"]


@pytest.mark.slow
def test_the_command_takes_from_a_zip(copy, starter, tmp_path):
    command = ["env", f"PYTHONPATH={copy}", sys.executable, "-m", "files.course", "--from"]
    result = run([*command, zipped(starter)], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count(": taken\n") == len(COURSE_FILES)
    assert sha256_of(copy / "styles_images" / "muse.jpg") == COURSE_FILES["styles_images/muse.jpg"]
    shutil.rmtree(copy / "styles_images")
    for name in ("imagenet_val_25.npz", "style-transfer-checks.npz"):
        (copy / "data" / name).unlink()
    result = run([*command, "absent.zip"], tmp_path)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr == "course.py: error: 'absent.zip': no such zip file or folder\n"


@pytest.mark.parametrize("number, told", [(2, "data_utils.py: error: interrupted\n"), (15, "")])
def test_a_signal_unwinds(number, told, tmp_path):
    (tmp_path / "muse.jpg").write_bytes(b"not the course's")
    program = f"""
import signal, sys
sys.argv = ["data_utils.py", "--from", {str(tmp_path)!r}]
from files.course import main
sys.exit(main(fault=lambda *_: signal.raise_signal({number})))
"""
    result = run([sys.executable, "-c", program], ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, "", told)
