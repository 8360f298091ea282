"""Compute data/expected.npz: what check.py's items measure on the solution, and on solutions with
known mistakes.

python course/make_expected.py
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import check
from captum_utils import attr, attribution_row, compute_attributions
from checker import measures
from checker.items import ITEMS, Item
from cli.options import Parser
from course.make_starter import course_files, function_body, replace_body
from course.mistakes import MISTAKES, PLACES, RIGHT
from files.atomic import atomic_write
from image_utils import preprocess_image
from model_utils import load_model

ROOT = Path(__file__).resolve().parent.parent
Arrays = dict[str, np.ndarray]


def main() -> None:
    """Measure and store."""
    Parser(description="Compute data/expected.npz.").parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    arrays, mistakes = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = solution_in(Path(name))
        for name, (right, wrong) in captum_rows().items():
            arrays |= {f"{name}/{key}": row for key, row in right.items()}
            arrays |= {f"{name}~{number}/row": row for number, row in enumerate(wrong.values())}
            mistakes[name] = list(wrong)
        for item in (item for item in ITEMS if item.name not in mistakes):
            values = measured(item, folder)
            arrays |= {f"{item.name}/{key}": value for key, value in values.items()}
            right = RIGHT.get(item.name) or function_body(
                (ROOT / item.file).read_text(), item.function, item.file
            )
            known = MISTAKES.get(item.name, {})
            for number, change in enumerate(known.values()):
                found = with_change(item, folder, right, *change)
                arrays |= {f"{item.name}~{number}/{key}": value for key, value in found.items()}
            mistakes[item.name] = list(known)
    with atomic_write(check.EXPECTED) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, mistakes=json.dumps(mistakes), **arrays)
    print(f"{check.EXPECTED.name}: {check.EXPECTED.stat().st_size / 1000:.0f} kB")


def solution_in(folder: Path) -> Path:
    """Copy the solution into a folder."""
    for file, content in course_files(ROOT).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


def captum_rows() -> dict[str, tuple[Arrays, Arrays]]:
    """Return for both scripts the rows that they may draw by Captum, "figure/way" → tiles, and
    those of mistakes.
    """
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


def with_change(item: Item, folder: Path, body: str, old: str, new: str) -> Arrays:
    """Return what an item measures on the solution with a changed body in the place of its
    function's.

    Raises:
        ValueError: what is to be changed is not there.
    """
    if old not in body:
        raise ValueError(f"{item.name}: {old!r} is not in the right solution")
    before = (folder / item.file).read_text()
    try:
        where = PLACES.get(item.name, item.function)
        (folder / item.file).write_text(
            replace_body(before, where, body.replace(old, new), item.file)
        )
        return measured(item, folder)
    finally:
        (folder / item.file).write_text(before)


def measured(item: Item, folder: Path, inputs: dict | None = None) -> Arrays:
    """Return an item's values, which no other finding may accompany."""
    found = check.measure(item, folder, inputs=inputs)
    if found.status != "ok" or found.findings:
        raise ValueError(
            f"{item.name}: {found.status} {found.words} {found.place} {found.findings}"
        )
    return found.arrays


if __name__ == "__main__":
    main()
