"""Compute data/expected.npz: what check.py measures of the solution and of known mistakes.

python course/make_expected.py
"""

import json
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import check
from captum_utils import attr, attribution_row, compute_attributions
from checker import measures
from checker.editions import ASSIGNMENT, TABLE, Edition
from checker.items import ELSEWHERE, ITEMS, Item, place
from checker.solution import Solution
from cli.options import Parser
from cli.process import command, print_line
from course.make_starter import course_files, function_body, replace_body
from course.mistakes import MISTAKES, RIGHT
from files.atomic import atomic_write
from image_utils import preprocess_image
from model_utils import load_model

ROOT = Path(__file__).resolve().parent.parent
Arrays = dict[str, np.ndarray]
KNOWN = {item.name: item for item in (*ITEMS, *ELSEWHERE)}
PLAIN_STEP = re.compile(r"rate \* gradient$", re.MULTILINE)
UNIT, PLAIN = "rate * gradient / gradient.norm()", "rate * gradient"
ALONE = "alone.py"  # the file of a function that our starter lacks
OWN = ("visualizers", "style_modules", "style_utils", "alone")  # modules that are changed
GUIDED = (
    "def guided_gram_matrix(features, masks, normalize=True):\n"
    + textwrap.indent(RIGHT["guided_gram_matrix"], "    ")
    + "\n\n"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and store."""
    parser = Parser(description="Compute data/expected.npz.")
    known = "these items alone; the others keep their values"
    parser.add_argument("--only", nargs="+", choices=KNOWN, metavar="ITEM", help=known)
    only = parser.parse_args(argv).only or list(KNOWN)
    with command(parser):
        write(only)


def write(only: Sequence[str]) -> None:
    """Measure and store items."""
    os.environ["OMP_NUM_THREADS"] = "1"
    arrays, mistakes = stored(set(KNOWN) - set(only))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = solution_in(Path(name))
        sys.path.insert(0, name)
        captum = captum_rows() if any(name.endswith("_captum") for name in only) else {}
        for name, (right, wrong) in captum.items():
            arrays |= {f"{name}/{key}": row for key, row in right.items()}
            arrays |= {f"{name}~{number}/row": row for number, row in enumerate(wrong.values())}
            mistakes[name] = list(wrong)
        for item in (KNOWN[name] for name in only if not name.endswith("_captum")):
            for name, edition in variants(item).items():
                values, known = {}, []
                for body, mistake in bodies(item, edition):
                    key = f"{name}~{len(known)}" if mistake else name
                    known += [mistake] if mistake else []
                    result = with_body(item, folder, body, edition)
                    values |= {f"{key}/{array}": result[array] for array in result}
                arrays, mistakes[name] = arrays | values, known
                print_line(f"{name}: {len(known)} mistakes")
    with atomic_write(check.EXPECTED) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, mistakes=json.dumps(mistakes), **arrays)
    print_line(f"{check.EXPECTED.name}: {check.EXPECTED.stat().st_size / 1000:.0f} kB")


def solution_in(folder: Path) -> Path:
    """Copy the solution into a folder."""
    for file, content in course_files(ROOT).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


def stored(names: set[str]) -> tuple[Arrays, dict[str, list[str]]]:
    """Return what is stored of items: the values and the mistakes."""
    if not names:
        return {}, {}
    old = check.Expected(check.EXPECTED)
    arrays = {key: array for key, array in old.arrays.items() if re.split("[/~@]", key)[0] in names}
    return arrays, {key: old.mistakes[key] for key in old.mistakes if key.split("@")[0] in names}


def variants(item: Item) -> dict[str, Edition]:
    """Return for each name of an item's values our own edition, measured as that one is."""
    own = TABLE[ASSIGNMENT]
    return {
        edition.values(item.name): replace(
            own,
            eval_mode=True,  # no function is asked twice whether dropout is on
            photos=edition.photos,
            step=edition.step,
            unit_steps=edition.unit_steps,
            asks=edition.asks,
            places={} if item.file else {item.name: replace(edition.places[item.name], file=ALONE)},
        )
        for edition in TABLE.values()
        if item.name in edition.asks
    }


def bodies(item: Item, edition: Edition) -> Iterator[tuple[str, str]]:
    """Yield bodies for an item's function: right ones with "", wrong ones with the mistake's name.

    Raises:
        ValueError: what is to be changed is not there.
    """
    right = RIGHT.get(item.name) or function_body(
        (ROOT / item.file).read_text(), item.function, item.file
    )
    ways = [right]
    if item.name == "class_visualization" and not edition.unit_steps:
        ways.append(right.replace(UNIT, PLAIN))
    for way in ways:
        yield way, ""
        for mistake, (old, new) in MISTAKES.get(item.name, {}).items():
            if old not in right:
                raise ValueError(f"{item.name}: {old!r} is not in the right solution")
            body = way.replace(old, new)
            if body not in ways:
                yield body, mistake


def captum_rows() -> dict[str, tuple[Arrays, Arrays]]:
    """Return the rows that the scripts may draw by Captum, "figure/way" → tiles, and mistakes'."""
    model = load_model(weights="bundled", device="cpu")
    os.environ["CS7643_DATA"] = ""
    X, y, _ = measures.captum_photos()
    images = torch.from_numpy(np.ascontiguousarray(preprocess_image(X).transpose(0, 3, 1, 2)))
    cam, first = model.features[12], model.features[3]

    def row(algorithm, merge=None, **kwargs) -> np.ndarray:
        given = {**kwargs, "target": torch.from_numpy(y)}
        maps = compute_attributions(algorithm, images, **given)
        _, tiles = attribution_row(
            "", maps if merge is None else getattr(maps, merge)(dim=1, keepdim=True), X
        )
        return np.stack(tiles)[:, :: measures.EVERY, :: measures.EVERY].astype(np.float32) - 165

    saliency, guided = attr.Saliency(model), attr.GuidedGradCam(model, cam)
    largest = row(saliency, "amax")
    return {
        "saliency_captum": (
            {"saliency/largest": largest, "saliency/colours": row(saliency)},
            {
                "Saliency summed over the channels; the largest was asked for": row(
                    saliency, "sum"
                ),
                "Saliency with its sign: the absolute value is missing": row(
                    saliency, "amax", abs=False
                ),
            },
        ),
        "gradcam_captum": (
            {
                "guided_backprop/colours": row(attr.GuidedBackprop(model)),
                "guided_gradcam/bicubic": row(guided, interpolate_mode="bicubic"),
                "guided_gradcam/nearest": row(guided),
                "layer_gradcam/map": row(attr.LayerGradCam(model, first), relu_attributions=True),
                "layer_conductance/mean": row(
                    attr.LayerConductance(model, first), "mean", n_steps=50
                ),
            },
            {"LayerGradCam without relu_attributions": row(attr.LayerGradCam(model, first))},
        ),
    }


def with_body(item: Item, folder: Path, body: str, edition: Edition) -> Arrays:
    """Return what an item measures on the solution with another body of its function.

    No other finding may accompany it. Where steps of any length will do, only the body's own way
    is returned.
    """
    where = place(edition, item.name)
    for steps in (1, 2):  # of a fooling image; they are 10 long in the text
        body = body.replace(f" {steps}0 * gradient", f" {steps * edition.step} * gradient")
    path = folder / where.file
    before = path.read_text() if where.file != ALONE else ""
    solution = Solution(folder, edition)
    solution.once = True
    home = Path.cwd()
    try:
        if before:
            path.write_text(replace_body(before, where.name, body, where.file))
        else:  # of another edition: one that stands alone
            names = where.takes.replace("normalize", "normalize=True").replace(" ", ", ")
            text = f"def {where.name}({names}):\n" + textwrap.indent(body, "    ")
            path.write_text(GUIDED + text)
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            arrays = getattr(measures, f"measure_{item.name}")(solution)
            os.chdir(home)
    finally:
        path.write_text(before)
        for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
            del sys.modules[name]
    if solution.findings:
        raise ValueError(f"{item.name}: {solution.findings} of {body}")
    if any(key.startswith("plain/") for key in arrays):
        way = "plain" if PLAIN_STEP.search(body) else "unit"
        arrays = {key: arrays[key] for key in arrays if key.startswith(way)}
    return arrays


def measured(item: Item, folder: Path, inputs: dict | None = None) -> Arrays:
    """Return an item's values, which no other finding may accompany."""
    outcome = check.measure(item, folder, inputs=inputs)
    if outcome.status != "ok" or outcome.findings:
        raise ValueError(
            f"{item.name}: {outcome.status} {outcome.message} {outcome.place} {outcome.findings}"
        )
    return {key: values for key, values in outcome.arrays.items() if not key.startswith("whole/")}


if __name__ == "__main__":
    main()
