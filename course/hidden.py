"""Draw inputs that students do not have, and store what this solution gives for them.

    python course/hidden.py --seed 7 --out hidden.npz
    python course/hidden.py --seed 7 --edition cs231n --out hidden.npz

The same seed gives the same inputs. `grade.py` calls this once for all submissions, and
`make_starter.py --autograder` for the archive.
"""

import functools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import check
from checker import measures
from checker.editions import ASSIGNMENT, HOMEWORK, SQUARE, TABLE, WIDE, Edition
from checker.items import EDITIONS, of_edition
from checker.measures import Inputs
from cli.options import Parser, named_path
from cli.process import command
from course.make_expected import bodies, captum_rows, measured, solution_in, variants, with_body
from course.make_starter import LARGEST_SEED
from files.atomic import atomic_write
from model_utils import load_model
from visualizers import FoolingImage

FILES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")
Arrays = dict[str, np.ndarray]
SIZES = ((96, 128), (128, 96), (104, 120), (120, 104))  # of the photos, height and width
UNLIKE = 1.5  # times as strong is one photo's map by Grad-CAM as the other's, at least
PAIR = replace(SQUARE, count=2)  # the photos as Captum's scripts draw them
# By length of the steps: how many classes, the likeliest first, a target is drawn of.
NEAR = {10: 1000, 1: 20}
# Likewise the score by which a target is ahead or behind: what rounding cannot change.
CLEAR = {10: 0.3, 1: 0.05}


def draw(seed: int, edition: Edition = TABLE[ASSIGNMENT]) -> Inputs:
    """Return inputs: parts of photos, and classes that tell right solutions from wrong ones."""
    rng, model = np.random.default_rng(seed), load_model(weights="bundled", device="cpu")
    kind = edition.photos
    sizes = SIZES if kind is WIDE else ((kind.height, kind.width),)
    height, width = map(int, rng.choice(sizes))
    target = None
    while target is None:
        files = rng.choice(FILES, 2, replace=False)
        photos = [(f"data/{file}", _part(rng), 0) for file in files]
        measures.inputs = Inputs((height, width), tuple(photos), seed=seed)
        images, whole = (measures.photos(each)[1].split(1) for each in (WIDE, PAIR))
        found = [_label(rng, model, *pair) for pair in zip(images, whole, strict=True)]
        labels, strengths = zip(*found, strict=True)
        # Of maps that are as strong, scaled alone and together is the same.
        if max(strengths) > UNLIKE * min(strengths) > 0:
            target = _target(rng, model, images[1], edition.step)
    return replace(
        measures.inputs,
        photos=tuple((file, part, c) for (file, part, _), c in zip(photos, labels, strict=True)),
        target=target,
        grown=int(rng.integers(1000)),
    )


def _part(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return a part of a photo: left, top, right, bottom, as shares."""
    left, top, width, height = rng.uniform((0, 0, 0.6, 0.6), (0.3, 0.3, 0.7, 0.7)).tolist()
    return round(left, 3), round(top, 3), round(left + width, 3), round(top + height, 3)


def _label(
    rng: np.random.Generator, model: nn.Module, image: torch.Tensor, whole: torch.Tensor
) -> tuple[int, float]:
    """Return a likely class whose map by Grad-CAM tells right from wrong, and the map's maximum.

    It has much for it in the image and something against, so that the ReLU has an effect, also at
    the layer that Captum is asked for, for `whole`: the photo in the size that is drawn; and
    bilinear enlargement makes another map than any bicubic one. Without any such class: 0 and 0.
    """
    conv = model.classifier[1]
    with torch.no_grad():
        places = conv(model.features(image))[0] - conv.bias[:, None, None]
        ranks = model(image)[0].argsort(descending=True)
    share = places.clamp(min=0).flatten(1).norm(dim=1) / places.flatten(1).norm(dim=1)
    labels = (int(c) for c in rng.permutation(ranks[1:700].numpy()) if 0.7 < share[c] < 0.95)
    telling = (
        c
        for c in labels
        if _is_telling(places[c].clamp(min=0), image.shape[2:]) and _is_signed(model, whole, c)
    )
    label = next(telling, None)
    if label is None:
        return 0, 0.0
    active = (places[label] + conv.bias[label] > 0).float().mean()  # the gradient's mean
    return label, float(active * places[label].max())


def _is_telling(cam: torch.Tensor, size: Sequence[int]) -> bool:
    picture, (height, width) = Image.fromarray(cam.numpy()), size
    cubic, linear = (
        np.asarray(picture.resize((width, height), kernel))
        for kernel in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
    )
    other = nn.functional.interpolate(cam[None, None], (height, width), mode="bicubic")[0, 0]
    arrays = [(a - a.min()) / np.ptp(a) for a in (cubic, linear, other.numpy())]
    wrong, right = (check.relative_error(a, arrays[0]) for a in arrays[1:])
    return wrong > 0.12 and right < 0.07


def _is_signed(model: nn.Module, image: torch.Tensor, label: int) -> bool:
    """Whether Grad-CAM at the first layer that Captum is asked for, too, has something against."""
    activation = model.features[:4](image).detach().requires_grad_()
    score = model.classifier(model.features[4:](activation)).flatten()[label]
    (gradient,) = torch.autograd.grad(score, activation)
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * activation.detach()).sum(dim=1)
    return bool(cam.clamp(max=0).norm() > 0.3 * cam.norm())


def _target(
    rng: np.random.Generator, model: nn.Module, image: torch.Tensor, step: int
) -> int | None:
    """Return a class that is reached in three to six steps; None where the photo has none.

    It is never nearly the highest before, and is reached at the same step when something is rounded
    otherwise.
    """
    noise = 1e-6 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        near = model(image)[0].argsort(descending=True)[: NEAR[step]].sort().values.numpy()
    for target in map(int, rng.permutation(near)[:20]):
        ahead: list[float] = []

        def look(progress, target=target, ahead=ahead) -> None:
            with torch.no_grad():
                scores = model(progress.image)[0]
            score, scores[target] = float(scores[target]), -np.inf
            ahead.append(score - float(scores.max()))

        given = {"target_y": target, "model": model, "learning_rate": step, "max_iter": 8}
        fool = functools.partial(FoolingImage().make_fooling_image, **given)
        changed = fool(image, callback=look) - image
        if 4 <= len(ahead) <= 7 and min(map(abs, ahead)) > CLEAR[step]:
            again = fool(image + noise) - image
            return target if (again - changed).norm() < 0.03 * changed.norm() else None
    return None


def write(seed: int, path: Path, edition: str = ASSIGNMENT) -> None:
    """Draw inputs, and write them with the solution's values.

    Raises:
        InputError: the file cannot be written.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    measures.inputs = draw(seed, TABLE[edition])
    inputs = asdict(measures.inputs)
    with tempfile.TemporaryDirectory() as name:
        sys.path.insert(0, name)
        of = _own if edition in (ASSIGNMENT, HOMEWORK) else _others
        arrays = of(solution_in(Path(name)), edition)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, mistakes="{}", inputs=json.dumps(inputs), **arrays)


def _own(folder: Path, edition: str) -> Arrays:
    """Return what the solution gives in our own editions: "item/key" → values."""
    inputs, items = asdict(measures.inputs), of_edition(edition)
    rows = captum_rows() if any(item.name.endswith("_captum") for item in items) else {}
    values = {name: right for name, (right, _) in rows.items()}
    values |= {i.name: measured(i, folder, inputs) for i in items if i.name not in values}
    return {f"{name}/{key}": array for name, of in values.items() for key, array in of.items()}


def _others(folder: Path, edition: str) -> Arrays:
    """Return what right functions give in another edition: "name of the values/key" → values."""
    found = {}
    for item in of_edition(edition):
        name = TABLE[edition].values(item.name)
        row = variants(item)[name]
        for body in (body for body, mistake in bodies(item, row) if not mistake):
            values = with_body(item, folder, body, row)
            found |= {f"{name}/{key}": array for key, array in values.items()}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file. Returns the exit status."""
    parser = Parser(description="Draw inputs that students do not have, and store right values.")
    parser.add_argument("--seed", type=int, required=True, help=f"from 1 to {LARGEST_SEED}")
    parser.add_argument("--out", type=named_path, required=True, metavar="PATH")
    text = "whose functions (default: %(default)s)"
    parser.add_argument("--edition", choices=EDITIONS, default=ASSIGNMENT, help=text)
    options = parser.parse_args(argv)
    if not 0 < options.seed <= LARGEST_SEED:
        parser.error(f"--seed: a whole number from 1 to {LARGEST_SEED} was expected")
    with command(parser):
        write(options.seed, options.out, options.edition)
    return 0


if __name__ == "__main__":
    sys.exit(main())
