"""Every question in one process, then report.pdf: the figures, how they were made, and room for your answers."""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import SHARED_OPTIONS, add_photo_options, make_parser, named_path
from cli.process import advice
from cli.run import make_main
from errors import InputError, quoted
from files.atomic import ROOT

if TYPE_CHECKING:
    from cli.session import Session
    from report.markdown import Section
    from report.pages import Picture, Report

log = logging.getLogger(__name__)

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
    tables: Mapping[str, str] = field(default_factory=dict)  # CSV file → caption
    by_default: bool = True  # whether it is run without --only


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
            "gradcam.png": "Grad-CAM over the photos. Computed at {layer}, upscaled bicubically, and scaled {scaled}.",
            "figure1.png": "All maps of the first two questions. Under each class's name is its probability. "
            "Grad-CAM is taken at {layer}.",
            "guided_gradcam.png": "Guided Grad-CAM. Grad-CAM is taken at {layer}.",
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
            "guided_backprop_captum.png": "Guided backprop.",
            "attributions_captum.png": "Saliency maps, integrated gradients and occlusion. The gradients are "
            "integrated in {steps} steps from the mean colour.",
            "guided_gradcam_captum.png": "Guided Grad-CAM. Grad-CAM is taken at {layer} and upscaled bicubically.",
            "layer_activation_captum.png": "Activation, averaged over the channels. The layer is {captum_layer}.",
            "layer_gradcam_captum.png": "Grad-CAM, its positive part. The layer is {captum_layer}.",
            "layer_conductance_captum.png": "Conductance, averaged over the channels. The layer is {captum_layer}, "
            "the number of steps {steps}.",
        },
    ),
    Question(
        "sanity_checks",
        "How far to trust the maps",
        ("sanity_checks",),
        "A map can look right and have nothing to do with what the network has learned. The layers are made random "
        "from the output down, and the maps compared with the original ones (Adebayo et al. 2018). Pixels are taken "
        "away and put back in the order of the map, while the class's probability is watched (Petsiuk, Das and Saenko"
        " 2018). The photo is changed so little that nobody sees it (sensitivity), and squares of it are covered to "
        "see whether the map foretells what the score loses (infidelity; both Yeh et al. 2019). Of a grid of four "
        "photos, the map should lie on the one that shows the class (Arias-Duart et al. 2022). Three controls never "
        "ask the network: an edge detector, a blob in the middle, a random order. Compare with their numbers.",
        {
            "sanity_randomization.png": "The absolute maps of one photo while the layers are made random from the "
            "output down, each tile on its own scale, which ends at the 99th percentile. Gradients: {steps} steps.",
            "sanity_curves.png": "Agreement with the original maps down the cascade: medians over photos and random "
            "networks, bands between the quartiles. Random networks: {seeds}. {found} Structural similarity of a "
            "sparse map is mostly that of its empty background, so compare it within a method only.",
            "faithfulness.png": "Probability of the class while pixels go, and while they come back: medians over the "
            "photos, bands between the quartiles; the numbers are median areas. Deleted pixels are replaced by: "
            "{deletion_baseline}; insertion begins with the blurred photo. {found}",
        },
        tables={
            "sanity_summary.csv": "Medians, in brackets the quartiles, over photos and, of the first two columns, "
            "random networks. Rank correlation and SSIM with the original map when all layers are random: low is good, "
            "and an edge detector has 1. Areas: low is good for deletion, high for insertion. Sensitivity, the largest "
            "relative change of the map when each pixel changes by about one grey level: low is good, and what never "
            "asks the network is best. Infidelity, the share of the score's losses that the map does not foretell: low "
            "is good. Localisation, the share of the map on the right photo of four: high is good, 0.25 is chance. "
            "Means, counts and settings are in sanity_checks.csv, single photos in faithfulness.csv."
        },
        by_default=False,  # it takes longer than all others together
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


def caption(picture: Picture, question: Question) -> str:
    """Return the question's caption for a picture, with the values of the options that it was made with."""
    first = picture.name if picture.name in question.figures else re.sub(r"_\d+\.png$", ".png", picture.name)
    words = question.figures[first]
    try:
        options = json.loads(picture.made_with.get("Options", ""))
        alone = options.get("per_image") or options.get("whole")
        options["scaled"] = "each alone" if alone else "over the photos together"
        return words.format_map({key: _words(value) for key, value in options.items()})
    except (ValueError, KeyError):  # a figure that does not come from the scripts, or from other versions of them
        return " ".join(sentence for sentence in re.split(r"(?<=\.) ", words) if "{" not in sentence)


def _words(value: object) -> object:
    """Return an option's value as a caption says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else value


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    add_photo_options(parser, "images", "labels", "num", "chunk", "size", "whole", "classes")
    add = parser.add_argument
    names = [question.name for question in QUESTIONS]
    words = f"these questions alone: {', '.join(names)} (default: all but sanity_checks)"
    add("--only", nargs="+", choices=names, metavar="QUESTION", help=words)
    add("--no-run", action="store_true", help="make no figures; compose the report from those that are there")
    words = "your answers, each under a heading '# QUESTION'; text before the first goes on the title page"
    add("--answers", type=named_path, metavar="FILE.md", help=words)


def make_figures(session: Session) -> None:
    """Make the figures of the chosen questions and compose the report.

    Raises:
        InputError: when the report is written but a question has failed or a figure is missing; it names them.
    """
    from report.pages import Report, read_pictures, read_sections, read_table

    options = session.options
    chosen = [q for q in QUESTIONS if (q.by_default if options.only is None else q.name in options.only)]
    report = Report(TITLE, today())
    answers = assign(read_sections(options.answers)) if options.answers else {}
    files = {question.name: figure_files(question, options.out) for question in chosen}
    failed: list[str] = []
    if not options.no_run:
        before = {path: stamp(path) for paths in files.values() for path in paths}
        failed = run_scripts(session, chosen)
        # What an earlier run has left and this one has not made again is none of this report's.
        files = {
            question.name: [p for p in figure_files(question, options.out) if before.get(p) != stamp(p)]
            for question in chosen
        }
    pictures = {name: read_pictures(paths) for name, paths in files.items()}
    path = (options.out or ROOT) / REPORT
    tables = {name: read_table((options.out or ROOT / "visualization") / name) for q in chosen for name in q.tables}
    compose(report, chosen, tables, pictures, answers)
    report.save(path)
    there = {picture.name for of_question in pictures.values() for picture in of_question}
    if not options.no_run and not session.count_relus()[0]:  # then the guided figures do not exist, which was told
        there |= {name for question in chosen for name in question.figures if name.startswith("guided")}
    missing = [name for question in chosen for name in question.figures if name not in there]
    if failed or missing:
        problems = [f"{name}.py failed" for name in failed] + [f"{name} is missing" for name in missing]
        raise InputError(f"{quoted(path)} is written, but incomplete: {', '.join(problems)}")
    if not options.quiet:
        print(f"{path}: {report.pages_count} pages", file=sys.stderr)


def run_scripts(session: Session, questions: Sequence[Question]) -> list[str]:
    """Run once each script that the questions need, on one network and the same photos; return those that failed.

    A failing script is reported on standard error and does not keep the others from running.
    """
    names = list(dict.fromkeys(name for question in questions for name in question.scripts))
    _ = session.model, session.labels  # loaded here, they go on to every script
    for _ in session.photos:  # one that cannot be opened is told of before anything is made
        pass
    failed = []
    for name in session.progress(names, "report"):
        script = importlib.import_module(name)
        parser = make_parser("")
        script.add_options(parser)
        own = copy.copy(session)
        own.options = parser.parse_args([])
        shared = SHARED_OPTIONS & vars(own.options).keys() & vars(session.options).keys()
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
    """Find the question's figures that are there, in order, with their further pages name_2.png, name_3.png, …"""
    folder = out or ROOT / question.folder
    files = []
    for first in map(Path, question.figures):
        further = [(p.stem.removeprefix(f"{first.stem}_"), p) for p in folder.glob(f"{first.stem}_*.png")]
        pages = sorted((int(page), p) for page, p in further if page.isdecimal())
        files += [p for p in (folder / first, *(p for _, p in pages)) if p.is_file()]
    return files


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written anew."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def assign(sections: Sequence[Section]) -> dict[str, str]:
    """Give each question its answer: question's name → Markdown; "" → what goes on the title page.

    Another first-level heading goes on the title page, a second-level one stays in its answer; a notice says so.
    """
    known = {_plain(words): question.name for question in QUESTIONS for words in (question.name, question.title)}
    answers, name = {"": ""}, ""
    for section in sections:
        text = section.text
        if _plain(section.heading) in known:
            name = known[_plain(section.heading)]
        elif section.level:
            name = "" if section.level == 1 else name
            text = section.source + text
            place = f"in the answer to {name}" if name else "on the title page"
            log.warning("--answers: the heading %s names no question; it stands %s", quoted(section.heading), place)
        answers[name] = f"{answers.get(name, '')}\n\n{text.strip(chr(10))}".strip("\n")
    return answers


def _plain(words: str) -> str:
    return " ".join(re.findall(r"\w+", words.lower().replace("_", " ")))


# --- The report ---


def compose(
    report: Report,
    questions: Sequence[Question],
    tables: Mapping[str, list[list[str]]],
    pictures: Mapping[str, Sequence[Picture]],
    answers: Mapping[str, str],
) -> None:
    """Fill a report: a title page, and for each question its pictures and its answer or ruled lines for one.

    Raises:
        InputError: no picture at all.
    """
    everything = [picture for question in questions for picture in pictures[question.name]]
    if not everything:
        raise InputError("no figure to compose a report from; without --no-run they are made first")
    set_title_page(report, everything, answers.get("", ""))
    for number, question in enumerate(questions, start=1):
        report.fresh_page()
        report.heading(f"{number}. {question.title}")
        set_question(report, question, tables, pictures[question.name], answers.get(question.name, ""))


def set_title_page(report: Report, pictures: Sequence[Picture], preface: str) -> None:
    """Set title, date, the preface or a line for the name, what the figures were made with, and contents."""
    report.skip(60)
    report.text_line(TITLE, 20, "B", after=6)
    report.text_line(f"{today().day} {today():%B %Y}", 11, after=24)
    if preface:
        report.markdown(preface)
    else:
        report.blank_line("Name")
    report.skip(30)
    for key in ("Network", "Weights", "Seed", "Software"):
        values = dict.fromkeys(picture.made_with.get(key, "not recorded") for picture in pictures)
        report.entry(key, "; ".join(values))
    report.skip(30)
    report.contents()


def set_question(
    report: Report, question: Question, tables: Mapping[str, list], pictures: Sequence[Picture], answer: str
) -> None:
    """Set the technique, pictures and tables with captions, and the answer."""
    report.text_line(question.about, after=10)
    report.figures([(picture.image, f"{picture.name}. {caption(picture, question)}") for picture in pictures])
    for name, words in question.tables.items():
        report.rows(tables[name], f"{name}. {words}")
    there = {picture.name for picture in pictures}
    for name in question.figures:
        if name not in there:
            report.text_line(f"{name} is missing.", after=4)
    report.keep(100)
    report.text_line("Answer", 11, "B", after=4)
    if answer:
        report.markdown(answer)
    else:
        report.ruled()


def today() -> datetime.date:
    """Return the date on the title page: SOURCE_DATE_EPOCH's where that is set, so that a report can be made again.

    Raises:
        InputError: SOURCE_DATE_EPOCH is no date.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.date.today()
    try:
        return datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc).date()
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH: {quoted(epoch)} is not a number of seconds since 1970") from None


main = make_main(__name__, __doc__, add_options, make_figures)
