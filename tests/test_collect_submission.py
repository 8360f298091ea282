"""The submission: exactly its files, the same bytes each time, refused when a file of it does not
compile or import.
"""

import functools
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import warm
from helpers import ROOT, assert_one_line_error

import collect_submission as collector

CLUTTER = (
    "data/imagenet_val_25.npz",
    "visualization/saliency_map.png",
    ".venv/lib/module.py",
    "tests/test_something.py",
    "visualizers/__pycache__/gradcam.cpython-311.pyc",
    "visualizers/deeper/module.py",
    ".hidden.py",
    "notebooks/.ipynb_checkpoints/Own-checkpoint.ipynb",
    "notebooks/helper.py",
    "style_modules/notes.txt",
    "README.md",
)
DOCUMENTS = ["notebooks/Own.ipynb", "report.pdf"]


@functools.cache
def packed() -> list[str]:
    """The code that this project's zip holds."""
    return sorted(path.relative_to(ROOT).as_posix() for path in collector.code_of(ROOT))


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def project(tmp_path):
    """A project folder with what the submission needs and nothing else."""
    for name in (*packed(), "collect_submission.sh"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "project" / name)
    return tmp_path / "project"


def collect(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the shell script as a user does, from another folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "project/collect_submission.sh", *arguments],
        cwd=project.parent,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PATH": path},
    )


@pytest.mark.slow
def test_zip_holds_exactly_the_submission_and_a_question_runs_from_it(project, tmp_path):
    own = write(
        project / "own_experiment.py",
        "raise SystemExit('only scripts that are required are imported')\n",
    )
    for name in (*CLUTTER, *DOCUMENTS):
        write(project / name, "what 1 !")  # would not compile
    result = warm.run(project / "collect_submission.py", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    code = sorted([*packed(), own.name])
    with zipfile.ZipFile(project / collector.ARCHIVE) as archive:
        assert sorted(archive.namelist()) == sorted(code + DOCUMENTS)
        assert all(
            archive.read(name) == (project / name).read_bytes() for name in archive.namelist()
        )
        archive.extractall(tmp_path / "empty")
    assert not [path for path in project.iterdir() if path.suffix == ".part"]

    program = """
import saliency_map, sys
assert saliency_map.main(["--num", "1", "--steps", "1", "--quiet"]) == 0
import style_transfer
own = "visualization/saliency_map.png"
sys.exit(style_transfer.main(["--content", own, "--style", own, "--quiet"]))
"""
    result = warm.run("-c", program, cwd=tmp_path / "empty", CS7643_DATA="")
    # What this project has not, its zip has not either: the data that style transfer is checked
    # against.
    assert_one_line_error(result, "data", "no such file")
    figures = {path.name for path in (tmp_path / "empty/visualization").iterdir()}
    assert {"saliency_map.png", "saliency_captum.png"} <= figures


def test_same_files_give_the_same_bytes(project, tmp_path):
    first = collector.zip_files(collector.read_files(project))
    shutil.copytree(project, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*.py"):
        os.utime(path, (0, time.time() - 10**8))
        path.chmod(0o600)
    assert collector.zip_files(collector.read_files(tmp_path / "elsewhere")) == first
    write(project / "own.py", "pass\n")
    assert collector.zip_files(collector.read_files(project)) != first


def test_code_only_leaves_out_the_documents(project):
    for name in DOCUMENTS:
        write(project / name)
    everything, code = collector.read_files(project), collector.read_files(project, code_only=True)
    assert sorted(set(everything) - set(code)) == DOCUMENTS
    assert "gradcam.py" in code


def test_a_required_file_that_is_broken_or_missing_is_named(project):
    for name in collector.required_files(ROOT):
        broken = {name: b"fine = 1\ndef broken(:\n"}
        with pytest.raises(collector.SubmissionError, match=f"{name} line 2"):
            collector.check_compiles(broken)
    for name in ("gradcam.py", "files/atomic.py", "visualizers/__init__.py"):
        (project / name).rename(project / "away")
        with pytest.raises(collector.SubmissionError, match=f"missing.*{name}"):
            collector.read_files(project)
        (project / "away").rename(project / name)


def test_every_file_that_does_not_compile_is_named():
    files = {
        "a.py": b"x = (",
        "b.py": b"x = 1\n",
        "c.py": b"x = 1\0",
        "d.py": b"# caf\xe9\n",
        "report.pdf": b"\0",
    }
    with pytest.raises(collector.SubmissionError) as error:
        collector.check_compiles(files)
    assert [name for name in files if name in str(error.value)] == ["a.py", "c.py", "d.py"]


@pytest.mark.slow
def test_files_that_do_not_import_are_named_and_the_last_zip_stays(project, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # of a Western Windows, which lacks a letter
    write(project / collector.ARCHIVE, "the last one")
    write(project / "style_modules/tv_loss.py", "print('noise')\nundefined_name\n")
    fault = "raise ValueError('cat \u732b \\x1b' + 'x' * 9999999)\n"
    (project / "saliency_map.py").write_text(fault, encoding="utf-8")
    write(project / "gradcam.py", "from image_utils import no_such_name\n")
    write(project / "fooling_image.py", "raise SystemExit(0)\n")
    # Broken as well, but first in line is what it stands on: each cause is told once.
    write(project / "visualizers/gradcam.py", "from style_modules import TotalVariationLoss\n")
    result = collect(project)
    assert_one_line_error(
        result,
        "style_modules/tv_loss.py line 2: NameError",
        "saliency_map.py line 1: ValueError: cat \\u732b \\x1bxxx",
        "no_such_name",
        "gradcam.py line 1: ImportError",
        "fooling_image.py line 1: SystemExit",
    )
    assert result.stderr.count("tv_loss.py") == 1 and "visualizers/gradcam.py" not in result.stderr
    assert (project / collector.ARCHIVE).read_text() == "the last one"
    assert not [path for path in project.iterdir() if path.suffix == ".part"]


def test_broken_helpers_do_not_keep_the_collector_from_naming_them(project):
    for name in ("files/atomic.py", "cli/options.py"):
        write(project / name, "def broken(:\n")
    assert_one_line_error(
        collect(project, "--code-only"), "files/atomic.py line 1", "cli/options.py line 1"
    )


def test_a_zip_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(collector, "ROOT", tmp_path)
    (tmp_path / collector.ARCHIVE / "in the way").mkdir(parents=True)
    with pytest.raises(collector.SubmissionError, match=collector.ARCHIVE):
        collector.write_archive(b"PK", count=1)
    assert [path.name for path in tmp_path.iterdir()] == [collector.ARCHIVE]


def test_the_list_follows_the_imports(project):
    required = collector.required_files(ROOT)
    assert required.keys() >= {
        *collector.SCRIPTS,
        "visualizers/gradcam.py",
        "files/__init__.py",
        "cli/arrays.py",
    }
    assert not [name for name in required if not (ROOT / name).is_file()]
    write(project / "more/helper.py")
    write(project / "more/beside.py")
    write(project / "more/__init__.py")
    write(project / "gradcam.py", "def later():\n    from more import helper\n    import absent\n")
    required = collector.required_files(project)
    assert required["more/helper.py"] == "gradcam.py" and "more/beside.py" not in required
    assert project / "more/beside.py" in collector.code_of(project)  # packages go in whole
    with pytest.raises(collector.SubmissionError, match=r"absent\.py \(gradcam\.py imports it\)$"):
        collector.read_files(project)


def test_a_name_that_is_no_text_is_told(project):
    try:
        (project / "visualizers/caf\udce9.py").touch()
    except OSError:
        pytest.skip("this system takes no such names")
    with pytest.raises(collector.SubmissionError, match=r"caf\\udce9\.py.*rename it"):
        collector.read_files(project)


def test_windows_script_calls_the_collector():
    content = (ROOT / "collect_submission.bat").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n")  # cmd.exe misreads bare line feeds
    assert content.splitlines()[-1] == b'"%python%" "%~dp0collect_submission.py" %*'


def test_a_python_without_the_packages_is_told_once(project):
    # -S: without installed packages
    command = [sys.executable, "-S", "collect_submission.py", "--code-only"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert_one_line_error(result, "torch", "activate")
    assert "Traceback" not in result.stderr
