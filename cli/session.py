"""A run's session: options, seed, network, folder, and the pictures that it saves."""

import argparse
import functools
import itertools
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

import figure_utils
from adapters.preparation import Preparation
from cli.options import (
    NETWORK_OPTIONS,
    PHOTO_OPTIONS,
    RECORDED,
    SELECTION,
    SHARED_OPTIONS,
    photo_option,
)
from data_utils import PhotoSet, find_photos
from errors import InputError, cause, quoted
from files.atomic import ROOT
from image_utils import deprocess
from model_utils import load_model


class Session:
    """The options of a run and what follows from them, each made when it is first used."""

    def __init__(self, options: argparse.Namespace, model: nn.Module | None = None):
        """Check the output folder and set the seed. `model`: a network that is loaded already."""
        self.options = options
        self.out = self.folder("visualization")
        self._saved_singly: set[str] = set()
        if model is not None:
            self.model = model
        torch.manual_seed(options.seed)
        torch.backends.cudnn.deterministic = True

    def for_script(self, options: argparse.Namespace) -> "Session":
        """Return a session with a script's own options and this one's network and photos.

        Random numbers start anew from the seed, so that each script's figures are those that it
        makes alone.
        """
        session = Session(options, self.model)
        session.photos = self.photos
        return session

    def folder(self, name: str) -> Path:
        """Return the folder for results: --out, or the project's `name`; made when missing."""
        folder = self.options.out or ROOT / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            blocked = [path for path in folder.glob("*.png") if path.is_dir()]
        except OSError as error:
            raise InputError(
                f"cannot write into the folder {quoted(folder)}: {cause(error)}"
            ) from error
        if blocked:
            raise InputError(
                f"{quoted(blocked[0])} is a folder and in the way of figures; rename it"
            )
        return folder

    # --- Network and photos ---

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network, frozen, in eval mode, on the device."""
        given = {name: getattr(self.options, name) for name in NETWORK_OPTIONS}
        return load_model(**given, size=photo_option(self.options, "size"))

    @property
    def preparation(self) -> Preparation:
        """How the network's photos are prepared."""
        return getattr(self.model, "photo_preparation", None) or Preparation()

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.model.parameters(), torch.empty(0)).device

    @functools.cached_property
    def photos(self) -> PhotoSet:
        """The photos by --images and --num, framed by --size or the network's own, and --whole."""
        images, whole, num = (
            photo_option(self.options, name) for name in ("images", "whole", "num")
        )
        size = photo_option(self.options, "size") or self.preparation.size
        return find_photos(images, size, whole, num, self.preparation.interpolation)

    # --- Progress and figures ---

    def progress(
        self, iterable: Iterable | None = None, description: str = "", total: int | None = None
    ) -> tqdm:
        """Return a progress bar on standard error, shown after 2 seconds and on terminals only."""
        hidden = True if self.options.quiet else None  # None: hidden where it is no terminal
        return tqdm(iterable, desc=description, total=total, delay=2, leave=False, disable=hidden)

    def save(self, picture: Image.Image, name: str, folder: Path | None = None, **facts) -> None:
        """Save a picture as a PNG that records network, weights, seed, options and facts."""
        figure_utils.save_png(picture, (folder or self.out) / name, self.provenance(**facts))

    def save_image(
        self, image: torch.Tensor, name: str, folder: Path | None = None, **facts
    ) -> None:
        """Save a normalised image (1, 3, H, W); its pixels are rounded and clipped to 0…255."""
        self.save(deprocess(image, should_rescale=False), name, folder, **facts)

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

    def save_singly(
        self, pictures: Iterable[Image.Image], names: Iterable[str], folder: str, **facts
    ) -> None:
        """Save each photo's picture, named after the photo.

        Repeated names are numbered (cat.png, cat_2.png); case is ignored, as on Windows and macOS.
        """
        for picture, name in zip(pictures, names, strict=True):
            stem = Path(name).stem
            # Most file systems take 255 bytes
            stem = stem if len(os.fsencode(stem)) <= 200 else stem[:50]
            numbered = (stem if i == 1 else f"{stem}_{i}" for i in itertools.count(1))
            chosen = next(each for each in numbered if each.casefold() not in self._saved_singly)
            self._saved_singly.add(chosen.casefold())
            self.save(picture, f"{chosen}.png", self.out / folder, **facts)

    def provenance(self, **facts) -> dict[str, str]:
        """Return a PNG's text: network, weights, seed, the script's options and facts."""
        own = {
            key: value
            for key, value in vars(self.options).items()
            if key not in SHARED_OPTIONS | SELECTION
        }
        values = {name: photo_option(self.options, name) for name in RECORDED}
        own |= {
            name: value
            for name, value in values.items()
            if value != PHOTO_OPTIONS[name].get("default")
        }
        return figure_utils.provenance(self.model, self.options.seed, own | facts)
