"""The students' edition and the grader: made from the solution, safe with any zip, points as the
rubric says.
"""

import ast
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
from solutions import ITEMS, RIGHT, put

import check
from checker.items import EDITIONS, of_edition
from collect_submission import required_files, zip_files
from course import grade, tables
from course.make_starter import (
    BLANKS,
    GIVEN,
    StarterError,
    blanked_parts,
    course_files,
    find_definition,
    function_body,
    replace_body,
    starter_files,
)
from files.atomic import ROOT

SCRIPTS = (
    "saliency_map.py",
    "gradcam.py",
    "fooling_image.py",
    "class_visualization.py",
    "style_transfer.py",
)
POINTS = {item.name: item.editions["assignment"][1] for item in check.ITEMS}


@pytest.fixture(scope="session")
def starter_zip() -> dict[str, bytes]:
    return starter_files(ROOT)


def write(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def starter(starter_zip, tmp_path) -> Path:
    return write(starter_zip, tmp_path / "starter")


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def points(folder: Path) -> dict[str, float]:
    """The points of every item that is ok."""
    return {o.name: POINTS[o.name] for o in check.check(folder, check.ITEMS) if o.status == "ok"}


# --- The starter ---


@pytest.mark.slow
def test_starter_holds_what_students_need_and_nothing_else(starter_zip):
    assert starter_zip.keys() >= {
        *required_files(ROOT),
        *(
            "README.md",
            "environment.yaml",
            "requirements.txt",
            "check.py",
            "checker/measures.py",
            "checker/process.py",
        ),
        *("collect_submission.py", "collect_submission.sh", "collect_submission.bat"),
        *(
            "data/expected.npz",
            "data/reference_values.npz",
            "data/get_imagenet_val.sh",
            "data/styles/wavy_dusk.jpg",
        ),
    }
    folders = {name.partition("/")[0] for name in starter_zip if "/" in name}
    assert folders == {
        "data",
        "visualizers",
        "style_modules",
        "cli",
        "files",
        "report",
        "checker",
        "adapters",
    }
    assert not [name for name in starter_zip if name.startswith("data/") and name.endswith(".py")]
    assert starter_zip["README.md"] == (ROOT / "course/STARTER.md").read_bytes()


def test_no_line_of_a_blanked_body_survives(starter_zip):
    sources = {
        name: content.decode()
        for name, content in course_files(ROOT).items()
        if name.endswith(".py")
    }
    kept, blanked = dict(sources), []
    for blank in BLANKS:
        blanked += blanked_parts(blank, function_body(sources[blank.file], blank.function))
        kept[blank.file] = replace_body(kept[blank.file], blank.function, "pass")
    # What the solution also says elsewhere gives nothing away, nor do a few signs.
    elsewhere = "\n".join(kept.values())
    lines = {line.strip() for body in blanked for line in body.splitlines()}
    lines = {line for line in lines if len(line) > 20 and line not in elsewhere}
    assert len(lines) > 60
    text = b"\n".join(starter_zip.values()).decode(errors="replace")
    assert [line for line in lines if line in text] == []


def test_helpers_of_blanked_functions_are_dropped(starter_zip):
    def names(files: dict[str, bytes]) -> set[str]:
        return {
            node.name
            for name, content in files.items()
            if name.endswith(".py")
            for node in ast.walk(ast.parse(content))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }

    gone = names(course_files(ROOT)) - names(starter_zip)
    assert {"_guide_relus", "_SelfProduct", "_scaled"} <= gone
    assert not gone & (GIVEN | {"default_layer", "is_fooled", "preprocess_image", "blur_image"})
    for name in ("visualizers/gradcam.py", "style_modules/style_loss.py"):
        assert len(starter_zip[name]) < len((ROOT / name).read_bytes())


def test_every_blank_says_its_question_below_its_docstring(starter_zip):
    for blank in BLANKS:
        source = starter_zip[blank.file].decode()
        body = function_body(source, blank.function)
        hint, raised = body[body.index("# Hint: ") :].split("raise NotImplementedError", 1)
        assert blank.parts or body.startswith(hint)
        assert raised.startswith(f'("Question {blank.question}: ')
        solution = (ROOT / blank.file).read_text()
        of = [
            ast.get_docstring(find_definition(text, blank.function)) for text in (source, solution)
        ]
        assert of[0] == of[1]


def test_a_function_that_is_gone_is_named(tmp_path):
    write(course_files(ROOT), tmp_path)
    path = tmp_path / "style_modules/tv_loss.py"
    path.write_text(path.read_text().replace("def forward", "def ahead"))
    with pytest.raises(
        StarterError, match=r"style_modules/tv_loss.py: no function TotalVariationLoss.forward"
    ):
        starter_files(tmp_path)


@pytest.mark.slow
def test_scripts_of_the_starter_help_and_name_the_question(starter):
    for script in SCRIPTS:
        assert run(sys.executable, script, "--help", cwd=starter).returncode == 0
        result = run(sys.executable, script, "--quiet", cwd=starter)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), (
            result.stderr
        )
        assert f"{script}: error: Question " in result.stderr
    assert (
        run(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=starter).returncode == 0
    )


@pytest.mark.slow
def test_starter_scores_nothing_and_everything_is_missing(starter, tmp_path):
    result = run(sys.executable, "check.py", cwd=starter)
    assert result.returncode == 1 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.split()[1:3] for line in lines[:-1]] == [[name, "missing"] for name in ITEMS]
    assert lines[-1] == f"{len(ITEMS)} items: {len(ITEMS)} missing"


@pytest.mark.slow
def test_starter_with_the_blanked_bodies_back_passes_everything(starter):
    """The bodies, and the helpers that went with them."""
    files = {name: content for name, content in course_files(ROOT).items() if name.endswith(".py")}
    changed = [name for name in files if (starter / name).read_bytes() != files[name]]
    assert {blank.file for blank in BLANKS} <= set(changed)
    write({name: files[name] for name in changed}, starter)
    assert points(starter) == POINTS


@pytest.mark.slow
def test_starter_solved_by_a_student_passes_everything(starter):
    for name, body in RIGHT.items():
        put(starter, name, body)
    for script in ("saliency_map.py", "gradcam.py"):
        put(
            starter,
            script.replace("_map.py", "_captum").replace(".py", "_captum"),
            captum_body(script),
        )
    assert points(starter) == POINTS


def captum_body(script: str) -> str:
    body = function_body((ROOT / script).read_text(), "draw_captum")
    # Unused in the starter, they are not imported there
    return f"import contextlib\nimport functools\n{body}"


# Item → what else is won by it: feature inversion needs three losses.
ALONE = {
    name: {name}
    for name in RIGHT
    if name not in ("guided_grad_cam", "guided_backprop", "style_loss")
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_one_question_solved_scores_its_points(name, starter):
    put(starter, name, RIGHT[name])
    assert points(starter) == {item: POINTS[item] for item in ALONE[name]}


@pytest.mark.slow
def test_questions_that_build_on_others(starter):
    put(starter, "style_loss", RIGHT["style_loss"])
    assert points(starter) == {"style_loss": 3}  # and feature inversion without the update rule
    put(starter, "content_loss", RIGHT["content_loss"])
    put(starter, "tv_loss", RIGHT["tv_loss"])
    assert points(starter) == {
        "style_loss": 3,
        "content_loss": 3,
        "tv_loss": 3,
        "feature_inversion": 2,
    }


# --- The rubric and the grader ---


def test_the_hand_outs_numbers_and_points():
    homework = [item.editions["homework"] for item in of_edition("homework")]
    assert [points for _, points in homework] == [10, 10, 10, 3, 3, 3, 3, 6, 2]
    assert [number for number, _ in homework] == [
        "1.1",
        "1.2",
        "1.3",
        "2.1",
        "2.2",
        "2.2",
        "2.3",
        "2.4",
        "2.5",
    ]
    assert of_edition("assignment") == list(check.ITEMS) and EDITIONS == ("assignment", "homework")
    assert sum(POINTS.values()) == 80 and list(
        dict.fromkeys(item.question for item in check.ITEMS)
    ) == [*("1.1", "1.2", "1.3", "1.4"), *("2.1", "2.2", "2.3", "2.4", "2.5")]


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_markdown_tables_are_those_of_the_items(name):
    assert tables.updated(name) == (ROOT / "course" / name).read_text("utf-8")


def archive(files: dict[str, bytes], path: Path) -> Path:
    path.write_bytes(zip_files(files))
    return path


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
    result = run(*command, full, "--json", tmp_path / "results.json", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    results = json.loads((tmp_path / "results.json").read_text())
    assert (
        sum(test["score"] for test in results["tests"])
        == sum(test["max_score"] for test in results["tests"])
        == 80
    )
    for test in results["tests"]:
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
    time.sleep(5)
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
