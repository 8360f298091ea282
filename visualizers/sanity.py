"""Sanity checks: do maps depend on what was learned, and name the pixels that count?

A method is a callable `method(model, images, labels)` that gives a map for each image: images float
(N, 3, H, W), normalised; labels int64 (N,); maps float (N, H, W), tensor or array, the larger the
more a pixel speaks for the class. Maps are judged as they are: where values have a sign, what
speaks against the class comes last.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from skimage.filters import sobel
from skimage.metrics import structural_similarity
from torch import nn

from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD, blur_image

from .common import (
    Method,
    check_images,
    check_labels,
    class_scores,
    evaluated,
    labelled_scores,
    probabilities,
)
from .evaluation import check_model, evaluation_mode, in_chunks

STEPS = 10  # of deletion and insertion; 32 change a mean area by 0.013 at most
# Pixels, standard deviation; with the paper's 5 SqueezeNet still recognises some photos a little
BLUR = 10
RADIUS = 0.02  # of the change of normalised pixels for the sensitivity: 1.2 of 255 grey levels
SAMPLES = 4  # changed images for the sensitivity
SQUARES = 50  # covered places for the infidelity

Maps = Mapping[str, np.ndarray]  # method → (N, H, W)


# --- The table ---


class Measurement(NamedTuple):
    """One number about one map."""

    method: str
    measure: str
    step: str  # of the cascade or of a curve: the layer, or the share of the pixels; else empty
    photo: int
    seed: int
    value: float  # NaN where the map has vanished, so that there is nothing to measure


class Summary(NamedTuple):
    """Statistics of a method, a measure and a step; NaN is left out, and not counted in `maps`."""

    lower: float  # quartiles
    median: float
    upper: float
    mean: float
    mean_recognised: float  # over the photos that the network recognises
    maps: int
    asked: int  # as many maps were there

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile."""
        return self[:3]


def summarise(
    measurements: Iterable[Measurement], recognised: Sequence[bool] | None = None
) -> dict[tuple[str, str, str], Summary]:
    """Return (method, measure, step) → summary over photos and seeds.

    `recognised` has an entry per photo.
    """
    groups: dict[tuple[str, str, str], list[Measurement]] = defaultdict(list)
    for each in measurements:
        groups[each[:3]].append(each)
    summaries = {}
    for key, group in groups.items():
        values = [each.value for each in group if not np.isnan(each.value)]
        known = [each.value for each in group if recognised is None or recognised[each.photo]]
        known = [value for value in known if not np.isnan(value)]
        lower, median, upper = (
            np.quantile(values, (0.25, 0.5, 0.75)).tolist() if values else (np.nan,) * 3
        )
        mean, mean_recognised = (
            float(np.mean(part)) if part else np.nan for part in (values, known)
        )
        summaries[key] = Summary(
            lower, median, upper, mean, mean_recognised, len(values), len(group)
        )
    return summaries


# --- Controls, which do not ask the network ---


def edges(_: nn.Module, images: torch.Tensor, __: torch.Tensor) -> np.ndarray:
    """Return the magnitude of Sobel's gradient of the grey image: a map without any network."""
    grey = images.cpu().double().mean(dim=1).numpy()
    # a flat image has none, rounding errors apart
    return np.stack([sobel(image) for image in grey]).round(9)


def central_blob(_: nn.Module, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
    """Return a Gaussian in the middle of each image: a map that knows where subjects are."""
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in images.shape[2:])
    return torch.exp(-2 * (y[:, None] ** 2 + x**2)).expand(len(images), -1, -1)


def random_order(_: nn.Module, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
    """Return maps of zeros, whose order is random: `pixel_order` breaks ties at random."""
    return torch.zeros(len(images), *images.shape[2:])


CONTROLS: dict[str, Method] = {
    "edge detector": edges,
    "central blob": central_blob,
    "random order": random_order,
}


# --- Agreement with the original map, down the cascade ---


def agreement(maps: torch.Tensor | np.ndarray, originals: torch.Tensor | np.ndarray) -> np.ndarray:
    """Compare maps (N, H, W), each pair alone: what is left of a map when layers are random?

    Adebayo et al.: Sanity Checks for Saliency Maps, 2018, §3.1: Spearman's rank correlation (equal
    values share the mean of their ranks), and SSIM (Wang et al.: Image Quality Assessment, 2004,
    equation 13, Gaussian windows) of the maps divided by their largest absolute value. Both lie in
    [−1, 1]; low is good of a random network.

    They cannot tell whether a map is right, only whether it depends on the network. SSIM of a
    sparse map is mostly that of its empty background, so it cannot be compared between methods.

    Returns:
        float64 (N, 2): rank correlation, SSIM; both NaN where a map is constant, since then there
        is nothing to rank.
    """
    pairs = zip(as_array(maps), as_array(originals), strict=True)
    return np.array([_agreement(a, b) for a, b in pairs]).reshape(-1, 2)


def _agreement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    if a.min() == a.max() or b.min() == b.max():
        return np.nan, np.nan
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    span = 2 if min(a.min(), b.min()) < 0 else 1
    similarity = structural_similarity(
        a / abs(a).max(), b / abs(b).max(), data_range=span, **window
    )
    return spearmanr(a, b, axis=None).statistic, similarity


# --- Deletion and insertion ---


def baseline(images: torch.Tensor, kind: str) -> torch.Tensor:
    """Return what replaces removed pixels, (N, 3, H, W): mean colour, black, or the blurred photo.

    Towards the blurred photo a map of edges is favoured, since blurring removes nothing else.
    """
    if kind == "blur":
        return blur_image(images.clone(), BLUR)
    black = torch.from_numpy(-SQUEEZENET_MEAN / SQUEEZENET_STD).to(images)
    return torch.zeros_like(images) + (black[:, None, None] if kind == "zero" else 0)


def deletion_insertion(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    maps: torch.Tensor | np.ndarray,
    baselines: tuple[torch.Tensor, torch.Tensor] | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> np.ndarray:
    """Follow the class's probability while pixels go, largest first, and while they come back.

    Petsiuk, Das, Saenko: RISE, 2018, §4.1: the better a map, the sooner deletion brings the
    probability down and insertion brings it up. The `area` under either curve lies in [0, 1]: low
    is good for deletion, high for insertion.

    They cannot tell an explanation from an order that breaks the picture: pictures half replaced
    are none that the network has been trained on, so compare with `CONTROLS`. Only the order
    counts, not the values.

    Args:
        model: network with scores (N, classes); evaluated in eval mode and left as it was.
        images: float (N, 3, H, W), normalised.
        labels: int64 (N,).
        maps: (N, H, W).
        baselines: what pixels of deletion are replaced by, and what insertion begins with, each (N,
            3, H, W); by default, as in the authors' code, the mean colour and the blurred photo.
        steps: equal shares of the pixels that go one after the other.
        seed: of the order among equal values.

    Returns:
        float64 (N, 2, steps + 1): the probabilities under deletion, from the image to the baseline,
        and under insertion, from the baseline to the image.

    Raises:
        ValueError: arguments that do not fit, or numbers that are not finite.
    """
    check_model(model)
    images = check_images(images, model, "images")
    labels = check_labels(labels, images, "labels")
    given = baselines or (baseline(images, "mean"), baseline(images, "blur"))
    empty, blurred = (check_images(each, model, "baselines") for each in given)
    place = pixel_order(maps, seed).argsort(dim=1).to(images.device)  # of each pixel in the order
    counts = torch.linspace(0, place.shape[1], steps + 1, device=images.device).round()

    def probability(pictures: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor]:
        chances = probabilities(model, evaluated(model, pictures))
        return (labelled_scores(chances, labels, "labels"),)

    curves: list[torch.Tensor] = []
    with evaluation_mode(model), torch.no_grad():
        for image, under, start, label, own in zip(
            images, empty, blurred, labels, place, strict=True
        ):
            gone = (own < counts[:, None]).view(-1, 1, *image.shape[1:])
            pictures = torch.cat([torch.where(gone, under, image), torch.where(gone, image, start)])
            curves += in_chunks(probability, pictures, label.expand(len(pictures)))
    return np.array([as_array(curve) for curve in curves]).reshape(-1, 2, steps + 1)


def pixel_order(maps: torch.Tensor | np.ndarray, seed: int = 0) -> torch.Tensor:
    """Return the pixels' numbers, row by row from 0, largest first: (N, H, W) → int64 (N, H·W).

    Equal values are ordered at random, since their order in memory would favour the top of the
    image.
    """
    values = torch.from_numpy(as_array(maps)).flatten(1)
    noise = torch.rand(
        values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    shuffled = noise.argsort(dim=1)
    return shuffled.gather(
        1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    )


def area(curves: np.ndarray) -> np.ndarray:
    """Return the area under curves (…, points) over [0, 1], by trapezoids: (…)."""
    return (curves[..., 1:] + curves[..., :-1]).mean(axis=-1) / 2


# --- Sensitivity and infidelity ---


def max_sensitivity(
    explain: Callable[[torch.Tensor], Maps], images: torch.Tensor, originals: Maps, seed: int
) -> dict[str, np.ndarray]:
    """Return how much maps change at most when their images hardly do, relative to the maps' norms.

    Yeh et al.: On the (In)fidelity and Sensitivity of Explanations, 2019, definition 2, divided by
    the norm as Captum does, and estimated from `SAMPLES` images at random within `RADIUS` of each
    pixel. From 0 on; low is good.

    It cannot tell whether a map has to do with the network: one that never asks it is the steadiest
    of all.

    Args:
        explain: images → method → maps (N, H, W).
        images: float (N, 3, H, W), normalised.
        originals: the images' own maps.
        seed: of the changes.

    Returns:
        Method → float64 (N,); NaN where the image's own map is zero.
    """
    generator = torch.Generator().manual_seed(seed)
    largest: dict[str, np.ndarray] = {}
    for _ in range(SAMPLES):
        noise = RADIUS * (2 * torch.rand(images.shape, generator=generator) - 1)
        for name, maps in explain(images + noise.to(images)).items():
            own = _norm(originals[name])
            change = _norm(maps - originals[name]) / np.where(own > 0, own, np.nan)
            largest[name] = np.maximum(largest.get(name, 0), change)
    return largest


def _norm(maps: np.ndarray) -> np.ndarray:
    return np.sqrt((maps**2).sum(axis=(1, 2)))


def infidelity(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    maps: Maps,
    covered: torch.Tensor,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return how badly maps foretell the score's loss when squares of the image are covered.

    Yeh et al. 2019, definition 1, with squares as in §3: E[(β·I·φ − (f(x) − f(x − I)))²], where I·φ
    is a map's sum over a square and β the best factor for all squares of an image; divided by
    E[(f(x) − f(x − I))²]. It lies in [0, 1]: 0 foretells everything, 1 no more than a map of zeros
    would; low is good.

    It cannot tell a map from its negative, because of β, nor what matters at a scale finer than the
    squares.

    Args:
        model, images, labels: as in `deletion_insertion`.
        maps: method → (N, H, W).
        covered: (N, 3, H, W), what is seen in the squares.
        seed: of the squares, whose sides are an eighth to a half of the image's shorter one.

    Returns:
        Method → float64 (N,); NaN where no square changes the score.
    """
    squares = random_squares(images.shape[2], images.shape[3], seed).to(images.device)

    def scores(pictures: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor]:
        return (class_scores(model, pictures, labels, "labels"),)

    losses = []
    with evaluation_mode(model), torch.no_grad():
        for image, cover, label in zip(images, covered, labels, strict=True):
            pictures = torch.cat([image[None], torch.where(squares[:, None], cover, image)])
            (of_pictures,) = in_chunks(scores, pictures, label.expand(len(pictures)))
            losses.append(as_array(of_pictures[0] - of_pictures[1:]))
    return {
        name: unexplained(as_array(own), as_array(squares), np.array(losses))
        for name, own in maps.items()
    }


def unexplained(maps: np.ndarray, squares: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the share of squared losses that sums over squares do not foretell, in [0, 1]: (N,).

    Args:
        maps: (N, H, W).
        squares: (S, H, W), 1 inside and 0 outside.
        losses: (N, S), what the score loses when a square is covered.
    """
    foretold = np.einsum("nhw,shw->ns", maps, squares)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.nan_to_num(
            (foretold * losses).mean(axis=1) / (foretold**2).mean(axis=1), posinf=0, neginf=0
        )
        return ((factor[:, None] * foretold - losses) ** 2).mean(axis=1) / (losses**2).mean(axis=1)


def random_squares(height: int, width: int, seed: int) -> torch.Tensor:
    """Return `SQUARES` masks with a square each, bool (SQUARES, H, W)."""
    random, short = np.random.default_rng(seed), min(height, width)
    masks = torch.zeros(SQUARES, height, width, dtype=torch.bool)
    for mask in masks:
        side = int(random.integers(max(1, short // 8), max(1, short // 2) + 1))
        top, left = (int(random.integers(0, room - side + 1)) for room in (height, width))
        mask[top : top + side, left : left + side] = True
    return masks


# --- Localisation on composites ---


def composites(
    images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return for each photo a grid of it and three of other classes, and which quarter is its own.

    Args:
        images: float (N, 3, H, W).
        labels: int64 (N,).

    Returns:
        float (N, 3, 2·⌊H/2⌋, 2·⌊W/2⌋), and int64 (N,): 0 and 1 in the upper row, 2 and 3 in the
        lower one. None where there are fewer than four classes.
    """
    ids = labels.tolist()
    if len(set(ids)) < 4:
        return None
    small, grids = F.adaptive_avg_pool2d(images, (images.shape[2] // 2, images.shape[3] // 2)), []
    for i in range(len(ids)):
        # Nearest last
        chosen = {
            ids[j % len(ids)]: small[j % len(ids)] for j in range(i + len(ids) - 1, i - 1, -1)
        }
        a, b, c, d = np.roll(np.array([0, 1, 2, 3]), i % 4)
        four = [chosen[label] for label in dict.fromkeys(ids[i:] + ids[:i])][:4]
        grids.append(
            torch.cat(
                [torch.cat([four[a], four[b]], dim=2), torch.cat([four[c], four[d]], dim=2)], dim=1
            )
        )
    return torch.stack(grids), torch.arange(len(ids)) % 4


def localisation(maps: torch.Tensor | np.ndarray, quarters: torch.Tensor) -> np.ndarray:
    """Return the share of each map's positive mass in a composite's right quarter: float64 (N,).

    Arias-Duart et al.: Focus! Rating XAI Methods and Finding Biases, 2022, §3, with four photos of
    different classes instead of two times two. It lies in [0, 1]; high is good, 0.25 is chance; NaN
    where a map has nothing positive.

    It cannot tell where inside its photo a class is seen, and a network that confuses two of the
    photos is blamed on the map.

    Args:
        maps: (N, H, W), H and W even.
        quarters: int64 (N,), as of `composites`.
    """
    positive = as_array(maps).clip(min=0)
    count, height, width = positive.shape
    sums = positive.reshape(count, 2, height // 2, 2, width // 2).sum(axis=(2, 4)).reshape(count, 4)
    total = sums.sum(axis=1)
    return sums[np.arange(count), as_array(quarters).astype(int)] / np.where(
        total > 0, total, np.nan
    )


def as_array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return numbers as a float64 array."""
    return torch.as_tensor(values).detach().cpu().double().numpy()
