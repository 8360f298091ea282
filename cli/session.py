"""A script's session: its network, photos and seed, the photos page by page, and the figures that it saves."""

import argparse
import contextlib
import functools
import itertools
import logging
import operator
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.models import SqueezeNet
from tqdm import tqdm

import figure_utils
from cli.arrays import MapsFile
from cli.options import PHOTO_OPTIONS, SHARED_OPTIONS, TOLD
from cli.process import advice
from data_utils import (
    FALLBACK,
    PACKAGE_PHOTOS,
    PHOTO_SIZE,
    Photo,
    Photos,
    course_photos,
    frame,
    imagenet_classes,
    package_files,
    parse_label,
    read_class_names,
)
from errors import InputError, cause, quoted
from files.atomic import ROOT
from image_utils import deprocess, open_image, to_batch
from model_utils import IMAGENET, load_model
from visualizers.common import evaluated
from visualizers.gradcam import count_relus
from visualizers.layers import Layer, check_influence, find_layer

log = logging.getLogger(__name__)
FIGURES = 10  # pages that get figures beside arrays, unless asked


@dataclass
class Page:
    """Photos that share a figure. Where they differ in size (--whole), `X` and `images` are lists, one for each."""

    number: int  # from 1
    names: list[str]
    X: np.ndarray | list[np.ndarray]  # uint8 (n, H, W, 3)
    images: torch.Tensor | list[torch.Tensor]  # float32 (n, 3, H, W), in a list (1, 3, H, W), normalised, on the device
    y: torch.Tensor  # int64 (n,), on the device
    titles: list[str]
    drawn: bool = True  # whether it gets figures

    def file_name(self, name: str) -> str:
        """Return a figure's file name on this page: name.png, name_2.png, …"""
        path = Path(name)
        return name if self.number == 1 else f"{path.stem}_{self.number}{path.suffix}"

    def compute(self, technique: Callable[[torch.Tensor, torch.Tensor], Iterable]) -> list:
        """Return what `technique(images, y)` gives for each photo: of all at once, or one by one where sizes differ."""
        batches = [self.images] if isinstance(self.images, torch.Tensor) else self.images
        labels = self.y.split([len(images) for images in batches])
        return [result for images, y in zip(batches, labels, strict=True) for result in technique(images, y)]


class Session:
    """The options of a run and what follows from them, each made when it is first used."""

    figures = figure_utils  # for the scripts, which import nothing heavy before their options are parsed

    def __init__(self, options: argparse.Namespace, model: nn.Module | None = None):
        """Check the output folder and set the seed. `model`: a network that is loaded already."""
        self.options = options
        self.out = self.folder("visualization")
        self._saved_singly: set[str] = set()
        if model is not None:
            self.model = model
        self.seed()

    def seed(self) -> None:
        """Start all random numbers anew from the seed."""
        torch.manual_seed(self.options.seed)
        torch.backends.cudnn.deterministic = True

    def folder(self, name: str) -> Path:
        """Return the folder for results: the project's `name`, or the one given by --out; made when missing.

        Raises:
            InputError: it cannot be made or written, or a folder is in the way of a figure.
        """
        folder = self.options.out or ROOT / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            blocked = [path for path in folder.glob("*.png") if path.is_dir()]
        except OSError as error:
            raise InputError(f"cannot write into the folder {quoted(folder)}: {cause(error)}") from error
        if blocked:
            raise InputError(f"{quoted(blocked[0])} is a folder and in the way of figures; rename it")
        return folder

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network, frozen, in eval mode, on the device."""
        return load_model(self.options.arch, self.options.weights, self.options.device)

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.model.parameters(), torch.empty(0)).device

    def bundled_squeezenet(self) -> nn.Module:
        """Return SqueezeNet with the bundled weights, on the network's device."""
        return load_model(weights="bundled", device=self.device)

    @property
    def is_squeezenet(self) -> bool:
        """Whether the layers of the course's hand-out are meant by default."""
        return isinstance(self.model, SqueezeNet)

    def layer(self, option: str, default: Layer | str | None = None) -> Layer:
        """Return the layer that an option names; without, the default, or of Grad-CAM's own choice.

        Raises:
            InputError: the network has no such layer, or it gives no feature maps that have influence on the scores.
        """
        model, example = self.model, self.example  # whose faults are not the layer's
        try:
            layer = find_layer(model, getattr(self.options, option) or default, example)
            check_influence(model, layer, example)
        except InputError as error:
            raise InputError(f"--{option.replace('_', '-')}: {error}") from error
        return layer

    def count_relus(self) -> tuple[int, int]:
        """Return how many ReLUs the network evaluates, and how many of them are `nn.ReLU` modules."""
        return count_relus(self.model, self.example)

    # --- Classes and photos ---

    @functools.cached_property
    def example(self) -> torch.Tensor:
        """The first photo as the network sees it, (1, 3, H, W); of a script without photos a black one."""
        photos = (photo.pixels[None] for photo in self.photos) if "images" in self.options else iter(())
        return self.batch(next(photos, np.zeros((1, PHOTO_SIZE, PHOTO_SIZE, 3), np.uint8)))

    @functools.cached_property
    def class_count(self) -> int:
        """How many classes the network knows.

        Raises:
            InputError: it cannot be evaluated, or gives no scores.
        """
        try:
            return self.scores(self.example).shape[1]
        except Exception as error:
            if advice(error):
                raise
            size = "×".join(map(str, self.example.shape[2:]))
            raise InputError(f"the network {self.options.arch} fails on a picture of {size}: {cause(error)}") from error

    @property
    def knows_imagenet(self) -> bool:
        """Whether the network's classes are ImageNet's: there are 1000, and nobody gives them other names."""
        return self.option("classes") is None and self.class_count == IMAGENET

    @functools.cached_property
    def class_names(self) -> dict[int, str]:
        """Class id → name.

        Raises:
            InputError: --classes names no file with names that fit the network.
        """
        if self.option("classes") is not None:
            return read_class_names(self.option("classes"), self.class_count)
        if not self.knows_imagenet:
            return {i: f"class {i}" for i in range(self.class_count)}
        of_course = "images" in self.options and self.options.images is None
        return self._course[2] if of_course else imagenet_classes()

    def class_or_last(self, label: int) -> str:
        """Return a class's id, or the last one of a network with fewer classes."""
        return str(min(label, self.class_count - 1))

    def class_id(self, text: str) -> int:
        """Return the class meant by an id or a name.

        Raises:
            InputError: no class, or several.
        """
        return parse_label(text, self.class_names)

    def title(self, label: int) -> str:
        """Return the first synonym of a class's name."""
        return figure_utils.class_title(self.class_names, label)

    def option(self, name: str) -> Any:
        """Return the value of an option about photos; of a script that does not offer it, its default."""
        return getattr(self.options, name, PHOTO_OPTIONS[name].get("default"))

    @functools.cached_property
    def _course(self) -> tuple[Iterable[Photo], np.ndarray, dict[int, str]]:
        count, framing = self.option("num") or 5, (self.option("size"), self.option("whole"))
        if (course := course_photos()) is None:
            log.warning(FALLBACK)
            labels = np.array([label for *_, label in PACKAGE_PHOTOS[:count]], dtype=np.int64)
            return Photos(package_files(), *framing, count), labels, imagenet_classes()
        X, y, class_names = course
        photos = [Photo(f"photo_{i}", frame(Image.fromarray(x), *framing)) for i, x in enumerate(X[:count], start=1)]
        return photos, y[:count], class_names

    @functools.cached_property
    def photos(self) -> Iterable[Photo]:
        """The photos by --images and --num; those in files are opened each time that they are gone through.

        Raises:
            InputError: a photo cannot be used.
        """
        if self.options.images is None:
            return self._course[0]
        return Photos(self.options.images, self.option("size"), self.option("whole"), self.option("num"))

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The classes by --labels, or the course's if they are ImageNet's, int64 (N,); None: the network's predictions.

        Raises:
            InputError: an unknown class, or not one per photo.
        """
        if self.options.labels is None:
            return self._course[1] if self.options.images is None and self.knows_imagenet else None
        labels = [self.class_id(text) for text in self.options.labels]
        count = sum(1 for _ in self.photos)  # of what is in a folder, not everything may be a photo
        if len(labels) != count:
            raise InputError(f"--labels: {len(labels)} labels for {count} photos; give one for each")
        return np.array(labels, dtype=np.int64)

    def pages(self, description: str) -> Iterator[Page]:
        """Yield the photos, a page at a time, under a progress bar; with --arrays also the pages without figures."""
        chunk, labels, arrays = self.options.chunk, self.labels, self.option("arrays")
        photos, count = iter(self.photos), -(-operator.length_hint(self.photos) // chunk)
        drawn = self.option("figures") or (FIGURES if arrays else count)
        resized = (self.option("size"), self.option("whole")) != (PHOTO_SIZE, False)
        for number in self.progress(range(1, 1 + (count if arrays else min(count, drawn))), description):
            group = list(itertools.islice(photos, chunk))
            if not group:  # the last files were no photos
                return
            X = [photo.pixels for photo in group]
            same = len({x.shape for x in X}) == 1
            batches = [np.stack(X)] if same else [x[None] for x in X]
            images = [self.batch(x) for x in batches]
            if labels is None or resized:  # that also tells whether the network takes photos of such a size
                y = torch.cat([self.scores(x).argmax(dim=1) for x in images])
            if labels is not None:
                y = torch.from_numpy(labels[chunk * (number - 1) :][:chunk]).to(self.device)
            names, titles = [photo.name for photo in group], [self.title(label) for label in y.tolist()]
            page = Page(number, names, X, images, y, titles, number <= drawn)
            if same:
                page.X, page.images = batches[0], images[0]
            yield page

    @contextlib.contextmanager
    def maps_file(self) -> Iterator[Callable[[Page, Mapping[str, Iterable[np.ndarray]]], None]]:
        """Give a function that keeps a page's maps by technique; in the end they are in maps.npz, with --arrays.

        Raises:
            InputError: they cannot be written.
        """
        if not self.option("arrays"):
            yield lambda page, maps: None
            return
        names, labels = [], []
        with tempfile.TemporaryDirectory(prefix=".maps-", dir=self.out) as folder:
            file = MapsFile(Path(folder))

            def keep(page: Page, maps: Mapping[str, Iterable[np.ndarray]]) -> None:
                for technique, values in maps.items():
                    file.add(technique, values)
                names.extend(page.names)
                labels.extend(page.y.tolist())

            yield keep
            file.save(self.out / "maps.npz", {"labels": np.array(labels), "names": np.array(names)})

    def open_picture(self, path: Path) -> Image.Image:
        """Open a picture as it is.

        Raises:
            InputError: it cannot be read as an image.
        """
        return open_image(path)

    def batch(self, photos: np.ndarray) -> torch.Tensor:
        """Return photos (n, H, W, 3) as the network sees them: float32 (n, 3, H, W), normalised, on the device."""
        return to_batch(photos).to(self.device)

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's raw scores for normalised images (n, 3, H, W): (n, classes).

        Raises:
            InputError: the network gives none, they are not finite, or it takes no photos of that size.
        """
        try:
            with torch.no_grad():
                return evaluated(self.model, images)
        except (AssertionError, RuntimeError, ValueError) as error:
            height, width = images.shape[2:]
            if (height, width) == (PHOTO_SIZE, PHOTO_SIZE) or advice(error):
                raise
            why = textwrap.shorten(cause(error), 120, placeholder=" …")
            raise InputError(f"the network takes no photos of {width}×{height} pixels: {why}") from error

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Return the softmax of `scores`."""
        return self.scores(images).softmax(dim=1)

    # --- Progress and figures ---

    def progress(self, iterable: Iterable | None = None, description: str = "", total: int | None = None) -> tqdm:
        """Return a bar on standard error, shown on a terminal when the work takes longer than 2 seconds."""
        hidden = True if self.options.quiet else None  # None: hidden where it is no terminal
        return tqdm(iterable, desc=description, total=total, delay=2, leave=False, disable=hidden)

    def save(self, picture: Image.Image, name: str, folder: Path | None = None, **facts) -> None:
        """Save a picture as a PNG that records network, weights, seed, the script's own options and further facts.

        Raises:
            InputError: the file cannot be written.
        """
        figure_utils.save_png(picture, (folder or self.out) / name, self.provenance(**facts))

    def save_image(self, image: torch.Tensor, name: str, folder: Path | None = None) -> None:
        """Save a normalised image (1, 3, H, W); its pixels are rounded and clipped to 0…255."""
        self.save(deprocess(image, should_rescale=False), name, folder)

    def save_singly(self, tiles: Iterable[np.ndarray], names: Iterable[str], folder: str, **facts) -> None:
        """Save each photo's tile as a picture of its own, named after the photo; what has the name of another counts on
        (cat.png, cat_2.png), also where the file system takes capitals for small letters.
        """
        for tile, name in zip(tiles, names, strict=True):
            stem = Path(name).stem
            stem = stem if len(os.fsencode(stem)) <= 200 else stem[:50]  # most file systems take 255 bytes
            counted = (stem if i == 1 else f"{stem}_{i}" for i in itertools.count(1))
            chosen = next(each for each in counted if each.casefold() not in self._saved_singly)
            self._saved_singly.add(chosen.casefold())
            self.save(Image.fromarray(tile), f"{chosen}.png", self.out / folder, **facts)

    def tile(self, image: torch.Tensor | Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return a picture or a normalised image (1, 3, H, W) as a tile, uint8 (H, W, 3).

        With `size`, (width, height), it is scaled to fit and padded with white.
        """
        picture = image if isinstance(image, Image.Image) else deprocess(image, should_rescale=False)
        return np.asarray(ImageOps.pad(picture, size, color="white") if size else picture)

    def save_rows(
        self,
        name: str,
        rows: Sequence[tuple[str, Sequence[np.ndarray]]],
        titles: Sequence[str | Sequence[str]],
        heading: str,
        **facts,
    ) -> None:
        """Draw a grid of tiles, as `figure_utils.draw_rows` does, and save it."""
        self.save(figure_utils.draw_rows(rows, titles, heading), name, **facts)

    def save_losses(self, name: str, curves: Mapping[str, Sequence[tuple]], **facts) -> None:
        """Plot loss curves, as `figure_utils.draw_losses` does, and save the plot."""
        self.save(figure_utils.draw_losses(curves), name, **facts)

    def save_curves(self, name: str, *curves) -> None:
        """Plot curves, as `figure_utils.draw_curves` does, and save the plot."""
        self.save(figure_utils.draw_curves(*curves), name)

    def provenance(self, **facts) -> dict[str, str]:
        """Return the text of a PNG: network, weights, seed, the script's own options and further facts."""
        own = {key: value for key, value in vars(self.options).items() if key not in SHARED_OPTIONS}
        own |= {name: self.option(name) for name in TOLD if self.option(name) != PHOTO_OPTIONS[name]["default"]}
        return figure_utils.provenance(self.model, self.options.seed, own | facts)
