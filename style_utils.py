"""Style transfer and feature inversion: features, the optimisation, and the course's small helpers."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import nn

import image_utils
from file_utils import ROOT, InputError, reason, shown, written_whole
from image_utils import SQUEEZENET_STD, deprocess, open_image, rescale
from script_utils import draw_rows, metadata, save_figure
from visualizers.common import integer

__all__ = [
    "ITERATIONS",
    "StyleTransferProgress",
    "check_scipy",
    "deprocess",
    "extract_features",
    "features_from_img",
    "preprocess",
    "rel_error",
    "rescale",
    "style_transfer",
]

ITERATIONS = {"course": 200, "adam": 45, "lbfgs": 40}  # optimizer → steps by default
PRECONDITIONING = {"adam": 1.25, "lbfgs": 0.5}  # optimizer → exponent of the weight of low frequencies
CONTENT_SHARE, ENDING = 0.7, 5  # of both: the content counts less until the last steps, which gives the style a lead
SMALLEST = 32  # pixels, short side: less does not pass through eight layers
LONGEST = 8  # long side over short side
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: share of red, green and blue in the luminance


def preprocess(img: Image.Image, size: int = 512) -> torch.Tensor:
    """PIL picture → float32 tensor (1, 3, H, W), normalised; the short side is brought to `size` pixels.

    Raises:
        ValueError: `img` is not a PIL picture.
    """
    return image_utils.preprocess(img, size)


def rel_error(x: np.ndarray, y: np.ndarray) -> float:
    """The largest relative error |x − y| / max(1e-8, |x| + |y|) of two arrays that broadcast against each other."""
    with np.errstate(invalid="ignore"):  # infinity by infinity: the error is NaN, and that says enough
        return np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y)))


def check_scipy() -> None:
    """Raise ImportError for a SciPy before 0.16, as the course's notebook wants it."""
    import scipy

    if tuple(int(part) for part in scipy.__version__.split(".")[:2]) < (0, 16):
        raise ImportError(f"SciPy 0.16 or newer is needed, this is {scipy.__version__}")


def features_from_img(
    imgpath: str | Path, imgsize: int, cnn: nn.Module, dtype: torch.dtype | torch.device | type | str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The features of an image file.

    Args:
        imgpath: any image file.
        imgsize: pixels of the short side.
        cnn: network, or its feature layers.
        dtype: of the picture: a `torch.dtype`, a `torch.device`, or an old tensor type (`torch.cuda.FloatTensor`).

    Returns:
        The features as from `extract_features`, and the picture (1, 3, H, W), normalised.

    Raises:
        ValueError: a file, size or dtype that cannot be used.
    """
    img = _load(imgpath, imgsize, "imgsize", dtype)
    with torch.no_grad():
        return extract_features(img, cnn), img


def extract_features(x: torch.Tensor, cnn: nn.Module, last_layer: int | None = None) -> list[torch.Tensor]:
    """What each layer of a network makes of a picture. No tensor is overwritten by a later layer.

    Args:
        x: (N, 3, H, W).
        cnn: a network whose layers are in `.features`, or these layers themselves, which are run one after the other.
        last_layer: stop after this one; None for all of them.

    Returns:
        One tensor (N, C_i, H_i, W_i) per layer, `last_layer` included.

    Raises:
        ValueError: there is no such layer.
    """
    layers = _layers(cnn)
    if last_layer is not None:
        layers = layers[: _layer(last_layer, "last_layer", len(layers)) + 1]
    features = []
    for layer in layers:
        x = layer(x.clone() if getattr(layer, "inplace", False) else x)
        features.append(x)
    return features


@dataclass(frozen=True)
class StyleTransferProgress:
    """What `style_transfer` tells its callback whenever it has evaluated the losses, the final picture included."""

    iteration: int  # steps taken so far: 0 … num_iterations
    content: float  # the three weighted terms of the loss
    style: float
    total_variation: float
    image: torch.Tensor  # (1, 3, H, W), normalised: the picture that would be written now

    @property
    def total(self) -> float:
        return self.content + self.style + self.total_variation


def style_transfer(
    name: str,
    content_image: str | Path,
    style_image: str | Path,
    image_size: int,
    style_size: int,
    content_layer: int,
    content_weight: float,
    style_layers: Sequence[int],
    style_weights: Sequence[float],
    tv_weight: float,
    content_loss: nn.Module,
    style_loss: nn.Module,
    tv_loss: nn.Module,
    cnn: nn.Module,
    dtype: torch.dtype | torch.device | type | str,
    init_random: bool = False,
    testing: bool = False,
    *,
    optimizer: str = "course",
    num_iterations: int | None = None,
    callback: Callable[[StyleTransferProgress], None] | None = None,
    seed: int = 0,
    preserve_color: bool = False,
    output: str | Path = ROOT / "styles_images",
) -> torch.Tensor | None:
    """Paint one picture in the style of another (Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional
    Neural Networks", CVPR 2016, section 2.3), or, with style weights of 0 and a random start, invert the features of
    one (Mahendran and Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR 2015, section 2).

    Writes NAME_before.png (the two source pictures) and NAME.png. When the optimisation is cut short, by Ctrl-C, by an
    exception in `callback` or by a loss that is not finite, NAME.png is the last picture whose loss is finite.

    Args:
        name: NAME.
        content_image, style_image: image files.
        image_size, style_size: pixels of their short sides; the result is as large as the content picture. At least 32.
        content_layer, content_weight: layer and weight of the content loss.
        style_layers, style_weights: layers of the style loss and their weights, as many.
        tv_weight: weight of the total variation. No weight may be negative.
        content_loss, style_loss, tv_loss: instances of the modules in `style_modules`.
        cnn: network, or its feature layers. It is left as it is.
        dtype: what to compute with: a `torch.dtype`, a `torch.device`, or an old tensor type.
        init_random: start from uniform noise in [0, 1) instead of the content picture.
        testing: write nothing and return the result.
        optimizer: "course": Adam on the pixels with learning rate 3.0, for the last 20 steps a fresh one with 0.1,
            pixels clipped to ±1.5 until 10 steps before the end; "adam" and "lbfgs" (L-BFGS, as in the paper): on the
            picture's Fourier coefficients, which gets further in a quarter of the steps, and with the content's term at
            0.7 of its weight until 5 steps before the end, since it is the style that comes slowly.
        num_iterations: number of steps; by default the optimizer's in `ITERATIONS`.
        callback: called with a `StyleTransferProgress` before the first and after every step.
        seed: of the random start.
        preserve_color: give the result the colours of the content picture: only luminance is transferred (Gatys et al.,
            "Preserving Color in Neural Artistic Style Transfer", 2016, "Luminance-only transfer").
        output: the folder to write to.

    Returns:
        None, or, when testing, the result (1, 3, H, W), normalised, detached.

    Raises:
        ValueError: arguments that do not fit, files that cannot be read or written, or losses that are not finite.
    """
    _layer(content_layer, "content_layer", len(_layers(cnn)))
    style_layers, style_weights = _used(style_layers, style_weights, len(_layers(cnn)))
    _weight(content_weight, "content_weight")
    _weight(tv_weight, "tv_weight")
    content_img = _load(content_image, image_size, "image_size", dtype)
    style_img = _load(style_image, style_size, "style_size", dtype)
    start = _noise(content_img, seed) if init_random else content_img
    variable, picture_of, steps = _plan(start, optimizer, num_iterations)

    # A frozen copy, only as deep as needed, in the memory layout that convolutions are fastest in.
    depth = max([content_layer, *style_layers]) + 1
    layers = copy.deepcopy(nn.Sequential(*_layers(cnn)[:depth])).requires_grad_(False).eval()
    layers.to(content_img).to(memory_format=torch.channels_last)
    with torch.no_grad():
        content_target = extract_features(content_img, layers)[content_layer]
        style_feats = extract_features(style_img, layers)
        style_targets = [style_loss.gram_matrix(style_feats[layer]) for layer in style_layers]

    def losses(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        feats = extract_features(image, layers)
        return (
            content_loss(content_weight, feats[content_layer], content_target),
            style_loss(feats, style_layers, style_targets, style_weights),
            tv_loss(image, tv_weight),
        )

    path = None if testing else _folder(output) / f"{name}.png"
    if path:
        _save_sources(path.with_name(f"{name}_before.png"), content_img, style_img, cnn, seed)
    reached = None
    try:
        for reached in _minimise(losses, variable, picture_of, steps, content_img if preserve_color else None):
            if callback:
                callback(reached)
    finally:
        if reached and path:
            _save(path, reached.image, cnn, seed)
    return reached.image if testing else None


class _Step(NamedTuple):
    """One step of the optimisation."""

    rule: torch.optim.Optimizer
    learning_rate: float
    bound: float = math.inf  # the variable is clipped to ±bound before the step
    content_share: float = 1.0  # how much of the content's term it descends


def _minimise(
    losses: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
    variable: torch.Tensor,
    picture_of: Callable[[torch.Tensor], torch.Tensor],
    steps: Sequence[_Step],
    colors: torch.Tensor | None,
) -> Iterator[StyleTransferProgress]:
    """Change `variable` in place, step by step; report before each step and after the last.

    Args:
        losses: the terms of the loss of a picture.
        variable, picture_of, steps: from `_plan`.
        colors: the picture whose colours the reported ones are given; None leaves them theirs.

    Raises:
        InputError: the loss is not finite.
    """
    for iteration, step in enumerate([*steps, None]):
        if step and step.bound < math.inf:
            variable.detach().clamp_(-step.bound, step.bound)
        with torch.enable_grad():
            image = picture_of(variable)
            terms = losses(image)
            total = (step.content_share if step else 1.0) * terms[0] + terms[1] + terms[2]
        content, style, tv = (term.item() for term in terms)
        if not math.isfinite(content + style + tv):
            kept = f"; the picture of step {iteration - 1} is kept" if iteration else ""
            raise InputError(
                f"the loss is not finite at step {iteration} (content {content:g}, style {style:g}, "
                f"total variation {tv:g}){kept}; smaller weights may help"
            )
        image = image.detach().clone()
        picture = image if colors is None else _with_luminance_of(image, colors)
        yield StyleTransferProgress(iteration, content, style, tv, picture)
        if step:
            (variable.grad,) = torch.autograd.grad(total, variable)
            step.rule.param_groups[0]["lr"] = step.learning_rate
            step.rule.step(lambda loss=total: loss)  # L-BFGS wants to be told the loss


def _plan(
    start: torch.Tensor, optimizer: str, num_iterations: int | None
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor], list[_Step]]:
    """What to optimise, how it makes a picture, and the steps."""
    if optimizer not in ITERATIONS:
        raise ValueError(f"optimizer must be one of {', '.join(ITERATIONS)}, got {optimizer!r}")
    count = integer(ITERATIONS[optimizer] if num_iterations is None else num_iterations, "num_iterations")
    if optimizer == "course":
        pixels = start.clone().requires_grad_()
        coarse, fine = torch.optim.Adam([pixels]), torch.optim.Adam([pixels])
        ending = [_Step(fine, 0.1, bound=1.5)] * 10 + [_Step(fine, 0.1)] * 10
        steps = [_Step(coarse, 3.0, bound=1.5)] * (count - 20) + ending[max(20 - count, 0) :]
        return pixels, lambda pixels: pixels, steps
    coefficients, picture_of = _fourier_coefficients(start, PRECONDITIONING[optimizer])
    if optimizer == "adam":
        rule = torch.optim.Adam([coefficients])
        start, end = _Step(rule, 0.2, content_share=CONTENT_SHARE), _Step(rule, 0.05)
        return coefficients, picture_of, ([start] * (count - ENDING) + [end] * ENDING)[:count]
    # One evaluation per step and no line search. The first step changes a coefficient by 0.02 on average: torch's own
    # choice is so short that the curvature measured with it is rounding noise.
    rule = torch.optim.LBFGS([coefficients], max_iter=1, history_size=10)
    rates = 0.02 * coefficients.numel(), 1.0
    first, start = (_Step(rule, rate, content_share=CONTENT_SHARE) for rate in rates)
    return coefficients, picture_of, ([first] + [start] * (count - 1 - ENDING) + [_Step(rule, 1.0)] * ENDING)[:count]


def _fourier_coefficients(
    image: torch.Tensor, exponent: float
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """A picture's Fourier coefficients times frequency^exponent, as real numbers, and the function that undoes this.

    A step on them moves the low frequencies further, which steps on the pixels reach last (Olah, Mordvintsev and
    Schubert, "Feature Visualization", Distill 2017, section "Preconditioning and Parameterization").
    """
    height, width = image.shape[2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    scale = frequency.clamp(min=1 / max(height, width)).pow(-exponent)
    scale = (scale / scale.square().mean().sqrt()).to(image)

    def picture_of(coefficients: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(torch.view_as_complex(coefficients) * scale, s=(height, width), norm="ortho")

    return torch.view_as_real(torch.fft.rfft2(image, norm="ortho") / scale).requires_grad_(), picture_of


def _used(layers: Sequence[int], weights: Sequence[float], count: int) -> tuple[list[int], list[float]]:
    """The style layers, checked, and their weights; without those of weight 0, which would only cost time."""
    if len(layers) != len(weights):
        raise ValueError(f"style_layers has {len(layers)} entries, but style_weights has {len(weights)}")
    pairs = [
        (_layer(layer, "style_layers", count), _weight(weight, "style_weights"))
        for layer, weight in zip(layers, weights, strict=True)
    ]
    return [layer for layer, weight in pairs if weight], [weight for _, weight in pairs if weight]


def _layer(layer: int, argument: str, count: int) -> int:
    if not 0 <= integer(layer, argument) < count:
        raise ValueError(f"{argument} must name one of the layers 0 to {count - 1}, got {layer}")
    return layer


def _weight(weight: float, argument: str) -> float:
    if not 0 <= weight < math.inf:
        raise ValueError(f"{argument} must be at least 0 and finite, got {weight}")
    return weight


def _layers(cnn: nn.Module) -> list[nn.Module]:
    return list(getattr(cnn, "features", cnn).children())


def _load(path: str | Path, size: int, argument: str, dtype: torch.dtype | torch.device | type | str) -> torch.Tensor:
    """An image file as a normalised tensor (1, 3, H, W) whose short side is `size` pixels."""
    size = integer(size, argument, SMALLEST)
    picture = open_image(path)
    if max(picture.size) > LONGEST * min(picture.size):
        raise InputError(
            f"{shown(path)} is {picture.width}×{picture.height} pixels; the long side may be at most "
            f"{LONGEST} times the short one"
        )
    img = preprocess(picture, size)
    try:
        return img.to(dtype) if isinstance(dtype, torch.device) else img.type(dtype)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"dtype {dtype!r} cannot be had here: {error}") from error


def _noise(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Uniform in [0, 1), drawn on the CPU so that every device starts from the same numbers."""
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _with_luminance_of(image: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """The picture `colors` with the luminance of `image`, both normalised (1, 3, H, W)."""
    std = torch.from_numpy(SQUEEZENET_STD).to(image).view(1, 3, 1, 1)
    share = torch.tensor(LUMA).to(image).view(1, 3, 1, 1)
    # The same amount added to red, green and blue leaves both colour differences of YCbCr as they are.
    return colors + ((image - colors) * std * share).sum(dim=1, keepdim=True) / std


def _folder(output: str | Path) -> Path:
    """The folder to write to, made when missing."""
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into the folder {shown(output)}: {reason(error)}") from error
    return Path(output)


def _save_sources(path: Path, content: torch.Tensor, style: torch.Tensor, cnn: nn.Module, seed: int) -> None:
    """Write the content and the style picture side by side."""
    content, style = (deprocess(picture, should_rescale=False) for picture in (content, style))
    tiles = [np.asarray(content), np.asarray(ImageOps.pad(style, content.size, color="white"))]
    figure = draw_rows([("", tiles)], ["Content Source Img.", "Style Source Img."])
    save_figure(figure, path, cnn, seed)


def _save(path: Path, image: torch.Tensor, cnn: nn.Module, seed: int) -> None:
    info = PngInfo()
    for key, value in metadata(cnn, seed).items():
        info.add_text(key, value)
    with written_whole(path) as temporary:
        deprocess(image, should_rescale=False).save(temporary, format="PNG", pnginfo=info)
