"""Photos to tensors and back: opening any file as RGB, normalising, rescaling, blurring."""

import contextlib
import functools
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin, features
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile
from torchvision.transforms import functional as TF

from errors import InputError, cause, quoted

# Without it HEIC photos are refused, and the package is named
with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()

__all__ = [
    "SQUEEZENET_MEAN",
    "SQUEEZENET_STD",
    "InputError",
    "blur_image",
    "check_image",
    "deprocess",
    "deprocess_image",
    "image_from_url",
    "load_image",
    "open_image",
    "preprocess",
    "preprocess_image",
    "rescale",
    "to_batch",
]

Values = TypeVar("Values", torch.Tensor, np.ndarray)

# Per-channel mean and standard deviation of ImageNet's RGB values in [0, 1].
SQUEEZENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
SQUEEZENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)

# What it says of a damaged file, our error says
logging.getLogger("PIL").addHandler(logging.NullHandler())
# A megabyte per text chunk is too little for what editors write; the 64 MB for all of them together
# stay.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# No others: EPS starts Ghostscript, and some rare formats' decoders run for hours.
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "GIF", "BMP", "JPEG2000")
ORIENTATIONS = {  # EXIF orientation → what puts the picture right
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Mode → profiles that fit; other modes: RGB's
PROFILES = {"CMYK": ("CMYK",), "L": ("GRAY", "RGB"), "LAB": ()}


def open_image(path: str | Path) -> Image.Image:
    """Open a photo as an 8-bit RGB picture in sRGB the right way up.

    The formats are JPEG, PNG, WebP, TIFF, GIF, BMP, JPEG 2000, AVIF where Pillow has it, and HEIC
    where the package `pillow-heif` is installed. The file's name does not matter, only its content.

    EXIF orientation is applied, and the embedded colour profile unless it is broken. Grey, palette,
    1-bit, CMYK and 16-bit pictures are brought to RGB, transparent ones put on white; of an
    animation the first frame is taken. A JPEG or JPEG 2000 of more than 89 megapixels comes at half
    its width and height.

    Raises:
        InputError: no such file, not a regular file, not a photo, damaged, or above 178 megapixels,
            from where on Pillow suspects an attack.
    """
    with _opened(path) as image:
        if isinstance(image, TiffImageFile):
            image.info["white is zero"] = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
        _decode_at_half_size(image)
        return _to_rgb(_upright(image))


def check_image(path: str | Path) -> None:
    """Raise InputError, as `open_image` does, unless a file begins like a photo; decode nothing."""
    with _opened(path):
        pass


@contextlib.contextmanager
def _opened(name: str | Path) -> Iterator[Image.Image]:
    """Open a picture without decoding it. Errors, also later ones, become InputErrors."""
    path = Path(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata and size; what matters is raised
        try:
            if not path.exists():
                if re.match(r"(?i)(https?|ftp):/", str(name)):
                    raise InputError(
                        f"{quoted(name)} is a web address; save the photo and give the file's name"
                    )
                raise InputError(f"{quoted(name)}: no such file")
            if not path.is_file():
                raise InputError(f"{quoted(name)} is not a file; an image file is expected")
            Image.init()
            with Image.open(
                path, formats=[name for name in FORMATS if name in Image.OPEN]
            ) as image:
                yield image
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            if getattr(error, "errno", None):
                raise InputError(f"cannot read {quoted(name)}: {cause(error)}") from error
            raise InputError(
                f"{quoted(name)} cannot be read as an image: {_plain(error, path)}"
            ) from error


def _plain(error: Exception, path: Path) -> str:
    """Say what Pillow's error means and, where that can be known, what helps."""
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        return (
            f"it has more than {most} megapixels, which looks like a decompression bomb; save a "
            f"smaller copy of it"
        )
    if not isinstance(error, Image.UnidentifiedImageError):
        return cause(error)
    with path.open("rb") as file:
        head = file.read(32)  # of a HEIC or AVIF file: length, "ftyp", and the brands it claims
    if head[4:8] == b"ftyp" and b"avi" in head[8:] and not features.check("avif"):
        return "it is AVIF, which Pillow reads from version 11.3 on: pip install --upgrade pillow"
    if (
        head[4:8] == b"ftyp"
        and head[8:11] in (b"hei", b"hev", b"mif", b"msf")
        and "HEIF" not in Image.OPEN
    ):
        return "it is HEIC, which takes a package to read: pip install pillow-heif"
    return f"it is in no image format for photos ({', '.join(FORMATS)})"


def _decode_at_half_size(image: Image.Image) -> None:
    """Decode a picture above Pillow's limit at a smaller size, where the format allows it."""
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        if isinstance(image, Jpeg2KImageFile) and image.fp and _is_stored_in_halves(image.fp):
            image.reduce = 1
        # Of a JPEG; for other formats it does nothing
        image.draft(None, (image.width // 2, image.height // 2))


def _is_stored_in_halves(file: IO[bytes]) -> bool:
    """Return True if a JPEG 2000 file holds its picture at half size: by its header, A.6.1."""
    file.seek(0)
    header = file.read(100_000).partition(b"\xff\x4f\xff\x51")[2]
    # After length, style, order, layers and colour transform
    return header.partition(b"\xff\x52")[2][7:8] > b"\0"


def _upright(image: Image.Image) -> Image.Image:
    """Decode a picture and turn it by its EXIF orientation.

    ImageOps.exif_transpose fails where EXIF cannot be rewritten.
    """
    image.load()
    turn = None
    with contextlib.suppress(Exception):  # EXIF that cannot be read says nothing
        turn = ORIENTATIONS.get(image.getexif().get(0x0112, 1))
    return image.transpose(turn) if turn is not None else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Bring a decoded picture of any mode to 8-bit RGB in sRGB; transparency goes on white."""
    profile, alpha = image.info.get("icc_profile"), None
    if image.mode.startswith(("I", "F")):
        image, alpha = _eight_bits(image)
    elif image.mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image, alpha = (
            image.convert("L") if image.mode in ("L", "LA", "La") else rgba,
            rgba.getchannel("A"),
        )
    rgb = _in_srgb(image, profile)
    if alpha is not None:
        rgb.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")
    rgb.info.pop("icc_profile", None)  # it no longer holds
    return rgb


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scale 16-bit, 32-bit or float grey to 0…255, from 0…1, 0…255 or 0…65535 by its maximum.

    Returns:
        Mode L; and its opacity, where one value stands for transparency.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("its pixels are not all finite numbers")
    integers = not image.mode.startswith("F")
    top = 65535 if image.mode.startswith("I;16") else values.max(initial=0)
    scale = 255 if top <= 1 and not integers else 1 if top <= 255 else 255 / max(top, 65535)
    pixels = np.rint(values * scale).clip(0, 255).astype(np.uint8)
    if image.info.get("white is zero"):  # Pillow heeds that up to 8 bits only
        pixels = 255 - pixels
    grey = Image.fromarray(pixels)
    clear = image.info.get("transparency")
    return grey, Image.fromarray(np.uint8(255) * (values != clear)) if isinstance(
        clear, int
    ) else None


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an 8-bit picture in sRGB by its profile; a broken or unfit profile is ignored."""
    if profile:
        with contextlib.suppress(OSError, ValueError, ImageCms.PyCMSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if space in PROFILES.get(image.mode, ("RGB",)):
                mode = "L" if space == "GRAY" else space
                transform = ImageCms.buildTransform(
                    source, ImageCms.createProfile("sRGB"), mode, "RGB"
                )
                return transform.apply(image.convert(mode))
    return image.convert("RGB")


def image_from_url(url: str) -> np.ndarray:
    """Fetch a picture: uint8 array (H, W, 3).

    Args:
        url: an http or https address.

    Raises:
        InputError: another kind of address, also after a redirection; the picture cannot be fetched
            within seconds, is larger than 64 MB, or is no photo.
    """
    # The one need of another module, so that this one can be copied alone
    from files.download import download

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        download(url, path, sha256="")
        return np.asarray(open_image(path))


def load_image(filename: str | Path, size: int | None = None) -> np.ndarray:
    """Read a picture: uint8 (H, W, 3); with `size`, its short side gets that many pixels."""
    return np.asarray(_resized(open_image(filename), size))


def _resized(image: Image.Image, size: int | tuple[int, int] | None) -> Image.Image:
    """Resize a picture to a short side of `size` pixels or to (height, width); None: leave it."""
    if size is None:
        return image
    if not isinstance(size, int):
        height, width = size
        if min(height, width) < 1 or height * width > 1e8:
            raise ValueError(f"size must be at least (1, 1) and not too large, got {size}")
        return TF.resize(image, [height, width])
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if size**2 * max(image.size) / min(image.size) > 1e8:
        raise InputError(
            f"a picture of {image.width}×{image.height} pixels is too large with a short side of "
            f"{size}"
        )
    return TF.resize(image, size)


def preprocess_image(img: np.ndarray) -> np.ndarray:
    """Normalise an RGB array (..., 3) in 0…255 by ImageNet's mean and deviation: float32."""
    if np.ndim(img) < 1 or np.shape(img)[-1] != 3:
        raise ValueError(f"img must have shape (..., 3), got {np.shape(img)}")
    return (np.asarray(img, dtype=np.float32) / 255 - SQUEEZENET_MEAN) / SQUEEZENET_STD


def to_batch(X: np.ndarray) -> torch.Tensor:
    """Normalise uint8 photos (N, H, W, 3): float32 tensor (N, 3, H, W), channels-last in memory."""
    X = np.asarray(X)
    if X.dtype != np.uint8 or X.ndim != 4 or X.shape[3] != 3:
        raise ValueError(f"X must be uint8 of shape (N, H, W, 3), got {X.dtype} of shape {X.shape}")
    return torch.from_numpy(preprocess_image(X)).permute(0, 3, 1, 2)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the layout of networks and images in which a device's convolutions are quickest."""
    # On a GPU channels-last is quicker in TF32 alone, which rounds
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


def deprocess_image(img: np.ndarray, rescale: bool = False) -> np.ndarray:
    """Undo `preprocess_image`: uint8 array of the same shape.

    Values outside 0…255 are clipped, or, with `rescale`, the whole range is stretched to 0…255
    first.
    """
    values = np.asarray(img, dtype=np.float32) * SQUEEZENET_STD + SQUEEZENET_MEAN
    if not np.isfinite(values).all():
        raise ValueError("img has values that are not finite (NaN or infinity)")
    values = _stretched(values) if rescale else values
    return np.rint(255 * values).clip(0, 255).astype(np.uint8)


def preprocess(img: Image.Image, size: int | tuple[int, int] | None = 224) -> torch.Tensor:
    """Turn a PIL picture into a normalised float32 tensor (1, 3, H, W).

    Args:
        img: a picture of any mode.
        size: pixels of the short side, or (height, width); None leaves the size as it is.

    Raises:
        ValueError: `img` is not a PIL picture, or a size below 1.
        InputError: a picture that would be too large at that size.
    """
    if not isinstance(img, Image.Image):
        raise ValueError(f"img must be a PIL image, got {type(img).__name__}")
    tensor = TF.to_tensor(_resized(_to_rgb(img), size))
    return TF.normalize(tensor, SQUEEZENET_MEAN.tolist(), SQUEEZENET_STD.tolist())[None]


def deprocess(img: torch.Tensor, should_rescale: bool = True) -> Image.Image:
    """Turn a normalised tensor into a PIL RGB picture.

    Args:
        img: (3, H, W), or (N, 3, H, W), of which the first picture is taken.
        should_rescale: stretch the values to the full range first; otherwise those outside 0…255
            are clipped.
    """
    if not isinstance(img, torch.Tensor):
        raise ValueError(f"img must be a tensor, got {type(img).__name__}")
    img = img[0] if img.dim() == 4 and len(img) else img
    if img.dim() != 3 or img.shape[0] != 3:
        raise ValueError(f"img must have shape (N, 3, H, W) or (3, H, W), got {tuple(img.shape)}")
    values = img.detach().permute(1, 2, 0).cpu().float().numpy()
    return Image.fromarray(deprocess_image(values, rescale=should_rescale))


def rescale(x: Values) -> Values:
    """Stretch a tensor's (or array's) values to [0, 1]; a constant one gives zeros."""
    low, high = x.min(), x.max()
    return (x - low) / (high - low) if high > low else x * 0


_stretched = rescale  # a name that no argument hides


def clip_pixels(X: torch.Tensor) -> torch.Tensor:
    """Return normalised images (N, 3, H, W) with their pixels clipped to 0…255."""
    mean, std = _normalisation(X)
    return X.clamp(-mean / std, (1 - mean) / std)


def round_to_8_bits(X: torch.Tensor) -> torch.Tensor:
    """Return normalised images (N, 3, H, W) as an 8-bit file and `preprocess` give them back."""
    mean, std = _normalisation(X)
    return ((255 * (X * std + mean)).round().clamp(0, 255) / 255 - mean) / std


def _normalisation(X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ImageNet's mean and deviation, each (3, 1, 1), in X's dtype and on its device."""
    mean, std = (torch.from_numpy(a).to(X).view(3, 1, 1) for a in (SQUEEZENET_MEAN, SQUEEZENET_STD))
    return mean, std


def as_type(X: torch.Tensor, dtype: torch.dtype | torch.device | type | str) -> torch.Tensor:
    """Return a tensor in another floating-point type or on another device.

    Args:
        X: any tensor.
        dtype: a `torch.dtype`, a `torch.device`, or an old tensor type such as
            `torch.cuda.FloatTensor`.
    """
    try:
        result = X.to(dtype) if isinstance(dtype, torch.device) else X.type(dtype)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"dtype {dtype!r} cannot be used here: {error}") from error
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        raise ValueError(f"dtype must be a floating-point type or a device, got {dtype!r}")
    return result


def blur_image(X: torch.Tensor, sigma: float = 1) -> torch.Tensor:
    """Blur along height and width with a Gaussian, in place, on the tensor's device.

    Equals `scipy.ndimage.gaussian_filter1d` along both axes: kernel cut at 4 sigma, borders
    mirrored with the edge repeated.

    Args:
        X: float tensor (N, C, H, W), changed in place.
        sigma: standard deviation in pixels; 0 leaves the picture as it is.

    Returns:
        X.

    Raises:
        ValueError: no float tensor of four dimensions, or a sigma that is negative or not finite.
    """
    if not isinstance(X, torch.Tensor) or not X.is_floating_point() or X.dim() != 4:
        got = (
            f"{X.dtype} of shape {tuple(X.shape)}"
            if isinstance(X, torch.Tensor)
            else type(X).__name__
        )
        raise ValueError(f"X must be a float tensor (N, C, H, W), got {got}")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma must be a finite number from 0, got {sigma}")
    radius = int(4 * sigma + 0.5)
    if radius and X.numel():
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        weights = (kernel / kernel.sum()).tolist()
        with torch.no_grad():
            X.copy_(_blur_axis(_blur_axis(X, weights, 2), weights, 3))
    return X


def _blur_axis(X: torch.Tensor, weights: list[float], axis: int) -> torch.Tensor:
    """Convolve along one axis, as a sum of shifts; borders are mirrored (b a | a b c d | d c)."""
    radius, side = len(weights) // 2, X.shape[axis]
    period = torch.arange(-radius, side + radius, device=X.device) % (2 * side)
    padded = X.index_select(axis, torch.minimum(period, 2 * side - 1 - period))
    shifts = (weight * padded.narrow(axis, i, side) for i, weight in enumerate(weights))
    return functools.reduce(torch.add, shifts)
