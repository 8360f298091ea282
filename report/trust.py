"""How far to trust the maps: the methods compared, what is measured, what the numbers say."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from captum import attr
from torch import nn

from captum_utils import compute_attributions, occlusion_windows
from visualizers import GradCam, SaliencyMap, sanity
from visualizers.cascade import cascade, parameter_layers
from visualizers.common import Method, class_scores
from visualizers.evaluation import evaluation_mode
from visualizers.sanity import CONTROLS, Maps, Measurement, Summary

# Judged once with their sign, once by absolute values
SIGNED = ("integrated gradients", "occlusion")
AGREEMENT = ("rank correlation", "SSIM")
AREAS = ("deletion area", "insertion area")
GOOD = {  # measure → which way is good
    "rank correlation": "low",
    "SSIM": "low",
    "deletion area": "low",
    "insertion area": "high",
    "sensitivity": "low",
    "infidelity": "low",
    "localisation": "high",
}
RECOGNISED = 0.1  # least probability of its class for a photo that the network recognises


# --- Methods ---


def explanation_methods(steps: int, layer: str | None = None) -> dict[str, Method]:
    """Return the methods that are compared, ours and Captum's, by name.

    Of three colours the largest absolute gradient is taken, and of attributions, which have a sign,
    the sum.

    Args:
        steps: of integrated gradients.
        layer: dotted name of Grad-CAM's; by default its own choice.
    """
    return {
        "saliency": lambda model, X, y: SaliencyMap().compute_saliency_maps(X, y, model),
        "guided backprop": lambda model, X, y: abs(GradCam().guided_backprop(X, y, model)).max(
            axis=-1
        ),
        "Grad-CAM": lambda model, X, y: GradCam().grad_cam(X, y, model, layer, per_image=True),
        "integrated gradients": functools.partial(
            _attribute, attr.IntegratedGradients, n_steps=steps
        ),
        "occlusion": _occlude,
    }


def _attribute(
    algorithm, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, **kwargs
) -> torch.Tensor:
    """Attribute the labelled scores, of which alone a SqueezeNet is evaluated: (N, H, W)."""
    scores = functools.partial(class_scores, model)
    with evaluation_mode(model):
        return compute_attributions(
            algorithm(scores), images, additional_forward_args=labels, **kwargs
        ).sum(dim=1)


def _occlude(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Attribute as `_attribute` does, by squares of which 16 cover a square photo."""
    windows = occlusion_windows(images[0].movedim(0, -1), stride=54 / 224)
    # Of a random network the ranks hang on rounding, and so on how many are evaluated together
    kwargs = {**windows, "perturbations_per_eval": 1}
    return _attribute(attr.Occlusion, model, images, labels, **kwargs)


def explain(
    methods: Mapping[str, Method], model: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, np.ndarray]:
    """Return every method's maps (N, H, W), with Guided Grad-CAM and absolute values."""
    maps = {
        name: sanity.as_array(method(model, images, labels)) for name, method in methods.items()
    }
    if "guided backprop" in maps and "Grad-CAM" in maps:
        maps["Guided Grad-CAM"] = maps["guided backprop"] * maps["Grad-CAM"]  # neither is negative
    return maps | {f"{name}, absolute": abs(maps[name]) for name in SIGNED if name in maps}


# --- What is measured ---


@dataclass(frozen=True)
class Settings:
    """How it is measured."""

    seed: int
    seeds: int  # random networks
    steps: int  # of integrated gradients
    baseline: str  # of deletion


@dataclass
class Results:
    """What has been measured, and of which photos."""

    settings: Settings
    table: list[Measurement] = field(default_factory=list)
    photos: list[tuple[str, float]] = field(default_factory=list)  # class, and its probability

    def note(
        self,
        measure: str,
        values: Mapping[str, np.ndarray],
        step: str = "",
        seed: int | None = None,
    ) -> None:
        """Add method → values (N,), one for each of the photos that come next."""
        seed = self.settings.seed if seed is None else seed
        for method, each in values.items():
            numbers = enumerate(each, start=len(self.photos))
            self.table += [
                Measurement(method, measure, step, photo, seed, float(value))
                for photo, value in numbers
            ]

    @functools.cached_property
    def summary(self) -> dict[tuple[str, str, str], Summary]:
        """The table's medians, quartiles, means and counts, once everything is measured."""
        return sanity.summarise(self.table, [chance >= RECOGNISED for _, chance in self.photos])

    def steps(self, measure: str) -> list[str]:
        """Return a measure's layers or shares, in order; an empty name where it has none."""
        return list(dict.fromkeys(step for _, other, step in self.summary if other == measure))

    def column(self, measure: str) -> dict[str, Summary]:
        """Return method → summary of a measure, at its last step."""
        last = self.steps(measure)[-1:]
        return {
            method: each for (method, *key), each in self.summary.items() if key == [measure, *last]
        }

    def curves(self, measure: str) -> dict[str, np.ndarray]:
        """Return method → quartiles of a measure over its steps, (3, steps)."""
        curves: dict[str, list] = {}
        for (method, other, _), each in self.summary.items():
            if other == measure:
                curves.setdefault(method, []).append(each.quartiles)
        return {method: np.array(points).T for method, points in curves.items()}


def examine(
    results: Results,
    model: nn.Module,
    methods: Mapping[str, Method],
    images: torch.Tensor,
    labels: torch.Tensor,
    photos: Sequence[tuple[str, float]],
    progress: Callable[[int], object] = lambda total: None,
) -> list[tuple[str, Maps]]:
    """Add what the checks find about some photos to the results.

    Args:
        results: they get the measurements.
        model: the network, which is left as it was.
        methods: by name.
        images: float (N, 3, H, W), normalised.
        labels: int64 (N,).
        photos: the name of each photo's class, and its probability.
        progress: is called `total` times, each time with this total.

    Returns:
        The layer and the first photo's maps (H, W) down the first cascade; the first entry is of
        the network as it is.
    """

    def every_map(images: torch.Tensor) -> dict[str, np.ndarray]:
        return explain(methods, model, images, labels) | explain(CONTROLS, model, images, labels)

    settings, originals = results.settings, every_map(images)
    states: list[tuple[str, Maps]] = [("", {name: maps[0] for name, maps in originals.items()})]
    total = settings.seeds * len(parameter_layers(model)) + 1
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for layer, network in cascade(model, images, seed):
            maps = explain(methods, network, images, labels) | {
                "edge detector": originals["edge detector"]
            }
            found = {name: sanity.agreement(own, originals[name]) for name, own in maps.items()}
            for i, measure in enumerate(AGREEMENT):
                results.note(
                    measure, {name: pairs[:, i] for name, pairs in found.items()}, layer, seed
                )
            if seed == settings.seed:
                states.append((layer, {name: own[0] for name, own in maps.items()}))
            progress(total)
    _judge(results, model, images, labels, originals, every_map)
    progress(total)
    results.photos += photos
    return states


def _judge(
    results: Results,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    originals: Maps,
    every_map: Callable[[torch.Tensor], Maps],
) -> None:
    """Note deletion, insertion, sensitivity, infidelity and localisation of the maps."""
    seed, removed = results.settings.seed, sanity.baseline(images, results.settings.baseline)
    ends = removed, sanity.baseline(images, "blur")
    for name, maps in originals.items():
        curves = sanity.deletion_insertion(model, images, labels, maps, ends, seed=seed)
        for measure, of_photos in (("deletion", curves[:, 0]), ("insertion", curves[:, 1])):
            results.note(f"{measure} area", {name: sanity.area(of_photos)})
            for step, chances in enumerate(of_photos.T):
                results.note(measure, {name: chances}, f"{step / sanity.STEPS:g}")
    results.note("sensitivity", sanity.max_sensitivity(every_map, images, originals, seed))
    results.note("infidelity", sanity.infidelity(model, images, labels, originals, removed, seed))
    if (grid := sanity.composites(images, labels)) is not None:
        found = every_map(grid[0])
        results.note(
            "localisation",
            {name: sanity.localisation(maps, grid[1]) for name, maps in found.items()},
        )


# --- What the numbers say ---


def describe_agreement(results: Results) -> str:
    """Say how much is left of each map when all layers are random, and how many have vanished."""
    ends = results.column("rank correlation")
    control = ends.pop("edge detector")
    medians = ", ".join(f"{method} {cell(each)}" for method, each in ends.items())
    gone = ", ".join(
        f"{method} {each.asked - each.maps}"
        for method, each in ends.items()
        if each.maps < each.asked
    )
    text = (
        f"With all layers random the rank correlation is: {medians}; edge detector "
        f"{control.median:.2f}."
    )
    return text + (
        f" Maps that have vanished and are left out, of {control.asked}: {gone}." if gone else ""
    )


def describe_areas(results: Results) -> str:
    """Say which methods have better areas than every control."""
    sentences = []
    for measure in AREAS:
        sign = 1 if GOOD[measure] == "high" else -1
        # As they are printed: what differs by less is no finding.
        medians = {m: round(each.median, 2) for m, each in results.column(measure).items()}
        control = max((name for name in CONTROLS), key=lambda name: sign * medians[name])
        better = [
            m for m in medians if m not in CONTROLS and sign * medians[m] > sign * medians[control]
        ]
        best = f"the best control, {control} ({medians[control]:.2f})"
        sentences.append(f"By {measure} better than {best}: {', '.join(better) or 'none'}.")
    return " ".join(sentences)


def tables(results: Results) -> dict[str, list[Sequence]]:
    """Return file → rows, header first: measures to read and to compute with, curves, areas."""
    columns = {measure: results.column(measure) for measure in GOOD}
    methods, settings = list(columns["deletion area"]), results.settings
    numbers = (
        "median",
        "lower quartile",
        "upper quartile",
        "mean",
        "mean of recognised",
        "maps",
        "of",
    )
    made_with = ("photos", "recognised", "seeds", "steps", "deletion baseline")
    known = sum(chance >= RECOGNISED for _, chance in results.photos)
    facts = len(results.photos), known, settings.seeds, settings.steps, settings.baseline
    areas = {(each.method, each.photo, each.measure): each.value for each in results.table}
    return {
        "sanity_summary.csv": [
            ("method", *columns),
            *((name, *(cell(own.get(name)) for own in columns.values())) for name in methods),
        ],
        "sanity_checks.csv": [
            ("method", "measure", "good", *numbers, *made_with),
            *(
                (name, m, GOOD[m], *_numbers(own[name]), *facts)
                for m, own in columns.items()
                for name in own
            ),
        ],
        "sanity_curves.csv": [
            ("method", "measure", "step", *numbers),
            *((*key, *_numbers(each)) for key, each in results.summary.items() if key[2]),
        ],
        "faithfulness.csv": [
            ("method", "photo", "class", "probability", "recognised", *AREAS),
            *(
                (
                    name,
                    i,
                    title,
                    *_recognition(chance),
                    *(_rounded(areas[name, i, area]) for area in AREAS),
                )
                for name in methods
                for i, (title, chance) in enumerate(results.photos)
            ),
        ],
    }


def _numbers(each: Summary) -> Iterable[str | int]:
    values = (each.median, each.lower, each.upper, each.mean, each.mean_recognised)
    return (*map(_rounded, values), each.maps, each.asked)


def _recognition(chance: float) -> tuple[str, str]:
    return _rounded(chance), "yes" if chance >= RECOGNISED else "no"


def cell(each: Summary | None) -> str:
    """Write median and quartiles, 0.54 (0.50–0.61); what was not measured stays empty."""
    if each is None or not each.maps:
        return ""
    return f"{each.median:.2f} ({each.lower:.2f}–{each.upper:.2f})"


def _rounded(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
