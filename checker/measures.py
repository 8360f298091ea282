"""The items of `check.py`: each `measure_…` calls a part of the solution and returns what it gave, as arrays.

No judgement on values is made here: they are compared with data/expected.npz in the process that started this one.
"""

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

HEIGHT, WIDTH = 96, 128  # of the photos: not square, and quick
EVERY = 6  # of the maps' pixels each way that are compared
LAYER, CAPTUM_LAYER = "features.12", "features.3"
# Of scikit-image, and a class that has something for it and something against it, so that signs and masks matter.
PHOTOS = (("data/chelsea.png", 30), ("data/coffee.png", 457))
TARGET = 779  # of the fooling image: clearly behind before the third step, clearly ahead after it
STEPS = 30  # of feature inversion
OTHER_CALL = 0.01  # relative difference of two calls that means something

Arrays = dict[str, np.ndarray]


class Finding(Exception):
    """What is wrong with a solution, in words."""


# --- What the items have in common ---


def solution(name: str) -> types.ModuleType:
    """Import a module of the solution, of a package that module alone: a fault in another one is not this item's."""
    package, _, inner = name.partition(".")
    if inner and package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(Path(sys.path[0]) / package)]
    return importlib.import_module(name)


def network() -> nn.Module:
    """Return SqueezeNet with the bundled weights, in training mode: dropout is on until a solution turns it off."""
    return solution("model_utils").load_model(weights="bundled", device="cpu").train()


def photos() -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Return two photos, uint8 (2, HEIGHT, WIDTH, 3), as the network sees them, (2, 3, HEIGHT, WIDTH), and classes."""
    package_file, open_image = solution("files.course").package_file, solution("image_utils").open_image
    pictures = [open_image(package_file("skimage", name)).resize((WIDTH, HEIGHT)) for name, _ in PHOTOS]
    X = np.stack([np.asarray(picture) for picture in pictures])
    images = solution("image_utils").preprocess_image(X).transpose(0, 3, 1, 2)
    return X, torch.from_numpy(np.ascontiguousarray(images)), torch.tensor([label for _, label in PHOTOS])


def numbers(seed: int, *shape: int) -> torch.Tensor:
    """Return seeded normal random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expect(value: Any, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a result as an array when it has the type and shape that the docstring promises.

    Raises:
        Finding: it has not.
    """
    if not isinstance(value, kind):
        raise Finding(f"a {kind.__module__}.{kind.__name__} was expected, got {type(value).__name__}")
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
        Finding: the network is ruined, the photos are overwritten, or the second call gives something else.
    """
    model, (_, images, labels) = network(), photos()
    given, state = images.clone(), _state(model)
    first = expect(compute(images, labels, model), kind, shape).copy()
    _check_untouched(model, state, images, given)
    model.train()
    second = expect(compute(images, labels, model), kind, shape)
    if _differs(second, first):
        model.train()
        if _differs(expect(compute(given, labels, model), kind, shape), first):
            raise Finding("two calls give different maps: dropout is left on; the network has to be in eval mode")
        factor = float(np.linalg.norm(second) / max(1e-30, np.linalg.norm(first)))
        raise Finding(f"gradients accumulated: a second call with the same photos gives {factor:.2g} times as much")
    return {f"maps/{i}": one[::EVERY, ::EVERY] for i, one in enumerate(first)}  # a weak photo counts like a strong one


def _differs(found: np.ndarray, first: np.ndarray) -> bool:
    return not np.linalg.norm(found - first) <= OTHER_CALL * np.linalg.norm(first)


def _state(model: nn.Module) -> tuple:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [(name, id(m), "forward" in vars(m)) for name, m in model.named_modules()]
    count = sum(len(getattr(module, hook)) for module in model.modules() for hook in hooks)
    return modules, [parameter.detach().clone() for parameter in model.parameters()], count


def _check_untouched(model: nn.Module, state: tuple, images: torch.Tensor, given: torch.Tensor) -> None:
    modules, parameters, hooks = _state(model)
    same = len(parameters) == len(state[1]) and all(map(torch.equal, parameters, state[1]))
    if modules != state[0] or not same:
        raise Finding("the network is ruined afterwards: its modules or parameters are not those that it had")
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
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise Finding(f"a tensor with one number was expected, got {got}")
    if not value.requires_grad:
        raise Finding("the loss has no gradient: it was computed outside the graph (detach, item, .data or NumPy)")
    (gradient,) = torch.autograd.grad(value.sum(), variable)
    return {f"{group}/value": value.detach().reshape(()).numpy(), f"{group}/gradient": gradient.numpy()}


# --- Questions 1.1 and 1.2 ---


def measure_saliency_map() -> Arrays:
    technique = solution("visualizers.saliency_map").SaliencyMap()
    return maps(technique.compute_saliency_maps, torch.Tensor, (2, HEIGHT, WIDTH))


def measure_custom_relu() -> Arrays:
    x, weights = numbers(1, 4, 25).requires_grad_(), numbers(2, 4, 25)
    value = solution("visualizers.gradcam").CustomReLU.apply(x)
    (gradient,) = torch.autograd.grad((value * weights).sum(), x)
    return {"relu/value": expect(value, torch.Tensor, (4, 25)), "relu/gradient": gradient.numpy()}


def measure_guided_backprop() -> Arrays:
    technique = solution("visualizers.gradcam").GradCam()
    return maps(technique.guided_backprop, np.ndarray, (2, HEIGHT, WIDTH, 3))


def measure_grad_cam() -> Arrays:
    return maps(solution("visualizers.gradcam").GradCam().grad_cam, np.ndarray, (2, HEIGHT, WIDTH))


def measure_guided_grad_cam() -> Arrays:
    technique = solution("visualizers.gradcam").GradCam()
    return maps(technique.guided_grad_cam, np.ndarray, (2, HEIGHT, WIDTH, 3))


def captum_figures(script: str, draw: Callable[..., None], figures: dict[str, int], steps: int) -> Arrays:
    """Draw a script's figures with Captum, and return the tiles of the last rows of each: file name → their number.

    Raises:
        Finding: a figure is missing, or its rows are not what draw_rows takes.
    """
    drawn: dict[str, list] = {}
    X, images, labels = photos()
    model = network().eval()
    page = SimpleNamespace(
        X=X,
        images=images,
        y=labels,
        titles=["cat", "cup"],
        file_name=lambda name: name,
        compute=lambda technique: list(technique(images, labels)),
    )
    session = SimpleNamespace(
        model=model,
        device=torch.device("cpu"),
        options=SimpleNamespace(steps=steps),
        option=lambda name: {"size": 224}.get(name),
        figures=solution("figure_utils"),
        save_rows=lambda name, rows, *_, **__: drawn.__setitem__(name, rows),
    )
    draw(solution(script), session, page)
    arrays = {}
    for name, count in figures.items():
        if name not in drawn:
            raise Finding(f"{name} was expected, saved are {', '.join(sorted(drawn)) or 'none'}")
        rows = drawn[name]
        if len(rows) <= count:
            raise Finding(f"{name}: the photos and {count} rows below them were expected, got {len(rows)} rows")
        tiles = np.stack([np.asarray(tile) for _, tiles in rows[-count:] for tile in tiles])
        if tiles.dtype != np.uint8 or tiles.shape != (2 * count, HEIGHT, WIDTH, 3):
            raise Finding(f"{name}: uint8 tiles of {HEIGHT}×{WIDTH} were expected, got {tiles.dtype} {tiles.shape[1:]}")
        arrays[f"figures/{name}"] = tiles[:, ::EVERY, ::EVERY].astype(np.float32) - 165  # about grey on white
    return arrays


def measure_saliency_captum() -> Arrays:
    figures = {"saliency_captum.png": 1, "attributions_captum.png": 3}
    return captum_figures("saliency_map", lambda script, *given: script.draw_captum(*given), figures, steps=4)


def measure_gradcam_captum() -> Arrays:
    names = ("guided_backprop", "guided_gradcam", "layer_activation", "layer_gradcam", "layer_conductance")

    def draw(script, session, page):
        find = solution("visualizers.layers").find_layer
        layers = (find(session.model, name, page.images) for name in (LAYER, CAPTUM_LAYER))
        script.draw_captum(session, page, session.save_rows, *layers)

    return captum_figures("gradcam", draw, dict.fromkeys([f"{name}_captum.png" for name in names], 1), steps=3)


# --- Questions 1.3 and 1.4 ---


def measure_fooling_image() -> Arrays:
    model, (_, images, _) = network(), photos()
    X = images[1:].contiguous()
    given, state = X.clone(), _state(model)
    technique = solution("visualizers.fooling_image").FoolingImage()
    fooling = expect(technique.make_fooling_image(X, TARGET, model), torch.Tensor, (1, 3, HEIGHT, WIDTH))
    _check_untouched(model, state, X, given)
    return {"image/difference": (fooling - given.numpy())[..., ::EVERY, ::EVERY]}


def measure_class_visualization() -> Arrays:
    technique, model = solution("visualizers.class_visualization").ClassVisualization(), network()
    state, settings = _state(model), {"l2_reg": 1e-3, "num_iterations": 3, "max_jitter": 0, "seed": 0}

    def grow(rate: float) -> np.ndarray:
        image = technique.visualize_classes([187], model, torch.float32, learning_rate=rate, **settings)
        return expect(image, torch.Tensor, (1, 3, 224, 224))

    change = grow(25) - grow(1e-6)  # what the steps do, without the noise that they start from
    again = grow(25) - grow(1e-6)
    _check_untouched(model, state, torch.empty(0), torch.empty(0))
    if np.abs(change - again).max() > OTHER_CALL * np.abs(change).max():
        raise Finding("two runs from the same noise differ: dropout is left on")
    return {"image/change": change[..., ::8, ::8]}


# --- Questions 2.1 to 2.6 ---


def measure_content_loss() -> Arrays:
    compute, target = solution("style_modules.content_loss").ContentLoss(), numbers(3, 1, 4, 5, 6)
    return loss(lambda x: compute(6e-2, x, target), numbers(4, 1, 4, 5, 6))


def measure_gram_matrix() -> Arrays:
    gram, features = solution("style_modules.style_loss").StyleLoss().gram_matrix, numbers(5, 2, 4, 5, 6)
    arrays = {"gram/normalised": gram(features), "gram/plain": gram(features, normalize=False)}
    return {key: expect(value, torch.Tensor, (2, 4, 4)) for key, value in arrays.items()}


def measure_style_loss() -> Arrays:
    """Measure with the solution's own Gram matrix, and with a substitute for it: one that is right is enough."""
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


def measure_style_transfer() -> Arrays:
    """Run the rule on a loss whose terms are written down, so that nothing depends on the other questions."""
    count, pictures = 40, []
    goals = [numbers(seed, 1, 3, 4, 5) for seed in (13, 14, 15)]
    rule = solution("style_modules.rules").CourseRule(numbers(16, 1, 3, 4, 5), count)
    for t in range(count):
        picture = rule.picture(t)
        pictures.append(picture.detach().clone())
        rule.step(t, *((picture - goal).square().mul(k).sum() for k, goal in enumerate(goals, start=1)))
    pictures.append(rule.picture(count).detach().clone())
    return {"rule/pictures": torch.cat([pictures[t] for t in (0, 1, 2, 5, 15, 21, 25, 40)]).numpy()}


def measure_feature_inversion() -> Arrays:
    """Start from noise, without style layers, by a rule that is given: the losses bring the photo's features nearer."""
    style_loss = solution("style_modules.style_loss").StyleLoss()
    content_loss = solution("style_modules.content_loss").ContentLoss()
    tv_loss = solution("style_modules.tv_loss").TotalVariationLoss()
    model, utils = network().eval(), solution("style_utils")
    photo = solution("image_utils").open_image(solution("files.course").package_file("skimage", PHOTOS[0][0]))
    photo = photo.resize((32, 32))
    nothing = style_loss([numbers(17, 1, 4, 5, 6)], [], [], [])
    if not isinstance(nothing, torch.Tensor) or nothing.numel() != 1 or nothing.item() != 0:
        raise Finding(f"without style layers a tensor of value 0 was expected, got {nothing!r}")
    losses = (content_loss, style_loss, tv_loss, model, torch.float32)
    settings = ("inversion", photo, photo, 32, 32, 3, 6e-2, (1, 4, 6, 7), (0, 0, 0, 0), 2e-2)
    how = {"init_random": True, "testing": True, "optimizer": "adam", "num_iterations": STEPS}
    image = utils.style_transfer(*settings, *losses, **how)

    def distance(x: torch.Tensor) -> float:
        with torch.no_grad():
            return (model.features[:4](x) - model.features[:4](wanted)).norm().item()

    wanted = utils.preprocess(photo, 32)
    start = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(0))
    if not distance(image) < 0.8 * distance(start):
        ratio = distance(image) / distance(start)
        raise Finding(f"the features do not come nearer to the photo's: {ratio:.2f} times as far after {STEPS} steps")
    return {}
