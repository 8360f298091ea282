"""Photos and their classes: the course's 25 ImageNet photos, photos that installed packages ship, and your own.

As a command it brings the course's data into the project, as `course_files.py` does.
"""

import logging
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision.models import SqueezeNet1_1_Weights

import course_files
from course_files import course_file, package_file
from errors import InputError, cause, quoted
from file_utils import is_folder
from image_utils import open_image

__all__ = ["imagenet_classes", "load_imagenet_val", "load_images", "open_photos", "parse_label"]

log = logging.getLogger(__name__)

PHOTO_SIZE = 224  # pixels a side, as the course's photos and the networks' training
FALLBACK = (
    "photos: five that installed packages ship, since data/imagenet_val_25.npz is not there; "
    "bash data/get_imagenet_val.sh fetches the course's"
)

# Real photos that installed packages ship: package, file in it, ImageNet class.
PACKAGE_PHOTOS = (
    ("skimage", "data/chelsea.png", 285),
    ("skimage", "data/coffee.png", 967),
    ("skimage", "data/camera.png", 872),
    ("skimage", "data/motorcycle_left.png", 665),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 652),
)


def load_imagenet_val(num: int | None = None) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the course's validation photos, or, with a warning, five that installed packages ship.

    Args:
        num: how many of them, from the first; None for all.

    Returns:
        X: uint8 (N, 224, 224, 3), RGB; N is 25 at most.
        y: int64 (N,), ImageNet class ids.
        class_names: class id → name, 1000 of them.

    Raises:
        InputError: `data/imagenet_val_25.npz` is not the course's file.
        ValueError: `num` is not a whole number from 0.
    """
    X, y, class_names = _photos(num)
    return X[:num], y[:num], class_names


def load_images(
    num: int | None = None, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[str], dict[int, str]]:
    """Return photos as the course's edition of 2023 does: `num` of them drawn at random, or all in order.

    Args:
        num: how many; None for all.
        seed: makes the choice repeatable; None draws anew each time.

    Returns:
        X, y, class_names: as `load_imagenet_val`; with, before the last, the first synonym of each photo's class.

    Raises:
        InputError, ValueError: as `load_imagenet_val`.
    """
    X, y, class_names = _photos(num)
    if num is not None:
        chosen = np.random.default_rng(seed).permutation(len(X))[:num]
        X, y = X[chosen], y[chosen]
    return X, y, [class_names[int(label)].split(",")[0] for label in y], class_names


def _photos(num: int | None) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the course's photos or the packages'; warn of what the caller may not expect."""
    if num is not None and (not isinstance(num, int | np.integer) or num < 0):
        raise ValueError(f"num must be a whole number from 0, or None for all, got {num!r}")
    course = course_photos()
    photos = course or package_photos()
    if course is None:
        warnings.warn(FALLBACK, stacklevel=3)
    if num is not None and num > len(photos[0]):
        warnings.warn(f"photos: {len(photos[0])} are there, {num} were asked for", stacklevel=3)
    return photos


def course_photos() -> tuple[np.ndarray, np.ndarray, dict[int, str]] | None:
    """Return the course's 25 photos, their classes and the names of all classes; None if they are not there.

    Raises:
        InputError: the file is another one than the course's.
    """
    path = course_file("data/imagenet_val_25.npz")
    if path is None:
        return None
    with np.load(path, allow_pickle=True) as course:  # verified by course_file
        X, y, names = course["X"], course["y"], course["label_map"].item()
    # The course's map lacks class 134.
    return X, y.astype(np.int64), imagenet_classes() | {int(k): str(v) for k, v in names.items()}


def package_photos() -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return five photos that installed packages ship, their classes and the names of all classes."""
    X = open_photos([package_file(package, name) for package, name, _ in PACKAGE_PHOTOS])
    return X, np.array([label for *_, label in PACKAGE_PHOTOS], dtype=np.int64), imagenet_classes()


def imagenet_classes() -> dict[int, str]:
    """Return ImageNet's 1000 classes, id → name, as torchvision lists them."""
    return dict(enumerate(SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]))


def open_photos(paths: Iterable[str | Path], size: int = PHOTO_SIZE) -> np.ndarray:
    """Open photos of any kind that Pillow reads, cut to the middle square and brought to one size.

    Args:
        paths: files and folders; of a folder, every image directly in it, in the order of names. What is no image
            in a folder is left out, with a notice in the log.
        size: pixels a side.

    Returns:
        uint8 (N, size, size, 3), RGB.

    Raises:
        InputError: a file that cannot be read as an image, a folder without any, or an empty name.
        ValueError: `paths` is a single path, or `size` is below 1.
    """
    if isinstance(paths, (str, Path)):
        raise ValueError(f"paths must be a list of paths, got the single one {quoted(paths)}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    paths = list(paths)
    if "" in map(str, paths):  # as of an unset variable; Path would take it for the working directory
        raise InputError("the name of a photo or folder is empty")
    sources = [(path, _entries(path) if is_folder(path) else None) for path in map(Path, paths)]
    # One array from the start: 400 photos take 60 MB, and putting single ones together would take twice that.
    X = np.empty((sum(1 if entries is None else len(entries) for _, entries in sources), size, size, 3), np.uint8)
    count = 0
    for path, entries in sources:
        before = count
        for photo in [path] if entries is None else entries:
            try:
                X[count] = ImageOps.fit(open_image(photo), (size, size), Image.Resampling.BICUBIC)
                count += 1
            except InputError as error:
                if entries is None:
                    raise
                log.warning("left out: %s", error)
        if count == before:
            raise InputError(f"the folder {quoted(path)} holds no image")
    return X[:count]


def _entries(folder: Path) -> list[Path]:
    """What may be a photo in a folder, by name; hidden files and subfolders are not meant."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not is_folder(p))
    except OSError as error:
        raise InputError(f"cannot read the folder {quoted(folder)}: {cause(error)}") from error


def parse_label(text: str, class_names: dict[int, str]) -> int:
    """The class that a text means: an id, a name, one of its synonyms, or a part that only one name has.

    Args:
        text: for example "285", "Egyptian cat" or "egyptian"; case counts only between equal names.
        class_names: class id → name, synonyms separated by commas.

    Raises:
        InputError: no class, several (they are listed), or an id out of range.
    """
    wanted = " ".join(text.lower().split())
    if wanted.removeprefix("-").isdecimal() and len(wanted) < 20:
        if int(wanted) not in class_names:
            raise InputError(f"class {wanted} is out of range; ids go from {min(class_names)} to {max(class_names)}")
        return int(wanted)
    if not wanted:
        raise InputError("an empty class name; give an id or a part of a name")
    names = {i: name.lower() for i, name in class_names.items()}
    for matches in (
        [i for i, name in class_names.items() if " ".join(text.split()) == name],  # 264 Cardigan, 474 cardigan
        [i for i, name in names.items() if wanted == name],
        [i for i, name in names.items() if wanted in name.split(", ")],
        [i for i, name in names.items() if wanted in name],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = ", ".join(f"{i} {class_names[i]}" for i in matches[:8])
            more = f" and {len(matches) - 8} more" if len(matches) > 8 else ""
            raise InputError(f"class {quoted(text)} is ambiguous: {listed}{more}; give the id")
    raise InputError(f"unknown class {quoted(text)}; give an ImageNet id (0 to {max(class_names)}) or part of a name")


if __name__ == "__main__":
    sys.exit(course_files.main())
