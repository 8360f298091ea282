"""A script's session: its network, photos and seed, the photos page by page, and the figures that it saves."""

import argparse
import functools
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.models import SqueezeNet
from tqdm import tqdm

import figure_utils
from data_utils import FALLBACK, course_photos, imagenet_classes, open_photos, package_photos, parse_label
from errors import InputError, cause, quoted
from file_utils import ROOT
from image_utils import deprocess, open_image, to_batch
from model_utils import load_model
from script_utils import SHARED_OPTIONS
from visualizers.gradcam import default_layer, find_module

log = logging.getLogger(__name__)


@dataclass
class Page:
    """Photos that share a figure."""

    number: int  # from 1
    X: np.ndarray  # uint8 (n, H, W, 3)
    images: torch.Tensor  # float32 (n, 3, H, W), normalised, on the device
    y: torch.Tensor  # int64 (n,), on the device
    titles: list[str]

    def file_name(self, name: str) -> str:
        """Return a figure's file name on this page: name.png, name_2.png, …"""
        path = Path(name)
        return name if self.number == 1 else f"{path.stem}_{self.number}{path.suffix}"


class Session:
    """The options of a run and what follows from them, each made when it is first used."""

    figures = figure_utils  # for the scripts, which import nothing heavy before their options are parsed

    def __init__(self, options: argparse.Namespace, model: nn.Module | None = None):
        """Check the output folder and set the seed. `model`: a network that is loaded already."""
        self.options = options
        self.out = self.folder("visualization")
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
        return next(self.model.parameters()).device

    def bundled_squeezenet(self) -> nn.Module:
        """Return SqueezeNet with the bundled weights, on the network's device."""
        return load_model(weights="bundled", device=self.device)

    @property
    def is_squeezenet(self) -> bool:
        """Whether the layers of the course's hand-out are meant by default."""
        return isinstance(self.model, SqueezeNet)

    def layer_name(self, option: str, default: str | None = None) -> str:
        """Return the dotted name of the layer that an option names; without, of Grad-CAM's own choice.

        Raises:
            InputError: the network has no such layer.
        """
        name = getattr(self.options, option) or default
        try:
            layer = find_module(self.model, name) if name else default_layer(self.model)
        except InputError as error:
            raise InputError(f"--{option.replace('_', '-')}: {error}") from error
        return next(name for name, module in self.model.named_modules() if module is layer)

    # --- Classes and photos ---

    @functools.cached_property
    def class_names(self) -> dict[int, str]:
        """Class id → name."""
        of_course = "images" in self.options and self.options.images is None
        return self._course[2] if of_course else imagenet_classes()

    def class_id(self, text: str) -> int:
        """Return the class meant by an id or a name.

        Raises:
            InputError: no class, or several.
        """
        return parse_label(text, self.class_names)

    def title(self, label: int) -> str:
        """Return the first synonym of a class's name."""
        return figure_utils.class_title(self.class_names, label)

    @functools.cached_property
    def _course(self) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        course = course_photos()
        if course is None:
            log.warning(FALLBACK)
        X, y, class_names = course or package_photos()
        count = self.options.num or 5
        return X[:count], y[:count], class_names

    @functools.cached_property
    def photos(self) -> np.ndarray:
        """The photos by --images and --num, uint8 (N, 224, 224, 3).

        Raises:
            InputError: a photo cannot be used.
        """
        return self._course[0] if self.options.images is None else open_photos(self.options.images)[: self.options.num]

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The classes by --labels, or the course's, int64 (N,); None: the network's predictions are taken.

        Raises:
            InputError: an unknown class, or not one per photo.
        """
        if self.options.labels is None:
            return self._course[1] if self.options.images is None else None
        labels = [self.class_id(text) for text in self.options.labels]
        if len(labels) != len(self.photos):
            raise InputError(f"--labels: {len(labels)} labels for {len(self.photos)} photos; give one for each")
        return np.array(labels, dtype=np.int64)

    def pages(self, description: str) -> Iterator[Page]:
        """Yield the photos, a page at a time, under a progress bar."""
        chunk, labels = self.options.chunk, self.labels
        starts = range(0, len(self.photos), chunk)
        for number, start in enumerate(self.progress(starts, description), start=1):
            X = self.photos[start : start + chunk]
            images = self.batch(X)
            if labels is None:
                y = self.scores(images).argmax(dim=1)
            else:
                y = torch.from_numpy(labels[start : start + chunk]).to(self.device)
            yield Page(number, X, images, y, [self.title(label) for label in y.tolist()])

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
            InputError: they are not finite.
        """
        with torch.no_grad():
            scores = self.model(images)
        if not scores.isfinite().all():
            raise InputError("the network's scores are not finite (NaN or infinity): its weights are damaged")
        return scores

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

    def provenance(self, **facts) -> dict[str, str]:
        """Return the text of a PNG: network, weights, seed, the script's own options and further facts."""
        own = {key: value for key, value in vars(self.options).items() if key not in SHARED_OPTIONS}
        return figure_utils.provenance(self.model, self.options.seed, own | facts)
