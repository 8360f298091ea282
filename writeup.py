"""Every question in one process, then report.pdf: the figures, how they were made, and room for your answers."""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from errors import InputError, cause, quoted
from file_utils import ROOT
from process_utils import advice, exit_now
from script_utils import SHARED_OPTIONS, add_photo_options, make_parser, run

if TYPE_CHECKING:
    from PIL.Image import Image

    from report_utils import Report
    from session import Session

TITLE = "Network visualization and style transfer"
REPORT = "report.pdf"


@dataclass(frozen=True)
class Question:
    """A chapter of the report."""

    name: str  # for --only and --answers
    title: str
    scripts: tuple[str, ...]  # that make its figures
    about: str  # the technique in a few sentences, with its source
    figures: dict[str, str]  # file → caption, in which {option} stands for the value that the figure was made with
    folder: str = "visualization"


QUESTIONS = (
    Question(
        "saliency_map",
        "Saliency maps",
        ("saliency_map",),
        "How strongly the raw score of a photo's class reacts to each pixel: the largest absolute gradient over the "
        "three colours (Simonyan, Vedaldi and Zisserman 2014, section 3).",
        {"saliency_map.png": "Photos and their saliency maps. The range of each map fills its colour scale."},
    ),
    Question(
        "gradcam",
        "Guided backprop, Grad-CAM, Guided Grad-CAM",
        ("gradcam",),
        "Guided backprop passes back only what is positive at each ReLU (Springenberg et al. 2015, section 3.4). "
        "Grad-CAM sums the channels of a layer, each weighted by the mean gradient of the class's score there, and "
        "keeps what is positive (Selvaraju et al. 2017, section 3). Guided Grad-CAM is the product of the two.",
        {
            "guided_backprop.png": "Guided backprop. Mid-grey is zero; the largest half per cent of the values "
            "saturates.",
            "gradcam.png": "Grad-CAM over the photos. Computed at {layer}, upscaled bicubically, and scaled over the "
            "photos together.",
            "guided_gradcam.png": "Guided Grad-CAM. Grad-CAM is taken at {layer}.",
            "figure1.png": "All maps of the first two questions. Under each class's name is its probability. "
            "Grad-CAM is taken at {layer}.",
        },
    ),
    Question(
        "captum",
        "The same with Captum",
        ("saliency_map", "gradcam"),
        "Attributions by the library Captum (Kokhlikyan et al. 2020): gradient, integrated gradients (Sundararajan, "
        "Taly and Yan 2017), occlusion (Zeiler and Fergus 2014), and how much the channels of a layer take part: "
        "their activation, Grad-CAM and conductance (Dhamdhere, Sundararajan and Yan 2019). Each map is shown by its "
        "distance from its mean in standard deviations.",
        {
            "saliency_captum.png": "Saliency maps, the largest over the colours.",
            "attributions_captum.png": "Saliency maps, integrated gradients and occlusion. The gradients are "
            "integrated in {steps} steps from the mean colour.",
            "guided_backprop_captum.png": "Guided backprop.",
            "guided_gradcam_captum.png": "Guided Grad-CAM. Grad-CAM is taken at {layer} and upscaled bicubically.",
            "layer_activation_captum.png": "Activation, averaged over the channels. The layer is {captum_layer}.",
            "layer_gradcam_captum.png": "Grad-CAM, its positive part. The layer is {captum_layer}.",
            "layer_conductance_captum.png": "Conductance, averaged over the channels. The layer is {captum_layer}, "
            "the number of steps {steps}.",
        },
    ),
    Question(
        "fooling_image",
        "Fooling images",
        ("fooling_image",),
        "Gradient ascent on the score of another class, until the network takes the photo for it (Szegedy et al. "
        "2014). Each step has the same length.",
        {
            "fooling_image.png": "The photo, the fooling image, and what was added. The photo is number {index}, the "
            "class to reach {target}. Steps have an L2 norm of {learning_rate:g} in normalised pixels; there are "
            "{max_iter} of them at most.",
            "fooling_image_valid.png": "A fooling image that can be stored. All pixels are whole numbers from 0 to "
            "255, and loaded from this file they still fool the network.",
        },
    ),
    Question(
        "class_visualization",
        "Class visualization",
        ("class_visualization",),
        "Gradient ascent from noise on a class's score less a penalty on the squared L2 norm of the picture "
        "(Simonyan, Vedaldi and Zisserman 2014, section 2), seen shifted at random and blurred now and then "
        "(Yosinski et al. 2015).",
        {
            "class_visualization.png": "The picture as it grows. Classes: {target}. There are {iterations} steps of "
            "L2 norm {learning_rate:g} in normalised pixels, with a penalty of {l2_reg:g} times the squared norm, "
            "shifts of up to {max_jitter} pixels, and a blur every {blur_every} iterations. It is shown every "
            "{show_every} iterations."
        },
    ),
    Question(
        "style_transfer",
        "Style transfer",
        ("style_transfer",),
        "A picture with the features of one image and the Gram matrices of another's features (Gatys, Ecker and "
        "Bethge 2016, section 2).",
        {
            "style_transfer.png": "Content, style and result. {pictures}. Optimizer: {optimizer}, {iterations} "
            "steps. Colours of the content kept: {preserve_color}.",
            "style_losses.png": "The weighted terms of the loss over the steps. Optimizer: {optimizer}, {iterations} "
            "steps.",
        },
    ),
    Question(
        "feature_inversion",
        "Feature inversion",
        ("style_transfer",),
        "Starting from noise, a picture is sought whose features at one layer are those of a photo: what is lost on "
        "the way to that layer stays open (Mahendran and Vedaldi 2015, section 2). It is style transfer without a "
        "style.",
        {
            "inverted_features.png": "The photo, and what its features bring back. {pictures}. Optimizer: "
            "{optimizer}, {iterations} steps."
        },
    ),
)


@dataclass(frozen=True)
class Picture:
    """A figure from the disk, and what its PNG text says about how it was made."""

    name: str
    image: Image
    made_with: Mapping[str, str]

    def caption(self, question: Question) -> str:
        """The question's caption for it, with the values of the options that it was made with."""
        first = self.name if self.name in question.figures else re.sub(r"_\d+\.png$", ".png", self.name)
        caption = question.figures[first]
        try:
            options = json.loads(self.made_with.get("Options", ""))
            return caption.format_map({key: _words(value) for key, value in options.items()})
        except (ValueError, KeyError):  # a figure that does not come from the scripts, or from other versions of them
            return " ".join(sentence for sentence in re.split(r"(?<=\.) ", caption) if "{" not in sentence)


def _words(value: object) -> object:
    """An option's value as a caption says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else value


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk")
    add = parser.add_argument
    names = [question.name for question in QUESTIONS]
    add("--only", nargs="+", choices=names, metavar="QUESTION", help=f"these questions alone: {', '.join(names)}")
    add("--no-run", action="store_true", help="make no figures; compose the report from those that are there")
    add(
        "--answers",
        type=Path,
        metavar="FILE.md",
        help="your answers, each under a heading '# QUESTION'; what stands before the first goes on the title page",
    )


def make_figures(session: Session) -> None:
    """Make the figures of the chosen questions and compose the report.

    Raises:
        InputError: when the report is written but a question has failed or a figure is missing; it names them.
    """
    options = session.options
    chosen = [question for question in QUESTIONS if options.only is None or question.name in options.only]
    answers = read_answers(options.answers) if options.answers else {}
    files = {question.name: figure_files(question, options.out) for question in chosen}
    failed = []
    if not options.no_run:
        before = {path: stamp(path) for paths in files.values() for path in paths}
        failed = run_scripts(session, chosen)
        # What an earlier run has left and this one has not made again is none of this report's.
        files = {
            question.name: [p for p in figure_files(question, options.out) if before.get(p) != stamp(p)]
            for question in chosen
        }
    pictures = {name: list(filter(None, map(read_picture, paths))) for name, paths in files.items()}
    path = (options.out or ROOT) / REPORT
    pages = compose(chosen, pictures, answers, path)
    there = {picture.name for of_question in pictures.values() for picture in of_question}
    missing = [name for question in chosen for name in question.figures if name not in there]
    if failed or missing:
        problems = [f"{name}.py failed" for name in failed] + [f"{name} is missing" for name in missing]
        raise InputError(f"{quoted(path)} is written, but incomplete: {', '.join(problems)}")
    if not options.quiet:
        print(f"{path}: {pages} pages", file=sys.stderr)


def run_scripts(session: Session, questions: Sequence[Question]) -> list[str]:
    """Run once each script that the questions need, all on one network and the same photos. One that fails is told of
    on standard error and does not keep the others from running. Returns the names of those that failed.
    """
    names = list(dict.fromkeys(name for question in questions for name in question.scripts))
    _ = session.model, session.photos  # loaded here, they go on to every script
    failed = []
    for name in session.progress(names, "report"):
        script = importlib.import_module(name)
        parser = make_parser("")
        script.add_options(parser)
        own = copy.copy(session)
        own.options = parser.parse_args([])
        shared = SHARED_OPTIONS & vars(own.options).keys()
        vars(own.options).update({key: getattr(session.options, key) for key in shared})
        own.seed()
        try:
            script.make_figures(own)
        except Exception as error:
            if (words := advice(error)) is None:
                raise
            failed.append(name)
            print(f"{name}.py: error: {words}", file=sys.stderr)
    return failed


def figure_files(question: Question, out: Path | None) -> list[Path]:
    """The question's figures that are there, in order, with their further pages name_2.png, name_3.png, …"""
    folder = out or ROOT / question.folder
    files = []
    for first in map(Path, question.figures):
        further = [(p.stem.removeprefix(f"{first.stem}_"), p) for p in folder.glob(f"{first.stem}_*.png")]
        pages = sorted((int(page), p) for page, p in further if page.isdecimal())
        files += [p for p in (folder / first, *(p for _, p in pages)) if p.is_file()]
    return files


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written anew."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def read_picture(path: Path) -> Picture | None:
    """Load a figure; None, and a line on standard error, when it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            return Picture(path.name, image.convert("RGB"), dict(image.text))
    except (OSError, ValueError, SyntaxError) as error:
        print(f"{quoted(path)} is not a readable PNG: {cause(error)}", file=sys.stderr)
        return None


def read_answers(path: Path) -> dict[str, str]:
    """The answers in a Markdown file: question's name → text; "" → what stands before the first heading.

    Raises:
        InputError: the file cannot be read, or a heading names no question.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"--answers: cannot read {quoted(path)}: {cause(error)}") from error
    before, *parts = re.split(r"(?m)^##? +(.+?)[ #]*$", text)
    answers = {"": before.strip()}
    known = {_plain(words): question.name for question in QUESTIONS for words in (question.name, question.title)}
    for heading, answer in zip(parts[::2], parts[1::2], strict=True):
        if _plain(heading) not in known:
            names = ", ".join(question.name for question in QUESTIONS)
            raise InputError(f"--answers: the heading {quoted(heading)} is no question; there are {names}")
        name = known[_plain(heading)]
        answers[name] = f"{answers.get(name, '')}\n\n{answer.strip()}".strip()
    return answers


def _plain(words: str) -> str:
    return " ".join(re.findall(r"\w+", words.lower().replace("_", " ")))


# --- The report ---


def compose(
    questions: Sequence[Question], pictures: Mapping[str, Sequence[Picture]], answers: Mapping[str, str], path: Path
) -> int:
    """Write the report: a title page, and for each question its pictures and its answer or ruled lines for one.

    Returns:
        The number of pages.

    Raises:
        InputError: no picture at all, or the file cannot be written.
    """
    from report_utils import Report

    everything = [picture for question in questions for picture in pictures[question.name]]
    if not everything:
        raise InputError("no figure to compose a report from; without --no-run they are made first")
    body, chapters = Report(), []
    for number, question in enumerate(questions, start=1):
        body.new_page()
        chapters.append((f"{number}. {question.title}", len(body.pages)))
        set_question(body, chapters[-1][0], question, pictures[question.name], answers.get(question.name, ""))
    front = title_page(everything, chapters, answers.get("", ""), front_pages=1)
    if len(front.pages) > 1:  # long words of the student's own: the chapters begin further back
        front = title_page(everything, chapters, answers.get("", ""), len(front.pages))
    front.pages += body.pages
    for number, page in enumerate(front.pages[1:], start=2):
        front.footer(page, str(number))
    front.save(path, TITLE)
    return len(front.pages)


def title_page(
    pictures: Sequence[Picture], chapters: Sequence[tuple[str, int]], preface: str, front_pages: int
) -> Report:
    """Title, date, the student's own words or a line for the name, what the figures were made with, contents."""
    from report_utils import Report

    report = Report()
    report.new_page()
    report.skip(60)
    report.text(TITLE, 20, weight="bold")
    report.skip(6)
    date = today()
    report.text(f"{date.day} {date:%B %Y}", 11)
    report.skip(24)
    if preface:
        set_markdown(report, preface)
    else:
        report.blank_line("Name")
    report.skip(30)
    for key in ("Network", "Weights", "Seed", "Software"):
        values = dict.fromkeys(picture.made_with.get(key, "not recorded") for picture in pictures)
        report.entry(key, "; ".join(values))
    report.skip(30)
    for title, page in chapters:
        report.entry(f"Page {front_pages + page}", title)
    return report


def today() -> datetime.date:
    """The date on the title page: SOURCE_DATE_EPOCH's where that is set, so that a report can be made again."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.date.today()
    try:
        return datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc).date()
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH: {quoted(epoch)} is not a number of seconds since 1970") from None


def set_question(report: Report, title: str, question: Question, pictures: Sequence[Picture], answer: str) -> None:
    """Heading, technique, pictures with captions, and the answer."""
    report.text(title, 15, weight="bold")
    report.skip(4)
    report.text(question.about)
    report.skip(10)
    for picture in pictures:
        report.picture(picture.image, f"{picture.name}. {picture.caption(question)}")
    for name in set(question.figures) - {picture.name for picture in pictures}:
        report.text(f"{name} is missing.", color="0.4")
    report.keep(100)
    report.text("Answer", 11, weight="bold")
    if answer:
        set_markdown(report, answer)
    else:
        report.ruled()


def set_markdown(report: Report, text: str) -> None:
    """Paragraphs, headings of lower levels and lists; other marks stay as they are."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+[.)]|#{3,}) )", text):
        heading = re.match(r"#{3,} +", paragraph)
        item = re.match(r"\s*([-*+]|\d+[.)]) +", paragraph)
        if heading:
            report.text(paragraph[heading.end() :], weight="bold")
        elif item:
            report.entry("•" if item[1] in "-*+" else item[1], paragraph[item.end() :], indent=18, weight="normal")
        else:
            report.text(paragraph)
        report.skip(3 if item else 6)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    return run(__doc__, add_options, make_figures, argv)


if __name__ == "__main__":
    exit_now(main(), __file__)
