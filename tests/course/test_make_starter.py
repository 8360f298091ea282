"""The students' edition: made from the solution, nothing of an answer in it, full points when solved."""

import ast
import io
import json
import sys
import zipfile

import pytest
from solutions import ITEMS, RIGHT, outcome, points, put, run, write

from collect_submission import required_files, zip_files
from course import grade
from course.make_starter import (
    BLANKS,
    GIVEN,
    StarterError,
    _without_helpers,
    autograder_files,
    blanked_parts,
    find_definition,
    function_body,
    main,
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


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--colour", 2)])
def test_options_alone_write_nothing(option, status, capsys):
    with pytest.raises(SystemExit) as caught:
        main([option])
    assert caught.value.code == status and " files" not in capsys.readouterr().out


def test_shell_scripts_of_the_starter_can_be_run(starter_zip):
    archive = zipfile.ZipFile(io.BytesIO(zip_files(starter_zip)))
    runnable = [each.filename for each in archive.infolist() if each.external_attr >> 16 & 0o111]
    assert runnable == [name for name in archive.namelist() if name.endswith(".sh")]
    assert "collect_submission.sh" in runnable


def test_no_line_of_a_blanked_body_survives(starter_zip, solution_files):
    sources = {
        name: content.decode() for name, content in solution_files.items() if name.endswith(".py")
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


HELPERS = """
# Of the part that is removed
def factorial(n):
    return n * factorial(n - 1) if n else 1


def used():
    pass
"""


def test_helpers_go_with_their_comments_though_they_call_themselves():
    sources = _without_helpers({"a.py": HELPERS, "b.py": "used()\n"}, ["factorial(3) + used()"])
    assert "factorial" not in sources["a.py"] and "#" not in sources["a.py"]
    assert "def used" in sources["a.py"]


def test_helpers_of_blanked_functions_are_dropped(starter_zip, solution_files):
    def names(files: dict[str, bytes]) -> set[str]:
        return {
            node.name
            for name, content in files.items()
            if name.endswith(".py")
            for node in ast.walk(ast.parse(content))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }

    gone = names(solution_files) - names(starter_zip)
    assert {"_guide_relus", "_SelfProduct"} <= gone
    assert not gone & (GIVEN | {"default_layer", "is_fooled", "preprocess_image", "blur_image"})
    for name in ("visualizers/gradcam.py", "style_modules/style_loss.py"):
        assert len(starter_zip[name]) < len((ROOT / name).read_bytes())


def test_every_blank_says_its_question_below_its_docstring(starter_zip):
    for blank in BLANKS:
        source = starter_zip[blank.file].decode()
        body = function_body(source, blank.function)
        hint, raised = body[body.index("# Hint: ") :].split("raise NotImplementedError", 1)
        assert blank.parts or body.startswith(hint)
        assert raised.lstrip("( \n").startswith(f'"Question {blank.question}: ')
        solution = (ROOT / blank.file).read_text()
        of = [
            ast.get_docstring(find_definition(text, blank.function)) for text in (source, solution)
        ]
        assert of[0] == of[1]


def test_a_function_that_is_gone_is_named(solution):
    path = solution / "style_modules/tv_loss.py"
    path.write_text(path.read_text().replace("def forward", "def ahead"))
    with pytest.raises(
        StarterError, match=r"style_modules/tv_loss.py: no function TotalVariationLoss.forward"
    ):
        starter_files(solution)


@pytest.mark.slow
def test_scripts_of_the_starter_help_and_name_the_question(starter):
    for script in SCRIPTS:
        assert run(sys.executable, script, "--help", cwd=starter).returncode == 0
    names = [script.removesuffix(".py") for script in SCRIPTS]
    program = f"""
import importlib, sys
for name in {names}:
    sys.argv = [f"{{name}}.py", "--quiet"]
    assert importlib.import_module(name).main() == 2
"""
    result = run(sys.executable, "-c", program, cwd=starter)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    for script, line in zip(SCRIPTS, result.stderr.splitlines(), strict=True):
        assert line.startswith(f"{script}: error: Question "), line
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    assert run(*ruff, cwd=starter).returncode == 0


# Question → its script, with options for little work.
WALK = {
    "1.1": ("saliency_map.py", "--num", "1", "--steps", "2"),
    "1.2": ("gradcam.py", "--num", "1", "--steps", "2"),
    "1.3": ("fooling_image.py",),
    "1.4": ("class_visualization.py", "--iterations", "2"),
    **dict.fromkeys(
        ("2.1", "2.2", "2.3", "2.4", "2.5"),
        ("style_transfer.py", "--optimizer", "adam", "--iterations", "2", "--image-size", "64"),
    ),
}
FIGURES = {"1.1": "saliency_captum", "1.2": "figure1", "1.3": "fooling_image"}
FIGURES |= {"1.4": "class_visualization", "2.4": "style_transfer", "2.5": "inverted_features"}
PRINTED = ("Content Loss", "Gram Matrix", "Style Loss", "TV Loss")  # after 2.1, 2.2, 2.2 and 2.3


OBJECTIVE = """
image = image.detach().clone().requires_grad_()
score = model(image)[0, target]
(score - l2_reg * (image**2).sum()).backward()
return score.detach(), image.grad
"""


@pytest.mark.slow
def test_a_student_s_walk_in_the_hand_out_s_order(starter, starter_zip, hidden, tmp_path):
    """Each question written, checked, and its figures made; the report; the zip, which the archive
    for Gradescope gives full points, and holds no solution.
    """
    for item in ITEMS.values():
        if item.name.endswith("_captum"):
            put(starter, item.name, captum_body(item.file))
        elif item.parts:
            body = function_body((ROOT / item.file).read_text(), item.function)
            put(starter, item.name, body)
        elif item.function == "objective_gradient":  # of which the script makes use
            path = starter / item.file
            path.write_text(replace_body(path.read_text(), item.function, OBJECTIVE))
        elif item.hint:
            put(starter, item.name, RIGHT[item.name])
        found = outcome(starter, item.name)
        assert found.status == "ok", found
        if item.name in ("guided_backprop", "gram_matrix", "feature_inversion"):
            continue  # the question goes on, or its figure is there
        last = [each.name for each in ITEMS.values() if each.question == item.question][-1]
        if item.name != last or item.question in ("2.1", "2.3"):
            continue
        script, *options = WALK[item.question]
        result = run(sys.executable, script, *options, "--quiet", cwd=starter)
        written = (starter / f"visualization/{FIGURES.get(item.question)}.png").is_file()
        if item.question == "2.2":  # what is written is tested, and the next question named
            assert [line.split(" ")[0] for line in result.stdout.splitlines()] == [
                line.split(" ")[0] for line in PRINTED[:3]
            ]
            assert result.returncode == 2 and "Question 2.3" in result.stderr and not written
        else:
            assert result.returncode == 0 and result.stderr == "" and written, result.stderr
    assert result.stdout.count("rror is 0.000") == 4
    assert (starter / "visualization/inverted_features.png").is_file()
    report = run(sys.executable, "writeup.py", "--no-run", cwd=starter)
    assert report.returncode == 0 and (starter / "report.pdf").is_file(), report.stderr
    assert run(sys.executable, "collect_submission.py", cwd=starter).returncode == 0
    (submission,) = starter.glob("*_submission.zip")
    files = autograder_files(ROOT, starter_zip, "assignment", hidden.read_bytes())
    assert graded_by_gradescope(files, submission, tmp_path) == (80, 80)
    assert {name: files[f"project/{name}"] for name in grade.STUDENTS} == {
        name: starter_zip[name] for name in grade.STUDENTS
    }
    assert not [name for name in files if "mistakes" in name or "make_expected" in name]


def graded_by_gradescope(files, submission, folder) -> tuple[int, int]:
    """Points and their maximum, as Gradescope runs an archive, in its folders."""
    write(files, folder / "source")
    with zipfile.ZipFile(submission) as file:
        file.extractall(folder / "submission")
    script = folder / "source/run_autograder"
    result = run("bash", script, cwd=folder, AUTOGRADER=str(folder), PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    tests = json.loads((folder / "results/results.json").read_text())["tests"]
    for test in tests:
        assert test.keys() == {"name", "score", "max_score", "number", "output", "visibility"}
    return tuple(sum(test[key] for test in tests) for key in ("score", "max_score"))


def captum_body(script: str) -> str:
    body = function_body((ROOT / script).read_text(), "draw_captum")
    # Unused in the starter, they are not imported there
    return f"import contextlib\nimport functools\n{body}"


# By themselves; of the others it takes more than one.
ALONE = [n for n in RIGHT if n not in ("guided_grad_cam", "guided_backprop", "style_loss")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_one_question_solved_is_right_without_the_others(name, starter):
    put(starter, name, RIGHT[name])
    assert outcome(starter, name).status == "ok"


@pytest.mark.slow
def test_questions_that_build_on_others(starter):
    style = [item for item in ITEMS.values() if item.question.startswith("2.")]
    put(starter, "style_loss", RIGHT["style_loss"])
    assert points(starter, style) == {"style_loss": 3}  # feature inversion needs the other losses
    put(starter, "content_loss", RIGHT["content_loss"])
    put(starter, "tv_loss", RIGHT["tv_loss"])
    put(starter, "gram_matrix", RIGHT["gram_matrix"])
    alone = {"style_loss": 3, "content_loss": 3, "gram_matrix": 3, "tv_loss": 3}
    alone["feature_inversion"] = 2
    assert points(starter, style) == alone
