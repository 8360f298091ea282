"""The photos and their classes: the course's 25 ImageNet photos, photos that installed packages ship, one's own.

As a command it brings the course's data into the project:
`python data_utils.py --from STARTER.zip` (or a folder), or `python data_utils.py --fetch` for the photos alone.
"""

import argparse
import hashlib
import importlib.util
import logging
import os
import signal
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from file_utils import ROOT, InputError, download, is_file, is_folder, reason, sha256_of, shown, written_whole

log = logging.getLogger(__name__)

PHOTO_SIZE = 224  # pixels a side, as the course's photos and the networks' training
PHOTOS_URL = "http://cs231n.stanford.edu/imagenet_val_25.npz"

# The course's files: where they lie in the project → sha256.
COURSE_FILES = {
    "data/imagenet_val_25.npz": "35141609d22457c791e8fbe10c2d3b09ed0d6a04b669173e9fbebb0b4915cd3c",
    "data/style-transfer-checks.npz": "659a64eb251c9c4ff0c12d5abcc2a93713ac7167d823edd47dbf3805aaa3f3d2",
    "styles_images/composition_vii.jpg": "8f992ed4aecd6dd56972d7bc8166761de7c94e670ee6effa8fd05f3daeb33409",
    "styles_images/muse.jpg": "b8a36cd8752497510389782159ccf141d41c3446002a079b458fb7b774d3928a",
    "styles_images/starry_night.jpg": "c31741a09141c2e2d07fc7aa6bdf135c369b804f9433e43fa3ceac19386d1ee6",
    "styles_images/the_scream.jpg": "f3075cddeb974a9ee1d6418f7f33fd05185a7ac7dcb4288bd2805d499a9dcaee",
    "styles_images/tubingen.jpg": "e67d1869f01fd805385c681a80d9ebcf0f70ea4a5fe6127f0606bb1c7f4bf506",
}

# Real photos that installed packages ship: package, file in it, ImageNet class.
PACKAGE_PHOTOS = (
    ("skimage", "data/chelsea.png", 285),
    ("skimage", "data/coffee.png", 967),
    ("skimage", "data/camera.png", 872),
    ("skimage", "data/motorcycle_left.png", 665),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 652),
)


def load_imagenet_val(num: int | None = None) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """The course's validation photos, or, with a notice in the log, five that installed packages ship.

    Args:
        num: how many of them, from the first; None for all.

    Returns:
        X: uint8 (N, 224, 224, 3), RGB; N is 25 at most.
        y: int64 (N,), ImageNet class ids.
        class_names: class id → name, 1000 of them.

    Raises:
        InputError: `data/imagenet_val_25.npz` is not the course's file.
        ValueError: `num` is no whole number from 1.
    """
    if num is not None and (not isinstance(num, (int, np.integer)) or num < 1):
        raise ValueError(f"num must be a whole number from 1, or None for all, got {num!r}")
    path = course_file("data/imagenet_val_25.npz")
    if path is None:
        log.warning(
            "photos: five that installed packages ship, since data/imagenet_val_25.npz is not there; "
            "bash data/get_imagenet_val.sh fetches the course's"
        )
        X = load_images([package_file(package, name) for package, name, _ in PACKAGE_PHOTOS[:num]])
        return X, np.array([label for *_, label in PACKAGE_PHOTOS[:num]], dtype=np.int64), imagenet_classes()
    with np.load(path, allow_pickle=True) as course:  # verified by course_file
        X, y, names = course["X"][:num], course["y"][:num], course["label_map"].item()
    # The course's map lacks class 134.
    return X, y.astype(np.int64), imagenet_classes() | {int(k): str(v) for k, v in names.items()}


def course_file(name: str) -> Path | None:
    """A file of the course's, from the project or from the folder $CS7643_DATA; None where it is in neither.

    Args:
        name: one of `COURSE_FILES`.

    Raises:
        InputError: the file there is another one than the course's.
    """
    elsewhere = os.environ.get("CS7643_DATA")
    places = [ROOT / name]
    if elsewhere:
        # a flat folder of the course's data keeps only styles_images/ apart
        places += [Path(elsewhere) / name, Path(elsewhere) / name.removeprefix("data/")]
    for path in places:
        if is_file(path):
            if sha256_of(path) != COURSE_FILES[name]:
                raise InputError(
                    f"{shown(path)} is not the course's file (its checksum differs); remove it or fetch it again"
                )
            return path
    return None


def package_file(package: str, name: str) -> Path:
    """A file that an installed package ships, found without importing the package.

    Raises:
        InputError: the package or the file is not there.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / name if spec else None
    if path is None or not path.is_file():
        raise InputError(f"{name} of package {package} is missing; pip install -r requirements.txt brings it")
    return path


def imagenet_classes() -> dict[int, str]:
    """ImageNet's 1000 classes, id → name, as torchvision lists them."""
    from torchvision.models import SqueezeNet1_1_Weights  # slow to import, and not needed to get data

    return dict(enumerate(SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]))


def load_images(paths: Iterable[str | Path], size: int = PHOTO_SIZE) -> np.ndarray:
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
        raise ValueError(f"paths must be a list of paths, got the single one {shown(paths)}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    from image_utils import open_image  # brings torch, which getting data does not need

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
            raise InputError(f"the folder {shown(path)} holds no image")
    return X[:count]


def _entries(folder: Path) -> list[Path]:
    """What may be a photo in a folder, by name; hidden files and subfolders are not meant."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not is_folder(p))
    except OSError as error:
        raise InputError(f"cannot read the folder {shown(folder)}: {reason(error)}") from error


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
            raise InputError(f"class {shown(text)} is ambiguous: {listed}{more}; give the id")
    raise InputError(f"unknown class {shown(text)}; give an ImageNet id (0 to {max(class_names)}) or part of a name")


# --- Getting the course's data ---


def take_course_files(source: Path) -> list[str]:
    """Copy the course's files that a starter zip or folder holds, wherever in it, to their places in the project.

    Args:
        source: a zip file or a folder.

    Returns:
        A line for each file of the course's by name: taken, or why not.

    Raises:
        InputError: neither a readable zip nor a folder, or nothing in it that is the course's.
    """
    destinations = {Path(name).name: name for name in COURSE_FILES}
    lines, taken = [], set()
    for where, content in _members(source, destinations):
        name = destinations[Path(where).name]
        if hashlib.sha256(content).hexdigest() != COURSE_FILES[name]:
            lines.append(f"{shown(where)}: not taken, its checksum is not that of the course's file")
        elif name not in taken:
            with written_whole(ROOT / name) as temporary:
                temporary.write_bytes(content)
            taken.add(name)
            lines.append(f"{name}: taken")
    if not taken:
        raise InputError("; ".join([f"{shown(source)} holds none of the course's files", *lines]))
    return lines


def _members(source: Path, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The path and the content of every file of one of these names in a zip or folder."""
    try:
        if source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.name in names and p.is_file()):
                yield str(path.relative_to(source)), path.read_bytes()
        elif source.is_file():
            with zipfile.ZipFile(source) as archive:
                for info in archive.infolist():
                    if Path(info.filename).name in names and info.file_size < 1 << 26:
                        yield info.filename, archive.read(info)
        else:
            raise InputError(f"{shown(source)}: no such zip file or folder")
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted
        raise InputError(f"cannot read {shown(source)}: {reason(error)}") from error


def fetch_photos() -> list[str]:
    """Download the course's 25 photos, verified, unless they are there already. Returns a line on what was done."""
    name = "data/imagenet_val_25.npz"
    path = ROOT / name
    if path.is_file() and sha256_of(path) == COURSE_FILES[name]:
        return [f"{name}: is there already"]
    download(PHOTOS_URL, path, COURSE_FILES[name])
    return [f"{name}: fetched from {PHOTOS_URL}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Bring the course's data into the project. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Bring the course's data into the project, verified by checksum.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="source", metavar="PATH", type=Path, help="a starter zip or folder")
    source.add_argument("--fetch", action="store_true", help=f"download the 25 photos from {PHOTOS_URL}")
    options = parser.parse_args(argv)
    try:
        print(*(fetch_photos() if options.fetch else take_course_files(options.source)), sep="\n")
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so that temporary files go
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
