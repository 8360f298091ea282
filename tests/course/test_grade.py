"""The grader: safe with any zip, points as the table says."""

import csv
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from solutions import archive, run

import check
from collect_submission import zip_files
from course import grade
from course.make_starter import course_files
from files.atomic import ROOT


@pytest.mark.slow
def test_grader_from_zip_to_results(tmp_path):
    code = {name: content for name, content in course_files(ROOT).items() if name.endswith(".py")}
    full = archive(
        {f"assignment_3/{name}": content for name, content in code.items()}, tmp_path / "full.zip"
    )
    wrong = code | {
        # Not theirs: the course's own is put in its place.
        "check.py": b"raise SystemExit",
        "image_utils.py": b"1 / 0",
        "json.py": b"raise SystemExit('not the library')",
        "style_modules/tv_loss.py": code["style_modules/tv_loss.py"].replace(
            b"vertical.square().sum() + ", b""
        ),
        "style_modules/content_loss.py": code["style_modules/content_loss.py"].replace(
            b"        return", b"        print(1)\n        return"
        ),
    }
    wrong = archive(wrong, tmp_path / "wrong.zip")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK no zip")
    command = [sys.executable, ROOT / "course/grade.py"]
    result = run(*command, full, broken, wrong, "--csv", tmp_path / "points.csv", cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    with (tmp_path / "points.csv").open() as file:
        table = {Path(row["submission"]).name: row for row in csv.DictReader(file)}
    assert [float(table[name]["total"]) for name in ("full.zip", "broken.zip", "wrong.zip")] == [
        80,
        0,
        72,
    ]  # 3 for each loss, 2 for what prints as well
    assert (table["wrong.zip"]["tv_loss"], table["wrong.zip"]["content_loss"]) == ("0", "0")
    assert "zip" in table["broken.zip"]["error"] and not table["wrong.zip"]["error"]
    assert result.stdout.count("total") == 3 and "prints '1'" in result.stdout
    one = archive({OWN: code[OWN]}, tmp_path / "one.zip")
    result = run(*command, one, "--json", tmp_path / "results.json", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    tests = json.loads((tmp_path / "results.json").read_text())["tests"]
    assert sum(test["score"] for test in tests) == 10 and sum(t["max_score"] for t in tests) == 80
    for test in tests:
        assert test.keys() == {"name", "score", "max_score", "number", "output", "visibility"}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    for option in ("--json", "--csv"):
        result = run(
            sys.executable, ROOT / "course/grade.py", "broken.zip", option, tmp_path, cwd=tmp_path
        )
        assert (result.returncode, result.stderr.count("error:")) == (2, 1), result.stderr
        assert "cannot write" in result.stderr and "Traceback" not in result.stderr
        # a table is begun before anything is graded
        assert ("broken.zip" in result.stdout) == (option == "--json")
        assert [path.name for path in tmp_path.iterdir()] == ["broken.zip"]


@pytest.mark.slow
def test_a_name_that_the_console_lacks_is_shown_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "cat \u732b.zip").write_bytes(b"PK no zip")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # of a Western Windows
    result = run(sys.executable, ROOT / "course/grade.py", "cat \u732b.zip", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr == "" and "cat \\u732b.zip" in result.stdout, (
        result.stderr
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_an_interruption_ends_all_grading(tmp_path):
    source = archive(
        {n: c for n, c in course_files(ROOT).items() if n.endswith(".py")}, tmp_path / "full.zip"
    )
    command = [sys.executable, ROOT / "course/grade.py", *[source] * 20]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "") and errors.endswith(
        "grade.py: error: interrupted\n"
    ), errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_autograder_runs_as_gradescope_runs_it(tmp_path, starter):
    """In Gradescope's folders, with the project where the README's command puts it."""
    shutil.copytree(starter, tmp_path / "submission")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/project").symlink_to(ROOT)
    script = ROOT / "course/autograder/run_autograder"
    assert os.access(script, os.X_OK) and os.access(script.with_name("setup.sh"), os.X_OK)
    result = run(script, cwd=tmp_path, AUTOGRADER=str(tmp_path), PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "results/results.json").read_text())
    assert [test["score"] for test in results["tests"]] == [0] * len(check.ITEMS)
    assert all(test["output"].startswith("missing Question") for test in results["tests"])


def test_a_damaged_zip_is_its_own_result_and_rows_are_on_disk_at_once(tmp_path):
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(damaged, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("visualizers/gradcam.py", "x = 1\n" * 1000)
    content = bytearray(damaged.read_bytes())
    content[50:90] = bytes(40)
    damaged.write_bytes(content)
    table = grade.Table(tmp_path / "points.csv", "assignment")
    result = grade.grade(damaged, "assignment")
    table.add(result)
    assert result.error.startswith("cannot be read") and result.total == 0
    with (tmp_path / "points.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["submission"] == str(damaged) and row["error"] == result.error


def test_no_formula_reaches_a_spreadsheet():
    (item,) = [item for item in check.ITEMS if item.name == "tv_loss"]
    score = grade.Score(item, "2.3", 3, 0, "error ValueError: x")
    assert grade.row_of(grade.Grade("=cmd.zip", [score]))[0] == "'=cmd.zip"
    assert grade.row_of(grade.Grade("a.zip", [score]))[-1] == "tv_loss: error ValueError: x"


OWN = "visualizers/saliency_map.py"


def unsafe(name: str, mode: int = 0o644, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(OWN, "x = 1\n")
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        file.writestr(info, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, words",
    [
        (lambda: unsafe("../outside.py"), "leads outside"),
        (lambda: unsafe("visualizers/../../outside.py"), "leads outside"),
        (lambda: unsafe("/tmp/outside.py"), "leads outside"),
        (lambda: unsafe("C:/outside.py"), "leads outside"),
        (lambda: unsafe("..\\outside.py"), "leads outside"),
        (lambda: unsafe("link.py", stat.S_IFLNK | 0o777, b"/etc/passwd"), "a link"),
        (lambda: unsafe("zeros.bin", content=bytes(grade.MOST_BYTES)), "more than 50 MB"),
        (
            lambda: zip_files({f"{i}.py": b"" for i in range(grade.MOST_FILES + 1)}),
            "holds 1001 files",
        ),
        (lambda: zip_files({"notes.txt": b""}), "none of the files that students write"),
        (lambda: zip_files({}), "none of the files"),
        (lambda: b"", "cannot be read"),
        (lambda: unsafe("a.py")[:-30], "cannot be read"),
        (lambda: unsafe(f"{OWN}/inner.py"), "cannot be written"),
    ],
)
def test_a_zip_that_is_not_safe_is_refused(content, words, tmp_path):
    path = tmp_path / "submission.zip"
    path.write_bytes(content())
    with pytest.raises(grade.SubmissionError, match=words):
        grade.unpack(path, tmp_path / "deep/er/folder")
    assert not list(tmp_path.rglob("outside.py")) and not list(tmp_path.rglob("link.py"))


def test_around_the_students_files_stand_the_courses(tmp_path, starter_zip):
    own = {
        OWN: b"mine = 1\n",
        "extra.py": b"",
        "cli/session.py": b"not mine\n",
        "visualizers/more.py": b"",
    }
    for top in ("", "name/", "a/b/"):
        folder = tmp_path / f"for {top.count('/')}"
        source = archive(
            {top + name: content for name, content in own.items()}, tmp_path / "submission.zip"
        )
        grade.unpack(source, folder)
        assert (folder / OWN).read_bytes() == own[OWN] and (folder / "extra.py").is_file()
        assert (folder / "cli" / "session.py").read_bytes() == (
            ROOT / "cli" / "session.py"
        ).read_bytes()
        assert (folder / "visualizers/more.py").is_file()
        # What was not handed in is not there, least of all the solution's.
        assert not any((folder / name).exists() for name in grade.STUDENTS - {OWN})
