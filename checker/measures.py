"""The items' measures: each `measure_…` calls a part of the solution and returns its arrays.

No judgement on values is made here: they are compared with data/expected.npz in the process that
started this one.
"""

import contextlib
import copy
import functools
import inspect
import os
import sys
import threading
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

from checker.editions import WIDE, Photos
from checker.solution import Missing, Solution, imported, stand_in
from data_utils import load_imagenet_val
from files.course import package_file
from image_utils import (
    SQUEEZENET_MEAN,
    SQUEEZENET_STD,
    blur_image,
    deprocess,
    open_image,
    preprocess,
    preprocess_image,
)
from model_utils import load_model

EVERY = 6  # of the figures' pixels each way that are compared
MANY = 20  # times that a network may be looked at after it has been fooled
STEPS = 30  # of feature inversion
RATE = 50  # of class visualization: its steps' length
OUTSIDE = "the {} no gradient: it was computed outside the graph (detach, item, .data or NumPy)"
NUMBERS = "notebook's numbers"  # of what the course's notebook compares
OTHER_CALL = 0.01  # relative difference of two calls that means something

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """What the items are measured with: the students' inputs, or a grader's."""

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
# Further ones, for functions that want five.
FURTHER = (
    ("skimage", "data/camera.png", 872),
    ("skimage", "data/motorcycle_left.png", 665),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 652),
)
# Photo and target of fooling images in steps of this length: of one that is reached soon, and one
# that is reached late and by little.
FOOLED = {10: ((3, 254), (1, 779)), 1: ((0, 43), (3, 6))}
LATE = (1, 310)  # in our own starter's photos


class Finding(Exception):
    """What is wrong with a solution, in words, and the values that it has given nevertheless."""

    def __init__(self, message: str, arrays: Arrays | None = None):
        """Take both."""
        super().__init__(message)
        self.arrays = arrays or {}


# --- What the items have in common ---


@functools.cache
def _squeezenet() -> nn.Module:
    model = load_model(weights="bundled", device="cpu")
    # As torchvision's, so that features can be viewed in other shapes.
    return model.to(memory_format=torch.contiguous_format)


def network(solution: Solution) -> nn.Module:
    """Return a new SqueezeNet with the bundled weights, in the mode that the hand-out gives it in.

    That is training mode, in which dropout is on until a solution turns it off, or eval mode.
    """
    return copy.deepcopy(_squeezenet()).train(not solution.edition.eval_mode)


def photos(kind: Photos = WIDE) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Return an edition's photos, uint8 (N, H, W, 3) and normalised (N, 3, H, W), and classes."""
    size = inputs.size if kind is WIDE else (kind.height, kind.width)
    X = np.stack([np.asarray(picture(i, size)) for i in range(kind.count)])
    images = preprocess_image(X).transpose(0, 3, 1, 2)
    labels = [label for *_, label in (*inputs.photos, *FURTHER)]
    return X, torch.from_numpy(np.ascontiguousarray(images)), torch.tensor(labels[: kind.count])


def picture(index: int, size: tuple[int, int]) -> Image.Image:
    """Return a photo, brought to a height and a width."""
    if index >= len(inputs.photos):
        return open_image(package_file(*FURTHER[index - 2][:2])).resize(size[::-1])
    file, box, _ = inputs.photos[index]
    image = open_image(package_file("skimage", file))
    left, top, right, bottom = (s * side for s, side in zip(box, 2 * image.size, strict=True))
    return image.resize(size[::-1], box=(left, top, right, bottom))


def numbers(seed: int, *shape: int) -> torch.Tensor:
    """Return seeded normal random numbers."""
    generator = torch.Generator().manual_seed(1000 * inputs.seed + seed)
    return torch.randn(shape, generator=generator)


def expect(value: Any, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a result as an array when it has the type and shape that the docstring promises.

    Raises:
        Missing: there is none, as of a function that is not written yet.
        Finding: it has not.
    """
    if value is None:
        raise Missing("nothing is given back")
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


def maps(solution: Solution, item: str, kind: type, channels: tuple[int, ...] = ()) -> Arrays:
    """Compute maps of the photos twice, and see what else has happened to network and photos."""
    compute, edition = solution.function(item), solution.edition
    _, given, labels = photos(edition.photos)
    shape = (*given.shape[:1], *given.shape[2:], *channels)
    prepared = item in edition.prepared
    model, images = network(solution), given.clone().requires_grad_(prepared)
    state = _state(model)

    def call() -> np.ndarray:
        return expect(compute(X=images, y=labels, model=model), kind, shape).copy()

    first = call()
    # A weak photo counts like a strong one.
    every = edition.photos.every
    arrays = {f"maps/{i}": one[::every, ::every] for i, one in enumerate(first)}
    if not solution.once:  # to tell where they stand
        arrays |= {f"whole/{i}": one for i, one in enumerate(first)}
    solution.findings += _changes(model, None if prepared else state, images, given)
    if solution.findings or solution.once:
        return arrays
    model = network(solution)
    second = call()  # with the photos that the first call has left
    if _differs(second, first):
        model, images = network(solution), given.clone().requires_grad_(prepared)
        if _differs(call(), first):
            solution.findings.append(
                "two calls give different maps: dropout is left on; use eval mode"
            )
        else:
            factor = float(np.linalg.norm(second) / max(1e-30, np.linalg.norm(first)))
            solution.remarks.append(
                f"a second call with the same photos gives {factor:.2g} times as much: the "
                "gradients of the first are still there"
            )
    return arrays


def _differs(found: np.ndarray, first: np.ndarray) -> bool:
    return not np.linalg.norm(found - first) <= OTHER_CALL * np.linalg.norm(first)


def _state(model: nn.Module) -> tuple:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [(name, id(m), "forward" in vars(m)) for name, m in model.named_modules()]
    count = sum(len(getattr(module, hook)) for module in model.modules() for hook in hooks)
    return modules, [parameter.detach().clone() for parameter in model.parameters()], count


def _changes(
    model: nn.Module, state: tuple | None, images: torch.Tensor, given: torch.Tensor
) -> list[str]:
    """Return what has changed in the photos and, unless the hand-out does that, the network."""
    findings = []
    if state:
        modules, parameters, hooks = _state(model)
        same = len(parameters) == len(state[1]) and all(map(torch.equal, parameters, state[1]))
        if modules != state[0] or not same:
            findings.append(
                "the network is ruined afterwards: its modules or parameters are not those that it "
                "had"
            )
        elif hooks != state[2]:
            findings.append("the network is ruined afterwards: hooks are left on it")
    if not torch.equal(images.detach(), given):
        findings.append("the image that was given is overwritten; work on a copy")
    return findings


def loss(compute: Callable, variable: torch.Tensor, group: str = "loss") -> Arrays:
    """Compute a loss and its gradient by one of its arguments.

    Raises:
        Finding: it is no number, or has no gradient.
    """
    variable = variable.clone().requires_grad_()
    value = compute(variable)
    if value is None:
        raise Missing("nothing is given back")
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        got = (
            f"shape {tuple(value.shape)}"
            if isinstance(value, torch.Tensor)
            else type(value).__name__
        )
        raise Finding(f"a tensor with one number was expected, got {got}")
    if not value.requires_grad:
        raise Finding(OUTSIDE.format("loss has"), {f"{group}/value": value.reshape(()).numpy()})
    (gradient,) = torch.autograd.grad(value.sum(), variable)
    return {
        f"{group}/value": value.detach().reshape(()).numpy(),
        f"{group}/gradient": gradient.numpy(),
    }


# --- Questions 1.1 and 1.2 ---


def measure_saliency_map(solution: Solution) -> Arrays:
    return maps(solution, "saliency_map", torch.Tensor)


def measure_custom_relu(solution: Solution) -> Arrays:
    x, weights = numbers(1, 4, 25).requires_grad_(), numbers(2, 4, 25)
    value = solution.owner("custom_relu").apply(x)
    (gradient,) = torch.autograd.grad((value * weights).sum(), x)
    return {"relu/value": expect(value, torch.Tensor, (4, 25)), "relu/gradient": gradient.numpy()}


def measure_guided_backprop(solution: Solution) -> Arrays:
    return maps(solution, "guided_backprop", np.ndarray, (3,))


def measure_grad_cam(solution: Solution) -> Arrays:
    """Measure with the photos, and with a network whose gradient is not the same everywhere."""
    arrays = maps(solution, "grad_cam", np.ndarray)
    images, labels = _photos_of_places(), torch.tensor([1, 0])
    images.requires_grad_("grad_cam" in solution.edition.prepared)
    cam = solution.function("grad_cam")(X=images, y=labels, model=_Places())
    return arrays | {"maps/places": expect(cam, np.ndarray, (2, 32, 32))}


def _photos_of_places() -> torch.Tensor:
    return numbers(31, 2, 3, 32, 32)


class _Places(nn.Module):
    """A network like SqueezeNet, whose last part looks at every place with other weights."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [nn.Identity() for _ in range(10)]
        layers += [nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Conv2d(4, 4, 1)]
        self.features, self.classifier = nn.Sequential(*layers), nn.Sequential()
        self.classifier.extend([nn.Flatten(), nn.Linear(256, 3)])
        for seed, parameter in enumerate(self.parameters()):
            # The same for all inputs: others may give maps of zeros, which cannot be scaled.
            generator = torch.Generator().manual_seed(40 + seed)
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        self.eval()

    def forward(self, x):
        return self.classifier(self.features(x))


def measure_guided_grad_cam(solution: Solution) -> Arrays:
    return maps(solution, "guided_grad_cam", np.ndarray, (3,))


def captum_photos() -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the photos, 224×224, that the scripts draw by Captum, classes and class names."""
    X, y, names = load_imagenet_val(2)
    if inputs.seed:
        X = np.stack([np.asarray(picture(i, X.shape[1:3])) for i in range(2)])
        y = np.array([label for *_, label in inputs.photos])
    return X, y, names


def captum_rows(solution: Solution, script: str) -> Arrays:
    """Run a script on two photos in a scratch folder; return its rows of maps by Captum.

    It may be flat, as the course hands it out, or take our options. What it draws by the techniques
    from scratch are other items, so these are stood in for, and the network is the bundled one in
    eval mode, as whoever loads it.
    """
    if not (solution.root / f"{script}.py").is_file():
        raise Missing("there is no such file", f"{script}.py")
    drawn: list[np.ndarray] = []
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that would outlive this process
    stand_in("visualizers", _StandIn)
    figures, data, captum = map(imported, ("figure_utils", "data_utils", "captum_utils"))
    vision: Any = torchvision.models
    draw_rows, model = figures.draw_rows, network(solution).eval()

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
    imported("visualizers.common")
    package: Any = sys.modules["visualizers"]
    package.SaliencyMap = package.GradCam = _StandIn
    Path("visualization").mkdir()
    sys.argv = [f"{script}.py", "--num", "2", "--quiet", "--weights", "bundled", "--out", "."]
    if inputs.seed:
        for name, pixels in zip(("1.png", "2.png"), X, strict=True):
            Image.fromarray(pixels).save(name)
        sys.argv += ["--images", "1.png", "2.png", "--labels", *map(str, y)]
    module: Any = imported(script)  # a flat one has done everything now
    if hasattr(module, "make_figures"):
        parser = imported("cli.options").make_parser("")
        module.add_options(parser)
        module.make_figures(imported("cli.session").Session(parser.parse_args(sys.argv[1:])))
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


def measure_saliency_captum(solution: Solution) -> Arrays:
    return captum_rows(solution, "saliency_map")


def measure_gradcam_captum(solution: Solution) -> Arrays:
    return captum_rows(solution, "gradcam")


# --- Questions 1.3 and 1.4 ---


def measure_fooling_image(solution: Solution) -> Arrays:
    """Fool the network for a target that is reached soon, and for one that is reached late.

    Of the second only start and stop are compared: rounding grows with the steps.
    """
    compute, edition = solution.function("fooling_image"), solution.edition
    soon, late = ((1, inputs.target), LATE) if edition.photos is WIDE else FOOLED[edition.step]
    if inputs.seed:  # a target that is not reached in two steps either
        soon = late = 1, inputs.target
    difference = _fooling(solution, compute, *soon)
    if not difference.any():
        raise Missing("the image is given back as it was")
    if not solution.once and not solution.findings:
        if not edition.eval_mode and _differs(_fooling(solution, compute, *soon), difference):
            solution.findings.append("two runs differ: dropout is left on; use eval mode")
        difference_late = _fooling(solution, compute, *late)
        limited = solution.accepts("fooling_image", "max_iter") and not solution.findings
        if limited and not _differs(
            _fooling(solution, compute, *late, max_iter=2), difference_late
        ):
            solution.findings.append("max_iter is ignored: with 2 all steps are taken")
    return {"image/difference": difference[..., :: edition.photos.every, :: edition.photos.every]}


def _fooling(
    solution: Solution, compute: Callable, number: int, target: int, **options: Any
) -> np.ndarray:
    """Return what is added to a photo, and whether the steps end when the network is fooled.

    What has happened to the photo and the network is noted.
    """
    _, images, _ = photos(solution.edition.photos)
    given, model = images[number : number + 1].contiguous(), network(solution)
    images_seen: list[torch.Tensor] = []  # by the network
    fooled: list[bool] = []  # by each of them
    model.features.register_forward_pre_hook(lambda _, x: images_seen.append(x[0].detach().clone()))
    model.classifier.register_forward_hook(
        lambda _, __, scores: fooled.append(int(scores.flatten(1)[0].argmax()) == target)
    )
    X, state = given.clone(), _state(model)
    value = compute(X=X, target_y=target, model=model, **options)
    fooling = expect(value, torch.Tensor, tuple(given.shape)).copy()
    findings = _changes(model, state, X, given)
    if value.requires_grad and solution.edition.quiet:
        findings.append("the image still asks for its gradient; a detached one was promised")
    first = images_seen[fooled.index(True)].numpy() if True in fooled else None
    if sum(fooled) > MANY:
        findings.append("never stops: the network is fooled, and the steps go on")
    elif first is not None and np.linalg.norm(fooling - first) > 0.1 * solution.edition.step:
        findings.append(
            "the steps go on when the network is fooled: look at the scores before each"
        )
    elif first is None and not options:
        with torch.no_grad():
            scores = model.eval()(torch.from_numpy(fooling))
        if int(scores[0].argmax()) != target:
            findings.append("the steps end before the network is fooled")
    solution.findings += (
        [] if solution.once else [f for f in findings if f not in solution.findings]
    )
    return fooling - given.numpy()


def measure_class_visualization(solution: Solution) -> Arrays:
    """Grow a picture in few steps, without jitter; return its pixels, 0 … 255.

    A whole run is the solution's, or of its steps a run is made here.
    """
    Path("visualization").mkdir()  # for a solution that draws what it was not asked to
    where, model = solution.place("class_visualization"), network(solution)
    owner = solution.owner("class_visualization")
    if inspect.ismodule(owner):  # a notebook's global, for the titles of its plots
        vars(owner).setdefault("class_names", {inputs.grown: "a class"})
    compute, state = solution.function("class_visualization", owner), _state(model)

    def grow(rate: float, l2_reg: float = 1e-3) -> np.ndarray:
        options = GROWN | {"learning_rate": rate, "l2_reg": l2_reg}
        np.random.seed(inputs.seed)
        if "img" in where.takes.split():
            return _pixels(_run_of_steps(compute, model, where.next, **options))
        torch.manual_seed(inputs.seed)
        return _pixels(_whole_run(solution, compute, model, **options))

    noise, grown, strong = grow(1e-6), grow(RATE), grow(RATE, l2_reg=1)
    solution.findings += _changes(model, state, torch.empty(0), torch.empty(0))
    if np.array_equal(noise, grown):
        if np.array_equal(noise, strong):
            raise Missing("the image stays as it was")
        raise Finding("the learning rate has no effect on the picture")
    if not solution.edition.eval_mode:
        model.train()
        if np.linalg.norm(grow(RATE) - grown) > 0.1 * np.linalg.norm(grown - noise):
            solution.findings.append("two runs from the same noise differ: dropout is left on")
    # What the steps do, without the noise that they start from. Where steps of any length will do,
    # both ways are kept ready for the comparison.
    steps = {"weak": grown, "strong": strong}
    arrays = {f"step with a {key} penalty": (steps[key] - noise)[::8, ::8] for key in steps}
    ways = ("image",) if solution.edition.unit_steps else ("unit", "plain")
    return {f"{way}/{key}": array for way in ways for key, array in arrays.items()}


# Few steps: rounding grows with each of them.
GROWN: dict[str, Any] = {"num_iterations": 2, "max_jitter": 0, "blur_every": 100}


def _pixels(picture: Any) -> np.ndarray:
    """Return a picture's pixels, the same whether `deprocess` has stretched them."""
    if not isinstance(picture, Image.Image) or picture.size != (224, 224):
        raise Finding(f"a PIL picture of 224×224 pixels was expected, got {type(picture).__name__}")
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    return (pixels - pixels.mean()) / max(pixels.std(), 1e-3)


def _whole_run(solution: Solution, compute: Callable, model: nn.Module, **options: Any) -> Any:
    if "class_names" in solution.place("class_visualization").takes:
        options |= {"class_names": {inputs.grown: "a class"}, "generate_plots": False}
    on_device = solution.accepts("class_visualization", "device")  # in the place of a type
    dtype = torch.device("cpu") if on_device else torch.FloatTensor
    picture = compute(target_y=inputs.grown, model=model, dtype=dtype, **options)
    if inspect.ismodule(picture):  # matplotlib.pyplot, in which it is drawn
        return Image.fromarray(np.asarray(picture.gca().images[-1].get_array(), np.uint8))
    return picture


def _run_of_steps(
    compute: Callable,
    model: nn.Module,
    following: str,
    num_iterations: int,
    l2_reg: float = 0,
    learning_rate: float = 0,
    **_: int,
) -> Any:
    """Return the picture after some steps, each followed by what the notebooks do to it."""
    mean, std = (torch.from_numpy(x).view(3, 1, 1) for x in (SQUEEZENET_MEAN, SQUEEZENET_STD))
    torch.manual_seed(inputs.seed)
    image = torch.randn(1, 3, 224, 224).requires_grad_(following != "copy")
    for t in range(num_iterations):
        given = {"img": image, "target_y": inputs.grown, "model": model}
        value = compute(**given, l2_reg=l2_reg, learning_rate=learning_rate)
        if following == "result":
            expect(value, torch.Tensor, (1, 3, 224, 224))
            image = value
        elif following == "copy":
            image.copy_(torch.from_numpy(expect(value, torch.Tensor, (1, 3, 224, 224))))
        image.data.copy_(torch.clamp(image.data, -mean / std, (1 - mean) / std))
        if t == 0:
            blur_image(image.data, sigma=0.5)
    return deprocess(image.detach(), should_rescale=False)


# --- Questions 2.1 to 2.5 ---


def measure_content_loss(solution: Solution) -> Arrays:
    compute, target = solution.function("content_loss"), numbers(3, 1, 4, 5, 6)
    return loss(
        lambda x: compute(content_weight=6e-2, content_current=x, content_original=target),
        numbers(4, 1, 4, 5, 6),
    )


def measure_gram_matrix(solution: Solution) -> Arrays:
    """Measure the matrices and their gradients, normalised and not."""
    gram, weights = solution.function("gram_matrix"), numbers(7, 2, 4, 4)
    arrays: Arrays = {}
    for name, options in (("normalised", {}), ("plain", {"normalize": False})):
        features = numbers(5, 2, 4, 5, 6).requires_grad_()
        value = _of_batch(gram, {"features": features}, **options)
        arrays[f"gram/{name}"] = expect(value, torch.Tensor, (2, 4, 4))
        if not value.requires_grad:
            raise Finding(OUTSIDE.format("matrix has"), arrays)
        (gradient,) = torch.autograd.grad((value * weights).sum(), features)
        arrays[f"gram/gradient {name}"] = gradient.numpy()
    return arrays


def _of_batch(gram: Callable, given: dict[str, torch.Tensor], **options: Any) -> Any:
    """Return the Gram matrices of two images.

    Raises:
        Finding: only one image at a time can be had.
    """
    try:
        value = gram(**given, **options)
        batched = value is None or value.shape[:1] == given["features"].shape[:1]
        failure = "" if batched else f"of two it gives shape {tuple(value.shape)}"
    except RuntimeError as error:
        batched, failure = False, str(error)
    if not batched:
        alone = gram(**{name: each[:1].detach() for name, each in given.items()}, **options)
        if isinstance(alone, torch.Tensor) and alone.shape[-2:] == (4, 4):
            raise Finding(f"works for a single image only; {failure}")
    return value


def measure_style_loss(solution: Solution) -> Arrays:
    """Measure with the solution's Gram matrix and with a substitute: one right is enough."""
    features = numbers(6, 3, 1, 4, 5, 6)  # of three layers
    targets = [numbers(seed, 1, 4, 4) for seed in (9, 10)]
    arrays: Arrays = {}
    failure: Exception | None = None

    def substitute(features: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        gram = features[:, :, :4, 0] * features[:, :, :4, 1]
        return gram if normalize else 120 * gram

    for group in ("own", "substitute"):
        owner = solution.owner("style_loss")
        if group == "substitute":
            owner.gram_matrix = substitute
        compute = solution.function("style_loss", owner)

        def of(x: torch.Tensor, compute: Callable = compute) -> torch.Tensor:
            layers = {"style_layers": [2, 0], "style_targets": targets}
            return compute(feats=list(x), **layers, style_weights=[20.0, 3.0])

        try:
            arrays |= loss(of, features, group)
        except Exception as error:  # of the solution's Gram matrix, as it may be
            failure = failure or error
    if not arrays and failure:
        raise failure
    with contextlib.suppress(Exception):
        none = compute(feats=list(features), style_layers=[], style_targets=[], style_weights=[])
        if not isinstance(none, torch.Tensor):
            solution.remarks.append("over no layers it is a number; a tensor is better")
    return arrays


class _Calls(TorchFunctionMode):
    """Counts the calls of torch's functions and methods."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def measure_tv_loss(solution: Solution) -> Arrays:
    compute = solution.function("tv_loss")
    arrays = loss(lambda x: compute(img=x, tv_weight=2e-2), numbers(11, 1, 3, 6, 8))
    counts = set()
    for shape in ((1, 3, 6, 8), (1, 3, 12, 8), (1, 3, 6, 16)):
        with _Calls() as calls:
            compute(img=numbers(12, *shape), tv_weight=2e-2)
        counts.add(calls.count)
    if len(counts) > 1:
        solution.findings.append(
            "computed with loops: larger pictures take more calls; use whole tensors"
        )
    return arrays


# What the course's notebook compares: features (N, regions, C, H, W), and their matrices' targets.
NOTEBOOK = torch.tensor(
    [
        [-0.6119, -0.8243, -0.5697, -1.3241, -0.0453, -0.3629, -0.3321, 0.7076, -0.3311],
        [0.6079, -0.2566, 1.3993, 1.0103, -1.2616, -1.5729, -0.0624, 0.4101, 0.4085],
        [-1.2122, 0.3690, -0.0933, 1.7902, -0.3964, -1.4309, 0.6862, 0.3385, 0.0479],
        [-0.0679, -1.1770, 0.3031, 1.9585, -0.2974, -1.1080, -0.8019, 1.3293, 0.3496],
        [-1.5403, -1.7125, 0.0887, -0.7244, 0.8991, 0.6955, -1.3828, -0.2718, -1.6329],
        [-0.5770, -0.0657, 0.5746, -0.1939, 0.4295, -0.7639, 0.3080, -0.8542, 0.6180],
    ]
).view(1, 2, 3, 3, 3)
NOTEBOOK_TARGET = torch.tensor(
    [
        [1.6195, 0.8610, -0.2706, 0.2184, -0.8091, -0.0450, -0.0359, 1.7087, 1.7617],
        [1.6495, 1.1240, 1.1872, -0.0577, -1.1156, -0.0601, -0.7020, 0.4917, -0.3774],
    ]
).view(1, 2, 3, 3)


def measure_guided_gram_matrix(solution: Solution) -> Arrays:
    """Measure with two images and masks of any numbers, and with what the notebook compares."""
    compute = solution.function("guided_gram_matrix")
    two = {"features": numbers(13, 2, 3, 4, 5, 6), "masks": numbers(14, 2, 3, 5, 6).sigmoid()}
    value = compute(features=NOTEBOOK.clone(), masks=torch.ones(1, 2, 3, 3).triu())
    arrays = {f"gram/{NUMBERS}": expect(value, torch.Tensor, (1, 2, 3, 3))}
    for name, options in (("normalised", {}), ("plain", {"normalize": False})):
        value = _of_batch(compute, two, **options)
        arrays[f"gram/{name}"] = expect(value, torch.Tensor, (2, 3, 4, 4))
    return arrays


def measure_guided_style_loss(solution: Solution) -> Arrays:
    """Measure with layers and masks by the network's count, not in their order."""
    compute, features = solution.function("guided_style_loss"), numbers(15, 3, 1, 2, 4, 5, 6)
    given = {"style_layers": [2, 0], "style_targets": [numbers(i, 1, 2, 4, 4) for i in (16, 17)]}
    given |= {"content_masks": list(numbers(18, 3, 1, 2, 5, 6).sigmoid())}
    arrays = loss(lambda x: compute(feats=list(x), style_weights=[20.0, 3.0], **given), features)
    given = {"style_layers": [0], "style_targets": [NOTEBOOK_TARGET], "style_weights": [15]}
    given |= {"content_masks": [torch.ones(1, 2, 3, 3).triu()]}
    value = loss(lambda x: compute(feats=[x], **given), NOTEBOOK)["loss/value"]
    return arrays | {f"loss/{NUMBERS}": value}


class _Recorded(nn.Module):
    """A layer that mixes the colours, and records pictures that need a gradient."""

    def __init__(self, seed: int, record: Callable[[torch.Tensor], None] | None = None):
        super().__init__()
        # The same for all inputs: how near the last steps come depends on them.
        mixed = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(torch.eye(3) + 0.3 * mixed, requires_grad=False)
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


def measure_style_transfer(solution: Solution) -> Arrays:
    """Paint with quick losses and a quick network of our own; return some steps' pictures.

    So nothing depends on the other questions.
    """
    pictures: list[torch.Tensor] = []
    layers = [_Recorded(20, pictures.append), *(_Recorded(seed) for seed in range(21, 25))]
    Path("styles_images").mkdir()
    for index, name in enumerate(("content.png", "style.png")):
        picture(index, (32, 40)).save(name)
    owner: Any = solution.owner("style_transfer")
    paint = solution.function("style_transfer", owner)
    given: dict[str, Any] = {"name": "painted", "content_image": "content.png"}
    given |= {"style_image": "style.png", "image_size": 32, "style_size": 32, "content_layer": 2}
    given |= {"content_weight": 0.5, "style_layers": (1, 3), "style_weights": (0.4, 0.2)}
    given |= {"tv_weight": 0.3, "content_loss": _Content(), "style_loss": _Style()}
    given |= {"tv_loss": _Variation(), "cnn": nn.Sequential(*layers).eval()}
    given |= {"dtype": torch.FloatTensor}
    takes = solution.place("style_transfer").takes.split()
    if others := {name: given.pop(name) for name in list(given) if name not in takes}:
        vars(owner).update(others, gram_matrix=_Style().gram_matrix)  # a notebook's globals
    testing = {"testing": True} if solution.accepts("style_transfer", "testing") else {}
    paint(**given, **testing)
    if len(pictures) < 200:
        raise Finding(f"200 steps were expected, {len(pictures)} were taken")
    if torch.equal(pictures[0], pictures[20]):
        raise Missing("the picture stays as it was")
    arrays = {
        "rule/pictures": torch.cat([pictures[t] for t in (0, 1, 2, 5, 20, 180)])[
            ..., ::3, ::3
        ].numpy()
    }
    steps = [(pictures[t + 1] - pictures[t]).abs().max().item() for t in range(182, 198)]
    if max(steps) > 0.15:  # Adam's steps are about as long as its learning rate
        solution.findings.append("the learning rate is not 0.1 for the last 20 steps")
    if max(steps) < 0.001:
        solution.findings.append("the picture stays as it is in the last 20 steps")
    return arrays


def measure_feature_inversion(solution: Solution) -> Arrays:
    """Start from noise, without style layers: the photo's features come nearer."""
    content, style, tv = map(solution.function, ("content_loss", "style_loss", "tv_loss"))
    layers = network(solution).features[:4].eval()
    wanted = layers(preprocess(picture(0, (32, 32)), 32)).detach()
    generator = torch.Generator().manual_seed(inputs.seed)
    image = torch.rand(1, 3, 32, 32, generator=generator).requires_grad_()
    target = torch.zeros(1, 64, 64)
    first, adam = (layers(image) - wanted).norm().item(), torch.optim.Adam([image], lr=0.2)
    for _ in range(STEPS):
        adam.zero_grad()
        features = [layers[:k](image) for k in range(1, 5)]
        terms = {
            "content_loss": content(
                content_weight=6e-2, content_current=features[3], content_original=wanted
            ),
            "style_loss": style(
                feats=features, style_layers=[1], style_targets=[target], style_weights=[0.0]
            ),
            "tv_loss": tv(img=image, tv_weight=2e-2),
        }
        for name, term in terms.items():
            if term is None:
                raise Missing(f"{solution.place(name).file} gives nothing back")
            if not isinstance(term, torch.Tensor | float | int):
                raise Finding(f"{solution.place(name).file} gives {type(term).__name__}, no loss")
        torch.as_tensor(sum(terms.values())).backward()
        adam.step()
    ratio = (layers(image) - wanted).norm().item() / first
    if not ratio < 0.8:
        raise Finding(
            f"the features do not come nearer to the photo's: {ratio:.2f} times as far after "
            f"{STEPS} steps"
        )
    return {}
