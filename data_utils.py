"""Photos and their classes: the course's 25, photos in installed packages, and your own.

As a command it brings the course's data into the project, as `files/course.py` does, and files of
other editions that hold the same kind of arrays.
"""

import glob
import io
import itertools
import logging
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from errors import InputError, cause, quoted
from files.atomic import is_file, is_folder, sha256_of
from files.class_names import imagenet_classes, parse_label, read_class_names
from files.course import course_file, is_official, main, package_file
from image_utils import check_image, open_image

__all__ = [
    "imagenet_classes",
    "load_imagenet_val",
    "load_images",
    "open_photos",
    "parse_label",
    "read_class_names",
]

log = logging.getLogger(__name__)

PHOTOS = "data/imagenet_val_25.npz"
PHOTO_SIZE = 224  # pixels a side, as the course's photos and the networks' training
PHOTO_ARRAYS = "X of shape (N, H, W, 3), uint8, and y of shape (N,), classes from 0 to 999"
# Of the reference values: name → shape, without ones.
VALUES = {"cl_out": (), "gm_out": (128, 128), "sl_out": (), "tv_out": ()}
FALLBACK = (
    "photos: five that installed packages ship, since data/imagenet_val_25.npz is not there; "
    "bash data/get_imagenet_val.sh fetches the course's"
)

LONGEST = 20  # long side of a whole photo over its short side, at most
# Real photos that installed packages ship: package, file in it, ImageNet class.
PACKAGE_PHOTOS = (
    ("skimage", "data/chelsea.png", 285),
    ("skimage", "data/coffee.png", 967),
    ("skimage", "data/camera.png", 872),
    ("skimage", "data/motorcycle_left.png", 665),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 652),
)


def load_imagenet_val(
    num: int | None = None, path: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the course's validation photos, or, with a warning, five that installed packages ship.

    Args:
        num: how many of them, from the first; None for all.
        path: the file; None looks for it.

    Returns:
        X: uint8 (N, 224, 224, 3), RGB; N is 25 at most.
        y: int64 (N,), ImageNet class ids.
        class_names: class id → name, 1000 of them.

    Raises:
        InputError: the file cannot be read, or holds something else.
        ValueError: `num` is not a whole number from 0.
    """
    X, y, class_names = _photos(num, path)
    return X[:num], y[:num], class_names


def load_images(
    num: int | None = None, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[str], dict[int, str]]:
    """Return photos as the course's 2023 edition does: `num` drawn at random, or all in order.

    Args:
        num: how many; None for all.
        seed: makes the choice repeatable; None draws anew each time.

    Returns:
        X, y, class_names: as `load_imagenet_val`; with, before the last, the first synonym of each
            photo's class.

    Raises:
        InputError, ValueError: as `load_imagenet_val`.
    """
    X, y, class_names = _photos(num)
    if num is not None:
        chosen = np.random.default_rng(seed).permutation(len(X))[:num]
        X, y = X[chosen], y[chosen]
    return X, y, [class_names[int(label)].split(",")[0] for label in y], class_names


def _photos(
    num: int | None, path: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the course's photos or the packages'; warn of what the caller may not expect."""
    if num is not None and (not isinstance(num, int | np.integer) or num < 0):
        raise ValueError(f"num must be a whole number from 0, or None for all, got {num!r}")
    course = course_photos(path)
    photos = course or package_photos()
    if course is None:
        warnings.warn(FALLBACK, stacklevel=3)
    if num is not None and num > len(photos[0]):
        warnings.warn(f"photos: {len(photos[0])} are there, {num} were asked for", stacklevel=3)
    return photos


def course_photos(
    path: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[int, str]] | None:
    """Return the course's 25 photos, their classes and all class names; None if they are not there.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = path or course_file(PHOTOS)
    if path is None:
        return None
    try:
        official = is_official(PHOTOS, sha256_of(Path(path)))
        # a pickle runs code: that of a verified file alone
        with np.load(path, allow_pickle=official) as course:
            X, y = course["X"], course["y"].astype(np.int64)
            names = course["label_map"].item() if official else {}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read the course's photos in {quoted(path)}: {cause(error)}"
        ) from error
    if not _are_photos(X, y):
        raise InputError(f"{quoted(path)} holds no photos: {PHOTO_ARRAYS}")
    # The course's map lacks class 134.
    return X, y, imagenet_classes() | {int(k): str(v) for k, v in names.items()}


def _are_photos(X: np.ndarray, y: np.ndarray) -> bool:
    right = X.dtype == np.uint8 and X.shape[3:] == (3,) and y.shape == X.shape[:1]
    return right and y.dtype.kind in "iu" and bool(((y >= 0) & (y < 1000)).all())


def fault(name: str, content: bytes) -> str:
    """Say what is wrong with a file that stands in for one of the course's; "" if nothing is."""
    try:
        if not name.endswith(".npz"):
            Image.open(io.BytesIO(content)).load()
            return ""
        with np.load(io.BytesIO(content)) as arrays:
            if name == PHOTOS:
                return "" if _are_photos(arrays["X"], arrays["y"]) else f"not {PHOTO_ARRAYS}"
            values = {key: arrays[key] for key in VALUES}
    except Exception as error:  # of a zip's decompressors, of Pillow's decoders, a missing array, …
        return f"it cannot be read: {cause(error)}"
    for key, shape in VALUES.items():
        found = values[key]
        if np.squeeze(found).shape != shape or not (np.isfinite(found) & (found >= 0)).all():
            return f"{key} is not what the losses give"
    return ""


def package_photos() -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return five photos from installed packages, their classes and all class names."""
    return (
        open_photos(package_files()),
        np.array([label for *_, label in PACKAGE_PHOTOS], dtype=np.int64),
        imagenet_classes(),
    )


def package_files() -> list[Path]:
    """Return the files of `package_photos`."""
    return [package_file(package, name) for package, name, _ in PACKAGE_PHOTOS]


# --- Photos of one's own ---


@dataclass(frozen=True)
class Photo:
    """An opened photo."""

    name: str  # its file's
    pixels: np.ndarray  # uint8 (H, W, 3), RGB


class PhotoSet(NamedTuple):
    """Photos, and what comes with them."""

    photos: Iterable[Photo]
    labels: np.ndarray | None = None  # int64 (N,), ImageNet's classes
    class_names: Mapping[int, str] | None = None  # class id → name


class Photos:
    """Photos in files and folders, opened one by one each time: memory holds one."""

    def __init__(
        self,
        paths: Iterable[str | Path],
        size: int = PHOTO_SIZE,
        whole: bool = False,
        num: int | None = None,
        interpolation: str = "bicubic",
    ):
        """Find the photos; those named themselves must begin like photos.

        Args:
            paths: files, folders, and patterns with wildcards; of a folder, every image directly in
                it, in the order of names. What is no image in a folder is left out, with a notice
                in the log.
            size: pixels of the short side.
            whole: keep the photos' proportions; otherwise they are cut to the middle square.
            num: open no more than so many.
            interpolation: how their size is changed, the name of one of Pillow's, in small letters.

        Raises:
            InputError: a file that is no photo, a folder without any file, a pattern that fits
                nothing, a web address, or an empty name.
        """
        self.size, self.whole, self.num, self.interpolation = size, whole, num, interpolation
        # Each with the folder that it was found in
        self.files = [file for path in paths for file in _find(path)]
        self._warned: set[str | Path] = set()  # the files whose notice has been given
        for path, folder in self.files[:num]:
            if folder is None:
                check_image(path)

    def __length_hint__(self) -> int:
        """Return how many photos there are at most."""
        return len(self.files[: self.num])

    def __iter__(self) -> Iterator[Photo]:
        """Open photo after photo."""
        return itertools.islice(self._open(), self.num)

    def _open(self) -> Iterator[Photo]:
        for folder, files in itertools.groupby(self.files, key=lambda file: file[1]):
            empty = folder is not None
            for path, _ in files:
                try:
                    photo = self._read(path)
                except InputError as error:
                    if folder is None:
                        raise
                    if path not in self._warned:
                        log.warning("left out: %s", error)
                    self._warned.add(path)
                else:
                    empty = False
                    yield photo
            if empty:
                raise _no_image_in(folder)

    def _read(self, path: str | Path) -> Photo:
        image = open_image(path)
        if self.whole and max(image.size) > LONGEST * min(image.size):
            raise InputError(
                f"{quoted(path)} is {image.width}×{image.height} pixels; as a whole its long side "
                f"may be at most "
                f"{LONGEST} times the short one"
            )
        return Photo(Path(path).name, frame(image, self.size, self.whole, self.interpolation))


def find_photos(
    images: Iterable[str | Path] | None,
    size: int = PHOTO_SIZE,
    whole: bool = False,
    num: int | None = None,
    interpolation: str = "bicubic",
) -> PhotoSet:
    """Return the photos in files and folders, not opened yet; without any, the course's.

    Args:
        images, size, whole, num, interpolation: as for `Photos`; without `images`, the course's
            first `num`, 5 by default, or, with a notice, those that installed packages ship.

    Raises:
        InputError: a photo cannot be used.
    """
    if images is not None:
        return PhotoSet(Photos(images, size, whole, num, interpolation))
    num = num or 5
    if (course := course_photos()) is None:
        log.warning(FALLBACK)
        labels = np.array([label for *_, label in PACKAGE_PHOTOS[:num]], dtype=np.int64)
        return PhotoSet(Photos(package_files(), size, whole, num, interpolation), labels)
    X, y, class_names = course
    photos = [
        Photo(f"photo_{i}", frame(Image.fromarray(x), size, whole, interpolation))
        for i, x in enumerate(X[:num], start=1)
    ]
    return PhotoSet(photos, y[:num], class_names)


def open_photos(paths: Iterable[str | Path], size: int = PHOTO_SIZE) -> np.ndarray:
    """Open photos, cut to the middle square and brought to one size.

    Args:
        paths: files and folders, as for `Photos`.
        size: pixels a side.

    Returns:
        uint8 (N, size, size, 3), RGB.

    Raises:
        InputError: a file that cannot be opened as a photo, a folder without any, or an empty name.
        ValueError: `paths` is a single path, or `size` is below 1.
    """
    if isinstance(paths, (str, Path)):
        raise ValueError(f"paths must be a list of paths, got the single one {quoted(paths)}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    photos = Photos(paths, size)
    # One array from the start: 400 photos take 60 MB, and putting single ones together would take
    # twice that.
    X, count = np.empty((len(photos.files), size, size, 3), np.uint8), 0
    for count, photo in enumerate(photos, start=1):
        X[count - 1] = photo.pixels
    return X[:count]


def frame(
    image: Image.Image, size: int, whole: bool = False, interpolation: str = "bicubic"
) -> np.ndarray:
    """Return a picture or its middle square, short side `size` pixels: uint8 (H, W, 3)."""
    resampling = Image.Resampling[interpolation.upper()]
    if not whole:
        return np.asarray(ImageOps.fit(image, (size, size), resampling))
    scale = size / min(image.size)
    return np.asarray(image.resize([round(side * scale) for side in image.size], resampling))


def _find(name: str | Path) -> list[tuple[str | Path, Path | None]]:
    """Find the files that a name stands for, each with its folder (None: it was named itself)."""
    path = Path(name)
    if not str(name):  # as of an unset variable; Path takes it for the working directory
        raise InputError("the name of a photo or folder is empty")
    if is_folder(path):
        return _files_in(path)
    if is_file(path) or not glob.has_magic(str(name)):
        return [(name, None)]
    # A shell that knows no wildcards has left them to us. Path.glob takes no absolute patterns.
    matches = sorted(glob.glob(str(name), recursive=True))  # noqa: PTH207
    if not matches:
        raise InputError(f"no file or folder fits the pattern {quoted(name)}")
    return [
        file
        for match in matches
        for file in (_files_in(Path(match)) if is_folder(Path(match)) else [(match, None)])
    ]


def _files_in(folder: Path) -> list[tuple[str | Path, Path | None]]:
    """Return the files in a folder that may be photos, sorted; hidden ones are left out."""
    try:
        files = sorted(
            p for p in folder.iterdir() if not p.name.startswith(".") and not is_folder(p)
        )
    except OSError as error:
        raise InputError(f"cannot read the folder {quoted(folder)}: {cause(error)}") from error
    if not files:
        raise _no_image_in(folder)
    return [(file, folder) for file in files]


def _no_image_in(folder: Path) -> InputError:
    """Return the error for a folder without an image."""
    message = f"the folder {quoted(folder)} holds no image"
    if any(is_folder(path) for path in folder.iterdir() if not path.name.startswith(".")):
        message += (
            f"; its subfolders are not searched, but {quoted(f'{folder}/*/')} names all of them"
        )
    return InputError(message)


if __name__ == "__main__":
    sys.exit(main(fault=fault))
