"""The grader: safe with any zip, points as the table says."""

import csv
import io
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from solutions import ITEMS, archive, expected, put

import check
from checker import server
from checker.items import ASSIGNMENT, HOMEWORK, UNASKED, of_edition
from collect_submission import zip_files
from course import grade
from files.atomic import ROOT


@pytest.mark.slow
def test_grader_from_zip_to_results(solution_files, tmp_path, hidden, capsys):
    code = {
        name: content
        for name, content in solution_files.items()
        if name.startswith("style_modules/") or name == "visualizers/saliency_map.py"
    }
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
    wrong = archive({f"own/{name}": text for name, text in wrong.items()}, tmp_path / "wrong.zip")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK no zip")
    outputs = ["--csv", tmp_path / "points.csv", "--feedback", tmp_path / "told"]
    assert graded("--values", hidden, broken, wrong, *outputs) == 2
    output, errors = capsys.readouterr()
    assert "Traceback" not in errors
    with (tmp_path / "points.csv").open() as file:
        table = {Path(row["submission"]).name: row for row in csv.DictReader(file)}
    # Saliency maps, Gram matrix, style loss and feature inversion; what prints costs no other item
    right = 10 + 3 + 3 + 2
    assert [float(table[name]["total"]) for name in ("broken.zip", "wrong.zip")] == [0, right]
    assert (table["wrong.zip"]["tv_loss"], table["wrong.zip"]["content_loss"]) == ("0", "0")
    assert "zip" in table["broken.zip"]["error"] and not table["wrong.zip"]["error"]
    assert output.count("total") == 2 and "prints '1'" in output
    told = "".join(f"{path.read_text()}\n" for path in sorted((tmp_path / "told").iterdir()))
    assert sorted(told.splitlines()) == sorted(output.splitlines())


def graded(*arguments: object) -> int:
    return grade.main([*map(str, arguments)])


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, hidden, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("broken.zip").write_bytes(b"PK no zip")
    for option in ("--json", "--csv"):
        with pytest.raises(SystemExit, match="2"):
            graded("--values", hidden, "broken.zip", option, tmp_path)
        output, errors = capsys.readouterr()
        assert errors.count("error:") == 1 and "cannot write" in errors
        # a table is begun before anything is graded
        assert ("broken.zip" in output) == (option == "--json")
        assert [path.name for path in tmp_path.iterdir()] == ["broken.zip"]


@pytest.mark.slow
def test_a_name_that_the_console_lacks_is_shown_all_the_same(tmp_path, monkeypatch, hidden):
    (tmp_path / "cat \u732b.zip").write_bytes(b"PK no zip")
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(console, "cp1252"))  # a Western Windows'
    assert graded("--values", hidden, tmp_path / "cat \u732b.zip") == 2
    assert b"cat \\u732b.zip" in console.getvalue()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    "command, number, status",
    [
        (["course/grade.py", "."], signal.SIGINT, 130),
        (["course/grade.py", "."], signal.SIGHUP, 129),
        (["check.py", "--root", "."], signal.SIGTERM, 143),
        (["check.py", "--root", "."], signal.SIGKILL, -9),
    ],
)
def test_a_signal_leaves_nothing_behind(command, number, status, solution, tmp_path, hidden):
    """Neither processes nor, where the signal can be caught, folders."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started = tmp_path / "started"
    for name in {item.file for item in check.ITEMS}:
        (solution / name).write_text(f"open({str(started)!r}, 'w')\nwhile True:\n    pass\n")
    script, *rest = command
    values = ["--values", hidden] * (script == "course/grade.py")
    process = subprocess.Popen(
        [sys.executable, ROOT / script, *rest, *values],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=solution,
        env={**os.environ, "THIS_TEST": "1", "TMPDIR": str(scratch)},
        start_new_session=True,
    )
    while not started.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal does
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (status, "") and "Traceback" not in errors, errors
    assert errors.endswith("error: interrupted\n") == (number == signal.SIGINT)
    deadline = time.monotonic() + 60
    while server._marked("THIS_TEST") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server._marked("THIS_TEST") == []
    assert number == signal.SIGKILL or list(scratch.iterdir()) == []


STORED = """
import numpy as np
from pathlib import Path

with np.load(Path(__file__).parents[1] / "data/expected.npz") as file:
    value, gradient = (file[f"content_loss/loss/{name}"] for name in ("value", "gradient"))
found = (content_current * torch.from_numpy(gradient)).sum()
return found - found.detach() + float(value)
"""


@pytest.mark.slow
def test_stored_answers_pass_the_check_and_win_nothing(solution, hidden):
    put(solution, "content_loss", STORED)
    items = [ITEMS["content_loss"]]
    (shown,) = check.check(solution, items)
    (graded,) = check.check(solution, items, hidden=grade.stored(hidden))
    assert (shown.status, graded.status) == ("ok", "wrong")
    assert "inputs of check.py alone" in graded.message


@pytest.mark.slow
def test_partial_points_are_the_share_that_is_right(hidden):
    half = check.Outcome("gram_matrix", "2.2", "Gram matrix", "wrong", share=0.5)
    rules = grade.Rules("assignment", grade.stored(hidden))
    assert (rules.points(half, 3), replace(rules, partial=True).points(half, 3)) == (0, 1.5)
    arrays = {"gram/a": np.ones(3), "gram/b": np.ones(3), "other/a": np.zeros(3)}
    assert check.share_within(0.1, arrays | {"gram/b": np.zeros(3)}, arrays) == 1  # other's
    assert check.share_within(0.1, {"gram/a": np.ones(3)}, arrays) == 0.5


def test_a_damaged_zip_is_its_own_result_and_rows_are_on_disk_at_once(tmp_path):
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(damaged, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("visualizers/gradcam.py", "x = 1\n" * 1000)
    content = bytearray(damaged.read_bytes())
    content[50:90] = bytes(40)
    damaged.write_bytes(content)
    table = grade.Table(tmp_path / "points.csv", "assignment")
    result = grade.grade(damaged, grade.Rules("assignment", check.Expected(check.EXPECTED)))
    table.add(result)
    assert "cannot be read" in result.error and result.total == 0
    with (tmp_path / "points.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["submission"] == str(damaged) and row["error"] == result.error


def test_whatever_is_raised_while_a_submission_is_checked_is_its_result(tmp_path):
    (tmp_path / "own.zip").write_bytes(zip_files({OWN: b"x = 1\n"}))
    no_values = object()  # any item that is to be judged by them raises
    result = grade.grade(tmp_path / "own.zip", grade.Rules("assignment", no_values))
    assert result.error.startswith("cannot be graded: AttributeError") and result.total == 0


def test_no_formula_reaches_a_spreadsheet():
    (item,) = [item for item in check.ITEMS if item.name == "tv_loss"]
    score = grade.Score(item, "2.3", 3, 0, "error ValueError: x")
    for mark in "=+-@\t":  # which a spreadsheet would compute
        assert grade.row_of(grade.Grade(f"{mark}cmd.zip", [score]))[0] == f"'{mark}cmd.zip"
    assert grade.row_of(grade.Grade("a.zip", [score]))[-1] == "tv_loss: error ValueError: x"


OWN = "visualizers/saliency_map.py"


def damaged_in_lzma(name: str) -> bytes:
    """A zip with a damaged file beside what students write."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as file:
        file.writestr(name, bytes(range(256)) * 9)
        file.writestr(OWN, "x = 1\n")
    content = bytearray(buffer.getvalue())
    content[50:90] = bytes(40)
    return bytes(content)


def unsafe(name: str, mode: int = 0o644, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(OWN, "x = 1\n")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED if len(content) > 99 else zipfile.ZIP_STORED
        file.writestr(info, content)
    return buffer.getvalue()


def inside(zips: int) -> bytes:
    """A submission in so many zips, one inside the other, beside what a Mac adds."""
    content = zip_files({OWN: b"x = 1\n"})
    for _ in range(zips):
        content = zip_files({"a/submission.zip": content, "__MACOSX/a/._submission.zip": b"x"})
    return content


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda: zip_files({"notes.txt": b""}), "none of the files that students write"),
        (lambda: zip_files({}), "none of the files"),
        (
            lambda: zip_files(dict.fromkeys(("a.zip", "b.zip"), inside(0))),
            "no code: 'a.zip', 'b.zip'",
        ),
        (lambda: inside(9), "none of the files"),
        (lambda: b"", "cannot be read"),
        (lambda: unsafe("a.py")[:-30], "cannot be read"),
        (lambda: unsafe("\u00e9.py").replace("\u00e9".encode(), b"\xff\xff"), "cannot be read"),
    ],
)
def test_a_zip_that_cannot_be_graded_says_why(content, message, tmp_path):
    path = tmp_path / "submission.zip"
    path.write_bytes(content())
    with pytest.raises(grade.SubmissionError, match=message):
        grade.unpack(path, tmp_path / "deep/er/folder")


MOST = grade.MOST_BYTES * 2 // 3  # two of them are too much


@pytest.mark.parametrize(
    "content, count",
    [
        (lambda: unsafe("../outside.py"), 1),
        (lambda: unsafe("visualizers/../../outside.py"), 1),
        (lambda: unsafe("/tmp/outside.py"), 1),
        (lambda: unsafe("C:/outside.py"), 1),
        (lambda: unsafe("..\\outside.py"), 1),
        (lambda: unsafe("link.py", stat.S_IFLNK | 0o777, b"/etc/passwd"), 1),
        (lambda: unsafe("zeros.py", content=bytes(grade.MOST_BYTES + 1)), 1),
        (lambda: zip_files({OWN: b"", **dict.fromkeys(("a.py", "b.py"), bytes(MOST))}), 1),
        (lambda: zip_files({OWN: b"", **{f"{i}/a.py": b"" for i in range(1200)}}), 201),
        # What is no code is not looked at.
        (lambda: unsafe("../outside.txt"), 0),
        (lambda: unsafe("zeros.bin", content=bytes(2 * grade.MOST_BYTES)), 0),
        (lambda: zip_files({OWN: b"", **{f"{i}.png": b"" for i in range(5000)}}), 0),
        (lambda: zip_files({OWN: b"", **{f".venv/{i}.py": b"" for i in range(5000)}}), 0),
    ],
)
def test_what_is_unsafe_or_too_much_is_left_out_and_counted(content, count, tmp_path):
    path = tmp_path / "submission.zip"
    path.write_bytes(content())
    notes = grade.unpack(path, tmp_path / "deep/er/folder")
    assert (tmp_path / "deep/er/folder" / OWN).is_file()
    assert [note.split()[0] for note in notes] == [str(count)] * bool(count)
    assert not list(tmp_path.rglob("outside.*")) and not list(tmp_path.rglob("link.py"))


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda: unsafe(f"{OWN}/inner.py"), "cannot be written"),
        (lambda: unsafe("x" * 300 + ".py"), "cannot be written"),
        (
            lambda: unsafe("a.py", content=b"damaged here").replace(b"damaged", b"DAMAGED"),
            "Bad CRC",
        ),
        (lambda: damaged_in_lzma("a.py"), "'a.py' cannot be read"),
        (lambda: inside(1), ""),
        (lambda: inside(3), ""),
    ],
)
def test_a_strange_file_costs_nothing_else(content, message, tmp_path):
    (tmp_path / "submission.zip").write_bytes(content())
    notes = grade.unpack(tmp_path / "submission.zip", tmp_path / "folder")
    assert (tmp_path / "folder" / OWN).read_bytes() == b"x = 1\n"
    assert message in "".join(notes)


@pytest.mark.parametrize(
    "tops, graded",
    [
        (["a/b/c/d/e/f"], "a/b/c/d/e/f"),
        (["deep/er/own", "own"], "own"),
        (["__MACOSX/own", ".git/own", "own"], "own"),
        (["a\\b"], "a/b"),
    ],
)
def test_the_shallowest_folder_is_graded_and_named(tops, graded, tmp_path):
    own = [OWN, "visualizers/gradcam.py", "style_modules/tv_loss.py"]
    files = {f"{top}/{name}": top.encode() for top in tops for name in own}
    source = archive(files | {"gradcam.py": b""}, tmp_path / "submission.zip")  # a stray one
    notes = grade.unpack(source, tmp_path / "folder")
    assert f"'{graded}/'" in notes[0]
    assert (tmp_path / "folder" / OWN).read_text().replace("\\", "/") == graded


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


# What submissions hold, and the edition that they are taken for.
HELD = [
    ({"a/cli/session.py": b"", f"a/{OWN}": b""}, "assignment"),
    ({OWN: b"from .common import check_images\n"}, "assignment"),
    ({OWN: b"", "gradcam.py": b"def draw_captum(page, model, save):\n"}, "assignment"),
    ({OWN: b"", "saliency_map.py": b""}, "a3"),
    ({"a/helpers/style_utils.py": b"", "a/style_modules/tv_loss.py": b""}, "a3-2023"),
    ({"network_visualization.ipynb": b'"def make_adversarial_attack(X)"'}, "eecs-2019"),
    ({"NetworkVisualization-Pytorch.ipynb": b"# Yours: Question 1.1: maps"}, "homework"),
    ({"hw/cs231n/net_visualization_pytorch.py": b""}, "cs231n-2021"),
    ({"A6/style_transfer.py": b"def guided_gram_matrix(f):\n", "A6/x/y.py": b""}, "eecs-2022"),
    ({"deeplearning/network_visualization.py": b""}, "cs182"),
]


@pytest.mark.parametrize("files, edition", HELD, ids=[edition for _, edition in HELD])
def test_a_submission_tells_its_edition_and_most_decide(files, edition, tmp_path):
    source = archive(files, tmp_path / "a.zip")
    other = archive({"notes.py": b""}, tmp_path / "b.zip")
    assert grade.edition_of([source, other, tmp_path / "none.zip"]) == edition
    assert grade.edition_of([other]) == ASSIGNMENT


def test_around_another_course_s_files_stands_what_they_import_and_no_solution(tmp_path):
    module = "cs231n/net_visualization_pytorch.py"
    own = {module: b"x = 1\n", "errors.py": b"theirs = 1\n"}
    grade.unpack(archive(own, tmp_path / "a.zip"), tmp_path / "a", "cs231n")
    assert (tmp_path / "a" / module).read_bytes() == own[module]
    assert (tmp_path / "a/errors.py").read_bytes() == own["errors.py"]
    assert (tmp_path / "a/image_utils.py").is_file()
    absent = grade.STUDENTS | {"cs231n/style_transfer_pytorch.py"}
    assert not any((tmp_path / "a" / name).exists() for name in absent)
    scripts = {"saliency_visualization.py": b"class SaliencyMap:\n"}
    grade.unpack(archive(scripts, tmp_path / "b.zip"), tmp_path / "b", "a3-2023")
    assert (tmp_path / "b/saliency_visualization.py").read_bytes() == b"class SaliencyMap:\n"
    assert not (tmp_path / "b/class_visualization.py").exists()


def test_feedback_is_named_by_the_submission_s_path(tmp_path):
    names, taken = ["ann/a.zip", "bob/a.zip", "../c d", "/e.zip", "Bob_a.zip", "bob a.zip"], set()
    for name in names:
        grade.write_feedback(tmp_path, grade.Grade(name, error=f"of {name}"), taken)
    written = {path.name: path.read_text().splitlines()[0] for path in tmp_path.iterdir()}
    files = ("ann_a.txt", "bob_a.txt", "c_d.txt", "e.txt", "Bob_a_2.txt", "bob_a_3.txt")
    assert written == dict(zip(files, names, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--feedback", "a.zip"], "cannot make the folder 'a.zip'"),
        (["--values", "a.zip"], "'a.zip' holds no inputs; course/hidden.py makes such a file"),
        (["--course", "CS4803"], "only the homework has extra credit; --edition homework"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_graded(
    options, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.zip").write_bytes(zip_files({OWN: b"x = 1\n"}))
    with pytest.raises(SystemExit):
        grade.main(["a.zip", *options])
    output, errors = capsys.readouterr()
    assert output == "" and message in errors


def test_an_interruption_while_editions_are_recognised_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(grade, "_looks_like", interrupted)
    with pytest.raises(SystemExit, match="130"):
        grade.main([str(tmp_path)])
    assert capsys.readouterr().err.endswith(": error: interrupted\n")


def outcomes(edition: str, **other: str) -> dict[str, check.Outcome]:
    """Everything right but these items, of which the check says something."""
    found = {item.name: check.Outcome(item.name, "", "", "ok", "") for item in of_edition(edition)}
    wrong = {name: check.Outcome(name, "", "", "wrong", message) for name, message in other.items()}
    return found | wrong


@pytest.mark.parametrize("strict, points", [(False, 77), (True, 0)])
def test_who_prints_loses_the_item_or_by_the_hand_out_s_rule_everything(strict, points):
    rules = grade.Rules(ASSIGNMENT, expected(), strict)
    found = outcomes(ASSIGNMENT, tv_loss=f"prints '1', {UNASKED}")
    result = grade.scored(grade.Grade("a.zip"), found, rules)
    assert result.total == points and f"{points:4g} / 80" in grade.table(result)
    assert sum("no points" in score.message for score in result.scores) == 15 * strict
    wrong = outcomes(ASSIGNMENT, tv_loss="of another shape")
    assert grade.scored(grade.Grade("a.zip"), wrong, rules).total == 77


@pytest.mark.parametrize("course, most", [("", 50), ("CS4803", 40)])
def test_extra_credit_is_shown_and_left_out_of_its_course_s_maximum(course, most):
    rules = grade.Rules(HOMEWORK, expected())
    found = outcomes(HOMEWORK, content_loss="twice what it should be")
    result = grade.scored(grade.Grade("a.zip", course=course), found, rules)
    (line,) = [line for line in grade.table(result).splitlines() if "Class visual" in line]
    assert ("extra credit" in line) == bool(course) and "10 / 10" in line
    assert (result.total, result.most) == (47, most) and f"47 / {most}" in grade.table(result)
    tests = grade.gradescope(result)["tests"]
    assert sum(test["max_score"] for test in tests) == most
    assert sum(test["score"] for test in tests) == 47
