"""The students' edition: made from the solution, nothing of an answer in it, full points when solved."""

import ast
import sys

import pytest
from solutions import ITEMS, POINTS, RIGHT, points, put, run, write

from collect_submission import required_files
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
        assert raised.lstrip("( \n").startswith(f'"Question {blank.question}: ')
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
