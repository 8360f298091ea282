"""Sanity checks: does a map depend on what the network has learned, and does it name the pixels that count?

A method is a callable `method(model, images, labels)` that gives a map for each image: images float (N, 3, H, W),
normalised; labels int64 (N,); maps float (N, H, W), tensor or array, the larger the more a pixel speaks for the class.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from skimage.filters import sobel
from skimage.metrics import structural_similarity
from torch import nn

from image_utils import blur_image

from .common import Method, check_images, check_labels, evaluated, labelled_scores
from .evaluation import evaluation_mode, in_chunks

STEPS = 16  # of deletion and insertion
BLUR = 10  # pixels, standard deviation; with the paper's 5 SqueezeNet still recognises some photos a little


@dataclass(frozen=True)
class Findings:
    """What the checks have found about one method, photo by photo. Controls only have curves of probability."""

    probability: np.ndarray  # (N, 2, steps + 1), from `deletion_insertion`
    agreement: np.ndarray | None = None  # (N, layers + 1, 2), from `randomization`
    sensitivity: np.ndarray | None = None  # (N,), the largest relative change of a map when the photo hardly changes

    def summary(self) -> tuple[float, float, float, float, float]:
        """Return rank correlation and SSIM at full randomisation, areas of deletion and insertion, and sensitivity.

        Areas are means over the photos, as in the paper, the others medians; NaN stands for what was not measured.
        """
        agreement = (np.nan, np.nan) if self.agreement is None else median(self.agreement[:, -1])
        sensitivity = np.nan if self.sensitivity is None else median(self.sensitivity)
        return (*agreement, *self.areas().mean(axis=0), sensitivity)

    def areas(self) -> np.ndarray:
        """Return the areas under the curves of deletion and insertion: (N, 2)."""
        return area(self.probability)

    def spread(self) -> np.ndarray:
        """Return the quartiles of the agreement over the photos: (3, layers + 1, 2)."""
        return quartiles(np.array(np.nan) if self.agreement is None else self.agreement)

    def __add__(self, other: "Findings") -> "Findings":
        """Return findings about two batches of photos as one."""

        def joined(mine: np.ndarray | None, theirs: np.ndarray | None) -> np.ndarray | None:
            return None if mine is None or theirs is None else np.concatenate([mine, theirs])

        probability = np.concatenate([self.probability, other.probability])
        agreement = joined(self.agreement, other.agreement)
        return Findings(probability, agreement, joined(self.sensitivity, other.sensitivity))


def median(values: np.ndarray) -> np.ndarray:
    """Return the median over the photos, the first axis; NaN counts only where there is nothing else."""
    return quartiles(values)[1]


def quartiles(values: np.ndarray) -> np.ndarray:
    """Return the three quartiles over the photos: (3, …). NaN counts only where there is nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)


# --- Controls, which do not ask the network ---


def edges(_: nn.Module, images: torch.Tensor, __: torch.Tensor) -> np.ndarray:
    """Return the magnitude of Sobel's gradient of the grey image: a map that no network has any part in."""
    grey = images.cpu().double().mean(dim=1).numpy()
    return np.stack([sobel(image) for image in grey]).round(9)  # a flat image has none, rounding errors apart


def central_blob(_: nn.Module, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
    """Return a Gaussian in the middle of each image: what a map is worth that only knows where photographers aim."""
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in images.shape[2:])
    return torch.exp(-2 * (y[:, None] ** 2 + x**2)).expand(len(images), -1, -1)


def random_order(_: nn.Module, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
    """Return maps of zeros, of which `pixel_order` makes a random order, since it breaks ties at random."""
    return torch.zeros(len(images), *images.shape[2:])


CONTROLS: dict[str, Method] = {"random order": random_order, "central blob": central_blob}  # of deletion and insertion


# --- Cascading randomisation ---


@dataclass(frozen=True)
class State:
    """The network on its way down the cascade, as `randomization` reports it."""

    layer: str  # made random last; "original" before the first
    maps: Mapping[str, np.ndarray]  # method → (N, H, W)

    def of_first_image(self) -> "State":
        """Return the state with the first image's maps alone, (H, W)."""
        return State(self.layer, {name: maps[0].copy() for name, maps in self.maps.items()})


def parameter_layers(model: nn.Module) -> list[str]:
    """Return the names of a network's parts that have parameters, from the output backwards.

    A part is a child of the network; `features`, torchvision's name for a chain of layers, is taken apart.
    """
    parts = []
    for name, child in model.named_children():
        inner = [(f"{name}.{part}", module) for part, module in child.named_children()] if name == "features" else []
        parts += inner or [(name, child)]
    return [name for name, module in reversed(parts) if any(True for _ in module.parameters())]


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network with random parameters, drawn as before a training with ReLUs.

    Weights are uniform with He's variance (He et al.: Delving Deep into Rectifiers, 2015, equation 10), biases zero;
    normalisation layers begin anew. Torch's random state stays as it was.
    """
    network = copy.deepcopy(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
    return network


def cascade(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network's copy as it is, then with one layer more made random each time, from the output backwards.

    Adebayo et al.: Sanity Checks for Saliency Maps, 2018, §3.1, "cascading randomization".

    Yields:
        The name of the layer ("original" at first) and the copy, which is the same object each time.
    """
    network, untrained = copy.deepcopy(model), reinitialised(model, seed)
    yield "original", network
    for name in parameter_layers(model):
        network.get_submodule(name).load_state_dict(untrained.get_submodule(name).state_dict())
        yield name, network


def randomization(
    model: nn.Module,
    methods: Mapping[str, Method],
    images: torch.Tensor,
    labels: torch.Tensor,
    seed: int,
    callback: Callable[[State], object] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Compare each method's maps down the `cascade` with those of the network as it is.

    Args:
        model: it is left as it was; a copy is made random.
        methods: by name.
        images: float (N, 3, H, W), normalised.
        labels: int64 (N,).
        seed: of the random parameters.
        callback: gets the original maps, and those after each layer.

    Returns:
        Method → float64 (N, layers + 1, 2): `agreement` with the original map.
    """
    originals: dict[str, np.ndarray] = {}
    found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for layer, network in cascade(model, seed):
        maps = {name: as_array(method(network, images, labels)) for name, method in methods.items()}
        originals = originals or maps
        for name in methods:
            found[name].append(agreement(maps[name], originals[name]))
        callback(State(layer, maps))
    return {name: np.stack(parts, axis=1) for name, parts in found.items()}


def agreement(maps: torch.Tensor | np.ndarray, originals: torch.Tensor | np.ndarray) -> np.ndarray:
    """Compare the absolute values of maps (N, H, W), each pair alone.

    Adebayo et al. 2018, §3.1: Spearman's rank correlation (equal values share the mean of their ranks) and SSIM (Wang
    et al.: Image Quality Assessment, 2004, Gaussian windows) of the maps divided by their maximum.

    Returns:
        float64 (N, 2): rank correlation, SSIM; both NaN where a map is constant, since then there is nothing to rank.
    """
    pairs = zip(np.abs(as_array(maps)), np.abs(as_array(originals)), strict=True)
    return np.array([_agreement(a, b) for a, b in pairs]).reshape(-1, 2)


def _agreement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    if a.min() == a.max() or b.min() == b.max():
        return np.nan, np.nan
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similarity = structural_similarity(a / a.max(), b / b.max(), data_range=1, **window)
    return spearmanr(a, b, axis=None).statistic, similarity


# --- Deletion and insertion ---


def deletion_insertion(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    maps: torch.Tensor | np.ndarray,
    baseline: torch.Tensor | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> np.ndarray:
    """Follow the class's probability while pixels go, the largest of the map first, and while they come back.

    Petsiuk, Das, Saenko: RISE, 2018, §4.1: the better a map, the sooner deletion brings the probability down and
    insertion brings it up.

    Args:
        model: network with scores (N, classes); evaluated in eval mode and left as it was.
        images: float (N, 3, H, W), normalised.
        labels: int64 (N,).
        maps: (N, H, W).
        baseline: (N, 3, H, W), what removed pixels are replaced by; by default the photo, blurred.
        steps: equal shares of the pixels that go one after the other.
        seed: of the order among equal values.

    Returns:
        float64 (N, 2, steps + 1): the probabilities under deletion, from the image to the baseline, and under
        insertion, from the baseline to the image.

    Raises:
        ValueError: arguments that do not fit, or numbers that are not finite.
    """
    images = check_images(images, model, "images")
    labels = check_labels(labels, images, "labels")
    baseline = blur_image(images.clone(), BLUR) if baseline is None else check_images(baseline, model, "baseline")
    place = pixel_order(maps, seed).argsort(dim=1).to(images.device)  # of each pixel in the order
    counts = torch.linspace(0, place.shape[1], steps + 1, device=images.device).round()

    def probability(pictures: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor]:
        return (labelled_scores(evaluated(model, pictures).softmax(dim=1), labels, "labels"),)

    curves: list[torch.Tensor] = []
    with evaluation_mode(model), torch.no_grad():
        for image, blurred, label, own in zip(images, baseline, labels, place, strict=True):
            gone = (own < counts[:, None]).view(-1, 1, *image.shape[1:])
            pictures = torch.cat([torch.where(gone, blurred, image), torch.where(gone, image, blurred)])
            curves += in_chunks(probability, pictures, label.expand(len(pictures)))
    return np.array([as_array(curve) for curve in curves]).reshape(-1, 2, steps + 1)


def pixel_order(maps: torch.Tensor | np.ndarray, seed: int = 0) -> torch.Tensor:
    """Return the pixels' numbers, row by row from 0, the largest value first: (N, H, W) → int64 (N, H·W).

    Equal values are ordered at random, since their order in memory would favour the top of the image.
    """
    values = torch.from_numpy(as_array(maps)).flatten(1)
    noise = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shuffled = noise.argsort(dim=1)
    return shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))


def area(curves: np.ndarray) -> np.ndarray:
    """Return the area under curves (…, points) over [0, 1], by trapezoids: (…)."""
    return (curves[..., 1:] + curves[..., :-1]).mean(axis=-1) / 2


def as_array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return numbers as a float64 array."""
    return torch.as_tensor(values).detach().cpu().double().numpy()
