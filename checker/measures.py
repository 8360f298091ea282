"""The items of `check.py`: each `measure_…` calls a part of the solution and returns what it gave,
as arrays.

No judgement on values is made here: they are compared with data/expected.npz in the process that
started this one.
"""

import importlib
import inspect
import os
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

EVERY = 6  # of the maps' pixels each way that are compared
STEPS = 30  # of feature inversion
RATE = 50  # of class visualization: its steps' length
OTHER_CALL = 0.01  # relative difference of two calls that means something

# What the packages export, and from which module.
EXPORTS = {
    "visualizers": {
        "SaliencyMap": "saliency_map",
        "GradCam": "gradcam",
        "FoolingImage": "fooling_image",
        "ClassVisualization": "class_visualization",
    },
    "style_modules": {
        "ContentLoss": "content_loss",
        "StyleLoss": "style_loss",
        "TotalVariationLoss": "tv_loss",
    },
}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """What the items are measured with: by default what students have the values of, in a grader
    others.
    """

    size: tuple[int, int] = (96, 128)  # of the photos, height and width: not square, and quick
    # Two of scikit-image: file, what is taken of it (left, top, right, bottom, as shares), and a
    # class that has something for it and something against it, so that signs and masks matter.
    photos: tuple[tuple[str, tuple[float, float, float, float], int], ...] = (
        ("data/chelsea.png", (0, 0, 1, 1), 30),
        ("data/coffee.png", (0, 0, 1, 1), 457),
    )
    # Of the fooling image: clearly behind before the last step, clearly ahead after it.
    target: int = 779
    grown: int = 187  # of class visualization
    seed: int = 0  # of all random numbers; 0 stands for these defaults


inputs = Inputs()  # set by the process that measures


class Finding(Exception):
    """What is wrong with a solution, in words, and the values that it has given nevertheless."""

    def __init__(self, message: str, arrays: Arrays | None = None):
        """Take both."""
        super().__init__(message)
        self.arrays = arrays or {}


# --- What the items have in common ---


def solution(name: str) -> types.ModuleType:
    """Import a module of the solution, of a package that module alone: a fault in another one is
    not this item's.
    """
    package = name.partition(".")[0]
    if package in EXPORTS and package not in sys.modules:
        module: Any = types.ModuleType(package)
        module.__path__ = [str(Path(sys.path[0]) / package)]
        module.__getattr__ = lambda exported: _exported(package, exported)
        sys.modules[package] = module
    return importlib.import_module(name)


def _exported(package: str, name: str) -> Any:
    """Return what a package exports, when it is asked for: as of `from visualizers import
    GradCam`.
    """
    if name not in EXPORTS[package]:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{package}.{EXPORTS[package][name]}"), name)


def network() -> nn.Module:
    """Return SqueezeNet with the bundled weights, in training mode: dropout is on until a solution
    turns it off.
    """
    return solution("model_utils").load_model(weights="bundled", device="cpu").train()


def photos() -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Return two photos, uint8 (2, height, width, 3), as the network sees them, (2, 3, height,
    width), and classes.
    """
    X = np.stack([np.asarray(picture(i, inputs.size)) for i in range(2)])
    images = solution("image_utils").preprocess_image(X).transpose(0, 3, 1, 2)
    return (
        X,
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.tensor([label for *_, label in inputs.photos]),
    )


def picture(index: int, size: tuple[int, int]) -> Image.Image:
    """Return a photo of the given ones, brought to a height and a width."""
    file, box, _ = inputs.photos[index]
    path = solution("files.course").package_file("skimage", file)
    image = solution("image_utils").open_image(path)
    pixels = [share * side for share, side in zip(box, 2 * image.size, strict=True)]
    return image.resize(size[::-1], box=pixels)


def numbers(seed: int, *shape: int) -> torch.Tensor:
    """Return seeded normal random numbers."""
    generator = torch.Generator().manual_seed(1000 * inputs.seed + seed)
    return torch.randn(shape, generator=generator)


def expect(value: Any, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a result as an array when it has the type and shape that the docstring promises.

    Raises:
        Finding: it has not.
    """
    if not isinstance(value, kind):
        raise Finding(
            f"a {kind.__module__}.{kind.__name__} was expected, got {type(value).__name__}"
        )
    if tuple(value.shape) != shape:
        got, why = tuple(value.shape), ""
        if len(got) == len(shape) and sorted(got) == sorted(shape):
            why = ": height and width, or channels, are exchanged"
        elif len(got) == len(shape) >= 3 and got[0] == shape[0] and got[1] < shape[1]:
            why = ": not enlarged to the photo's height and width"
        raise Finding(f"shape {shape} was expected, got {got}{why}")
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    if array.dtype.kind != "f":
        raise Finding(f"floating-point numbers were expected, got {array.dtype}")
    return array


def maps(compute: Callable, kind: type, shape: tuple[int, ...]) -> Arrays:
    """Compute maps of the photos twice, and see what else has happened to network and photos.

    Raises:
        Finding: the network is ruined, the photos are overwritten, or the second call gives
            something else.
    """
    model, (_, images, labels) = network(), photos()
    # Each call gets fresh photos: a solution may leave a gradient on them.
    given, state = images.clone(), _state(model)
    first = expect(compute(images, labels, model), kind, shape).copy()
    _check_untouched(model, state, images, given)
    # A weak photo counts like a strong one.
    arrays = {f"maps/{i}": one[::EVERY, ::EVERY] for i, one in enumerate(first)}
    model.train()
    images = given.clone()
    second = expect(compute(images, labels, model), kind, shape)
    if _differs(second, first):
        model.train()
        if _differs(expect(compute(given.clone(), labels, model), kind, shape), first):
            raise Finding(
                "two calls give different maps: dropout is left on; use eval mode", arrays
            )
        factor = float(np.linalg.norm(second) / max(1e-30, np.linalg.norm(first)))
        again = f"a second call with the same photos gives {factor:.2g} times as much"
        raise Finding(f"gradients accumulated: {again}", arrays)
    return arrays


def _differs(found: np.ndarray, first: np.ndarray) -> bool:
    return not np.linalg.norm(found - first) <= OTHER_CALL * np.linalg.norm(first)


def _state(model: nn.Module) -> tuple:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [(name, id(m), "forward" in vars(m)) for name, m in model.named_modules()]
    count = sum(len(getattr(module, hook)) for module in model.modules() for hook in hooks)
    return modules, [parameter.detach().clone() for parameter in model.parameters()], count


def _check_untouched(
    model: nn.Module, state: tuple, images: torch.Tensor, given: torch.Tensor
) -> None:
    modules, parameters, hooks = _state(model)
    same = len(parameters) == len(state[1]) and all(map(torch.equal, parameters, state[1]))
    if modules != state[0] or not same:
        raise Finding(
            "the network is ruined afterwards: its modules or parameters are not those that it had"
        )
    if hooks != state[2]:
        raise Finding("the network is ruined afterwards: hooks are left on it")
    if not torch.equal(images.detach(), given):
        raise Finding("the image that was given is overwritten; work on a copy")


def loss(compute: Callable, variable: torch.Tensor, group: str = "loss") -> Arrays:
    """Compute a loss and its gradient by one of its arguments.

    Raises:
        Finding: it is no number, or has no gradient.
    """
    variable = variable.clone().requires_grad_()
    value = compute(variable)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        got = (
            f"shape {tuple(value.shape)}"
            if isinstance(value, torch.Tensor)
            else type(value).__name__
        )
        raise Finding(f"a tensor with one number was expected, got {got}")
    if not value.requires_grad:
        raise Finding(
            "the loss has no gradient: it was computed outside the graph (detach, item, .data or "
            "NumPy)"
        )
    (gradient,) = torch.autograd.grad(value.sum(), variable)
    return {
        f"{group}/value": value.detach().reshape(()).numpy(),
        f"{group}/gradient": gradient.numpy(),
    }


# --- Questions 1.1 and 1.2 ---


def measure_saliency_map() -> Arrays:
    technique = solution("visualizers.saliency_map").SaliencyMap()
    return maps(technique.compute_saliency_maps, torch.Tensor, (2, *inputs.size))


def measure_custom_relu() -> Arrays:
    x, weights = numbers(1, 4, 25).requires_grad_(), numbers(2, 4, 25)
    value = solution("visualizers.gradcam").CustomReLU.apply(x)
    (gradient,) = torch.autograd.grad((value * weights).sum(), x)
    return {"relu/value": expect(value, torch.Tensor, (4, 25)), "relu/gradient": gradient.numpy()}


def measure_guided_backprop() -> Arrays:
    technique = solution("visualizers.gradcam").GradCam()
    return maps(technique.guided_backprop, np.ndarray, (2, *inputs.size, 3))


def measure_grad_cam() -> Arrays:
    return maps(solution("visualizers.gradcam").GradCam().grad_cam, np.ndarray, (2, *inputs.size))


def measure_guided_grad_cam() -> Arrays:
    technique = solution("visualizers.gradcam").GradCam()
    return maps(technique.guided_grad_cam, np.ndarray, (2, *inputs.size, 3))


def captum_photos() -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the photos, 224×224, that the scripts draw by Captum, classes, and the classes'
    names.
    """
    X, y, names = solution("data_utils").load_imagenet_val(2)
    if inputs.seed:
        X = np.stack([np.asarray(picture(i, X.shape[1:3])) for i in range(2)])
        y = np.array([label for *_, label in inputs.photos])
    return X, y, names


def captum_rows(script: str) -> Arrays:
    """Run a script in this scratch folder, on two photos, and return the rows of maps that it has
    drawn by Captum.

    It may be flat, as the course hands it out, or take our options. What it draws by the techniques
    from scratch are other items, so these are stood in for, and the network is the bundled one in
    eval mode, as whoever loads it.
    """
    drawn: list[np.ndarray] = []
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that would outlive this process
    figures: Any = solution("figure_utils")
    data: Any = solution("data_utils")
    captum: Any = solution("captum_utils")
    vision: Any = torchvision.models
    draw_rows, model = figures.draw_rows, network().eval()

    def record(rows, *given, **kwargs):
        shapes = [np.asarray(tile).shape for _, tiles in rows for tile in tiles]
        if all(len(tiles) == 2 for _, tiles in rows) and all(
            shape == (224, 224, 3) for shape in shapes
        ):
            drawn.extend(np.stack([np.asarray(tile) for tile in tiles]) for _, tiles in rows)
        return draw_rows(rows, *given, **kwargs)

    figures.draw_rows = captum.draw_rows = record
    os.environ["CS7643_DATA"] = ""
    X, y, names = captum_photos()
    data.load_imagenet_val = lambda *_, **__: (X, y, names)
    vision.squeezenet1_1 = lambda *_, **__: model
    solution("visualizers.common")
    package: Any = sys.modules["visualizers"]
    package.SaliencyMap = package.GradCam = _StandIn
    Path("visualization").mkdir()
    sys.argv = [f"{script}.py", "--num", "2", "--quiet", "--weights", "bundled", "--out", "."]
    if inputs.seed:
        for name, pixels in zip(("1.png", "2.png"), X, strict=True):
            Image.fromarray(pixels).save(name)
        sys.argv += ["--images", "1.png", "2.png", "--labels", *map(str, y)]
    module: Any = solution(script)  # a flat one has done everything now
    if hasattr(module, "make_figures"):
        parser = solution("cli.options").make_parser("")
        module.add_options(parser)
        module.make_figures(solution("cli.session").Session(parser.parse_args(sys.argv[1:])))
    # About grey on white; what a photo's row is, no map is near to.
    return {
        f"row/{i}": row[:, ::EVERY, ::EVERY].astype(np.float32) - 165 for i, row in enumerate(drawn)
    }


class _StandIn:
    """Stands in for the techniques from scratch: maps of zeros."""

    def show_saliency_maps(self, *_):
        """Draw nothing."""

    def compute_saliency_maps(self, X, *_, **__):
        return torch.zeros(len(X), *X.shape[2:])

    def grad_cam(self, X, *_, **__):
        return np.zeros((len(X), *X.shape[2:]), np.float32)

    def guided_backprop(self, X, *_, **__):
        return np.zeros((len(X), *X.shape[2:], 3), np.float32)

    guided_grad_cam = guided_backprop


def measure_saliency_captum() -> Arrays:
    return captum_rows("saliency_map")


def measure_gradcam_captum() -> Arrays:
    return captum_rows("gradcam")


# --- Questions 1.3 and 1.4 ---


def measure_fooling_image() -> Arrays:
    model, (_, images, _) = network(), photos()
    X = images[1:].contiguous()
    given, state = X.clone(), _state(model)
    technique = solution("visualizers.fooling_image").FoolingImage()
    fooling = expect(
        technique.make_fooling_image(X, inputs.target, model), torch.Tensor, (1, 3, *inputs.size)
    )
    _check_untouched(model, state, X, given)
    return {"image/difference": (fooling - given.numpy())[..., ::EVERY, ::EVERY]}


def measure_class_visualization() -> Arrays:
    """Grow a picture in few steps, without jitter; the pictures' pixels are what `deprocess` gives,
    0 … 255.
    """
    Path("visualization").mkdir()  # for a solution that draws what it was not asked to
    technique, model = solution("visualizers.class_visualization").ClassVisualization(), network()
    state, label = _state(model), inputs.grown
    settings = {
        "l2_reg": 1e-3,
        "num_iterations": 4,
        "max_jitter": 0,
        "blur_every": 100,
        "generate_plots": False,
    }

    def grow(rate: float) -> np.ndarray:
        torch.manual_seed(inputs.seed)
        np.random.seed(inputs.seed)
        picture = technique.create_class_visualization(
            label, {label: "a class"}, model, torch.FloatTensor, learning_rate=rate, **settings
        )
        if not isinstance(picture, Image.Image) or picture.size != (224, 224):
            raise Finding(
                f"a PIL picture of 224×224 pixels was expected, got {type(picture).__name__}"
            )
        pixels = np.asarray(picture.convert("RGB"), np.float32)
        # The same whether `deprocess` has stretched them
        return (pixels - pixels.mean()) / max(pixels.std(), 1e-3)

    change = grow(RATE) - grow(1e-6)  # what the steps do, without the noise that they start from
    model.train()
    again = grow(RATE) - grow(1e-6)
    _check_untouched(model, state, torch.empty(0), torch.empty(0))
    if not np.abs(change).max():
        raise Finding("the learning rate has no effect on the picture")
    if np.linalg.norm(change - again) > 0.1 * np.linalg.norm(change):
        raise Finding("two runs from the same noise differ: dropout is left on")
    return {"image/change": change[::4, ::4]}


# --- Questions 2.1 to 2.5 ---


def measure_content_loss() -> Arrays:
    compute, target = solution("style_modules.content_loss").ContentLoss(), numbers(3, 1, 4, 5, 6)
    return loss(lambda x: compute(6e-2, x, target), numbers(4, 1, 4, 5, 6))


def measure_gram_matrix() -> Arrays:
    gram, features = (
        solution("style_modules.style_loss").StyleLoss().gram_matrix,
        numbers(5, 2, 4, 5, 6),
    )
    arrays = {"gram/normalised": gram(features), "gram/plain": gram(features, normalize=False)}
    return {key: expect(value, torch.Tensor, (2, 4, 4)) for key, value in arrays.items()}


def measure_style_loss() -> Arrays:
    """Measure with the solution's own Gram matrix, and with a substitute for it: one that is right
    is enough.
    """
    features = numbers(6, 3, 1, 4, 5, 6)  # of three layers
    targets = [numbers(seed, 1, 4, 4) for seed in (9, 10)]
    arrays: Arrays = {}
    missing = NotImplementedError()

    def substitute(features: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        return features[:, :, :4, 0] * features[:, :, :4, 1]

    for group in ("own", "substitute"):
        compute = solution("style_modules.style_loss").StyleLoss()
        if group == "substitute":
            compute.gram_matrix = substitute

        def of(x: torch.Tensor, compute=compute) -> torch.Tensor:
            return compute(list(x), [2, 0], targets, [20.0, 3.0])

        try:
            arrays |= loss(of, features, group)
        except NotImplementedError as error:
            missing = error
    if not arrays:
        raise missing
    return arrays


class _Calls(TorchFunctionMode):
    """Counts the calls of torch's functions and methods."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def measure_tv_loss() -> Arrays:
    compute = solution("style_modules.tv_loss").TotalVariationLoss()
    arrays = loss(lambda x: compute(x, 2e-2), numbers(11, 1, 3, 6, 8))
    counts = set()
    for shape in ((1, 3, 6, 8), (1, 3, 12, 8), (1, 3, 6, 16), (1, 6, 6, 8)):
        with _Calls() as calls:
            compute(numbers(12, *shape), 2e-2)
        counts.add(calls.count)
    if len(counts) > 1:
        raise Finding("computed with loops: larger pictures take more calls; use whole tensors")
    return arrays


class _Recorded(nn.Module):
    """A layer that mixes the colours, and hands pictures that a gradient is wanted for to
    `record`.
    """

    def __init__(self, seed: int, record: Callable[[torch.Tensor], None] | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.3 * numbers(seed, 3, 3), requires_grad=False)
        self.record = record

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.record and x.requires_grad:
            self.record(x.detach().clone())
        return torch.einsum("ij,njhw->nihw", self.weight, x)


class _Content(nn.Module):
    def forward(self, weight, current, original):
        return weight * (current - original - 0.3).square().sum()


class _Style(nn.Module):
    def gram_matrix(self, features, normalize=True):
        return features.mean(dim=(2, 3))

    def forward(self, feats, style_layers, style_targets, style_weights):
        given = zip(style_layers, style_targets, style_weights, strict=True)
        return sum(
            w * (feats[i] - target[..., None, None]).square().sum() for i, target, w in given
        )


class _Variation(nn.Module):
    def forward(self, img, weight):
        down, right = img[:, :, 1:] - img[:, :, :-1], img[..., 1:] - img[..., :-1]
        return weight * (down.square().sum() + right.square().sum())


def measure_style_transfer() -> Arrays:
    """Let `style_transfer` paint with losses and a network that are written down here, quadratic
    and quick, so that nothing depends on the other questions; return the picture before some of its
    200 steps.
    """
    pictures: list[torch.Tensor] = []
    layers = [_Recorded(20, pictures.append), *(_Recorded(seed) for seed in range(21, 25))]
    Path("styles_images").mkdir()
    for index, name in enumerate(("content.png", "style.png")):
        picture(index, (32, 40)).save(name)
    paint = solution("style_utils").style_transfer
    settings = ("painted", "content.png", "style.png", 32, 32, 2, 0.5, (1, 3), (0.4, 0.2), 0.3)
    losses = (_Content(), _Style(), _Variation(), nn.Sequential(*layers).eval(), torch.FloatTensor)
    testing = {"testing": True} if "testing" in inspect.signature(paint).parameters else {}
    paint(*settings, *losses, **testing)
    if len(pictures) < 200:
        raise Finding(f"200 steps were expected, {len(pictures)} were taken")
    arrays = {
        "rule/pictures": torch.cat([pictures[t] for t in (0, 1, 2, 5, 20, 180)])[
            ..., ::3, ::3
        ].numpy()
    }
    steps = [(pictures[t + 1] - pictures[t]).abs().max().item() for t in range(191, 198)]
    if max(steps) > 0.15:  # Adam's steps are about as long as its learning rate
        raise Finding("the learning rate is not 0.1 for the last 20 steps", arrays)
    if max(steps) < 0.001:
        raise Finding("the picture stays as it is in the last 20 steps", arrays)
    return arrays


def measure_feature_inversion() -> Arrays:
    """Start from noise, without style layers, by Adam: the three losses bring the photo's features
    nearer.
    """
    style_loss = solution("style_modules.style_loss").StyleLoss()
    content_loss = solution("style_modules.content_loss").ContentLoss()
    tv_loss = solution("style_modules.tv_loss").TotalVariationLoss()
    layers = network().features[:4].eval()
    wanted = layers(solution("image_utils").preprocess(picture(0, (32, 32)), 32)).detach()
    image = torch.rand(
        1, 3, 32, 32, generator=torch.Generator().manual_seed(inputs.seed)
    ).requires_grad_()
    first, adam = (layers(image) - wanted).norm().item(), torch.optim.Adam([image], lr=0.2)
    for _ in range(STEPS):
        adam.zero_grad()
        features = [layers[:k](image) for k in range(1, 5)]
        (
            content_loss(6e-2, features[3], wanted)
            + style_loss(features, [], [], [])
            + tv_loss(image, 2e-2)
        ).backward()
        adam.step()
    ratio = (layers(image) - wanted).norm().item() / first
    if not ratio < 0.8:
        raise Finding(
            f"the features do not come nearer to the photo's: {ratio:.2f} times as far after "
            f"{STEPS} steps"
        )
    return {}
