"""Style transfer and feature inversion: features, the optimisation, the course's helpers."""

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

import image_utils
from adapters.preparation import Preparation
from errors import InputError, cause, described, is_out_of_memory, quoted
from figure_utils import draw_rows, provenance, save_png
from files.atomic import ROOT
from image_utils import SQUEEZENET_STD, as_type, deprocess, open_image, rescale
from style_modules.guided_style import GuidedStyleLoss, mixed_targets, region_masks, scaled_masks
from style_modules.rules import RULES, Rule
from style_modules.scales import LARGE, Recomputed, enlarged
from visualizers.common import integer
from visualizers.evaluation import check_model, copied, full_precision
from visualizers.replay import replayed

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

ITERATIONS = {name: count for name, (_, count) in RULES.items()}  # optimizer → steps by default
SMALLEST = 32  # pixels, short side: less does not pass through eight layers
LONGEST = 8  # long side over short side
Picture = str | Path | Image.Image  # an image file, or the picture itself
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: share of red, green and blue in the luminance


def preprocess(img: Image.Image, size: int | tuple[int, int] = 512) -> torch.Tensor:
    """Normalise a PIL picture: float32 (1, 3, H, W), short side `size`.

    Raises:
        ValueError: `img` is not a PIL picture.
    """
    return image_utils.preprocess(img, size)


def rel_error(x: np.ndarray, y: np.ndarray) -> float:
    """Return the largest |x − y| / max(1e-8, |x| + |y|) of two arrays that broadcast."""
    # Infinity by infinity: the error is NaN, and that says enough
    with np.errstate(invalid="ignore"):
        return np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y)))


def check_scipy() -> None:
    """Raise ImportError for a SciPy before 0.16, as the course's notebook wants it."""
    if tuple(int(part) for part in version("scipy").split(".")[:2]) < (0, 16):
        raise ImportError(f"SciPy 0.16 or newer is needed, this is {version('scipy')}")


def reference_values(path: Path) -> dict[str, np.ndarray]:
    """Read the values that the losses are checked against: cl_out, gm_out, sl_out and tv_out.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise InputError(
            f"{quoted(path)}: no such file; the project's data folder belongs beside the scripts"
        )
    try:
        with np.load(path) as values:
            return {key: values[key] for key in ("cl_out", "gm_out", "sl_out", "tv_out")}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read check values in {quoted(path)}: {cause(error)}") from error


def features_from_img(
    imgpath: str | Path,
    imgsize: int,
    cnn: nn.Module,
    dtype: torch.dtype | torch.device | type | str,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the features of an image file.

    Args:
        imgpath: any image file.
        imgsize: pixels of the short side.
        cnn: network, or its feature layers.
        dtype: type of the picture: a `torch.dtype`, a `torch.device`, or an old tensor type
            (`torch.cuda.FloatTensor`).

    Returns:
        The features as from `extract_features`, and the picture (1, 3, H, W), normalised.

    Raises:
        ValueError: a file, size or dtype that cannot be used.
        InputError: the layers do not run one after the other on this picture.
    """
    img = _load(imgpath, imgsize, "imgsize", dtype)
    return _first_features(img, cnn), img


def extract_features(
    x: torch.Tensor, cnn: nn.Module, last_layer: int | None = None
) -> list[torch.Tensor]:
    """Return the output of each layer of a network. No output is overwritten by a later layer.

    Args:
        x: (N, 3, H, W).
        cnn: a network whose layers are in `.features`, or these layers themselves, which are run
            one after the other.
        last_layer: stop after this one; None for all of them.

    Returns:
        One tensor (N, C_i, H_i, W_i) per layer, `last_layer` included.

    Raises:
        ValueError: there is no such layer.
    """
    layers = list(feature_layers(cnn).values())
    if last_layer is not None:
        layers = layers[: _layer(last_layer, "last_layer", len(layers)) + 1]
    x = _preparation(cnn)(x)
    features = []
    for layer in layers:
        first = next(module for module in layer.modules() if not list(module.children()))
        # An in-place ReLU would overwrite the last output.
        x = layer(x.clone() if getattr(first, "inplace", False) else x)
        features.append(x)
    return features


@torch.no_grad()
def _first_features(x: torch.Tensor, cnn: nn.Module) -> list[torch.Tensor]:
    """Return features as `extract_features`; whatever the network raises becomes an InputError."""
    try:
        return extract_features(x, cnn)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):  # not the network's fault
            raise
        raise InputError(
            "the network's layers do not run one after the other, on a picture of "
            f"{x.shape[3]}×{x.shape[2]}: {described(error)}; name earlier ones"
        ) from error


@dataclass(frozen=True)
class StyleTransferProgress:
    """Passed to `style_transfer`'s callback whenever the losses were evaluated."""

    iteration: int  # steps taken so far: 0 … num_iterations
    content: float  # the three weighted terms of the loss
    style: float
    total_variation: float
    image: torch.Tensor  # (1, 3, H, W), normalised: the picture that would be written now
    # The weighted style term of each layer whose weight is not 0
    style_by_layer: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """The sum of the three terms."""
        return self.content + self.style + self.total_variation


@torch.inference_mode(False)
@torch.enable_grad()
@full_precision(one_image=True)
def style_transfer(
    name: str,
    content_image: Picture | None,
    style_image: Picture | Sequence[Picture],
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
    notes: Mapping[str, str] | None = None,
    style_shares: Sequence[float] | None = None,
    masks: Sequence[Image.Image] | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Paint one picture in the style of another, or invert the features of one.

    Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016,
    section 2.3. With style weights of 0 and a random start: Mahendran and Vedaldi, "Understanding
    Deep Image Representations by Inverting Them", CVPR 2015, section 2.

    Writes NAME_before.png (the two source pictures) and NAME.png. When the optimisation is cut
    short, by Ctrl-C, by an exception in `callback` or by a loss that is not finite, NAME.png is the
    last picture whose loss is finite.

    Args:
        name: NAME.
        content_image: None for a texture: a square picture from the style alone, which starts from
            noise.
        style_image: one, or a list: the Gram matrices are mixed by `style_shares`, or each has its
            region by `masks`.
        image_size, style_size: pixels of their short sides; the result is as large as the content
            picture. At least 32.
        content_layer, content_weight: layer and weight of the content loss.
        style_layers, style_weights: style layers and one weight each. No weight may be negative.
        tv_weight: weight of the total variation.
        content_loss, style_loss, tv_loss: instances of the modules in `style_modules`.
        cnn: network, or its feature layers. It is left as it is.
        dtype: what to compute with: a `torch.dtype`, a `torch.device`, or an old tensor type.
        init_random: start from uniform noise in [0, 1) instead of the content picture.
        testing: write nothing and return the result.
        optimizer: the rule by which the picture is changed, in `style_modules.rules`: "course",
            "adam" or "lbfgs".
        num_iterations: number of steps; by default the optimizer's in `ITERATIONS`.
        callback: called with a `StyleTransferProgress` before the first and after every step.
        seed: seed of the random start.
        preserve_color: give the result the colours of the content picture: only luminance is
            transferred (Gatys et al., "Preserving Color in Neural Artistic Style Transfer", 2016,
            "Luminance-only transfer").
        output: the folder to write to.
        notes: the text of the PNGs; by default network, weights, seed and versions.
        style_shares: one number per style; only their proportions count. By default all are alike.
        masks: one grey picture per style, with the content picture's proportions: where it is
            white, the style counts. They need not add up to one. The style loss is then
            `GuidedStyleLoss`.
        start: the picture (1, 3, h, w), normalised, to start from; it is scaled to the result's
            size.

    Returns:
        None, or, when testing, the result (1, 3, H, W), normalised, detached.

    Raises:
        ValueError: arguments that do not fit.
        InputError: files that cannot be read or written, or losses that are not finite.
    """
    check_model(cnn)
    _layer(content_layer, "content_layer", len(feature_layers(cnn)))
    style_layers, style_weights = _used(style_layers, style_weights, len(feature_layers(cnn)))
    _weight(content_weight, "content_weight"), _weight(tv_weight, "tv_weight")
    content_img = _content(content_image, image_size, dtype, seed)
    content_weight, init_random = (
        (0, True) if content_image is None else (content_weight, init_random)
    )
    styles = (
        [style_image] if isinstance(style_image, (str, Path, Image.Image)) else list(style_image)
    )
    style_imgs = [_load(style, style_size, "style_size", dtype) for style in styles]
    begin = _noise(content_img, seed) if init_random else content_img
    begin = begin if start is None else enlarged(start.to(content_img), content_img.shape[2:])
    rule = _rule(optimizer, begin, num_iterations)
    used = sorted({content_layer, *style_layers})
    layers = _frozen_layers(cnn, used, content_img)
    content_layer, style_layers = used.index(content_layer), [used.index(k) for k in style_layers]
    with torch.no_grad():
        feats = _first_features(content_img, layers)
        _check_maps([(used[k], feats[k]) for k in style_layers])
        content_target, sizes = feats[content_layer], [maps.shape[2:] for maps in feats]
        del feats  # of a large picture they take a gigabyte
        grams = []
        for img in style_imgs:
            feats = _first_features(img, layers)
            grams.append([style_loss.gram_matrix(feats[k]) for k in style_layers])
        if masks:
            style_loss = GuidedStyleLoss(
                scaled_masks(region_masks(masks, content_img, len(styles)), sizes)
            )
            style_targets = style_loss.targets(style_layers, grams)
        else:
            style_targets = mixed_targets(grams, style_shares)
    path, text = Path(output) / f"{name}.png", provenance(cnn, seed) if notes is None else notes
    if not testing:
        sources = _sources(None if content_image is None else content_img, style_imgs)
        save_png(sources, path.with_name(f"{name}_before.png"), text)

    def losses(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        feats = extract_features(image, layers)
        # Question 2.4: forward through the three criteria
        style = style_loss(feats, style_layers, style_targets, style_weights)
        content = content_loss(content_weight, feats[content_layer], content_target)
        tv = tv_loss(image, tv_weight)
        # End
        return content, style, tv, *getattr(style_loss, "terms", ())

    evaluate = replayed(losses, [rule.picture(0)], [layers, content_loss, style_loss, tv_loss])
    colors = content_img if preserve_color else None
    reached = None
    try:
        for t in range(rule.count + 1):
            image = rule.picture(t)
            content, style, tv, *by_layer = evaluate(image)
            before = image.detach().clone()
            if t < rule.count:
                # Question 2.4: backward, step
                opt = rule.optimizer(t)
                opt.zero_grad()
                loss = rule.content_share(t) * content + style + tv
                loss.backward()
                opt.step(loss.item)  # L-BFGS asks for the loss
                # End
            # Now, as numbers wait until a GPU is done
            reached = _progress(t, before, (content, style, tv, *by_layer), colors)
            if callback:
                callback(reached)
    finally:
        if reached and not testing:
            save_png(deprocess(reached.image, should_rescale=False), path, text)
    return reached.image if testing else None


def _progress(
    t: int, image: torch.Tensor, terms: Sequence[torch.Tensor | float], colors: torch.Tensor | None
) -> StyleTransferProgress:
    """Return the progress at step t.

    Args:
        image: (1, 3, H, W).
        terms: content, style, total variation, and the style by layer; a loss over no layers may
            be the number 0.
        colors: the picture whose colours the reported one is given; None leaves it its own.
    """
    tensors = [torch.as_tensor(term).detach().to(image.device) for term in terms]
    content, style, tv, *by_layer = torch.stack(tensors).tolist()  # together: a GPU is waited for
    if not math.isfinite(content + style + tv):
        note = f"; the picture of step {t - 1} is kept" if t else ""
        raise InputError(
            f"the loss is not finite at step {t} (content {content:g}, style {style:g}, "
            f"total variation {tv:g}){note}; smaller weights may help"
        )
    picture = image if colors is None else _with_luminance_of(image, colors)
    return StyleTransferProgress(t, content, style, tv, picture, tuple(by_layer))


def _rule(optimizer: str, start: torch.Tensor, num_iterations: int | None) -> Rule:
    """Return a rule, which begins with the picture `start`."""
    if optimizer not in RULES:
        raise ValueError(f"optimizer must be one of {', '.join(RULES)}, got {optimizer!r}")
    make, count = RULES[optimizer]
    return make(
        start, integer(count if num_iterations is None else num_iterations, "num_iterations")
    )


def _frozen_layers(cnn: nn.Module, used: Sequence[int], like: torch.Tensor) -> nn.Module:
    """Copy a network's layers up to the last of `used`, in the fastest memory layout.

    One block for each layer used, with those before it whose output nobody needs.
    """
    layers = copied(first_layers(cnn, used[-1] + 1))
    blocks = [layers[first + 1 : last + 1] for first, last in pairwise([-1, *used])]
    for block in blocks:
        if isinstance(block[0], nn.ReLU):
            block[0].inplace = False  # or `extract_features` would copy what it overwrites
    if like.shape[2:].numel() >= LARGE and not like.is_cuda:
        blocks[1:] = [Recomputed(block) for block in blocks[1:]]  # a first convolution keeps little
    frozen = nn.Sequential(*blocks).requires_grad_(False).eval()
    frozen.photo_preparation = layers.photo_preparation
    return frozen.to(like).to(memory_format=image_utils.memory_format(like.device))


def _used(
    layers: Sequence[int], weights: Sequence[float], count: int
) -> tuple[list[int], list[float]]:
    """Check the style layers and weights; drop layers of weight 0, which only cost time."""
    if len(layers) != len(weights):
        raise ValueError(
            f"style_layers has {len(layers)} entries, but style_weights has {len(weights)}"
        )
    pairs = [
        (_layer(layer, "style_layers", count), _weight(weight, "style_weights"))
        for layer, weight in zip(layers, weights, strict=True)
    ]
    return [layer for layer, weight in pairs if weight], [weight for _, weight in pairs if weight]


def _layer(layer: int, argument: str, count: int) -> int:
    if not 0 <= integer(layer, argument) < count:
        raise InputError(f"{argument} must name one of the layers 0 to {count - 1}, got {layer}")
    return layer


def _weight(weight: float, argument: str) -> float:
    if not 0 <= weight < math.inf:
        raise ValueError(f"{argument} must be at least 0 and finite, got {weight}")
    return weight


def _check_maps(features: Sequence[tuple[int, torch.Tensor]]) -> None:
    """Raise an error for a style layer, by its number, that gives no feature maps."""
    for layer, maps in features:
        if maps.dim() != 4:
            shape = tuple(maps.shape)
            raise InputError(f"style layer {layer} gives {shape}, not feature maps (N, C, H, W)")


def first_layers(cnn: nn.Module, count: int) -> nn.Sequential:
    """Return the first layers in `.features`, which take photos as the network does."""
    layers = nn.Sequential(*list(feature_layers(cnn).values())[:count])
    layers.photo_preparation = _preparation(cnn)  # type: ignore[assignment]
    return layers


def _preparation(cnn: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what turns images normalised as ImageNet's into the network's own inputs."""
    return getattr(cnn, "photo_preparation", None) or Preparation()


def feature_layers(cnn: nn.Module) -> dict[str, nn.Module]:
    """Return the layers in `.features`, or those of a network that has none, by name."""
    # `named_children` leaves out a module that comes again, as one ReLU for all places does
    parts = getattr(cnn, "features", cnn)._modules.items()
    return {name: module for name, module in parts if module is not None}


def _content(source: Picture | None, size: int, dtype, seed: int) -> torch.Tensor:
    """Return the content picture; without one, noise of `size` by `size` pixels."""
    if source is not None:
        return _load(source, size, "image_size", dtype)
    side = integer(size, "image_size", SMALLEST)
    return _noise(as_type(torch.zeros(1, 3, side, side), dtype), seed)


def _load(source: Picture, size: int, argument: str, dtype) -> torch.Tensor:
    """Return a picture, or a file's, normalised: (1, 3, H, W), short side `size` pixels."""
    size = integer(size, argument, SMALLEST)
    picture = source if isinstance(source, Image.Image) else open_image(source)
    if max(picture.size) > LONGEST * min(picture.size):
        name = "the picture" if source is picture else quoted(source)
        raise InputError(
            f"{name} is {picture.width}×{picture.height} pixels; the long side may be at most "
            f"{LONGEST} times the "
            "short one"
        )
    return as_type(preprocess(picture, size), dtype)


def _noise(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw uniform noise in [0, 1), on the CPU: the same numbers for every device."""
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _with_luminance_of(image: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Return the picture `colors` with the luminance of `image`, both normalised (1, 3, H, W)."""
    std = torch.from_numpy(SQUEEZENET_STD).to(image).view(1, 3, 1, 1)
    share = torch.tensor(LUMA).to(image).view(1, 3, 1, 1)
    # The same amount added to red, green and blue leaves both colour differences of YCbCr as they
    # are.
    return colors + ((image - colors) * std * share).sum(dim=1, keepdim=True) / std


def _sources(content: torch.Tensor | None, styles: Sequence[torch.Tensor]) -> Image.Image:
    """Draw the content picture, if there is one, and the style pictures side by side."""
    pictures = [
        deprocess(picture, should_rescale=False)
        for picture in (content, *styles)
        if picture is not None
    ]
    tiles = [
        np.asarray(ImageOps.pad(picture, pictures[0].size, color="white")) for picture in pictures
    ]
    return draw_rows(
        [("", tiles)],
        ["Content Source Img."] * (content is not None) + ["Style Source Img."] * len(styles),
    )
