"""A run's photos page by page, the classes that its network knows, and the maps of all pages."""

import contextlib
import csv
import functools
import itertools
import operator
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cli.arrays import MapsFile
from cli.options import photo_option
from cli.process import advice
from cli.session import Session
from data_utils import Photo
from errors import InputError, described
from files.atomic import atomic_write
from files.class_names import class_title, imagenet_classes, parse_label, read_class_names
from image_utils import memory_format, to_batch
from model_utils import IMAGENET
from visualizers.common import evaluated, probabilities

FIGURES = 10  # pages that get figures beside arrays, unless asked


@dataclass
class Page:
    """Photos that share a figure. They are evaluated in one batch, or singly where sizes differ."""

    X: Sequence[np.ndarray]  # each uint8 (H, W, 3)
    # Each float32 (n, 3, H, W), normalised, on the network's device
    batches: Sequence[torch.Tensor]
    y: torch.Tensor  # int64 (N,), the classes
    titles: Sequence[str]  # the classes' names
    chances: torch.Tensor  # (N, classes), the network's probabilities
    names: Sequence[str] = ()  # the photos' files
    number: int = 1
    drawn: bool = True  # whether it gets figures

    def compute(self, technique: Callable[..., Iterable], *more: torch.Tensor) -> list:
        """Return what `technique(images, y, *more)` gives for each photo, called once a batch.

        `more`: further tensors with an entry for each photo.
        """
        sizes = [len(images) for images in self.batches]
        parts = zip(self.batches, *(each.split(sizes) for each in (self.y, *more)), strict=True)
        return [result for part in parts for result in technique(*part)]

    @property
    def guesses(self) -> torch.Tensor:
        """The likeliest classes, int64 (N,)."""
        return self.chances.argmax(dim=1)

    def captions(self) -> list[str]:
        """Return the titles, each with its class's probability; of label → guess, both."""
        best, captions = self.chances.amax(dim=1).tolist(), []
        for title, chance, likeliest in zip(self.titles, self.probabilities(), best, strict=True):
            label, arrow, guess = title.partition(" → ")
            captions.append(f"{label} {chance:.1%}" + (arrow and f" → {guess} {likeliest:.1%}"))
        return captions

    def probabilities(self) -> list[float]:
        """Return the probability of each photo's class."""
        return self.chances.gather(1, self.y[:, None])[:, 0].tolist()

    def predictions(self) -> list[list]:
        """Return a row per photo: file, class, guess, runner-up, and their probabilities."""
        top = self.chances.topk(min(2, self.chances.shape[1]), dim=1)
        rows = []
        for name, label, ids, shares in zip(
            self.names, self.y.tolist(), top.indices.tolist(), top.values, strict=True
        ):
            name = name.encode(errors="backslashreplace").decode()  # bytes that are no text
            likeliest = [
                [class_id, f"{share:.4f}"]
                for class_id, share in zip(ids, shares.tolist(), strict=True)
            ]
            rows.append([name, label, *itertools.chain(*likeliest)])
        return rows

    def file_name(self, name: str) -> str:
        """Return a figure's file name on this page: name.png, name_2.png, …"""
        path = Path(name)
        return name if self.number == 1 else f"{path.stem}_{self.number}{path.suffix}"


class Dataset:
    """A run's photos, and the classes that its network knows."""

    def __init__(self, session: Session):
        """Take options, network and photos from a session."""
        self.session, self.options, self.model = session, session.options, session.model

    def option(self, name: str) -> Any:
        """Return the value of an option about photos; its default where a script lacks it."""
        return photo_option(self.options, name)

    # --- Classes ---

    @functools.cached_property
    def class_count(self) -> int:
        """How many classes the network knows."""
        return self._first[1].shape[1]

    @property
    def knows_imagenet(self) -> bool:
        """Return True if the network has ImageNet's 1000 classes, and no other names are given."""
        return self.option("classes") is None and self.class_count == IMAGENET

    @functools.cached_property
    def class_names(self) -> Mapping[int, str]:
        """Class id → name."""
        if self.option("classes") is not None:
            return read_class_names(self.option("classes"), self.class_count)
        if not self.knows_imagenet:
            return {i: f"class {i}" for i in range(self.class_count)}
        return (
            self.session.photos.class_names if "images" in self.options else None
        ) or imagenet_classes()

    def class_or_last(self, label: int) -> str:
        """Return a class's id, or the last one of a network with fewer classes."""
        return str(min(label, self.class_count - 1))

    def class_id(self, text: str) -> int:
        """Return the class meant by an id or a name."""
        return parse_label(text, self.class_names)

    def title(self, label: int) -> str:
        """Return the first synonym of a class's name."""
        return class_title(self.class_names, label)

    # --- Photos ---

    @property
    def example(self) -> torch.Tensor:
        """The first photo, normalised (1, 3, H, W); a black one for scripts without photos. The
        network has been evaluated on it, so that its own faults come first.
        """
        return self._first[0]

    @functools.cached_property
    def _first(self) -> tuple[torch.Tensor, torch.Tensor]:
        photos = iter(self.session.photos.photos) if "images" in self.options else iter(())
        side = self.session.preparation.size
        black = np.zeros((side, side, 3), np.uint8)
        image = self.batch(next((photo.pixels for photo in photos), black)[None])
        return image, self.scores(image.clone().requires_grad_()).detach()

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The classes, int64 (N,): --labels, or the course's for ImageNet; None: predictions."""
        if self.options.labels == ["guess"]:
            return None
        if self.options.labels is None:
            known = self.session.photos.labels
            return known if known is not None and self.knows_imagenet else None
        labels = [self.class_id(text) for text in self.options.labels]
        # Of what is in a folder, not everything may be a photo
        count = sum(1 for _ in self.session.photos.photos)
        if len(labels) != count:
            raise InputError(
                f"--labels: {len(labels)} labels for {count} photos; give one for each"
            )
        return np.array(labels, dtype=np.int64)

    def pages(self, description: str) -> Iterator[Page]:
        """Yield the photos, a page at a time; with --arrays also those without figures."""
        chunk, arrays = self.options.chunk, self.option("arrays")
        count = -(-operator.length_hint(self.session.photos.photos) // chunk)
        photos, labels = self._in_order()
        drawn = self.option("figures") or (FIGURES if arrays else count)
        numbers = range(1, 1 + (count if arrays else min(count, drawn)))
        for number in self.session.progress(numbers, description):
            group = list(itertools.islice(photos, chunk))
            if not group:  # the last files were no photos
                return
            X = [photo.pixels for photo in group]
            same = len({x.shape for x in X}) == 1
            batches = [self.batch(x) for x in ([np.stack(X)] if same else [x[None] for x in X])]
            scores = torch.cat([self.scores(images) for images in batches])
            if labels is None:
                y = scores.argmax(dim=1)
            else:
                y = torch.from_numpy(labels[chunk * (number - 1) :][:chunk]).to(scores.device)
            chances, names = probabilities(self.model, scores), [photo.name for photo in group]
            titles = [self.title(label) for label in y.tolist()]
            if self.option("wrong_first"):
                titles = [
                    title if label == guess else f"{title} → {self.title(guess)}"
                    for title, label, guess in zip(
                        titles, y.tolist(), chances.argmax(dim=1).tolist(), strict=True
                    )
                ]
            yield Page(X, batches, y, titles, chances, names, number, number <= drawn)

    def _in_order(self) -> tuple[Iterator[Photo], np.ndarray | None]:
        """Return the photos and their labels; with --wrong-first, wrong guesses come first."""
        photos, labels = self.session.photos.photos, self.labels
        if not self.option("wrong_first"):
            return iter(photos), labels
        if labels is None:
            raise InputError("--wrong-first needs to know what is right: give --labels")
        one_by_one = self.session.progress(photos, "guesses")
        guesses = [
            self.scores(self.batch(each.pixels[None])).argmax().item() for each in one_by_one
        ]
        wrong = np.array(guesses) != labels[: len(guesses)]
        parts = (itertools.compress(photos, chosen) for chosen in (wrong, ~wrong))
        return itertools.chain(*parts), labels[np.argsort(~wrong, kind="stable")]

    def batch(self, photos: np.ndarray) -> torch.Tensor:
        """Normalise photos (n, H, W, 3): float32 (n, 3, H, W), on the network's device."""
        device = self.session.device
        return to_batch(photos).to(device, memory_format=memory_format(device))

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's raw scores for normalised images (n, 3, H, W): (n, classes).

        Of images that require a gradient it is taken once, so that a network without one is named.
        """
        height, width = images.shape[2:]
        where = f"the network {self.options.arch}, on a picture of {width}×{height}"
        try:
            with torch.set_grad_enabled(images.requires_grad):
                scores = evaluated(self.model, images)
                if images.requires_grad:
                    torch.autograd.grad(scores.sum(), images, retain_graph=True)
            return scores
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (Exception, SystemExit) as error:
            if isinstance(error, Exception) and advice(error):
                raise
            why = textwrap.shorten(described(error), 140, placeholder=" …")
            raise InputError(f"{where}: {why}") from error


def figure_saver(session: Session, page: Page, **facts) -> Callable[..., None]:
    """Return `save(name, rows, heading, titles=page.titles)`, which draws and saves a figure."""

    def save(name: str, rows: Sequence, heading: str, titles: Sequence = page.titles) -> None:
        session.save_rows(page.file_name(name), rows, titles, heading, **facts)

    return save


@contextlib.contextmanager
def maps_file(
    session: Session,
) -> Iterator[Callable[[Page, Mapping[str, Iterable[np.ndarray]]], None]]:
    """Yield a function that keeps a page's maps; --arrays: maps.npz, predictions.csv."""
    if not photo_option(session.options, "arrays"):
        yield lambda page, maps: None
        return
    names: list[str] = []
    labels: list[int] = []
    predictions: list[list] = []
    with tempfile.TemporaryDirectory(prefix=".maps-", dir=session.out) as folder:
        file = MapsFile(Path(folder))

        def keep(page: Page, maps: Mapping[str, Iterable[np.ndarray]]) -> None:
            for technique, values in maps.items():
                file.add(technique, values)
            names.extend(page.names)
            labels.extend(page.y.tolist())
            predictions.extend(page.predictions())

        yield keep
        file.save(session.out / "maps.npz", {"labels": np.array(labels), "names": np.array(names)})
    with (
        atomic_write(session.out / "predictions.csv") as path,
        path.open("w", newline="", encoding="utf-8") as table,
    ):
        header = ("photo", "label", "guess", "probability", "runner-up", "its probability")
        csv.writer(table, lineterminator="\n").writerows([header, *predictions])
