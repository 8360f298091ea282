"""The report: figures as the scripts make them, captions with their options, answers in their
places.
"""

import dataclasses
import datetime
import importlib
import os
import re
import sys

import pypdf
import pytest
from helpers import one_line, options, run_script
from PIL import Image

import saliency_map
import writeup
from cli.options import make_parser
from cli.session import Session
from figure_utils import draw_rows, provenance, save_png
from report.markdown import read_sections
from report.pages import Report
from report.questions import QUESTIONS
from writeup import today

DEFAULT = [question for question in QUESTIONS if question.by_default]


def pages_of(folder) -> list[str]:
    """The text of each page of the report in a folder, line breaks as spaces."""
    return [
        " ".join(page.extract_text().split())
        for page in pypdf.PdfReader(folder / "report.pdf").pages
    ]


@pytest.fixture(scope="module")
def all_figures(tmp_path_factory, bundled_model, photos):
    """A folder with every figure of the report, each a small one with the record of a real one."""
    folder = tmp_path_factory.mktemp("figures")
    for question in QUESTIONS:
        parser = make_parser("")
        importlib.import_module(question.scripts[-1]).add_options(parser)
        # What the scripts find out and record.
        facts = vars(parser.parse_args([])) | {
            "layer": "features.12",
            "captum_layer": "features.3",
            "pictures": "night: 192 px",
        }
        facts["iterations"] = facts.get("iterations") or 200
        facts["target"] = facts.get("target") or "6"
        for name in question.figures:
            figure = draw_rows([("photo", photos[0][:2])], [name, question.name])
            save_png(figure, folder / name, provenance(bundled_model, 7, facts))
    return folder


@pytest.fixture
def figures(all_figures, tmp_path):
    """A copy of it, as hard links."""
    for path in all_figures.iterdir():
        os.link(path, tmp_path / path.name)
    return tmp_path


def compose(folder, *more: str) -> int:
    return writeup.main(["--no-run", "--out", str(folder), *more])


@pytest.mark.slow
def test_a_run_makes_the_figures_that_the_scripts_make_and_sets_them(tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    one = ["--num", "1", "--device", "cpu", "--out"]
    result = run_script("writeup.py", "--only", "fooling_image", "saliency_map", *one, together)
    assert (result.returncode, result.stdout) == (0, "Fooled the model!\n"), result.stderr
    # One notice for two scripts
    assert result.stderr.count("photos:") == (0 if os.environ.get("CS7643_DATA") else 1)
    assert result.stderr.endswith("report.pdf: 3 pages\n")
    assert saliency_map.main([*one, str(alone), "--quiet"]) == 0
    for path in alone.iterdir():
        assert (together / path.name).read_bytes() == path.read_bytes()
    title, saliency, fooling = pages_of(together)
    assert all(
        fact in title
        for fact in ("squeezenet1_1", "bundled", "Seed 1", "torch 2.", str(today().year))
    )
    assert "1.1 Saliency maps" in saliency and "saliency_map.png" in saliency
    assert "Answer" in saliency
    assert "1.3 Fooling images" in fooling
    assert "The photo is number 0, the class to reach 6." in fooling


@pytest.mark.slow
def test_every_question_is_set_in_order_with_its_options(figures):
    assert compose(figures) == 0
    title, *pages = pages_of(figures)
    text = " ".join(pages)
    positions = [text.index(question.heading) for question in DEFAULT]
    assert positions == sorted(positions)
    for question in DEFAULT:
        page = int(re.search(rf"Page (\d+) {re.escape(question.heading)}", title)[1])
        assert question.heading in pages[page - 2]
        for name in question.figures:
            assert f"{name}. " in text
    assert "Seed 7" in title and "{" not in text and "None" not in text
    assert "an L2 norm of 10 in normalised pixels; there are 100 of them at most" in text
    assert sum(page.count("Answer") for page in pages) == len(DEFAULT)


@pytest.mark.slow
def test_captions_tell_what_the_figure_was_made_with_not_the_defaults(figures, photos):
    parser = make_parser("")
    importlib.import_module("fooling_image").add_options(parser)
    facts = vars(parser.parse_args(["--index", "3", "--target", "stingray"]))
    figure = draw_rows([("", photos[0][:1])], ["a"])
    for name in ("fooling_image.png", "fooling_image_2.png"):
        (figures / name).unlink(missing_ok=True)
        save_png(figure, figures / name, provenance(None, 1, facts))
    (figures / "saliency_map.png").unlink()
    Image.fromarray(photos[0][0]).save(figures / "saliency_map.png")  # no record
    (figures / "gradcam.png").unlink()
    Image.fromarray(photos[0][0]).save(figures / "gradcam.png")
    assert compose(figures) == 0
    title, *pages = pages_of(figures)
    text = " ".join(pages)
    assert text.count("The photo is number 3, the class to reach stingray.") == 2
    assert "fooling_image_2.png" in text
    assert "gradcam.png. Grad-CAM over the photos. " in text  # nothing is claimed of the layer
    assert "Seed not recorded; 7; 1" in title  # in the order of the figures


@pytest.mark.slow
def test_same_figures_give_the_same_bytes(figures, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    reports = []
    for _ in range(2):
        assert compose(figures) == 0
        reports.append((figures / "report.pdf").read_bytes())
    assert reports[0] == reports[1]
    assert "9 September 2001" in pages_of(figures)[0]
    assert pypdf.PdfReader(figures / "report.pdf").metadata.creation_date.year == 2001
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert compose(figures) == 0
    assert pypdf.PdfReader(figures / "report.pdf").metadata.creation_date.date() == today()
    assert [path.name for path in figures.iterdir() if path.suffix == ".part"] == []


@pytest.mark.slow
def test_missing_and_unreadable_figures_are_named_and_the_rest_is_set(figures, capsys):
    (figures / "gradcam.png").unlink()
    broken_one = figures / "fooling_image.png"
    broken_one.unlink()
    broken_one.write_bytes((figures / "saliency_map.png").read_bytes()[:4000])
    assert compose(figures) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "fooling_image.png" in lines[0]
    assert "report.pdf" in last and "gradcam.png is missing" in last
    assert "fooling_image.png is missing" in last
    text = " ".join(pages_of(figures))
    assert "gradcam.png is missing." in text and "guided_gradcam.png. " in text
    assert "saliency_map.png. " in text


def test_no_figure_at_all_is_an_error_and_leaves_the_last_report(tmp_path, capsys):
    (tmp_path / "report.pdf").write_text("the last one")
    assert compose(tmp_path) == 2
    one_line(capsys, "no figure", "--no-run")
    assert (tmp_path / "report.pdf").read_text() == "the last one"


FLAT = """
from torch import nn


def net():
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 10))
"""


@pytest.mark.slow
def test_a_question_that_fails_is_named_and_the_rest_is_set(tmp_path, capsys):
    """The network has no feature maps for the style; what an earlier run has left is not set in its
    place.
    """
    Image.new("RGB", (50, 50)).save(tmp_path / "style_transfer.png")
    (tmp_path / "flat.py").write_text(FLAT)
    only = ["--only", "style_transfer", "fooling_image", "--num", "1", "--quiet"]
    network = ["--arch", f"{tmp_path / 'flat.py'}:net"]
    assert writeup.main([*only, *network, "--out", str(tmp_path)]) == 2
    printed, errors = capsys.readouterr()
    failed, incomplete = errors.strip().splitlines()
    assert failed.startswith("style_transfer.py: error: ") and "layer" in failed
    assert "style_transfer.py failed" in incomplete
    assert " style_transfer.png is missing" in incomplete
    assert printed in ("Fooled the model!\n", "The model is not fooled!\n")
    text = " ".join(pages_of(tmp_path))
    assert "fooling_image.png. The photo" in text and "style_transfer.png is missing" in text


@pytest.mark.slow
def test_a_network_without_relus_is_written_up_without_guided_figures(tmp_path, capsys):
    only = ["--only", "gradcam", "--num", "1", "--size", "64", "--quiet"]
    network = ["--arch", "efficientnet_b0", "--weights", "none"]
    assert writeup.main([*only, *network, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "")
    assert "gradcam.png. Grad-CAM over the photos" in " ".join(pages_of(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "work, beginning, end",
    [
        ("import torch; torch.empty(1 << 60)", "script.py: error: out of memory; smaller", ""),
        # A fault in a solution
        ("raise KeyError('layer')", "Traceback", "script.py: error: KeyError: 'layer'\n"),
    ],
)
def test_a_script_that_fails_is_named_and_the_next_one_runs(
    tmp_path, monkeypatch, capsys, bundled_model, work, beginning, end
):
    (tmp_path / "script.py").write_text(
        f"def add_options(parser):\n    pass\n\ndef make_figures(session):\n    {work}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "script", raising=False)
    session = Session(options("--out", tmp_path / "out", "--num", 1), bundled_model)
    questions = [
        dataclasses.replace(QUESTIONS[0], scripts=(name,)) for name in ("script", "fooling_image")
    ]
    assert writeup.run_scripts(session, questions) == ["script"]
    errors = capsys.readouterr().err
    assert errors.startswith(beginning) and errors.endswith(end)
    assert (tmp_path / "out" / "fooling_image.png").exists()


ANSWERS = """\
A. Student, section *B*

with no one

# saliency_map

The cat's **eyes** cost $5 & more – naïve, 100 %.
- first
- second, on
  two lines

### In short

1. done

## Guided backprop, Grad-CAM, Guided Grad-CAM ##

Sharp.

# saliency_map
Once more.
"""


@pytest.mark.slow
def test_answers_stand_on_their_questions_pages(figures, tmp_path):
    file = tmp_path / "answers.md"
    file.write_bytes(b"\xef\xbb\xbf" + ANSWERS.encode())
    assert compose(figures, "--answers", str(file), "--only", "saliency_map", "gradcam") == 0
    title, saliency, *gradcam = pages_of(figures)
    assert "A. Student, section B with no one" in title and "Name" not in title
    assert (
        "The cat's eyes cost $5 & more – naïve, 100 %. • first • second, on two lines In short"
        in saliency
    )
    assert "Once more." in saliency and "Sharp" not in saliency
    assert "Sharp." in gradcam[-1]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("1.3", "fooling_image"),
        ("Q1.3.", "fooling_image"),
        ("Question 1.3: Fooling images", "fooling_image"),
        ("4. Fooling images", "fooling_image"),
        ("Fooling_image", "fooling_image"),
        ("2.2", "style_transfer"),
        ("2.1–2.4 Style transfer", "style_transfer"),
        ("1.1–1.2 The same with Captum", "captum"),
        ("1.1", "saliency_map"),
        *((question.heading, question.name) for question in QUESTIONS),
    ],
)
def test_headings_of_answers_are_numbers_names_and_titles(tmp_path, caplog, heading, name):
    (tmp_path / "answers.md").write_text(f"# {heading}\n\nYes.\n")
    assert writeup.assign(read_sections(tmp_path / "answers.md")) == {"": "", name: "Yes."}
    assert not caplog.records


@pytest.mark.parametrize("heading", ["1.7", "Question", "1.3 Fooling around", "3", "q", "1"])
def test_other_headings_name_no_question(tmp_path, heading):
    (tmp_path / "answers.md").write_text(f"# {heading}\n\nYes.\n")
    assert set(writeup.assign(read_sections(tmp_path / "answers.md"))) == {""}


def test_parts_of_one_question_keep_their_headings(tmp_path):
    (tmp_path / "answers.md").write_text("# 2.1\n\nOne.\n\n# 2.2\n\nTwo.\n")
    answers = writeup.assign(read_sections(tmp_path / "answers.md"))
    assert answers["style_transfer"].split() == ["One.", "#", "2.2", "Two."]


def test_an_answer_over_the_courses_limit_is_told(tmp_path, caplog):
    (tmp_path / "answers.md").write_text(f"# 1.1\n{'word ' * 350}\n# 1.3\n{'word ' * 351}\n")
    writeup.assign(read_sections(tmp_path / "answers.md"))
    (record,) = caplog.records
    assert "1.3" in record.getMessage() and "351" in record.getMessage()


@pytest.mark.slow
def test_figures_are_numbered_and_the_reader_is_told_what_to_answer(figures):
    assert compose(figures) == 0
    title, *pages = pages_of(figures)
    text = " ".join(pages)
    captions = re.findall(r"Figure (\d+): (\w+\.png)\. ", text)
    assert captions == [
        (str(i), name) for i, name in enumerate((n for q in DEFAULT for n in q.figures), start=1)
    ]
    assert "Name" in title and "Collaborators" in title
    assert all(prompt in text for question in DEFAULT for prompt in question.prompts)


@pytest.mark.slow
def test_long_answers_go_on_further_pages(figures, tmp_path):
    words = [f"word{i}" for i in range(3000)]
    (tmp_path / "answers.md").write_text(
        f"{' '.join(words[:1500])}\n\n# saliency_map\n\n{' '.join(words)} {'x' * 300}"
    )
    assert (
        compose(
            figures, "--answers", str(tmp_path / "answers.md"), "--only", "saliency_map", "gradcam"
        )
        == 0
    )
    pages = pages_of(figures)
    text = " ".join(re.sub(r" \d+$", "", page) for page in pages)  # without the pages' numbers
    assert text.count(" ".join(words)) == 1 and text.count(" ".join(words[:1500])) == 2
    listed = int(re.search(r"Page (\d+) 1\.2 ", text)[1])
    assert "1.2 Guided backprop" in pages[listed - 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", ["no text"]),
        (b"\xff\xfe\x00", ["cannot read"]),
        (None, ["No such file"]),
    ],
)
def test_answers_that_cannot_be_used_are_one_line_before_anything_runs(
    tmp_path, capsys, content, message
):
    file = tmp_path / "answers.md"
    if content is not None:
        file.write_bytes(content)
    assert (
        writeup.main(["--answers", str(file), "--out", str(tmp_path / "out"), "--weights", "none"])
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "--answers" in line and all(word in line for word in message)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_bad_date_is_one_line(figures, capsys, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert compose(figures) == 2
    one_line(capsys, "SOURCE_DATE_EPOCH", "soon")


def test_an_unknown_heading_is_told_on_standard_error_and_set_on_the_title_page(
    photos, tmp_path, caplog
):
    save_png(draw_rows([("", photos[0][:1])], ["a"]), tmp_path / "saliency_map.png", provenance())
    (tmp_path / "a.md").write_text("# My answers\n\nA. Student\n\n# saliency_map\n\nSharp.")
    options = [
        "--no-run",
        "--only",
        "saliency_map",
        "--out",
        str(tmp_path),
        "--answers",
        str(tmp_path / "a.md"),
    ]
    assert writeup.main(options) == 0
    first, second = (page.extract_text() for page in pypdf.PdfReader(tmp_path / "report.pdf").pages)
    assert "My answers\nA. Student\nCollaborators\nNetwork" in first and "Sharp." in second
    assert "'My answers' names no question" in caplog.text


@pytest.mark.slow
def test_the_homework_s_one_pdf(tmp_path):
    problem_set = tmp_path / "mine.pdf"
    Report("my answers", datetime.date(2026, 1, 31)).save(problem_set)
    assert writeup.main(["--notebooks", str(problem_set), "--out", str(tmp_path), "--quiet"]) == 0
    names = [f"{name}.pdf" for name in ("mine", *writeup.NOTEBOOKS)]
    counts = [len(pypdf.PdfReader(tmp_path / name).pages) for name in names]
    whole = [page.extract_text() for page in pypdf.PdfReader(tmp_path / "homework.pdf").pages]
    assert len(whole) == sum(counts) and min(counts[1:]) > 4
    assert "Network visualization" in whole[1] and "Style transfer" in whole[1 + counts[1]]
    written = [*names, "homework.pdf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)
