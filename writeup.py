"""Run every question in one process, then write report.pdf: figures and answers."""

from __future__ import annotations

import argparse
import datetime
import importlib
import itertools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import SHARED_OPTIONS, add_photo_options, make_parser, named_path
from cli.process import advice
from cli.run import make_main
from errors import InputError, described, quoted
from files.atomic import ROOT
from report.questions import QUESTIONS, Question

if TYPE_CHECKING:
    from cli.session import Session
    from report.markdown import Section
    from report.pages import Picture, Report

log = logging.getLogger(__name__)

TITLE = "Network visualization and style transfer"
REPORT = "report.pdf"
NOTEBOOKS = ("NetworkVisualization-Pytorch", "StyleTransfer-Pytorch")  # the homework's order
HOMEWORK = "homework.pdf"
LONGEST_ANSWER = 350  # words, the course's limit


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk", "size", "whole", "classes")
    add = parser.add_argument
    names = [question.name for question in QUESTIONS]
    text = f"these questions alone: {', '.join(names)} (default: all but sanity_checks)"
    add("--only", nargs="+", choices=names, metavar="QUESTION", help=text)
    add(
        "--no-run",
        action="store_true",
        help="make no figures; compose the report from those that are there",
    )
    text = (
        "your answers in Markdown, each under a heading: the question's number, name or title (# "
        "1.3); text before "
        "the first goes on the title page"
    )
    add("--answers", type=named_path, metavar="FILE.md", help=text)
    text = (
        "no report, but a PDF of each notebook as it is stored, beside it; with a problem set also "
        f"{HOMEWORK}: the problem set, NetworkVisualization, StyleTransfer"
    )
    add("--notebooks", nargs="*", type=named_path, metavar="PROBLEM_SET.pdf", help=text)


def make_figures(session: Session) -> None:
    """Write the report, or the notebooks' PDFs."""
    if session.options.notebooks is not None:
        set_notebooks(session)
    else:
        write_report(session)


def set_notebooks(session: Session) -> None:
    """Write a PDF of each notebook, and the homework's one PDF where there is a problem set."""
    from report.notebooks import join, set_notebook
    from report.pages import Report

    options, paths = session.options, []
    for name in NOTEBOOKS:
        report, source = Report(name, today()), ROOT / "notebooks" / f"{name}.ipynb"
        set_notebook(report, source)
        paths.append((options.out or source.parent) / f"{name}.pdf")
        report.save(paths[-1])
    if options.notebooks:
        paths.append((options.out or ROOT) / HOMEWORK)
        join([*options.notebooks, *paths[:-1]], paths[-1])
    if not options.quiet:
        print(*paths, sep="\n", file=sys.stderr)


def write_report(session: Session) -> None:
    """Make the figures of the chosen questions and compose the report."""
    from report.pages import Report, read_pictures, read_sections, read_table

    options = session.options
    chosen = [
        q for q in QUESTIONS if (q.by_default if options.only is None else q.name in options.only)
    ]
    report = Report(TITLE, today())
    answers = assign(read_sections(options.answers)) if options.answers else {}
    files = {question.name: figure_files(question, options.out) for question in chosen}
    failed: list[str] = []
    if not options.no_run:
        before = {path: stamp(path) for paths in files.values() for path in paths}
        failed = run_scripts(session, chosen)
        # Use only the figures that this run has written.
        files = {
            question.name: [
                p for p in figure_files(question, options.out) if before.get(p) != stamp(p)
            ]
            for question in chosen
        }
    pictures = {name: read_pictures(paths) for name, paths in files.items()}
    path = (options.out or ROOT) / REPORT
    tables = {
        name: read_table((options.out or ROOT / "visualization") / name)
        for q in chosen
        for name in q.tables
    }
    compose(report, chosen, tables, pictures, answers)
    report.save(path)
    there = {picture.name for of_question in pictures.values() for picture in of_question}
    # Then the guided figures do not exist, and a notice has said so
    if not options.no_run and not has_relus(session):
        there |= {
            name for question in chosen for name in question.figures if name.startswith("guided")
        }
    missing = [name for question in chosen for name in question.figures if name not in there]
    if failed or missing:
        problems = [f"{name}.py failed" for name in failed] + [
            f"{name} is missing" for name in missing
        ]
        raise InputError(f"{quoted(path)} is written, but incomplete: {', '.join(problems)}")
    if not options.quiet:
        print(f"{path}: {report.pages_count} pages", file=sys.stderr)


def run_scripts(session: Session, questions: Sequence[Question]) -> list[str]:
    """Run each script that the questions need, on one network; return those that failed.

    A failing script is reported on standard error and does not keep the others from running.
    """
    from cli.pages import Dataset

    names = list(dict.fromkeys(name for question in questions for name in question.scripts))
    # Labels or a photo that cannot be used are reported before anything is made
    _ = Dataset(session).labels
    for _ in session.photos.photos:
        pass
    failed = []
    for name in session.progress(names, "report"):
        script = importlib.import_module(name)
        try:
            script.make_figures(
                session.for_script(script_options(script.add_options, session.options))
            )
        except Exception as error:
            failed.append(name)
            if (message := advice(error)) is None:  # a fault in the solution
                traceback.print_exc()
                message = described(error)
            print(f"{name}.py: error: {message}", file=sys.stderr)
    return failed


def has_relus(session: Session) -> bool:
    """Whether the network has ReLUs, which guided backprop is about."""
    from cli.pages import Dataset
    from visualizers.gradcam import count_relus

    return count_relus(session.model, Dataset(session).example)[0] > 0


def script_options(
    add_options: Callable[[argparse.ArgumentParser], None], given: argparse.Namespace
) -> argparse.Namespace:
    """Return a script's options: those shared with this command as given, its own by default."""
    parser = make_parser("")
    add_options(parser)
    shared = SHARED_OPTIONS & vars(parser.parse_args([])).keys() & vars(given).keys()
    parser.set_defaults(**{name: getattr(given, name) for name in shared})
    return parser.parse_args([])


def figure_files(question: Question, out: Path | None) -> list[Path]:
    """Find the question's figures, in order, with further pages name_2.png, name_3.png, …"""
    folder = out or ROOT / question.folder
    files = []
    for first in map(Path, question.figures):
        further = [
            (p.stem.removeprefix(f"{first.stem}_"), p) for p in folder.glob(f"{first.stem}_*.png")
        ]
        pages = sorted((int(page), p) for page, p in further if page.isdecimal())
        files += [p for p in (folder / first, *(p for _, p in pages)) if p.is_file()]
    return files


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written anew."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def assign(sections: Sequence[Section]) -> dict[str, str]:
    """Give each question its answer: question's name → Markdown; "" → what goes on the title page.

    A heading names a question by number, name or title, or several of them ("1.3 Fooling images").
    Another first-level heading goes on the title page, a second-level one stays in its answer.
    """
    answers, name, unknown = {"": ""}, "", []
    for section in sections:
        text = section.text
        if question := _question_of(section.heading):
            name = question.name
            if name in answers:  # a further part of it, such as 2.2 after 2.1
                text = section.source + text
        elif section.level:
            name = "" if section.level == 1 else name
            text = section.source + text
            unknown.append(section.heading)
            place = f"in the answer to {name}" if name else "on the title page"
            log.warning(
                "--answers: the heading %s names no question; it stands %s",
                quoted(section.heading),
                place,
            )
        answers[name] = f"{answers.get(name, '')}\n\n{text.strip(chr(10))}".strip("\n")
    if unknown:
        known = ", ".join(f"{question.heading} ({question.name})" for question in QUESTIONS)
        log.warning("--answers takes as headings a number, a title or a name of these: %s", known)
    for question in QUESTIONS:
        if (count := len(answers.get(question.name, "").split())) > LONGEST_ANSWER:
            log.warning(
                "--answers: the answer to %s has %d words; the course's limit is %d",
                question.heading,
                count,
                LONGEST_ANSWER,
            )
    return answers


def _question_of(heading: str) -> Question | None:
    """Return the question that a heading names: by name, title or number."""
    number, title = re.fullmatch(
        r"(?is)(?:q(?:uestion)?\b\.?\s*|q(?=\d))?([\d.,–\s-]*)(.*)", heading
    ).groups()
    if _plain(title):
        names = {_plain(each): q for q in QUESTIONS for each in (q.name, q.title)}
        return names.get(_plain(title))
    number = re.match(r"[\d.]*", number)[0].rstrip(".")
    return next((question for question in QUESTIONS if number in question.numbers), None)


def _plain(heading: str) -> str:
    return " ".join(re.findall(r"\w+", heading.lower().replace("_", " ")))


# --- The report ---


def compose(
    report: Report,
    questions: Sequence[Question],
    tables: Mapping[str, list[list[str]]],
    pictures: Mapping[str, Sequence[Picture]],
    answers: Mapping[str, str],
) -> None:
    """Fill a report: a title page, and each question's pictures and answer, or ruled lines."""
    everything = [picture for question in questions for picture in pictures[question.name]]
    if not everything:
        raise InputError("no figure to compose a report from; without --no-run they are made first")
    set_title_page(report, everything, answers.get("", ""))
    numbers = itertools.count(1)
    for question in questions:
        report.fresh_page()
        report.heading(question.heading)
        set_question(
            report,
            question,
            tables,
            pictures[question.name],
            answers.get(question.name, ""),
            numbers,
        )


def set_title_page(report: Report, pictures: Sequence[Picture], preface: str) -> None:
    """Set title, date, preface or a line for the name, what made the figures, and contents."""
    report.skip(60)
    report.text_line(TITLE, 20, "B", after=6)
    report.text_line(f"{today().day} {today():%B %Y}", 11, after=24)
    if preface:
        report.markdown(preface)
    else:
        report.blank_line("Name")
    if "collaborat" not in preface.lower():
        report.blank_line("Collaborators")
    report.skip(30)
    for key in ("Network", "Weights", "Seed", "Software"):
        values = dict.fromkeys(picture.made_with.get(key, "not recorded") for picture in pictures)
        report.entry(key, "; ".join(values))
    report.skip(30)
    report.contents()


def set_question(
    report: Report,
    question: Question,
    tables: Mapping[str, list],
    pictures: Sequence[Picture],
    answer: str,
    numbers: Iterator[int],
) -> None:
    """Set the technique, pictures and tables with numbered captions, the prompts and the answer."""
    report.text_line(question.about, after=10)
    captions = [
        f"Figure {next(numbers)}: {picture.name}. "
        f"{question.caption(picture.name, picture.made_with)}"
        for picture in pictures
    ]
    report.figures(
        [(picture.image, caption) for picture, caption in zip(pictures, captions, strict=True)]
    )
    for name, caption in question.tables.items():
        report.rows(tables[name], f"{name}. {caption}")
    there = {picture.name for picture in pictures}
    for name in question.figures:
        if name not in there:
            report.text_line(f"{name} is missing.", after=4)
    report.keep(100)
    report.text_line("Answer", 11, "B", after=4)
    for prompt in question.prompts:
        report.text_line(prompt, style="I", after=4)
    if answer:
        report.markdown(answer)
    else:
        report.ruled()


def today() -> datetime.date:
    """Return the title page's date: SOURCE_DATE_EPOCH's if set, so that reports can be repeated."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.date.today()
    try:
        return datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc).date()
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"SOURCE_DATE_EPOCH: {quoted(epoch)} is not a number of seconds since 1970"
        ) from None


main = make_main(__name__, __doc__, add_options, make_figures)
