"""Compare the sanity checks' measures with Quantus', pytorch-grad-cam's and torchcam's.

    pip install -r benchmarks/requirements-agreement.txt
    python benchmarks/agreement.py

Five photos, the bundled SqueezeNet, one thread. Where maps give an order of pixels, they are
replaced by their ranks: the libraries leave ties to chance or to the order in memory, `pixel_order`
breaks them by a seed, and of ranks there are none. A time is the better of two runs; `agreement`
always gives rank correlation and SSIM, `deletion_insertion` both curves, and that is what is timed.
"""

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import quantus  # noqa: E402
from pytorch_grad_cam.metrics import cam_mult_image, perturbation_confidence, road  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402
from techniques import Bench  # noqa: E402
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric  # noqa: E402

from visualizers import SaliencyMap, sanity  # noqa: E402
from visualizers.cascade import cascade, parameter_layers  # noqa: E402

STEPS = 16  # shares of the 224² pixels that are whole numbers of pixels, as Quantus demands
QUIET = {"disable_warnings": True, "normalise": False, "abs": False}


class Row(NamedTuple):
    """One of our measures and its counterpart."""

    measure: str
    library: str
    ours: Callable[[], np.ndarray]
    theirs: Callable[[], np.ndarray]
    difference: str = ""  # why the numbers are not equal; nothing where they are


class Chances(nn.Module):
    """A network's probabilities; a softmax that is a module of its own, Quantus takes off."""

    def __init__(self, model: nn.Module):
        """Take the network."""
        super().__init__()
        self.model = model

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) → (N, classes)."""
        return self.model(X).softmax(dim=1)


class Given:
    """A map that is already there, in the shape of torchcam's extractors."""

    def __init__(self, model: nn.Module, maps: torch.Tensor):
        """Take the maps (N, H, W) of the photos to come."""
        self.model, self.maps = model, maps

    def __call__(self, *_, **__) -> list[torch.Tensor]:
        """Return the maps, as of one layer."""
        return [self.maps]

    def fuse_cams(self, cams: list[torch.Tensor]) -> torch.Tensor:
        """Return the maps of the one layer."""
        return cams[0]

    _hooks_off = staticmethod(contextlib.nullcontext)


def rows() -> Iterator[Row]:
    """Yield what is compared."""
    bench = Bench(5)
    X, y, plain = bench.plain_X, bench.y, bench.plain.eval().double()
    # Quantus hands float32 to the network, whose rounding depends on how many photos go at once.
    plain.register_forward_pre_hook(lambda _, arguments: (arguments[0].double(),))
    chances = Chances(plain).eval()
    X_array, y_array = X.numpy(), y.numpy()

    def saliency(network: nn.Module, images: torch.Tensor) -> np.ndarray:
        return sanity.as_array(SaliencyMap().compute_saliency_maps(images, y, network))

    maps = saliency(plain, X)
    edges = sanity.edges(plain, X, y)
    order = sanity.pixel_order(maps)
    ranks = (order.shape[1] - 1 - order.argsort(dim=1)).view(maps.shape).float()
    mean = torch.zeros_like(X)

    def explain_func(model, inputs, targets, **_) -> np.ndarray:
        return saliency(model, torch.as_tensor(inputs, dtype=torch.float32))[:, None]

    def judged(metric, network: nn.Module, a: np.ndarray, x=X_array, **more) -> np.ndarray:
        return np.array(metric(network, x, y_array, a_batch=a, softmax=False, **more))

    yield Row(
        "rank correlation",
        "Quantus, correlation_spearman",
        lambda: sanity.agreement(edges, maps)[:, 0],
        lambda: quantus.correlation_spearman(
            edges.reshape(5, -1), maps.reshape(5, -1), batched=True
        ),
    )
    yield Row(
        "SSIM",
        "Quantus, ssim",
        lambda: sanity.agreement(edges, maps)[:, 1],
        lambda: np.array(quantus.ssim(edges, maps, batched=True)),
        "theirs: windows of 7×7 equal weights, and maps as they are; ours: the paper's Gaussian "
        "windows, and maps divided by their largest value, since a map of gradients and one of "
        "edges have no common unit",
    )

    def curve() -> np.ndarray:
        return sanity.deletion_insertion(plain, X, y, ranks, (mean, mean), STEPS)

    flipping = quantus.PixelFlipping(
        features_in_step=3 * ranks[0].numel() // STEPS, perturb_baseline=0.0, **QUIET
    )
    flipping.custom_preprocess = lambda **_: {}  # wants pixels divided, where it orders colours
    yield Row(
        "deletion, curve",
        "Quantus, PixelFlipping",
        lambda: curve()[:, 0, 1:],
        lambda: judged(flipping, chances, ranks.numpy()[:, None]),
    )

    def removed(imputer) -> np.ndarray:
        shares = [100 * (1 - step / STEPS) for step in range(1, STEPS)]
        metrics = [
            perturbation_confidence.PerturbationConfidenceMetric(
                perturbation_confidence.RemoveMostRelevantFirst(share, imputer)
            )
            for share in shares
        ]
        targets = [ClassifierOutputTarget(label) for label in y.tolist()]
        found = [m(X, ranks.numpy(), targets, chances, return_diff=False) for m in metrics]
        return np.stack(found, axis=1)

    yield Row(
        "deletion, curve",
        "pytorch-grad-cam, RemoveMostRelevantFirst",
        lambda: curve()[:, 0, 1:-1],
        lambda: removed(lambda image, mask: image * mask),
    )

    def torchcam_areas() -> np.ndarray:
        found = DeletionInsertionMetric(
            Given(plain, ranks), lambda scores: scores.softmax(dim=1), steps=STEPS
        )
        found.update(X, y.tolist())
        return np.array(list(found.summary().values()))

    yield Row(
        "deletion and insertion, mean areas",
        "torchcam, DeletionInsertionMetric",
        lambda: sanity.area(curve()).mean(axis=0),
        torchcam_areas,
    )

    def road_drop() -> np.ndarray:
        targets = [ClassifierOutputTarget(label) for label in y.tolist()]
        metric = road.ROADMostRelevantFirst(100 * (1 - 2 / STEPS))
        return metric(X, ranks.numpy(), targets, chances, return_diff=False)

    yield Row(
        "deletion of an eighth",
        "pytorch-grad-cam, ROADMostRelevantFirst",
        lambda: curve()[:, 0, 2],
        road_drop,
        "theirs: pixels become what their neighbours foretell, and noise; ours: the mean colour",
    )

    noises: list[np.ndarray] = []

    def our_sensitivity() -> np.ndarray:
        noises.clear()

        def explain(images: torch.Tensor) -> dict[str, np.ndarray]:
            noises.append(images.numpy().reshape(5, -1))
            return {"": saliency(plain, images)}

        return sanity.max_sensitivity(explain, X, {"": maps}, seed=0)[""]

    def their_sensitivity() -> np.ndarray:
        images = iter(noises)
        metric = quantus.MaxSensitivity(
            nr_samples=sanity.SAMPLES, perturb_func=lambda **_: next(images), **QUIET
        )
        return judged(metric, plain, maps[:, None], explain_func=explain_func)

    yield Row(
        "sensitivity, with the same noise",
        "Quantus, MaxSensitivity",
        our_sensitivity,
        their_sensitivity,
    )
    yield Row(
        "infidelity",
        "Quantus, Infidelity",
        lambda: sanity.infidelity(plain, X, y, {"": maps}, mean, seed=0)[""],
        lambda: judged(
            quantus.Infidelity(
                perturb_baseline=0.0, perturb_patch_sizes=[56], n_perturb_samples=1, **QUIET
            ),
            plain,
            maps[:, None],
        ),
        "theirs: an error in squared scores, squares on a grid, one more covered each time, and "
        "the map times the change of the pixels; ours: the share that the best factor leaves, "
        "squares at random, one at a time, and the map's sum over the square. Captum's, with our "
        "squares, is ours (tests/visualizers/test_sanity.py)",
    )

    grids, quarters = sanity.composites(X, y)
    grid_maps = saliency(plain, grids)
    yield Row(
        "localisation",
        "Quantus, Focus",
        lambda: sanity.localisation(grid_maps, quarters),
        lambda: judged(
            quantus.Focus(**QUIET),
            plain,
            grid_maps[:, None],
            grids.numpy(),
            custom_batch=np.eye(4, dtype=int)[quarters],
        ),
    )

    def our_cascade() -> np.ndarray:
        networks = cascade(plain, X, seed=0)
        found = [sanity.agreement(saliency(n, X), maps)[:, 0] for _, n in networks]
        return np.array(found)[-1]

    def their_cascade() -> np.ndarray:
        metric = quantus.MPRT(similarity_func=quantus.correlation_spearman, **QUIET)
        found = metric(plain, X_array, y_array, maps[:, None], explain_func=explain_func)
        return np.array(list(found.values())[-1])

    yield Row(
        "rank correlation, all layers random",
        "Quantus, MPRT",
        our_cascade,
        their_cascade,
        f"theirs: {sum(hasattr(m, 'reset_parameters') for m in plain.modules())} single layers, "
        "each drawn from the same seed, and scores after the last ReLU; ours: "
        f"{len(parameter_layers(plain))} blocks and layers, one stream of random numbers, and "
        "scores before that ReLU, behind which maps of zeros have no rank",
    )

    heat = torch.from_numpy(maps / maps.max(axis=(1, 2), keepdims=True)).float()

    def average_drop() -> np.ndarray:
        found = ClassificationMetric(Given(plain, heat), lambda scores: scores.softmax(dim=1))
        found.update(X, y.tolist())
        return np.array([found.summary()["avg_drop"]])

    def mean_drop() -> np.ndarray:
        targets = [ClassifierOutputTarget(label) for label in y.tolist()]
        return cam_mult_image.DropInConfidence()(X, heat.numpy(), targets, chances).mean(
            keepdims=True
        )

    why = "no counterpart: the photo is multiplied by the map, so of two maps with the same order "
    why += "the brighter one does better. "
    for library, theirs, unit in (
        ("torchcam, ClassificationMetric", average_drop, "A share of the probability"),
        ("pytorch-grad-cam, DropInConfidence", mean_drop, "A difference of probabilities"),
    ):
        yield Row("average drop", library, lambda: np.array([np.nan]), theirs, why + unit)


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Return what a run gives, and the seconds of the better of two."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        found = run()
        seconds.append(time.process_time() - start)
    return np.asarray(found, dtype=float), min(seconds)


def line(row: Row) -> str:
    """Measure a row, and return it as a line of Markdown."""
    (ours, own), (theirs, other) = timed(row.ours), timed(row.theirs)
    absent = bool(np.isnan(ours).all())
    off = np.nanmax(np.abs(ours - theirs))
    equal = f"{off:.0e}" if off < 1e-6 else "–" if absent else f"{off:.2g}"
    if not row.difference and off >= 1e-6:
        raise SystemExit(f"{row.measure}, {row.library}: {ours} is not {theirs}")
    values = ["–" if absent else f"{np.nanmean(ours):.3g}", f"{np.nanmean(theirs):.3g}", equal]
    ratio = "–" if absent else f"{own / max(other, 1e-9):.2f}"
    return f"| {' | '.join([row.measure, row.library, *values, ratio, row.difference])} |"


def main() -> None:
    """Write the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("quantus", "grad-cam", "torchcam", "torch", "numpy")
    )
    head = [
        "# The sanity checks' measures beside other libraries'",
        "",
        "Made by `python benchmarks/agreement.py`; its head says on what. The numbers are means "
        "over the saliency maps of five photos; where a definition is the same they agree to 1e-6, "
        "or there is no table. The time is ours over theirs, in CPU seconds; a call of ours gives "
        f"rank correlation and SSIM, or both curves, at once. {versions}.",
        "",
        "| measure | library | ours | theirs | largest difference | time | why they differ |",
        "| --- | --- | --: | --: | --: | --: | --- |",
    ]
    lines = [line(row) for row in rows()]
    (ROOT / "benchmarks" / "AGREEMENT.md").write_text("\n".join([*head, *lines]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
