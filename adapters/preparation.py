"""How a network's photos are prepared: found by the network's own word, applied in one place.

Everything else works with images that are normalised by ImageNet's mean and standard deviation. A
network with another preparation gets a hook that turns them into its own inputs.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from errors import InputError
from image_utils import SQUEEZENET_MEAN, SQUEEZENET_STD

from .trial import try_out

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SIZE = 224  # pixels
ASSUMED = "ImageNet's, assumed"
GREY = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)
TRANSFORMS = ("preprocess", "transforms", "transform")  # a network's attributes
EXTRA_TOKENS = 8  # at most, beside the patches


@dataclass(frozen=True)
class Preparation:
    """How a photo becomes an input: (value − mean) / std, values in 0…`pixel_range`.

    Its short side is brought to `size` pixels first.
    """

    mean: tuple[float, ...] = MEAN  # one number a channel, or one for all
    std: tuple[float, ...] = STD
    size: int = SIZE
    interpolation: str = "bicubic"  # as in PIL.Image.Resampling, small letters
    pixel_range: int = 1  # or 255
    channels: int = 3  # or 1: grey
    source: str = "ImageNet's"

    @property
    def is_imagenets(self) -> bool:
        """Whether images normalised as ImageNet's are the network's inputs as they are."""
        own = (self.mean, self.std, self.pixel_range, self.channels)
        return own == (MEAN, STD, 1, 3)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (N, 3, H, W), normalised as ImageNet's, into the network's inputs (N, C, H,
        W).
        """
        if self.is_imagenets:
            return images
        imagenet = (torch.from_numpy(each).to(images) for each in (SQUEEZENET_STD, SQUEEZENET_MEAN))
        std, mean = (each[:, None, None] for each in imagenet)
        pixels = images * std + mean
        if self.channels == 1:
            pixels = (pixels * pixels.new_tensor(GREY)[:, None, None]).sum(dim=1, keepdim=True)
        mean, std = (pixels.new_tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (self.pixel_range * pixels - mean) / std

    @property
    def note(self) -> str:
        """What a figure says of it: nothing where it is the course's."""
        if self == Preparation():
            return ""
        mean, std = (" ".join(f"{value:g}" for value in each) for each in (self.mean, self.std))
        colours = "grey" if self.channels == 1 else "RGB"
        return (
            f"{colours} in 0…{self.pixel_range}, mean {mean}, std {std}, {self.size} pixels, "
            f"{self.interpolation} ({self.source})"
        )


def find_preparation(model: nn.Module, transforms: Any = None) -> Preparation:
    """Find out how a network's photos are prepared, by its own word, in this order.

    A module in it that normalises, and is evaluated: the photos are given in 0…1, or in 0…255 where
    its mean is above 1. A `preprocess` (or `transforms`) of torchvision's that it carries. timm's
    `pretrained_cfg`. `transforms`: torchvision's, of the architecture's weights. Else ImageNet's.
    """
    size = _fixed_size(model)
    preparation = (
        _by_its_modules(model, size or SIZE)
        or _by_configuration(model)
        or (_of_transforms([transforms], "torchvision's transforms") if transforms else None)
        or Preparation(source=ASSUMED)
    )
    return replace(preparation, size=size or preparation.size)


def given_preparation(
    preparation: Preparation,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    size: int | None,
    pixel_range: int | None,
) -> Preparation:
    """Put the user's values before the network's; a range alone means: not normalised.

    Raises:
        InputError: one of mean and std without the other, or not one number or three.
    """
    if size is not None:
        preparation = replace(preparation, size=size)
    if (mean is None) != (std is None):
        raise InputError("mean and std (--mean, --std) belong together; give both")
    if mean is None or std is None:
        if pixel_range is None:
            return preparation
        mean, std = (0.0,), (1.0,)
    mean, std = tuple(mean), tuple(std)
    if not {len(mean), len(std)} <= {1, 3} or min(std) <= 0:
        raise InputError(
            "mean and std (--mean, --std) take one number or three, those of std above 0"
        )
    pixel_range = pixel_range or _range_of(mean)
    return replace(preparation, mean=mean, std=std, pixel_range=pixel_range, source="given")


def with_channels(
    preparation: Preparation, channels: tuple[int, int] | None, name: object
) -> Preparation:
    """Prepare grey photos for a network whose first convolution takes one channel.

    Args:
        preparation: the preparation for RGB.
        channels: those that the first convolution takes, and those that it was given.
        name: the network's, for the error.

    Raises:
        InputError: it takes neither 1 channel nor 3.
    """
    takes, got = channels or (3, 3)
    if got != 3 or takes == 3:
        return preparation
    if takes != 1:
        raise InputError(
            f"the network {name} takes pictures of {takes} channels; photos have 3, or 1 where a "
            "network takes grey ones"
        )
    mean, std = ((sum(each) / len(each),) for each in (preparation.mean, preparation.std))
    return replace(preparation, mean=mean, std=std, channels=1)


# --- The network's own word ---


def _by_its_modules(model: nn.Module, size: int) -> Preparation | None:
    """Return what modules with mean and std say, evaluated inside the network or carried along."""
    carried = [part for name in TRANSFORMS for part in _parts(getattr(model, name, None))]
    normalisers = [module for module in (*model.modules(), *carried) if _normalisation(module)]
    if not normalisers:
        return None
    more = [part for part in carried if isinstance(part, nn.Module)]
    finished = try_out(model, size, more).finished
    inside = next((module for module in normalisers if module in finished), None)
    if inside is not None:
        mean, source = (_normalisation(inside) or ((), ()))[0], f"its own {type(inside).__name__}"
        base, pixel_range = _by_configuration(model) or Preparation(), _range_of(mean)
        return replace(base, mean=(0.0,), std=(1.0,), pixel_range=pixel_range, source=source)
    return _of_transforms([*normalisers, *carried], "its own transforms")


def _by_configuration(model: nn.Module) -> Preparation | None:
    """Return what timm's configuration of a network, or of one inside, says."""
    for module in model.modules():
        for name in ("pretrained_cfg", "default_cfg"):
            config = getattr(module, name, None)
            config = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
            if numbers := _numbers_of(config.get):
                sides = config.get("input_size") or (SIZE,)
                interpolation = _interpolation(config.get("interpolation"))
                return Preparation(
                    *numbers, min(sides[-2:]), interpolation, _range_of(numbers[0]), 3, name
                )
    return None


def _of_transforms(parts: list, source: str) -> Preparation | None:
    """Return what the last of torchvision's transforms say of mean, std, size, interpolation."""
    numbers = next((numbers for part in parts[::-1] if (numbers := _normalisation(part))), None)
    if numbers is None:
        return None
    sizes = (getattr(part, name, None) for part in parts[::-1] for name in ("crop_size", "size"))
    size = next((each for each in sizes if each), SIZE)
    interpolation = next(
        (each for part in parts if (each := getattr(part, "interpolation", None))), None
    )
    side = size if isinstance(size, int) else min(size)
    return Preparation(
        *numbers, side, _interpolation(interpolation), _range_of(numbers[0]), 3, source
    )


def _parts(transform: Any) -> Iterator[Any]:
    """Yield a transform, or those that it is composed of."""
    inner = getattr(transform, "transforms", None)
    if isinstance(inner, (list, tuple)):
        for each in inner:
            yield from _parts(each)
    elif transform is not None:
        yield transform


def _normalisation(module: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and std of what holds them as torchvision's `Normalize` does.

    Single numbers count only under a name that says so: others may be those of noise.
    """
    numbers = _numbers_of(lambda name: getattr(module, name, None))
    named = re.search("normali[sz]|preprocess", type(module).__name__, re.IGNORECASE)
    return numbers if numbers and (named or len(numbers[0]) == len(numbers[1]) == 3) else None


def _numbers_of(get) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and std, each of one number or three."""
    pair = []
    for name in ("mean", "std"):
        try:
            numbers = torch.as_tensor(get(name)).double().flatten().tolist()
        except (TypeError, ValueError, RuntimeError):
            return None
        pair.append(tuple(round(number, 7) for number in numbers))  # of float32 buffers
    mean, std = pair
    return (mean, std) if {len(mean), len(std)} <= {1, 3} and min(std) > 0 else None


def _range_of(mean: tuple[float, ...]) -> int:
    """Return the largest value of the pixels that a mean is the mean of."""
    return 255 if max(mean) > 1 else 1


def _interpolation(value: Any) -> str:
    """Return an interpolation's name; bicubic where it is none of PIL's."""
    name = str(getattr(value, "value", value))
    return (
        name
        if name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
        else ("bicubic")
    )


def _fixed_size(model: nn.Module) -> int | None:
    """Return the side of the pictures that a network is built for.

    It is told by an attribute or by position embeddings; None where neither tells.
    """
    for module in (*model.modules(), getattr(model, "config", None)):
        for name in ("img_size", "image_size"):
            size = getattr(module, name, None)
            size = min(size) if isinstance(size, (tuple, list)) and size else size
            if isinstance(size, int) and size > 1:
                return size
    patches = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride]
    embeddings = [p for name, p in model.named_parameters() if re.search("pos(ition)?_?emb", name)]
    for extra in range(EXTRA_TOKENS + 1):
        for tokens in (each.shape[1] - extra for each in embeddings[:1] if each.dim() == 3):
            if patches and tokens > 1 and int(tokens**0.5) ** 2 == tokens:
                return int(tokens**0.5) * patches[0].stride[0]
    return None
