"""The homework edition: its starter, a student's walk through it, and the grades of notebooks."""

import datetime
import json
import re
import zipfile
from pathlib import Path

import pytest
import warm
from helpers import ROOT
from solutions import write

from check import check_edition
from checker.items import HOMEWORK, of_edition
from course import grade
from course.notebooks import NETWORK, STYLE, blank, homework_files, submitted
from report.pages import Report

# What a student writes: function → text in the place of the exception. Otherwise than in the solved
# notebooks.
ANSWERS = {
    "compute_saliency_maps": """
maps = []
model.eval()
for photo, label in zip(X, y):
    photo = photo[None].clone().requires_grad_(True)
    model(photo)[0, label].backward()
    maps.append(photo.grad[0].abs().max(dim=0).values)
return torch.stack(maps)
""",
    "make_fool_image": """
model.eval()
fooling = X.clone().requires_grad_()
for _ in range(max_iter):
    scores = model(fooling)
    if scores.argmax(1).item() == target_y:
        break
    scores[0, target_y].backward()
    fooling.data += learning_rate * fooling.grad / fooling.grad.norm()
    fooling.grad.zero_()
return fooling.detach()
""",
    "create_class_visualization": """
img = img.clone().requires_grad_()
(model(img)[:, target_y].sum() - l2_reg * (img ** 2).sum()).backward()
img = img.data + learning_rate * img.grad / img.grad.norm()
""",
    "content_loss": "return content_weight * torch.sum((content_current - content_original) ** 2)",
    "gram_matrix": """
gram = torch.einsum("nchw,ndhw->ncd", features, features)
return gram / features[0].numel() if normalize else gram
""",
    "style_loss": """
loss = torch.zeros(())
for i, layer in enumerate(style_layers):
    loss = loss + style_weights[i] * ((gram_matrix(feats[layer]) - style_targets[i]) ** 2).sum()
return loss
""",
    "tv_loss": """
down = ((img[:, :, 1:, :] - img[:, :, :-1, :]) ** 2).sum()
return tv_weight * (down + ((img[:, :, :, 1:] - img[:, :, :, :-1]) ** 2).sum())
""",
    "style_transfer": """
content = content_loss(content_weight, feats[content_layer], content_target)
style = style_loss(feats, style_layers, style_targets, style_weights)
tv = tv_loss(img, tv_weight)
optimizer.zero_grad()
(content + style + tv).backward()
optimizer.step()
""",
}
BLANK = re.compile(r'^( *)raise NotImplementedError\("Question [\d.]+: (\w+)"\)$', re.MULTILINE)


def sources(notebook: bytes) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook)["cells"]]


def answered(path: Path, answers: dict[str, str]) -> None:
    """Write answers into the blanks of a notebook."""

    def write(match: re.Match) -> str:
        indent, function = match.groups()
        lines = (
            answers[function].strip().splitlines() if function in answers else [match[0].strip()]
        )
        return "\n".join(indent + line for line in lines)

    content = json.loads(path.read_text("utf-8"))
    for cell in content["cells"]:
        cell["source"] = BLANK.sub(write, "".join(cell["source"]))
    path.write_text(json.dumps(content), encoding="utf-8")


def test_every_answer_is_cut_out_of_the_notebooks_and_nothing_else_of_the_homework():
    files = homework_files(ROOT)
    asked = [
        match
        for name in (NETWORK, STYLE)
        for source in sources(files[name])
        for match in BLANK.findall(source)
    ]
    assert sorted(function for _, function in asked) == sorted(ANSWERS)
    for name in (NETWORK, STYLE):
        given, solved = sources(files[name]), sources((ROOT / name).read_bytes())
        kept = solved[: len(given)]
        assert [s for s in kept if "# Yours" not in s] == [s for s in given if "# Yours" not in s]
        assert solved[len(given)].startswith("# Beyond the homework")
        assert '"outputs": []' in files[name].decode() and "image/jpeg" not in files[name].decode()
    text = "".join(map("".join, (sources(files[name]) for name in (NETWORK, STYLE))))
    assert not re.search(
        r"autograd|backward\(|\.gather\(1, y\[|from visualizers|from style_modules", text
    )
    for test in ("content_loss_test", "gram_matrix_test", "style_loss_test", "tv_loss_test"):
        assert f"def {test}(" in text
    assert "1.1: saliency maps (10 points)" in text and "2.2: style loss (3 + 3 points)" in text


def test_a_region_becomes_one_exception_that_names_question_and_function():
    source = "def add(a, b):\n    # Yours: Question 9.1: one line\n    return a + b\n    # End\n"
    notebook = {
        "cells": [{"cell_type": "code", "source": source, "outputs": [1], "execution_count": 3}]
    }
    (cell,) = json.loads(blank(json.dumps(notebook).encode()))["cells"]
    lines = ['    raise NotImplementedError("Question 9.1: add")\n', "    # End\n"]
    assert cell["source"] == ["def add(a, b):\n", "    # Yours: Question 9.1: one line\n", *lines]
    assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_notebooks_of_a_submission_are_found_by_their_names():
    names = [
        "a/.ipynb_checkpoints/StyleTransfer.ipynb",
        "a/b/style_transfer.ipynb",
        "a/Network_Visualization.ipynb",
    ]
    assert submitted(names) == {NETWORK: names[2], STYLE: names[1]}
    assert submitted([*names, "z/Style.ipynb"])[STYLE] == "z/Style.ipynb"  # not as deep


@pytest.mark.slow
def test_a_student_s_walk_in_the_hand_out_s_order(starter_zip, tmp_path, hidden, capsys):
    """Each question written and checked; the PDFs; the zip, at full points."""
    home = tmp_path / "home"
    write(starter_zip | homework_files(ROOT), home)
    assert "9 items: 9 missing" in warm.run("check.py", "--edition", "homework", cwd=home).stdout
    written = {}
    for item in of_edition(HOMEWORK):
        function = {"saliency_map": "compute_saliency_maps", "fooling_image": "make_fool_image"}
        function |= {"class_visualization": "create_class_visualization"}
        name = function.get(item.name, item.name)
        if name in ANSWERS:
            written[name] = ANSWERS[name]
            for notebook in (NETWORK, STYLE):
                answered(home / notebook, {name: ANSWERS[name]})
        (outcome,) = check_edition(home, [item], HOMEWORK)
        assert (outcome.question, outcome.status) == (item.editions[HOMEWORK][0], "ok"), outcome
    assert written == ANSWERS
    (home / "problem_set.pdf").write_bytes(pdf_with_a_page())
    result = warm.run("writeup.py", "--notebooks", "problem_set.pdf", cwd=home)
    assert result.returncode == 0 and (home / "homework.pdf").is_file(), result.stderr
    result = warm.run("collect_submission.py", cwd=home)
    assert result.returncode == 0 and result.stderr.count("not all cells have been run") == 2
    submission = home / "assignment_3_submission.zip"
    assert {
        *(NETWORK, NETWORK.replace(".ipynb", ".pdf"), STYLE.replace(".ipynb", ".pdf")),
        *("notebooks/cs231n/__init__.py", "data/reference_values.npz"),
    } <= set(zipfile.ZipFile(submission).namelist())
    assert re.search(r"total +50 / 50", graded(submission, hidden, capsys))


def graded(submission: Path, hidden: Path, capsys) -> str:
    """What the grader prints."""
    options = ["--values", str(hidden), "--edition", "homework"]
    assert grade.main([*options, str(submission)]) == 0
    return capsys.readouterr().out


def pdf_with_a_page() -> bytes:
    report = Report("my answers", datetime.date(2026, 1, 31))
    return bytes(report.output())


@pytest.mark.slow
def test_a_wrong_answer_in_a_notebook_loses_its_points_alone(tmp_path, hidden, capsys):
    wrong = ANSWERS | {
        "tv_loss": "return tv_weight * img.abs().sum()",
        "gram_matrix": "raise ValueError(1)",
    }
    for name in (NETWORK, STYLE):
        (tmp_path / "own" / Path(name).name).parent.mkdir(exist_ok=True)
        (tmp_path / "own" / Path(name).name).write_bytes(homework_files(ROOT)[name])
        answered(tmp_path / "own" / Path(name).name, wrong)
    table = graded(tmp_path / "own", hidden, capsys)
    assert " 0 / 10" not in table, table
    lost = [line for line in table.splitlines() if " 0 / " in line]
    assert "Gram matrix" in lost[0] and "StyleTransfer-Pytorch.ipynb cell" in lost[0], table
    assert "Total variation" in table and "Update rule of style transfer     6 / 6 " in table
