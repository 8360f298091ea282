"""What users really do: it works, or one line on standard error says what would be right; nothing
is half-written.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import warm
from helpers import ROOT, hangs, quick, serving
from PIL import Image

import figure_utils
import saliency_map
from files.course import package_file
from style_transfer import INVERSION
from visualizers import SaliencyMap

FIGURES = ["attributions_captum.png", "saliency_captum.png", "saliency_map.png"]


@pytest.fixture
def photo(tmp_path) -> Path:
    return Path(shutil.copy(package_file("skimage", "data/chelsea.png"), tmp_path / "chelsea.png"))


# --- Photos ---


@pytest.mark.slow
def test_photos_of_every_kind_in_one_run(tmp_path, photo, caplog):
    """Every mode and odd sizes and names, among files that are none; each good one gets its
    tile.
    """
    folder = tmp_path / "my photos"
    folder.mkdir()
    picture = Image.open(photo).convert("RGB")
    for name, mode in (
        ("grey.jpg", "L"),
        ("cmyk.jpg", "CMYK"),
        ("palette.gif", "P"),
        ("bits.png", "1"),
        ("alpha.png", "RGBA"),
        ("grey alpha.png", "LA"),
        ("deep.tif", "I;16"),
    ):
        (picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)).save(
            folder / name
        )
    picture.save(folder / "progressive.jpg", progressive=True)
    picture.save(folder / 'quote\'d "ü" 猫\nline.webp')
    Image.new("RGB", (1, 1), "red").save(folder / "dot.bmp")
    Image.new("RGB", (1, 5000), "red").save(folder / "thin.png")
    picture.save(folder / "wrong suffix.txt", format="PNG")
    bad = {"text.jpg": b"text", "cut.png": photo.read_bytes()[:5000], "empty.gif": b""}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    assert quick("--images", folder, photo, "--out", tmp_path / "out", "--chunk", "64") == 0
    assert len(caplog.messages) == 3 and all(
        any(name in line for line in caplog.messages) for name in bad
    )
    with Image.open(tmp_path / "out" / "saliency_map.png") as figure:
        assert figure.width == figure_utils.LABEL_BAND + 13 * (224 + figure_utils.GAP)


def test_black_photos_and_photos_that_tell_nothing(tmp_path):
    for i, colour in enumerate(("black", "white", "grey")):
        Image.new("RGB", (300, 200), colour).save(tmp_path / f"{i}.png")
    assert quick("--images", tmp_path, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "saliency_map.png").exists()


@pytest.mark.slow
def test_memory_and_open_files_stay_few_for_many_photos(tmp_path):
    """Also: maps from scratch need no Captum, and nothing needs pyplot."""
    resource = pytest.importorskip("resource")
    officer = package_file("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")
    (tmp_path / "photos").mkdir()
    for i in range(80):
        (tmp_path / "photos" / f"{i:02}.jpg").symlink_to(officer)
    program = f"""
import resource, sys
for name in [name for name in sys.modules if name.startswith(("captum", "matplotlib"))]:
    del sys.modules[name]
sys.path.insert(0, {str(ROOT)!r})
import saliency_map
from cli.pages import Dataset, figure_saver, maps_file
from cli.run import run

def work(session):
    with maps_file(session) as keep:
        for page in Dataset(session).pages(""):
            save = figure_saver(session, page)
            keep(page, {{"saliency_map": saliency_map.draw_manual(session.model, page, save)}})

options = ["--images", "photos", "--size", "96", "--arrays", "--figures", "1", "--out", "out"]
used = []
for num in ("20", "20", "80"):
    status = run("", saliency_map.add_options, work, [*options, "--num", num, "--chunk", "10"])
    assert status == 0
    used.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "linux" else 1024))
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
print(used[2] - used[1], "captum" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    result = warm.run("-c", program, cwd=tmp_path)
    assert result.returncode == 0 and not result.stderr, result.stderr
    kilobytes, captum, pyplot = result.stdout.split()
    assert int(kilobytes) < 30_000 and captum == pyplot == "False"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 24
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert len(maps["saliency_map"]) == len(maps["names"]) == 80


@pytest.mark.slow
def test_photos_that_vanish_meanwhile_are_left_out(tmp_path, photo, caplog, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        shutil.copy(photo, folder / f"{i}.png")
    compute = SaliencyMap.compute_saliency_maps

    def and_one_goes(*arguments):
        (folder / "3.png").unlink(missing_ok=True)
        return compute(*arguments)

    # Of the first page, of two
    monkeypatch.setattr(SaliencyMap, "compute_saliency_maps", and_one_goes)
    options = [
        "--chunk",
        "2",
        "--arrays",
        "--figures",
        "1",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert (
        saliency_map.main(["--images", str(folder), *options]) == 0
        and "3.png': no such file" in caplog.text
    )
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert list(maps["names"]) == ["0.png", "1.png", "2.png"] and len(maps["saliency_map"]) == 3


# --- Surroundings ---


@pytest.mark.slow
def test_hostile_surroundings(tmp_path, photo):
    """One real run with everything against it: a proxy that hangs, no cache, no home, no UTF-8, no
    display, no input, another working directory, odd names, quiet standard streams. The bundled
    weights are fallen back on."""
    names = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "MPLBACKEND": "TkAgg",
        "TORCH_HOME": str(tmp_path / "torch"),
        "OMP_NUM_THREADS": "2",
    }
    folder = tmp_path / "Bär 猫 it's"
    folder.mkdir()
    shutil.copy(photo, folder / "ü\n.png")
    (folder / "bäd.jpg").write_text("text")
    with serving(hangs) as url:
        host = url.removeprefix("http://")
        result = subprocess.run(
            [
                sys.executable,
                ROOT / "saliency_map.py",
                "--images",
                folder,
                "--out",
                "out ü",
                "--steps",
                "1",
                "--size",
                "64",
                "--weights",
                "auto",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**names, "http_proxy": f"http://{host}", "https_proxy": f"http://{host}"},
        )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    notices = result.stderr.splitlines()
    assert len(notices) == 2 and not list((tmp_path / "torch").rglob("*.*"))
    assert any("weights: bundled" in line and "download" in line for line in notices)
    assert any(
        "left out: " in line and '.jpg" cannot be read as an image' in line for line in notices
    )
    assert sorted(p.name for p in (folder / "out ü").iterdir()) == FIGURES


@pytest.mark.slow
def test_the_caller_s_matplotlib_and_environment_are_left_alone(tmp_path, monkeypatch):
    """In a process that has pyplot, a backend and a figure open."""
    program = f"""
import os, sys
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
plt.rcParams["axes.titlesize"] = 33
figure = plt.figure(num=7)
figure.add_subplot().plot([1, 2])
before = dict(os.environ), matplotlib.get_backend(), dict(plt.rcParams), plt.get_fignums(), plt.gcf(), plt.gca()
sys.path.insert(0, {str(ROOT)!r})
import saliency_map, style_transfer
for script in (saliency_map, style_transfer):
    options = ["--steps", "1", "--num", "1"] if script is saliency_map else ["--iterations", "1", "--only", sys.argv[1]]
    assert script.main([*options, "--quiet", "--out", "out"]) == 0
after = dict(os.environ), matplotlib.get_backend(), dict(plt.rcParams), plt.get_fignums(), plt.gcf(), plt.gca()
assert "MPLBACKEND" not in os.environ
names = ("environment", "backend", "settings", "figures", "figure", "axes")
print([name for name, a, b in zip(names, before, after) if a != b], len(plt.gca().lines))
"""
    monkeypatch.delenv("MPLBACKEND", raising=False)
    result = warm.run("-c", program, INVERSION, cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.splitlines()[-1] == "[] 1", result.stderr
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_two_runs_at_once_into_one_folder(tmp_path, photo):
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(quick, "--images", photo, "--out", tmp_path / "out") for _ in range(2)]
    assert [run.result() for run in runs] == [0, 0]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["saliency_map.png"]
    with Image.open(tmp_path / "out" / "saliency_map.png") as figure:
        figure.load()


@pytest.mark.slow
def test_interrupted_in_the_midst_of_the_work(tmp_path, photo):
    """Ctrl-C in a real process; SIGTERM in this one is tests/scripts/test_style_transfer.py's."""
    for i in range(40):
        (tmp_path / f"{i}.png").symlink_to(photo)
    options = ["--images", ".", "--chunk", "1", "--steps", "1", "--out", "out"]
    run = warm.Program(ROOT / "saliency_map.py", *options, cwd=tmp_path)
    while not run.ended() and not (tmp_path / "out" / "saliency_map.png").exists():
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGINT)
    result = run.wait()
    assert (result.stdout, result.stderr) == ("", "saliency_map.py: error: interrupted\n")
    written = [p.name for p in (tmp_path / "out").iterdir()]
    assert result.returncode == 130 and "saliency_map.png" in written
    assert not any(name.startswith(".") for name in written)
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as figure:
            figure.load()
