"""What the benchmark compares: floors, this project, libraries and a textbook version."""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import textbook
import torch
from captum import attr
from torch import nn

from captum_utils import compute_attributions
from data_utils import PACKAGE_PHOTOS, open_photos
from files.course import package_file
from image_utils import memory_format, open_image, to_batch
from model_utils import load_model
from style_modules import ContentLoss, StyleLoss, TotalVariationLoss
from style_utils import preprocess, style_transfer
from visualizers import ClassVisualization, FoolingImage, GradCam, SaliencyMap
from visualizers.evaluation import full_precision

try:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import GradCAM as TorchCam
except ImportError as missing:
    print(f"{missing}: pip install -r benchmarks/requirements.txt", file=sys.stderr)
    GradCAM = TorchCam = None

# Of the iterative techniques in a run; the first runs and what comes before the steps count in
STEPS = 10
# Content layer and weight, style layers and weights, TV
STYLE = (3, 6e-2, (1, 4, 6, 7), (300000, 1000, 15, 3), 2e-2)
FLOOR, LABELLED, OURS, TEXTBOOK = "floor", "labelled class's floor", "this project", "textbook"
CAPTUM = "Captum"

Version = Callable[[], object]


class Bench:
    """The networks and photos that all versions share."""

    def __init__(self, size: int, device: str = "cpu"):
        self.device = torch.device(device)
        self.model = load_model(weights="bundled", device=device)
        # As torchvision gives it: parameters that require gradients, in the default memory layout.
        self.plain = load_model(weights="bundled", device=device).requires_grad_(True)
        self.plain.to(memory_format=torch.contiguous_format)
        photos = open_photos([package_file(package, name) for package, name, _ in PACKAGE_PHOTOS])
        chosen = np.arange(size) % len(photos)
        layout = memory_format(self.device)
        self.X = to_batch(photos[chosen]).to(self.device, memory_format=layout)
        self.plain_X = self.X.contiguous()
        self.y = torch.tensor([PACKAGE_PHOTOS[i][2] for i in chosen], device=self.device)

    def all_scores(self, features: torch.Tensor) -> torch.Tensor:
        """Sum the labelled scores after evaluating all 1000."""
        return self.model.classifier(features).flatten(1).gather(1, self.y[:, None]).sum()

    def labelled_scores(self, features: torch.Tensor) -> torch.Tensor:
        """Sum the labelled scores after evaluating these alone."""
        convolution = self.model.classifier[1]
        maps = (features * convolution.weight[self.y]).sum(dim=1)
        return (maps + convolution.bias[self.y, None, None]).relu().mean(dim=(1, 2)).sum()

    def to_input(self, scores: Callable[[torch.Tensor], torch.Tensor]) -> Version:
        """Return one forward and one backward pass to the input."""

        def run():
            X = self.X.detach().requires_grad_()
            return torch.autograd.grad(scores(self.model.features(X)), X)[0]

        return run

    def to_layer(self, scores: Callable[[torch.Tensor], torch.Tensor]) -> Version:
        """Return the forward pass, and the backward pass down to Grad-CAM's layer."""

        def run():
            with torch.no_grad():
                features = self.model.features(self.X)
            return torch.autograd.grad(scores(features.requires_grad_()), features)[0]

        return run

    def floors(self, passes: Callable) -> dict[str, Version]:
        """Return both floors: with all scores, and with those of the labelled classes."""
        return {FLOOR: passes(self.all_scores), LABELLED: passes(self.labelled_scores)}


def in_full_precision(versions: dict[str, Version]) -> dict[str, Version]:
    """Return versions in full float32, and the floor and Captum as they come, too."""
    as_they_come = {f"{name}, TF32": versions[name] for name in (FLOOR, CAPTUM) if name in versions}
    return {name: full_precision()(version) for name, version in versions.items()} | as_they_come


def saliency(b: Bench) -> dict[str, Version]:
    """Question 1.1."""
    captum = attr.Saliency(b.plain)
    return {
        **b.floors(b.to_input),
        OURS: lambda: SaliencyMap().compute_saliency_maps(b.X, b.y, b.model),
        CAPTUM: lambda: captum.attribute(b.plain_X.clone().requires_grad_(), target=b.y).amax(
            dim=1
        ),
        TEXTBOOK: lambda: textbook.saliency(b.plain, b.plain_X, b.y),
    }


def guided_backprop(b: Bench) -> dict[str, Version]:
    """Question 1.2."""
    return {
        **b.floors(b.to_input),
        OURS: lambda: GradCam().guided_backprop(b.X, b.y, b.model),
        CAPTUM: lambda: (
            attr.GuidedBackprop(b.plain)
            .attribute(b.plain_X.clone().requires_grad_(), target=b.y)
            .cpu()
        ),
        TEXTBOOK: lambda: textbook.guided_backprop(b.plain, b.plain_X, b.y),
    }


def grad_cam(b: Bench) -> dict[str, Version]:
    """Question 1.2."""
    layer = b.plain.features[12]

    def captum():
        maps = attr.LayerGradCam(b.plain, layer).attribute(
            b.plain_X, target=b.y, relu_attributions=True
        )
        return attr.LayerAttribution.interpolate(maps, (224, 224), "bicubic")

    def torchcam():
        with TorchCam(b.plain, target_layer="features.12") as extractor:
            scores = b.plain(b.plain_X.clone().requires_grad_())
            maps = extractor(b.y.tolist(), scores)[0]
        return nn.functional.interpolate(maps[:, None], (224, 224), mode="bicubic")

    versions = {
        **b.floors(b.to_layer),
        OURS: lambda: GradCam().grad_cam(b.X, b.y, b.model),
        CAPTUM: captum,
        TEXTBOOK: lambda: textbook.grad_cam(b.plain, b.plain_X, b.y),
    }
    if GradCAM:
        peer, targets = (
            GradCAM(b.plain, [layer]),
            [ClassifierOutputTarget(label) for label in b.y.tolist()],
        )
        versions |= {"pytorch-grad-cam": lambda: peer(b.plain_X, targets), "torchcam": torchcam}
    return versions


def guided_grad_cam(b: Bench) -> dict[str, Version]:
    """Question 1.2."""
    captum = attr.GuidedGradCam(b.plain, b.plain.features[12])
    bicubic = {"target": b.y, "interpolate_mode": "bicubic"}
    return {
        **b.floors(b.to_input),
        OURS: lambda: GradCam().guided_grad_cam(b.X, b.y, b.model),
        CAPTUM: lambda: captum.attribute(b.plain_X.clone().requires_grad_(), **bicubic).cpu(),
        TEXTBOOK: lambda: textbook.guided_grad_cam(b.plain, b.plain_X, b.y),
    }


def repeated(versions: dict[str, Version]) -> dict[str, Version]:
    """Return versions that take `STEPS` steps."""
    return {
        name: lambda step=step: [step() for _ in range(STEPS)] for name, step in versions.items()
    }


def fooling(b: Bench) -> dict[str, Version]:
    """Question 1.3; a step so small that the loop never stops early."""
    target = 6
    return {
        **repeated({FLOOR: b.to_input(b.all_scores)}),
        OURS: lambda: FoolingImage().make_fooling_image(
            b.X, target, b.model, learning_rate=1e-9, max_iter=STEPS
        ),
        TEXTBOOK: lambda: textbook.fooling(b.plain, b.plain_X, target, STEPS),
    }


def class_visualization(b: Bench) -> dict[str, Version]:
    """Question 1.4, one class."""
    return {
        **repeated(b.floors(b.to_input)),
        OURS: lambda: ClassVisualization().visualize_classes(
            [187], b.model, num_iterations=STEPS, seed=0
        ),
        TEXTBOOK: lambda: textbook.class_visualization(b.plain, 187, STEPS),
    }


def style(b: Bench) -> dict[str, Version]:
    """Part 2: iterations at 192 pixels with the third preset; the time of 0 steps is taken off."""
    paths = [package_file("skimage", f"data/{name}.png") for name in ("chelsea", "coffee")]
    content, painting = (preprocess(open_image(path), 192).to(b.device) for path in paths)
    layers = b.model.features[: max(STYLE[0], *STYLE[2]) + 1]
    image = content.clone().requires_grad_()
    adam = torch.optim.Adam([image], lr=3.0)
    losses = (ContentLoss(), StyleLoss(), TotalVariationLoss())

    def floor():
        (image.grad,) = torch.autograd.grad(layers(image).sum(), image)
        adam.step()

    def ours(steps: int = STEPS):
        sizes, rest = (192, 192), (b.model, b.device)
        style_transfer(
            "", *paths, *sizes, *STYLE, *losses, *rest, testing=True, num_iterations=steps
        )

    def plain(steps: int = STEPS):
        textbook.style_steps(b.plain, content, painting, *STYLE, steps)

    return {
        **repeated({FLOOR: floor}),
        OURS: lambda: _steps_alone(ours),
        TEXTBOOK: lambda: _steps_alone(plain),
    }


def now() -> tuple[float, float]:
    """Return wall and CPU time, once a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def loops(device: str) -> dict[str, Callable[[], object]]:
    """Return the long loops as their users run them, whole."""
    cnn = load_model(weights="bundled", device=device)
    paths = [package_file("skimage", f"data/{name}.png") for name in ("chelsea", "coffee")]
    losses = (ContentLoss(), StyleLoss(), TotalVariationLoss(), cnn, torch.device(device))

    def paint(size: int) -> object:
        return style_transfer("", *paths, size, size, *STYLE, *losses, testing=True)

    def visualize(count: int) -> object:
        return ClassVisualization().visualize_classes(range(count), cnn, seed=0)

    made: dict[str, Callable[[], object]] = {
        f"style transfer, 200 steps, {size} px": partial(paint, size) for size in (192, 512, 1024)
    }
    for count in (1, 8):
        made[f"class visualization, 100 iterations, {count} classes"] = partial(visualize, count)
    return made


def _steps_alone(version: Callable) -> tuple[float, ...]:
    """Return wall and CPU time of the steps, without what comes before them."""
    clocks = [now()]
    for arguments in ((0,), ()):
        version(*arguments)
        clocks.append(now())
    return tuple(z - y - (y - x) for x, y, z in zip(*clocks, strict=True))


def conductance(b: Bench) -> dict[str, Version]:
    """Captum's LayerConductance, 50 steps: all at once, and by `compute_attributions`."""
    algorithm = attr.LayerConductance(b.model, b.model.features[3])
    return {
        FLOOR: lambda: algorithm.attribute(b.X, target=b.y, n_steps=50),
        OURS: lambda: compute_attributions(algorithm, b.X, target=b.y, n_steps=50),
    }
